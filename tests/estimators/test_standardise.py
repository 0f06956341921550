"""Standardisation and support maps."""

from __future__ import annotations

import math

import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.estimators.standardise import Standardise, mean_weight
from touchneedle.estimators.support import SupportMap
from touchneedle.toys.base import Feature


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
