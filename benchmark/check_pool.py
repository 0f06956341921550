"""Conformance of finite toys: splits, weights at every theta, and events that move with it."""

from __future__ import annotations

import torch

from touchneedle.benchmark.checks import CheckFailed
from touchneedle.toys.base import Events, FiniteToy, Split, Toy, expand_theta

# Rounding of events in float32, with a digit to spare: vectorised sums depend on where a row stands.
_FLOAT32 = 1e-5


def check_splits(toy: FiniteToy) -> None:
    """Training and test events of a finite toy are well-formed, at nominal, and disjoint."""
    pools = _pools(toy)
    for events in pools.values():
        check_events(toy, events, len(events))
        if not torch.equal(events.theta, toy.spec.parameters.nominal.expand_as(events.theta)):
            raise CheckFailed("pool: expected events at nominal theta")
    train, test = ({row.tobytes() for row in events.x.numpy()} for events in pools.values())
    if train & test:
        raise CheckFailed(f"pool: {len(train & test)} distinct events are in both splits; split by a hash of the event")


def check_reweight(toy: FiniteToy) -> None:
    """Weights reproduce the pool at nominal, follow the rates within 5 standard errors, and act row by row."""
    for split, events in _pools(toy).items():
        for theta in (toy.spec.parameters.nominal, *some_theta(toy, 3)):
            weight = toy.reweight(events, theta)
            if weight.shape != (len(events),) or not weight.isfinite().all():
                raise CheckFailed(f"reweight: expected {len(events)} finite weights; got shape {tuple(weight.shape)}")
            if not torch.allclose(weight, toy.reweight(events, expand_theta(theta, len(events))), rtol=1e-10):
                raise CheckFailed("reweight: one theta and the same theta in every row give different weights")
            _check_yield(toy, weight.sum().item(), weight.square().sum().sqrt().item(), theta, split)
        if not torch.allclose(toy.reweight(events, toy.spec.parameters.nominal), events.weight, rtol=1e-10):
            raise CheckFailed(f"reweight: at nominal, expected the weights of the {split} pool")


def check_move(toy: FiniteToy) -> None:
    """``at`` gives the pool at nominal, finite x with the weights of ``reweight`` elsewhere, and knows no order of events."""
    for split, events in _pools(toy).items():
        nominal = toy.at(events, toy.spec.parameters.nominal)
        check_events(toy, nominal, len(events))
        if not torch.allclose(nominal.x, events.x, rtol=_FLOAT32, atol=_FLOAT32):
            raise CheckFailed(f"at: at nominal, expected the events of the {split} pool")
        theta = some_theta(toy, len(events))
        moved, turned = toy.at(events, theta), toy.at(events[torch.arange(len(events)).flip(0)], theta.flip(0))
        check_events(toy, moved, len(events))
        if not torch.equal(moved.weight, toy.reweight(events, theta)):
            raise CheckFailed("at: expected the weights of reweight")
        if not torch.allclose(moved.x, turned.x.flip(0), rtol=_FLOAT32, atol=_FLOAT32):
            raise CheckFailed("at: the same events in another order move differently; freeze latents event by event")


def _check_yield(toy: Toy, found: float, error: float, theta: torch.Tensor, split: str) -> None:
    expected = toy.expected_events(theta.unsqueeze(0)).item()
    if abs(found - expected) > 5 * error + 1e-9 * abs(expected):
        raise CheckFailed(f"reweight: {split} weights at theta = {theta.tolist()} sum to {found:g}; expected_events gives {expected:g}")


def check_events(toy: Toy, events: Events, n: int) -> None:
    """Raise `CheckFailed` unless ``n`` events have the stated shapes and dtypes, are finite, and name known processes."""
    shapes = {"x": (n, toy.spec.x_dim), "theta": (n, toy.spec.theta_dim), "weight": (n,)}
    dtypes = {"x": torch.float32, "theta": torch.float64}
    for name, shape in shapes.items():
        value = getattr(events, name)
        if tuple(value.shape) != shape or not value.isfinite().all():
            raise CheckFailed(f"events: {name}: expected shape {shape} of finite numbers; got {tuple(value.shape)}")
        if value.dtype != dtypes.get(name, value.dtype):
            raise CheckFailed(f"events: {name}: expected {dtypes[name]}; got {value.dtype}")
    if events.label is not None and not bool(((events.label >= 0) & (events.label < len(toy.spec.processes))).all()):
        raise CheckFailed(f"events: label: expected process indices 0 to {len(toy.spec.processes) - 1}")


def some_theta(toy: Toy, n: int) -> torch.Tensor:
    """The same ``n`` draws from the prior at every call, shape (n, p)."""
    return toy.spec.parameters.sample_prior(n, torch.Generator().manual_seed(0))


def _pools(toy: FiniteToy) -> dict[Split, Events]:
    return {"train": toy.pool("train"), "test": toy.pool("test")}
