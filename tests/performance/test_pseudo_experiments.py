"""Cost of pseudo-experiments of a likelihood (``make bench``): 1,000 of 1,000 events, one parameter of interest, two nuisances.

Everything counts: drawing, the pool included, and all fits, free and with the parameter of interest at the truth; the loop of
MIGRAD fits beside it makes the free fits alone. Minima are compared with exact fits from the same start.
"""

import math
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.performance.minuit_loop import fit_one
from tests.performance.profiles import function_note
from tests.performance.ratios import Speed, note_speed
from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, Simulation
from touchneedle.inference.batched import Problem, pseudo_objective
from touchneedle.inference.centre import find_centre
from touchneedle.inference.pseudo_fits import _Run
from touchneedle.inference.simulated import DEFAULTS, SimulatedFits
from touchneedle.inference.surface import build_surface
from touchneedle.toys.base import build_toy

N_TRAIN = 20_000
N_PSEUDO = 1_000
N_LOOP, N_EXACT = 10, 40
EPOCHS = {"oracle": 0, "ratio_bce": 20, "spline_flow": 20, "zuko_nsf": 20}
# Rms distance to exact minima that is wanted, in sigma.
WANTED_RMS = {"oracle": 0.01, "ratio_bce": 0.01, "spline_flow": 0.07, "zuko_nsf": 0.07}
# Where the time of a fit goes; drawing is the rest.
PARTS = {
    "the centre": find_centre,
    "the table of the pool": build_surface,
    "fits on the surface": _Run._surface_fits,
    "their check": _Run._check,
    "exact fits of what leaves the ball": _Run._exact,
}
WANTED = 30.0
DISTANCE = "a ratio needs order 4; ripples of a trained flow are no polynomial of low order"


def trained(name: str, toy: Any) -> Likelihood:
    """A likelihood by an estimator that was trained for half a minute."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, toy.spec, truth=toy)
        events = make_events(toy, N_TRAIN, "prior", 0)
        estimator.prepare(events)
        if EPOCHS[name]:
            brief = TrainerConfig(max_epochs=EPOCHS[name], batch_size=256, accelerator="cpu", progress=False)
            train(estimator, events, brief, OptimizerConfig(), 0)
    return Likelihood(estimator.double(), toy.rates)


@pytest.fixture(scope="module", params=list(EPOCHS))
def likelihood(request: pytest.FixtureRequest) -> tuple[str, Any, Likelihood]:
    toy = build_toy("mass_bump")
    return request.param, toy, trained(request.param, toy)


@pytest.mark.parametrize("order", [3, 4])
def test_a_thousand_pseudo_experiments(benchmark: Any, likelihood: tuple[str, Any, Likelihood], order: int) -> None:
    name, toy, learned = likelihood
    simulation = Simulation(toy.sample, n_pseudo=N_PSEUDO, options=replace(DEFAULTS, order=order))
    started = time.process_time()
    done = benchmark.pedantic(lambda: simulation.fit(learned, toy.spec.parameters.nominal), rounds=1)
    spent = time.process_time() - started
    benchmark.extra_info["cpu_seconds"] = spent
    benchmark.extra_info["share_fitted_exactly"] = float(done.fits.exact.double().mean())
    benchmark.extra_info["failed"] = done.failed
    assert len(done.fits) == N_PSEUDO
    assert done.fits.method == "surface"
    loop = loop_seconds(learned, done)
    times = torch.tensor(loop) * N_PSEUDO / spent
    what = f"{name}, surface of order {order}"
    faster = float(times.mean())
    note = function_note(lambda: simulation.fit(learned, toy.spec.parameters.nominal), PARTS) if faster < WANTED else ""
    note_speed(
        benchmark,
        Speed("pseudo-experiments", what, faster, standard_error(times), "loop of MIGRAD fits", wanted=WANTED, note=note),
        distance_row(name, what, learned, done),
    )  # fmt: skip
    assert faster > 3


def loop_seconds(likelihood: Likelihood, done: SimulatedFits) -> list[float]:
    """CPU seconds of single fits by MIGRAD."""
    seconds = []
    for number in range(N_LOOP):
        started = time.process_time()
        fit_one(likelihood.estimator, done.experiments, done.fits.terms, number)
        seconds.append(time.process_time() - started)
    return seconds


def distance_row(name: str, what: str, likelihood: Likelihood, done: SimulatedFits) -> Speed:
    """Rms distance, in sigma, of fits on the surface to exact maxima that are found from there, where both are in the ball."""
    fits = done.fits
    objective = pseudo_objective(likelihood.estimator, done.experiments, fits.terms)
    maxima = Problem(objective, fits.terms, fits.pool_covariance).maximise(fits.theta[:N_EXACT])
    assert fits.surface is not None
    chosen = maxima.converged & fits.surface.ball.holds(maxima.theta) & ~fits.exact[:N_EXACT]
    assert 2 * int(chosen.sum()) > N_EXACT
    squares = ((fits.theta[:N_EXACT] - maxima.theta) / fits.pool_sigma)[chosen].square().mean(-1)
    rms = math.sqrt(float(squares.mean()))
    error = standard_error(squares) / (2 * rms)
    return Speed(
        "distance of minima", what, rms, error, against="exact fits", wanted=WANTED_RMS[name], better="lower", unit="sigma", note=DISTANCE
    )  # fmt: skip


def standard_error(values: torch.Tensor) -> float:
    return float(values.std() / math.sqrt(len(values)))
