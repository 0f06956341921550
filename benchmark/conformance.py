"""Conformance: runs the contract checks of toys and estimators that the command line names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from touchneedle.benchmark.overrides import key_of
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError

if TYPE_CHECKING:
    from touchneedle.benchmark.checks import CheckResult


def check_names(words: Sequence[str], toy: str) -> list[tuple[str, CheckResult]]:
    """Checks of each named toy or estimator, estimators on ``toy``; words with ``=`` are options of the toys.

    Raises `InputError` for a name that is neither.
    """
    options = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    if not names:
        raise InputError("check: expected the name of a toy or an estimator; got options only")
    for name in names:
        _check_known(name)
    return [(name, result) for name in names for result in _results(name, toy, options)]


def _results(name: str, toy: str, options: Sequence[str]) -> list[CheckResult]:
    from touchneedle.benchmark.check_estimator import check_estimator
    from touchneedle.benchmark.check_toy import check_toy

    results: list[CheckResult] = []
    if name in registry.toys.names():
        results += check_toy(_build(name, options))
    if name in registry.estimators.names():
        results += check_estimator(name, _build(toy, options))
    return results


def _build(name: str, options: Sequence[str]) -> Any:
    from touchneedle.toys.base import build_toy

    return build_toy(name, **_toy_params(name, options))


def _toy_params(name: str, options: Sequence[str]) -> dict[str, Any]:
    if not options:
        return {}
    from touchneedle.benchmark.compose import compose_cell
    from touchneedle.benchmark.sweep import expand

    for word in options:
        if not key_of(word).startswith("toy."):
            raise InputError(f"check: expected options of the toy, toy.NAME=VALUE; got {word!r}")
    return compose_cell(expand([f"toy={name}", *options], multirun=False).cells[0]).toy.params


def _check_known(name: str) -> None:
    toys, estimators = registry.toys.names(), registry.estimators.names()
    if name not in toys and name not in estimators:
        raise InputError(f"unknown toy or estimator {name!r}; toys: {', '.join(toys)}; estimators: {', '.join(estimators)}")
