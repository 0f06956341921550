"""Running named checks on a component: the machinery that both conformance kits share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


class CheckFailed(AssertionError):
    """A conformance check found a fault: one line that says what was expected and what came."""


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check; ``message`` says why it failed."""

    name: str
    passed: bool
    message: str
    seconds: float


def run_checks(checks: Mapping[str, Callable[[Any], None]], subject: Any) -> list[CheckResult]:
    """Run every check on ``subject``; an exception of the subject is a failure, not the end."""
    return [_run_check(name, check, subject) for name, check in checks.items()]


def _run_check(name: str, check: Callable[[Any], None], subject: Any) -> CheckResult:
    start = time.perf_counter()
    message = ""
    try:
        check(subject)
    except CheckFailed as failure:
        message = str(failure)
    except Exception as error:  # a plugin may raise anything
        message = f"{type(error).__name__}: {error}"
    return CheckResult(name, not message, message, time.perf_counter() - start)
