"""Cost of pseudo-experiments of a likelihood (``make bench``): 1,000 of 1,000 events, one parameter of interest, two nuisances.

Everything counts: drawing, the pool included, and all fits, free and with the parameter of interest at the truth; the loop of
MIGRAD fits beside it makes the same two of each, and no event. Minima are compared with exact fits from the same start.
"""

import math
import time
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
from touchneedle.inference.simulated import SimulatedFits
from touchneedle.inference.surface import build_surface
from touchneedle.toys.base import build_toy

N_TRAIN = 20_000
N_PSEUDO = 1_000
# In turns, that many times: all at once, and some by the loop.
ROUNDS, N_LOOP, N_EXACT = 3, 12, 40
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
FREE_ALONE = "the loop leaves out t at the truth"
DISTANCE = "ripples of a trained flow are no polynomial of low order"


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


def test_a_thousand_pseudo_experiments(benchmark: Any, likelihood: tuple[str, Any, Likelihood]) -> None:
    name, toy, learned = likelihood
    simulation = Simulation(toy.sample, n_pseudo=N_PSEUDO)
    spent: list[float] = []
    loop: list[tuple[float, float]] = []

    def fit_in_turns() -> SimulatedFits:
        for turn in range(ROUNDS):
            started = time.process_time()
            done = simulation.fit(learned, toy.spec.parameters.nominal)
            spent.append(time.process_time() - started)
            # Those alone that we did not give up.
            some = done.kept.nonzero().flatten()[turn * N_LOOP : (turn + 1) * N_LOOP].tolist()
            loop.extend(fit_one(learned.estimator, done.experiments, done.fits.terms, number) for number in some)
        return done

    done = benchmark.pedantic(fit_in_turns, rounds=1)
    benchmark.extra_info["cpu_seconds"] = spent
    benchmark.extra_info["share_fitted_exactly"] = float(done.fits.exact.double().mean())
    benchmark.extra_info["failed"] = done.failed
    assert len(done.fits) == N_PSEUDO
    assert done.fits.method == "surface"
    assert done.fits.surface is not None
    what = f"{name}, surface of order {done.fits.surface.monomials.order}"
    free, fixed = torch.tensor(loop, dtype=torch.float64).T
    faster, error = times_faster(free + fixed, spent)
    note = function_note(lambda: simulation.fit(learned, toy.spec.parameters.nominal), PARTS) if faster < WANTED else ""
    note_speed(
        benchmark,
        Speed("pseudo-experiments", what, faster, error, "loop of MIGRAD fits", wanted=WANTED, note=note),
        Speed("pseudo-experiments", what, *times_faster(free, spent), "loop of free MIGRAD fits", note=FREE_ALONE),
        distance_row(name, what, learned, done),
    )  # fmt: skip
    assert faster > 3


def times_faster(loop: torch.Tensor, spent: list[float]) -> tuple[float, float]:
    """Seconds of single fits over those of all at once, for equally many, and the standard error."""
    at_once = torch.tensor(spent, dtype=torch.float64)
    value = float(loop.mean() * N_PSEUDO / at_once.mean())
    return value, value * math.hypot(*(standard_error(each) / float(each.mean()) for each in (loop, at_once)))


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
