"""Weights joined into one vector are trained as if each were seen on its own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from touchneedle.benchmark import joined_weights
from touchneedle.benchmark.config import OptimizerConfig
from touchneedle.benchmark.joined_weights import JoinedWeights
from touchneedle.benchmark.optimizers import NOT_BY_ELEMENT, OPTIMIZERS, build_optimizer

BY_ELEMENT = [name for name in OPTIMIZERS if name not in NOT_BY_ELEMENT]


def first_two(network: nn.ModuleList, x: Tensor) -> Tensor:
    return network[1](network[0](x).tanh()).square().mean()


def all_three(network: nn.ModuleList, x: Tensor) -> Tensor:
    return first_two(network, x) + network[2](x).square().mean()


LOSSES: dict[str, Callable[[nn.ModuleList, Tensor, int], Tensor]] = {
    "all of them": lambda network, x, step: all_three(network, x),
    "never the last": lambda network, x, step: first_two(network, x),
    "the last at times": lambda network, x, step: (first_two if step % 3 == 2 else all_three)(network, x),
}


def layers() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(3, 7), nn.Linear(7, 5), nn.Linear(3, 1)])


def trained(name: str, loss: Callable[[nn.ModuleList, Tensor, int], Tensor], *, join: bool) -> list[Tensor]:
    """Weights after ten steps of an optimiser with weight decay."""
    network = layers()
    optimizer = build_optimizer(OptimizerConfig(name, 0.01, weight_decay=0.1), list(network.parameters()), fused=False)
    weights = JoinedWeights(optimizer, joined=join)
    generator = torch.Generator().manual_seed(1)
    for step in range(10):
        weights.zero_grad()
        loss(network, torch.randn(20, 3, generator=generator), step).backward()
        weights.take_gradients()
        optimizer.step()
    weights.separate()
    return list(network.parameters())


@pytest.mark.parametrize("most", [1, 30, 2**16])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("name", BY_ELEMENT)
def test_each_optimiser_moves_joined_weights_as_it_moves_separate_ones(monkeypatch, name, loss, most):
    monkeypatch.setattr(joined_weights, "_MOST_IN_A_VECTOR", most)
    joined, plain = (trained(name, loss, join=join) for join in (True, False))
    for mine, other in zip(joined, plain, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)
    assert not torch.equal(joined[0], layers()[0].weight)
    # Weight decay must not touch what has no gradient.
    assert torch.equal(joined[4], layers()[2].weight) == (loss is LOSSES["never the last"])


def test_an_optimiser_sees_one_vector_until_a_gradient_is_absent():
    network = layers()
    optimizer = torch.optim.AdamW(network.parameters())
    weights = JoinedWeights(optimizer)
    seen = []
    for step in range(4):
        weights.zero_grad()
        LOSSES["the last at times"](network, torch.ones(2, 3), step).backward()
        weights.take_gradients()
        optimizer.step()
        seen.append(len(optimizer.param_groups[0]["params"]))
    assert seen == [1, 1, 6, 6]
    assert optimizer.state[network[0].weight]["exp_avg"].shape == network[0].weight.shape


def test_parts_share_memory_until_they_are_separated():
    network = layers()
    before = copy.deepcopy(network.state_dict())
    weights = JoinedWeights(torch.optim.Adam(network.parameters()))
    assert len({parameter.untyped_storage().data_ptr() for parameter in network.parameters()}) == 1
    weights.separate()
    assert len({parameter.untyped_storage().data_ptr() for parameter in network.parameters()}) == 6
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_vector_is_no_longer_than_the_cache(monkeypatch):
    monkeypatch.setattr(joined_weights, "_MOST_IN_A_VECTOR", 30)
    optimizer = torch.optim.Adam(layers().parameters())
    JoinedWeights(optimizer)
    # 21 + 7, 35, 5 + 3 + 1
    assert [len(vector) for vector in optimizer.param_groups[0]["params"]] == [28, 35, 9]


def test_weights_of_several_precisions_stay_on_their_own():
    network = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).double()])
    optimizer = torch.optim.Adam(network.parameters())
    JoinedWeights(optimizer)
    assert optimizer.param_groups[0]["params"] == list(network.parameters())
