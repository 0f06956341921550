"""Conformance kit for toys: named checks that every toy must pass, for authors and ``touchneedle check``.

``check_toy(toy)`` runs the checks that apply to the toy's kind and leaves the others out of its list;
called directly, a check that does not apply does nothing. Statistical checks have fixed seeds and
fail beyond 5 standard errors. Densities are integrated by quadrature in one dimension and by
importance sampling in up to `MAX_DIM`; beyond, or with discrete features, those two checks are left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from touchneedle.benchmark.check_density import (
    check_batch_invariance,
    check_far_events,
    check_joint_truth,
    check_labels,
    check_normalised,
    check_process_densities,
    check_ratio_closure,
    check_samples_follow_density,
    check_score,
    check_score_mean,
    has_integral,
    is_exact,
    is_regular_exact,
    nominal_events,
)
from touchneedle.benchmark.check_pool import check_events, check_move, check_reweight, check_splits, some_theta
from touchneedle.benchmark.checks import CheckFailed, CheckResult, run_checks
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import ExactToy, FiniteToy, SimulatedToy, Toy

__all__ = ["CheckFailed", "CheckResult", "check_toy", "toy_checks"]

# A Gaussian prior must stay within the bounds in a million draws.
PRIOR_REACH = 6.0
Check = Callable[[Any], None]


@dataclass(frozen=True)
class _Entry:
    """A check and the toys that it applies to."""

    applies: Callable[[Toy], bool]
    check: Check

    def __call__(self, toy: Toy) -> None:
        """Check the toy, if the check applies to it."""
        if self.applies(toy):
            self.check(toy)


def check_toy(toy: Toy) -> list[CheckResult]:
    """Run all checks that apply to ``toy``."""
    return run_checks({name: entry for name, entry in _TABLE.items() if entry.applies(toy)}, toy)


def toy_checks() -> dict[str, Check]:
    """All checks by name; each raises `CheckFailed` and does nothing on a toy that it does not apply to."""
    return dict(_TABLE)


def check_spec(toy: Toy) -> None:
    """Names are unique, there is a parameter of interest, nominal, anchors and prior lie within the bounds."""
    spec = toy.spec
    for what, names in [("parameter", spec.parameters.names), ("feature", [f.name for f in spec.features]), ("process", spec.processes)]:
        if not names or len(set(names)) != len(names):
            raise CheckFailed(f"spec: expected unique {what} names, at least one; got {list(names)}")
    if not spec.parameters.interest:
        raise CheckFailed("spec: expected a parameter of kind 'interest'; there is none")
    if not (spec.name and spec.version):
        raise CheckFailed("spec: expected a name and a version")
    _check_parameter_ranges(toy)


def check_rates(toy: Toy) -> None:
    """``rates`` are finite, one per process, the same in any batch; ``expected_events`` is their sum."""
    theta = some_theta(toy, 16)
    rates = toy.rates(theta)
    if rates.shape != (16, len(toy.spec.processes)) or not rates.isfinite().all():
        raise CheckFailed(f"rates: expected 16 x {len(toy.spec.processes)} finite numbers; got shape {tuple(rates.shape)}")
    if not torch.allclose(toy.expected_events(theta), rates.sum(-1)):
        raise CheckFailed("expected_events: expected the sum of rates over processes")
    singly = torch.cat([toy.rates(row.unsqueeze(0)) for row in theta])
    if not torch.allclose(rates, singly, rtol=1e-10):
        raise CheckFailed("rates: a batch and its single rows differ")
    total = toy.expected_events(toy.spec.parameters.nominal.unsqueeze(0)).item()
    if not total > 0:
        raise CheckFailed(f"expected_events: expected a positive yield at nominal; got {total:g}")


def check_sample(toy: SimulatedToy) -> None:
    """Events have the stated shapes and dtypes, and the same generator gives the same events."""
    theta = some_theta(toy, 50)
    first, again, other = (toy.sample(theta, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    check_events(toy, first, 50)
    if not torch.equal(first.theta, theta):
        raise CheckFailed("sample: expected Events.theta to be the theta that was asked for, row by row")
    if not torch.equal(first.x, again.x):
        raise CheckFailed("sample: two generators with the same seed gave different events")
    if torch.equal(first.x, other.x):
        raise CheckFailed("sample: generators with different seeds gave the same events; draw from the generator")


def check_global_state(toy: Toy) -> None:
    """Nothing changes the global random states or the default dtype."""
    before = _global_state()
    if isinstance(toy, FiniteToy):
        toy.pool("train")
    if isinstance(toy, SimulatedToy):
        events = toy.sample(some_theta(toy, 8), generator=torch.Generator().manual_seed(0))
        if isinstance(toy, ExactToy):
            toy.log_prob(events.x, events.theta)
    for name, value in _global_state().items():
        if value != before[name]:
            raise CheckFailed(f"global state: the toy changed the {name}; draw from the generator that it is given")


def check_bounds(toy: Toy) -> None:
    """theta outside its bounds, or not a number, raises `InputError`."""
    for column, parameter in enumerate(toy.spec.parameters.parameters):
        low, high = parameter.bounds
        for wrong in (low - 1e-3 * max(1.0, abs(low)), high + 1e-3 * max(1.0, abs(high)), float("nan")):
            if not np.isinf(wrong):
                theta = toy.spec.parameters.nominal.clone()
                theta[column] = wrong
                _expect_error(toy, theta.expand(3, -1), f"{parameter.name} = {wrong:g} (bounds {low:g}, {high:g})")


def check_shapes(toy: Toy) -> None:
    """A batch of the wrong shape raises `InputError`."""
    theta = some_theta(toy, 3)
    _expect_error(toy, torch.cat([theta, theta[:, :1]], -1), f"theta of shape (3, {toy.spec.theta_dim + 1})")
    if isinstance(toy, ExactToy):
        x = nominal_events(toy, 3).x
        for wrong_x, wrong_theta in ((torch.cat([x, x[:, :1]], -1), theta), (x[0], theta), (x, theta[:2])):
            what = f"x of shape {tuple(wrong_x.shape)} with theta of shape {tuple(wrong_theta.shape)}"
            _expect(partial(toy.log_prob, wrong_x, wrong_theta), what)


def _check_parameter_ranges(toy: Toy) -> None:
    space = toy.spec.parameters
    reach = torch.full((1, len(space)), PRIOR_REACH, dtype=torch.float64)
    draws = torch.cat([space.from_normal(-reach), space.from_normal(reach)]).T
    for parameter, (low, high) in zip(space.parameters, draws.tolist(), strict=True):
        inside = (parameter.nominal, *parameter.template_anchors) if parameter.kind == "nuisance" else (parameter.nominal,)
        for value in inside:
            if not parameter.bounds[0] <= value <= parameter.bounds[1]:
                raise CheckFailed(f"spec: {parameter.name}: nominal value or anchor {value:g} is outside its bounds {parameter.bounds}")
        if low < parameter.bounds[0] or high > parameter.bounds[1]:
            raise CheckFailed(f"spec: {parameter.name}: prior draws reach {low:g} to {high:g}, outside its bounds {parameter.bounds}")


def _expect_error(toy: Toy, theta: torch.Tensor, what: str) -> None:
    """Every public door that takes theta must refuse it."""
    if isinstance(toy, FiniteToy):
        events = toy.pool("test")[: len(theta)]
        for call in (toy.reweight, toy.at):
            _expect(partial(call, events, theta[: len(events)]), what)
    if isinstance(toy, SimulatedToy):
        _expect(lambda: toy.sample(theta, generator=torch.Generator().manual_seed(0)), what)
    if isinstance(toy, ExactToy):
        x = nominal_events(toy, len(theta)).x
        _expect(lambda: toy.log_prob(x, theta), what)


def _expect(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except InputError:
        return
    raise CheckFailed(f"bad input: expected InputError for {what}; it was accepted")


def _global_state() -> dict[str, object]:
    return {
        "random state of torch": torch.get_rng_state().numpy().tobytes(),
        "random state of numpy": _numpy_state(),
        "random state of Python": random.getstate(),
        "default dtype of torch": torch.get_default_dtype(),
    }


def _numpy_state() -> tuple[bytes, int]:
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002  the state that must not change
    return state["state"]["key"].tobytes(), state["state"]["pos"]


def _is_simulated(toy: Toy) -> bool:
    return isinstance(toy, SimulatedToy)


def _is_finite(toy: Toy) -> bool:
    return isinstance(toy, FiniteToy)


def _always(toy: Toy) -> bool:
    return True


_TABLE = {
    "spec": _Entry(_always, check_spec),
    "rates": _Entry(_always, check_rates),
    "global_state": _Entry(_always, check_global_state),
    "bounds": _Entry(_always, check_bounds),
    "shapes": _Entry(_always, check_shapes),
    "sample": _Entry(_is_simulated, check_sample),
    "labels": _Entry(_is_simulated, check_labels),
    "joint_truth": _Entry(_is_simulated, check_joint_truth),
    "normalised": _Entry(has_integral, check_normalised),
    "samples_follow_density": _Entry(lambda toy: has_integral(toy) and is_exact(toy), check_samples_follow_density),
    "ratio_closure": _Entry(is_regular_exact, check_ratio_closure),
    "score_mean": _Entry(is_regular_exact, check_score_mean),
    "score": _Entry(is_exact, check_score),
    "batch_invariance": _Entry(is_exact, check_batch_invariance),
    "far_events": _Entry(is_exact, check_far_events),
    "process_densities": _Entry(is_exact, check_process_densities),
    "splits": _Entry(_is_finite, check_splits),
    "reweight": _Entry(_is_finite, check_reweight),
    "move": _Entry(_is_finite, check_move),
}
