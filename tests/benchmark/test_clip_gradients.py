"""Gradients are cut to a norm as torch cuts them, whether a norm is too large or not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from touchneedle.benchmark.members import OneMember, StackedMembers
from touchneedle.estimators.base import Estimator, Stage, build_estimator
from touchneedle.toys.base import build_toy

SPEC = build_toy("gaussian_shift").spec


def built() -> Estimator:
    return build_estimator("ratio_bce", SPEC, hidden=(8, 8))


def give_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    """Random ones; none to the last."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters[:-1]:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def norm_of(parameters: list[nn.Parameter]) -> float:
    return float(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm())


@pytest.mark.parametrize("largest", [0.1, 1e3])
def test_one_member_is_cut_as_by_torch(largest: float) -> None:
    estimator = built()
    parameters = list(estimator.parameters())
    give_gradients(parameters, 0)
    other = copy.deepcopy(parameters)
    for mine, its in zip(parameters, other, strict=True):
        its.grad = None if mine.grad is None else mine.grad.clone()
    assert 0.1 < norm_of(parameters) < 1e3
    nn.utils.clip_grad_norm_(other, largest)
    OneMember(estimator, Stage("train", tuple(parameters))).clip_gradients(largest)
    for mine, its in zip(parameters[:-1], other[:-1], strict=True):
        torch.testing.assert_close(mine.grad, its.grad)
    assert parameters[-1].grad is None


def test_each_stacked_member_is_cut_by_its_own_norm() -> None:
    members = [built() for _ in range(2)]
    trainee = StackedMembers(members, [member.stages()[0] for member in members], None)
    give_gradients(trainee.trained(), 0)
    gradients = [parameter.grad for parameter in trainee.trained() if parameter.grad is not None]
    for gradient in gradients:
        gradient[1] *= 1e-3
    before = [gradient.clone() for gradient in gradients]
    norms = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
    trainee.clip_gradients(1.0)
    assert norms[0] > 1 > norms[1]
    for gradient, old in zip(gradients, before, strict=True):
        torch.testing.assert_close(gradient[0], old[0] / norms[0])
        assert torch.equal(gradient[1], old[1])
