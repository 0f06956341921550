"""Speed of the pieces (``make bench``), as ratios of two things measured side by side on the same machine.

Ratios are in ``extra_info`` of the benchmark's JSON; only those that are an order of magnitude are asserted.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.performance.ratios import Speed, note_speed, ratio, side_by_side
from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.inference.fit import fit
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.pseudo_experiments import PseudoExperiments, draw_pseudo_experiments
from touchneedle.inference.pseudo_fits import FitOptions, fit_pseudo_experiments
from touchneedle.toys.base import Toy, build_toy

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
BATCH = 1_024
N_TRAIN = 40 * BATCH
N_EVENTS = 1_000
N_EXPERIMENTS = 200
N_BY_MINUIT = 3


def seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Median wall time of a call, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def prepared(name: str, toy: Toy, n_train: int = 4_096) -> Estimator:
    """An estimator that has seen training events and is otherwise as its initial weights made it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, toy.spec, truth=toy)
    estimator.prepare(make_events(toy, n_train, "prior", 0))
    return estimator


def test_trainer_step_against_a_plain_loop(benchmark: Any) -> None:
    """An epoch of ratio_bce by the trainer, over the same steps in a loop of four lines."""
    toy = build_toy("gaussian_shift")
    events = make_events(toy, N_TRAIN, "prior", 0)
    estimator = prepared("ratio_bce", toy)
    config = TrainerConfig(max_epochs=1, batch_size=BATCH, validation_fraction=1 / 40, accelerator="cpu", progress=False)
    plain_events = events[: N_TRAIN - BATCH]
    optimizer = torch.optim.AdamW(estimator.parameters(), lr=1e-3)

    def plain_loop() -> None:
        generator = torch.Generator().manual_seed(0)
        for index in torch.randperm(len(plain_events), generator=generator).split(BATCH):
            optimizer.zero_grad()
            estimator.loss(plain_events[index], generator).mean().backward()
            optimizer.step()

    plain = seconds(plain_loop)
    benchmark.pedantic(lambda: train(estimator, events, config, OptimizerConfig(), 0), rounds=3, warmup_rounds=1)
    steps = N_TRAIN // BATCH - 1
    benchmark.extra_info["plain_ms_per_step"] = 1e3 * plain / steps
    benchmark.extra_info["trainer_ms_per_step"] = 1e3 * benchmark.stats["median"] / steps
    benchmark.extra_info["trainer_over_plain"] = benchmark.stats["median"] / plain


@pytest.mark.parametrize("name", ["oracle", "ratio_bce"])
def test_pseudo_fit_against_minuit(benchmark: Any, name: str) -> None:
    """A pseudo-experiment by the shared surface, all costs included, against MINUIT on the same likelihood.

    A network without any training has no likelihood that a surface could hold: it is trained for a moment.
    ``method`` says whether the surface held.
    """
    toy = build_toy("fnf_two_class")
    experiments, estimator = pseudo_experiments(toy), prepared(name, toy)
    brief = TrainerConfig(max_epochs=5, batch_size=256, accelerator="cpu", progress=False)
    train(estimator, make_events(toy, N_TRAIN, "prior", 0), brief, OptimizerConfig(), 0)
    estimator = estimator.double()
    fits = benchmark.pedantic(lambda: fit_pseudo_experiments(estimator, experiments, options=FitOptions()), rounds=1)
    start = time.perf_counter()
    for number in range(N_BY_MINUIT):
        chosen = experiments.pool[experiments.index[experiments.owner == number]]
        fit(Likelihood(estimator), chosen, auxiliary=auxiliary(experiments, number))
    minuit = (time.perf_counter() - start) / N_BY_MINUIT
    pseudo_fit = benchmark.stats["median"] / N_EXPERIMENTS
    benchmark.extra_info["method"] = fits.method
    benchmark.extra_info["pseudo_fit_ms"] = 1e3 * pseudo_fit
    benchmark.extra_info["minuit_fit_ms"] = 1e3 * minuit
    benchmark.extra_info["minuit_over_pseudo_fit"] = minuit / pseudo_fit


def pseudo_experiments(toy: Any) -> PseudoExperiments:
    generator = torch.Generator().manual_seed(0)
    space = toy.spec.parameters
    pool = toy.sample(space.nominal.expand(20_000, -1), generator=generator)
    return draw_pseudo_experiments(pool, space.nominal, N_EVENTS, N_EXPERIMENTS, space, generator)


def auxiliary(experiments: PseudoExperiments, number: int) -> torch.Tensor:
    """Auxiliary measurements of one experiment; parameters without constraint have none, which is never read."""
    return experiments.auxiliary[number].nan_to_num(0.0)


@pytest.mark.parametrize("name", ["zuko_nsf", "spline_flow", "ratio_bce", "posterior_flow"])
def test_grid_against_repeated_log_ratio(benchmark: Any, name: str) -> None:
    """log_ratio of 1,000 events at 50 points at once, over the same in 50 calls."""
    toy: Any = build_toy("mass_bump")
    estimator = prepared(name, toy).double().eval()
    generator = torch.Generator().manual_seed(0)
    theta = toy.spec.parameters.sample_prior(50, generator).clamp(toy.spec.parameters.low, toy.spec.parameters.high)
    x = toy.sample(toy.spec.parameters.nominal.expand(1_000, -1), generator=generator).x

    def repeated() -> torch.Tensor:
        return torch.stack([estimator.log_ratio(x, point) for point in theta], 1)

    with torch.no_grad():
        grid = benchmark.pedantic(lambda: estimator.log_ratio_grid(x, theta), rounds=3)
        assert torch.allclose(grid, repeated(), atol=1e-6)
        times = side_by_side({"repeated": repeated, "grid": lambda: estimator.log_ratio_grid(x, theta)}, rounds=5)
    value, error = ratio(times["repeated"], times["grid"])
    note_speed(benchmark, Speed("grid of log_ratio", f"{name}, 50 points, float64", value, error, against="50 calls of log_ratio"))


def test_help_against_importing_torch(benchmark: Any) -> None:
    """``touchneedle --help`` is answered long before torch would have been imported."""

    def run(*words: str) -> None:
        subprocess.run([sys.executable, *words], cwd=ROOT / ".typing", capture_output=True, check=True)

    torch_alone = seconds(lambda: run("-c", "import torch"))
    benchmark.pedantic(lambda: run("-m", "touchneedle.benchmark.main", "--help"), rounds=3, warmup_rounds=1)
    share = benchmark.stats["median"] / torch_alone
    benchmark.extra_info["help_over_import_torch"] = share
    assert share < 1
