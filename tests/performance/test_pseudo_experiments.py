"""Cost of pseudo-experiments of a likelihood (``make bench``): 1,000 of 1,000 events, one parameter of interest, two nuisances.

Wall seconds are the benchmark's own; CPU seconds, which other work on the machine changes less, and how the fits were done
are in its ``extra_info``.
"""

import time
from typing import Any

import pytest
import torch

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, Simulation
from touchneedle.toys.base import build_toy

N_TRAIN = 20_000
N_PSEUDO = 1_000
EPOCHS = {"oracle": 0, "ratio_bce": 20, "zuko_nsf": 20}


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


@pytest.mark.parametrize("name", list(EPOCHS))
def test_a_thousand_pseudo_experiments(benchmark: Any, name: str) -> None:
    """Drawing, the pool included, and all fits: free, and with the parameter of interest at the truth."""
    toy = build_toy("mass_bump")
    likelihood, simulation = trained(name, toy), Simulation(toy.sample, n_pseudo=N_PSEUDO)
    started = time.process_time()
    done = benchmark.pedantic(lambda: simulation.fit(likelihood, toy.spec.parameters.nominal), rounds=1)
    benchmark.extra_info["cpu_seconds"] = time.process_time() - started
    benchmark.extra_info["method"] = done.fits.method
    benchmark.extra_info["share_fitted_exactly"] = float(done.fits.exact.double().mean())
    benchmark.extra_info["check_rms"] = done.fits.check_rms
    benchmark.extra_info["failed"] = done.failed
    assert len(done.fits) == N_PSEUDO
    # The surface is an order of magnitude faster than exact fits.
    assert done.fits.method == "surface"
