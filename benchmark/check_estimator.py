"""Conformance kit for estimators: named checks that every estimator must pass, for authors and ``touchneedle check``.

``check_estimator(name, toy)`` trains a few dozen steps on events of an exact toy and asks the contract's
questions. A check of a capability that the estimator does not declare does nothing. Statistical
checks have fixed seeds and fail beyond 4 standard errors. `touchneedle.benchmark.reload` repeats the
save and load in a fresh process.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, get_args

import numpy as np
import torch

from touchneedle.benchmark.check_answers import (
    check_batch_invariance,
    check_batch_of_one,
    check_far_events,
    check_gradients,
    check_grid,
    check_normalised,
    check_precision,
    check_ratio_closure,
    check_shapes,
    check_signed_ratio,
    check_zero_at_nominal,
)
from touchneedle.benchmark.check_subject import Subject, train_briefly
from touchneedle.benchmark.checks import CheckFailed, CheckResult, run_checks
from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.estimators.base import Capability, Design, build_estimator
from touchneedle.estimators.trained_range import extrapolation_allowed
from touchneedle.toys.base import Events, SimulatedToy, Toy

__all__ = ["CheckFailed", "CheckResult", "Subject", "check_estimator", "estimator_checks"]


_UNUSUAL_SEED = 1_618_033_988


def check_estimator(name: str, toy: Toy, **params: Any) -> list[CheckResult]:
    """Run all checks on the estimator called ``name`` with options ``params``, on an exact toy.

    A pair that cannot work is not a fault: one result says so, and why.
    """
    if not isinstance(toy, SimulatedToy):
        raise InputError(f"check_estimator: expected a toy that can be sampled; {toy.spec.name} cannot")
    subject = Subject(name, toy, params)
    try:
        subject.build()
    except SkipCell as reason:
        return [CheckResult("skipped", True, str(reason), 0.0)]
    # The probe lies between and beyond the points of some designs.
    with extrapolation_allowed():
        return run_checks(estimator_checks(), subject)


def estimator_checks() -> dict[str, Callable[[Subject], None]]:
    """All checks by name; each raises `CheckFailed` and does nothing where it does not apply."""
    return {
        "declaration": check_declaration,
        "truth_is_hidden": check_truth_is_hidden,
        "shapes": check_shapes,
        "wrong_shapes": check_wrong_shapes,
        "missing_capability": check_missing_capability,
        "batch_of_one": check_batch_of_one,
        "batch_invariance": check_batch_invariance,
        "grid": check_grid,
        "zero_at_nominal": check_zero_at_nominal,
        "precision": check_precision,
        "gradients": check_gradients,
        "signed_ratio": check_signed_ratio,
        "far_events": check_far_events,
        "normalised": check_normalised,
        "ratio_closure": check_ratio_closure,
        "loss": check_loss,
        "weights_in_loss": check_weights_in_loss,
        "weights_in_prepare": check_weights_in_prepare,
        "determinism": check_determinism,
        "save_and_load": check_save_and_load,
        "global_state": check_global_state,
    }


def check_declaration(subject: Subject) -> None:
    """Options have defaults; capabilities, designs and version are what the contract knows."""
    estimator = subject.trained
    config = type(estimator).Config
    if not dataclasses.is_dataclass(config):
        raise CheckFailed(f"Config: expected a dataclass with defaults; got {config!r}")
    config()
    for what, declared, known in [
        ("capabilities", estimator.capabilities, get_args(Capability)),
        ("designs", estimator.designs, get_args(Design)),
    ]:
        if not declared <= set(known):
            raise CheckFailed(f"{what}: expected some of {', '.join(known)}; got {sorted(declared)}")
    if not (estimator.designs and isinstance(estimator.version, str)):
        raise CheckFailed("designs, version: expected at least one design and a version string")


def check_truth_is_hidden(subject: Subject) -> None:
    """Only an estimator with ``needs_truth`` receives the toy, and it refuses to be built without."""
    if subject.trained.needs_truth:
        try:
            build_estimator(subject.name, subject.toy.spec, **subject.params)
        except InputError:
            return
        raise CheckFailed("needs_truth: expected InputError when built without the toy")
    for module in subject.trained.modules():
        held = [name for name, value in vars(module).items() if isinstance(value, Toy)]
        if held:
            raise CheckFailed(f"truth: expected no toy inside an estimator without needs_truth; found it in {held[0]}")


def check_wrong_shapes(subject: Subject) -> None:
    """x or theta of a wrong shape raises `InputError`."""
    x, theta = subject.probe.x, subject.probe.theta
    wrong = [
        (torch.cat([x, x], 1), theta),
        (x, torch.cat([theta, theta], 1)),
        (x, theta[:-1]),
        (x[0], theta),
    ]
    for bad_x, bad_theta in wrong:
        what = f"log_ratio of x {tuple(bad_x.shape)}, theta {tuple(bad_theta.shape)}"
        _expect_input_error(what, partial(subject.trained.log_ratio, bad_x, bad_theta))


def check_missing_capability(subject: Subject) -> None:
    """A method whose capability is not declared raises `InputError`."""
    estimator, x, theta = subject.trained, subject.probe.x, subject.probe.theta
    generator = torch.Generator().manual_seed(1)
    calls: dict[Capability, Callable[[], object]] = {
        "log_prob": lambda: estimator.log_prob(x, theta),
        "sample": lambda: estimator.sample(theta, generator),
        "posterior_log_prob": lambda: estimator.posterior_log_prob(theta, x[:, None]),
        "posterior_sample": lambda: estimator.posterior_sample(x[:, None], 2, generator),
    }
    for capability, call in calls.items():
        if capability not in estimator.capabilities:
            _expect_input_error(f"{capability}, which is not declared", call)


def check_loss(subject: Subject) -> None:
    """The loss has one finite number per event, and a gradient for every trained parameter."""
    if not subject.trained.stages():
        return
    estimator = subject.prepared()
    for stage in estimator.stages():
        loss = estimator.loss(subject.events, torch.Generator().manual_seed(2))
        if loss.shape != (len(subject.events),) or not bool(torch.isfinite(loss).all()):
            raise CheckFailed(f"loss: expected {len(subject.events)} finite numbers; got shape {tuple(loss.shape)}")
        gradients = torch.autograd.grad(loss.sum(), stage.parameters, allow_unused=True)
        if any(g is None or not bool(torch.isfinite(g).all()) for g in gradients):
            raise CheckFailed(f"loss: expected a finite gradient for every parameter of stage {stage.name!r}")


def check_weights_in_loss(subject: Subject) -> None:
    """Events of weight 0 do not act in the loss, whatever their x; the others do."""
    if not subject.trained.stages():
        return
    estimator = subject.prepared()
    kept, changed = _with_idle_events(subject.events)
    totals = [estimator.loss(events, torch.Generator().manual_seed(3)).sum().double() for events in (kept, changed, subject.events)]
    if not torch.isclose(totals[0], totals[1], rtol=1e-4, atol=1e-4):
        raise CheckFailed(f"weights: events of weight 0 changed the loss from {totals[0]:.6g} to {totals[1]:.6g}")
    if torch.isclose(totals[0], totals[2], rtol=1e-4):
        raise CheckFailed("weights: expected another loss after setting half of the weights to 0; it did not change")


def check_weights_in_prepare(subject: Subject) -> None:
    """Events of weight 0 do not act in ``prepare``, whatever their x."""
    answers = []
    for events in _with_idle_events(subject.events):
        estimator = subject.build()
        estimator.prepare(events)
        answers.append(estimator.double().log_ratio(subject.probe.x, subject.probe.theta).detach())
    kept, changed = answers
    if not torch.allclose(kept, changed, rtol=1e-4, atol=1e-4):
        raise CheckFailed(f"weights: events of weight 0 changed log_ratio after prepare by {(kept - changed).abs().max():.3g}")


def check_determinism(subject: Subject) -> None:
    """The same seeds give the same numbers; other seeds give other initial weights."""
    first, second = subject.trained, train_briefly(subject.prepared(), subject.events)
    x, theta = subject.probe.x, subject.probe.theta
    if not torch.equal(first.log_ratio(x, theta), second.log_ratio(x, theta)):
        raise CheckFailed("determinism: two trainings with the same seeds differ")
    if "sample" in first.capabilities:
        draws = [first.sample(theta, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)]
        if not torch.equal(draws[0], draws[1]) or torch.equal(draws[0], draws[2]):
            raise CheckFailed("determinism: expected samples that follow the generator's seed")
    weights = [torch.cat([p.detach().flatten() for p in subject.build(seed).parameters()] or [torch.empty(0)]) for seed in (6, 7)]
    if len(weights[0]) and torch.equal(weights[0], weights[1]):
        raise CheckFailed("determinism: expected other initial weights under another seed; does the constructor set a seed?")


def check_save_and_load(subject: Subject) -> None:
    """``state_dict`` through safetensors into a fresh instance gives the same numbers."""
    from safetensors.torch import load, save

    x, theta = subject.probe.x, subject.probe.theta
    data = save({name: tensor.contiguous() for name, tensor in subject.trained.state_dict().items()})
    fresh = subject.build(seed=8)
    fresh.load_tensors(load(data))
    answers = [estimator.log_ratio(x, theta) for estimator in (fresh.eval(), subject.trained)]
    if not torch.equal(*answers):
        raise CheckFailed(f"save and load: log_ratio changed by {(answers[0] - answers[1]).abs().max():.3g}; is all state in buffers?")


def check_global_state(subject: Subject) -> None:
    """No seed is set, no global random numbers are drawn after construction, the default dtype stays."""
    dtype = torch.get_default_dtype()
    with _unusual_random_state():
        seed = torch.initial_seed()
        estimator = build_estimator(subject.name, subject.toy.spec, truth=subject.truth, **subject.params)
        if torch.initial_seed() != seed:
            raise CheckFailed("global state: the constructor sets torch's global seed")
        before = _random_state()
        estimator.prepare(subject.events)
        train_briefly(estimator, subject.events, steps=2)
        subject.answer(estimator)
        if _random_state() != before:
            raise CheckFailed("global state: a global random generator changed; use the generators that are passed")
    if torch.get_default_dtype() != dtype or not torch.is_grad_enabled():
        raise CheckFailed("global state: the default dtype or gradient mode changed")


@contextmanager
def _unusual_random_state() -> Iterator[None]:
    """Global generators in a state that no seed of a component would give; restored afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_UNUSUAL_SEED)
            random.seed(_UNUSUAL_SEED)
            np.random.seed(_UNUSUAL_SEED)  # noqa: NPY002
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _random_state() -> tuple[bytes, str, str]:
    numpy_state = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), repr(random.getstate()), repr(numpy_state)


def _with_idle_events(events: Events) -> tuple[Events, Events]:
    """The events with every second weight set to 0, and the same with other x in those."""
    weight = events.weight.clone()
    weight[::2] = 0
    kept = events.with_weight(weight)
    x = kept.x.clone()
    x[::2] = 1.5 * x[::2].flip(0) + 0.5
    return kept, dataclasses.replace(kept, x=x)


def _expect_input_error(what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except InputError:
        return
    raise CheckFailed(f"{what}: expected InputError; it returned")
