"""Standardisation and support maps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import attrgetter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from touchneedle.conf.errors import InputError
from touchneedle.estimators.standardise import Standardise, learn_in_one_pass, mean_weight
from touchneedle.estimators.support import SupportMap
from touchneedle.toys.base import Events, EventSource, Feature


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_weighted_moments_become_0_and_1() -> None:
    value = torch.randn(1000, 3, generator=generator(), dtype=torch.float64) * torch.tensor([1.0, 50.0, 1e-3]) + 7
    weight = torch.rand(1000, generator=generator(1), dtype=torch.float64)
    scale = Standardise(3).double()
    scale.learn(value, weight)
    scaled, share = scale(value), weight / weight.sum()
    torch.testing.assert_close(share @ scaled, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(share @ scaled**2, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(scale.inverse(scaled), value)


def test_constant_column_keeps_width_one() -> None:
    value = torch.cat([torch.full((50, 1), 123.456), torch.randn(50, 1, generator=generator())], 1)
    scale = Standardise(2)
    scale.learn(value, torch.ones(50))
    assert scale.std[0] == 1
    assert scale(value)[:, 0].abs().max() < 1e-4


def test_missing_entries_do_not_enter_and_become_0_with_a_presence_column() -> None:
    x = torch.randn(200, 2, generator=generator())
    x[::4, 1] = -25.0
    scale = Standardise.of_features((Feature("a"), Feature("b", missing=-25.0)))
    scale.learn(x, torch.ones(200))
    present = x[:, 1] != -25.0
    torch.testing.assert_close(scale.mean[1], x[present, 1].mean())
    scaled = scale(x)
    assert scaled.shape == (200, scale.dim) == (200, 3)
    assert scaled[~present, 1].abs().max() == 0
    assert torch.equal(scaled[:, 2], present.float())
    assert scaled[present, 1].abs().max() > 1


def test_always_missing_column_is_finite() -> None:
    scale = Standardise(1, [-25.0])
    scale.learn(torch.full((5, 1), -25.0), torch.ones(5))
    assert torch.equal(scale(torch.full((5, 1), -25.0)), torch.zeros(5, 1))


def test_log_jacobian_is_that_of_forward() -> None:
    scale = Standardise(3).double()
    scale.learn(torch.randn(100, 3, generator=generator(), dtype=torch.float64) * 4, torch.ones(100))
    jacobian = torch.autograd.functional.jacobian(lambda x: scale(x[None])[0], torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(scale.log_jacobian(), jacobian.det().abs().log())


def test_weights_that_sum_to_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="positive sum of weights"):
        mean_weight(torch.zeros(4))


SUPPORTS = [(-1.0, 3.0), (2.0, math.inf), (-math.inf, 5.0)]


@pytest.mark.parametrize("support", SUPPORTS)
def test_support_map_inverts_and_knows_its_jacobian(support: tuple[float, float]) -> None:
    mapping = SupportMap((Feature("a", support=support), Feature("b")))
    x = torch.tensor([[2.5, 8.0], [2.1, -3.0]], dtype=torch.float64)
    z, log_jacobian = mapping(x)
    torch.testing.assert_close(mapping.inverse(z), x)
    jacobian = torch.autograd.functional.jacobian(lambda row: mapping(row[None])[0][0], x[0])
    torch.testing.assert_close(log_jacobian[0], jacobian.det().abs().log())


def test_support_map_holds_values_at_the_edges_and_marks_those_outside() -> None:
    mapping = SupportMap((Feature("a", support=(0.0, 1.0)),))
    x = torch.tensor([[0.0], [1.0], [-5.0], [0.5]])
    z, log_jacobian = mapping(x)
    assert torch.isfinite(z).all()
    assert torch.isfinite(log_jacobian).all()
    assert mapping.inside(x).tolist() == [True, True, False, True]


# In one pass.


def weighted_events(n: int) -> Events:
    """Events of shifted, narrow, constant and partly missing columns, with weights of both signs."""
    width, place = torch.tensor([1.0, 1e-3, 0.0, 5.0]), torch.tensor([0.0, 7e2, 3.0, 1.0])
    x = torch.randn(n, 4, generator=generator(), dtype=torch.float64) * width + place
    x[::3, 3] = -25.0
    weight = torch.rand(n, generator=generator(1), dtype=torch.float64) - 0.2
    return Events(x, torch.randn(n, 2, generator=generator(2), dtype=torch.float64), weight)


class InParts:
    """Events in memory that come as a stream does."""

    def __init__(self, events: Events, sizes: list[int]) -> None:
        self.parts = torch.arange(len(events)).split(sizes)
        self.events = events

    def __len__(self) -> int:
        return len(self.events)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Events]:
        return (self.events[rows] for rows in self.parts)


@given(first=st.integers(1, 398), second=st.integers(1, 398))
@settings(max_examples=30, deadline=None)
def test_parts_give_the_moments_of_all_events(first: int, second: int) -> None:
    events = weighted_events(400)
    sizes = [first, *([second] if first + second < 400 else [])]
    parts = InParts(events, [*sizes, 400 - sum(sizes)])
    assert isinstance(parts, EventSource)
    missing = [None, None, None, -25.0]
    at_once, streamed = Standardise(4, missing).double(), Standardise(4, missing).double()
    at_once.learn(events.x, events.weight)
    mean = learn_in_one_pass(parts, (streamed, attrgetter("x")))
    torch.testing.assert_close(mean, events.weight.mean(), rtol=1e-13, atol=0)
    torch.testing.assert_close(streamed.mean, at_once.mean, rtol=1e-13, atol=1e-13)
    # A width of 1e-3 around 700 keeps nine digits.
    torch.testing.assert_close(streamed.std, at_once.std, rtol=1e-9, atol=0)
    share = events.weight.abs() / events.weight.abs().sum()
    known = (share @ (events.x - share @ events.x) ** 2).sqrt()
    torch.testing.assert_close(streamed.std[:2], known[:2], rtol=1e-9, atol=0)


def test_events_in_memory_give_the_same_numbers_as_learning_each_alone() -> None:
    events = weighted_events(1_234)
    together, alone = (Standardise(4), Standardise(2)), (Standardise(4), Standardise(2))
    mean = learn_in_one_pass(events, (together[0], attrgetter("x")), (together[1], attrgetter("theta")))
    alone[0].learn(events.x, events.weight)
    alone[1].learn(events.theta, events.weight)
    assert all(torch.equal(one.mean, other.mean) and torch.equal(one.std, other.std) for one, other in zip(together, alone, strict=True))
    assert mean == mean_weight(events.weight) == events.weight.mean()


def test_a_part_without_an_entry_of_a_feature_does_no_harm() -> None:
    events = weighted_events(90)
    events.x[:30, 3] = -25.0
    at_once, streamed = Standardise(4, [None, None, None, -25.0]).double(), Standardise(4, [None, None, None, -25.0]).double()
    at_once.learn(events.x, events.weight)
    learn_in_one_pass(InParts(events, [30, 60]), (streamed, attrgetter("x")))
    torch.testing.assert_close(streamed.std, at_once.std, rtol=1e-9, atol=0)
    assert streamed.std[3] > 1
