"""Every fixed sample with a latent history: methods of mined gold learn from it, and every design draws on it."""

import pytest
import torch

from touchneedle.benchmark.check_subject import train_briefly
from touchneedle.benchmark.data import make_events
from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy

# Events and steps that a method needs to get better, and the methods, by toy.
LEARNING = {
    "drell_yan_angular_mc": (2_000, 30, ("mined_alices", "mined_rascal", "mined_scandal")),
    "higgs_tautau": (400, 20, ("mined_alices", "mined_scandal")),
}
BEYOND = {"drell_yan_angular_mc": 10_000, "higgs_tautau": 100_000}


@pytest.fixture(scope="module")
def toys():
    return {name: build_toy(name) for name in LEARNING}


@pytest.mark.parametrize(("toy", "name"), [(toy, name) for toy, (_, _, names) in LEARNING.items() for name in names])
def test_methods_of_mined_gold_learn_from_it(toys, toy, name):
    n, steps, _ = LEARNING[toy]
    events = make_events(toys[toy], n, "pairs", 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, toys[toy].spec)
    estimator.prepare(events)
    before = estimator.loss(events, torch.Generator().manual_seed(0)).mean().item()
    train_briefly(estimator, events, steps=steps)
    assert estimator.loss(events, torch.Generator().manual_seed(0)).mean().item() < before


@pytest.mark.parametrize("toy", LEARNING)
@pytest.mark.parametrize("design", ["prior", "templates", "nominal"])
def test_other_designs(toys, toy, design):
    events = make_events(toys[toy], 2_000, design, 0)
    assert (events.base is None, len(events)) == (True, 2_000)
    assert events.weight.mean().item() == pytest.approx(1, rel=1e-10)
    assert (events.joint_score is not None) == (design == "nominal")


@pytest.mark.parametrize("toy", LEARNING)
def test_a_budget_beyond_the_pool_is_skipped(toys, toy):
    with pytest.raises(SkipCell, match="set budget.n_train="):
        make_events(toys[toy], BEYOND[toy], "pairs", 0)
