"""Every event at every theta at once: the same numbers as one theta after the other, and what does not depend on theta done once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from touchneedle.benchmark.data import make_events
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.ratio_bce import RatioBce, RatioBceConfig
from touchneedle.toys.base import build_toy

SHARING = ["mixture_density", "posterior_flow", "posterior_mixture", "ratio_bce", "ratio_nre_c", "spline_flow", "zuko_nsf"]
N = 20


def prepared(name: str, **options: Any) -> tuple[Estimator, Tensor, Tensor]:
    """An estimator with first weights, larger than usual, and events and points (3, p) of a toy with a support and two nuisances."""
    toy = build_toy("mass_bump")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, toy.spec, **options)
    events = make_events(toy, 1_000, "prior", 0)
    estimator.prepare(events)
    for parameter in estimator.parameters():
        parameter.data *= 2
    return estimator.double(), events.x[:N].double(), events.theta[-3:].double()


@pytest.mark.parametrize("name", SHARING)
def test_the_grid_holds_log_ratio_and_its_gradient(name: str) -> None:
    estimator, x, theta = prepared(name)
    theta.requires_grad_()
    grid = estimator.log_ratio_grid(x, theta)
    each = torch.stack([estimator.log_ratio(x, point) for point in theta], 1)
    assert float(each.detach().std()) > 0.01
    torch.testing.assert_close(grid, each, rtol=1e-10, atol=1e-10)
    slopes = [torch.autograd.grad(values.square().sum(), theta)[0] for values in (grid, each)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", SHARING)
def test_each_event_and_each_point_is_standardised_once(name: str) -> None:
    estimator, x, theta = prepared(name)
    rows: list[int] = []
    estimator.get_submodule("standardise_x").register_forward_hook(lambda module, given, answer: rows.append(len(answer)))
    estimator.log_ratio_grid(x, theta)
    assert sum(rows) == N


def test_a_ratio_that_answers_in_its_own_way_does_so_on_a_grid() -> None:
    class Twice(RatioBce):
        def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
            return 2 * super()._log_evidence_ratio(x, theta)

    once, x, theta = prepared("ratio_bce")
    twice = Twice(once.spec, RatioBceConfig()).double()
    twice.load_tensors(once.state_dict())
    torch.testing.assert_close(twice.log_ratio_grid(x, theta), 2 * once.log_ratio_grid(x, theta))
