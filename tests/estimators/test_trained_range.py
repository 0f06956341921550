"""A theta outside the range of the training events: one warning that names parameter and range."""

from __future__ import annotations

import warnings

import pytest
import torch

from touchneedle.benchmark.data import make_events
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.trained_range import OutsideTrainedRange, extrapolation_allowed
from touchneedle.toys.base import Events, ExactToy

X = torch.zeros(3, 1)
INSIDE, OUTSIDE = torch.tensor([0.2, 0.9]), torch.tensor([0.2, 1.5])


@pytest.fixture
def trained(location: ExactToy) -> Estimator:
    """Trained on templates: the nuisance is at -1, 0 or 1."""
    estimator = build_estimator("best_gaussian", location.spec)
    estimator.prepare(make_events(location, 500, "templates", 0))
    return estimator.double()


@pytest.mark.parametrize("ask", ["log_ratio", "log_prob", "log_ratio_grid"])
def test_outside_the_range_there_is_one_warning_that_names_it(trained: Estimator, ask: str) -> None:
    answer = getattr(trained, ask)
    points = (INSIDE[None], OUTSIDE[None]) if ask == "log_ratio_grid" else (INSIDE, OUTSIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inside = answer(X, points[0])
    with pytest.warns(OutsideTrainedRange, match=r"BestGaussian was trained with nu in \[-1, 1\]") as seen:
        answers = [inside, *(answer(X, points[1]) for _ in range(2))]
    assert len(seen) == 1
    assert bool(torch.stack(answers).isfinite().all())


def test_who_extrapolates_on_purpose_is_not_warned(trained: Estimator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with extrapolation_allowed():
            trained.log_ratio(X, OUTSIDE)


def test_the_range_is_saved_with_the_weights_and_older_weights_have_none(trained: Estimator, location: ExactToy) -> None:
    copy = build_estimator("best_gaussian", location.spec)
    copy.load_tensors(trained.state_dict())
    assert torch.equal(copy.trained_range[:, 1], torch.tensor([-1.0, 1.0]))
    older = build_estimator("best_gaussian", location.spec)
    older.load_tensors({name: tensor for name, tensor in trained.state_dict().items() if name != "trained_range"})
    older.warn_outside(torch.tensor([1e9, 1e9]))


def test_the_range_of_a_stream_is_that_of_all_its_batches(location: ExactToy) -> None:
    events = location.sample(location.spec.parameters.sample_prior(1_000, torch.Generator().manual_seed(0)), generator=torch.Generator())

    class Stream:
        def batches(self, size: int, generator: torch.Generator | None = None):
            yield from (events[:300], events[300:])

        def __len__(self) -> int:
            return len(events)

    estimator = build_estimator("best_gaussian", location.spec)
    estimator.prepare(Stream())
    assert torch.allclose(estimator.trained_range, torch.stack([events.theta.amin(0), events.theta.amax(0)]).float())


def test_controls_know_the_truth_everywhere(location: ExactToy) -> None:
    oracle = build_estimator("oracle", location.spec, truth=location)
    oracle.prepare(Events(X, torch.zeros(3, 2), torch.ones(3)))
    oracle.warn_outside(torch.tensor([1e9, 1e9]))
