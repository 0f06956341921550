"""Parity: answers at a few events that an estimator must give again, wherever and however it is loaded.

``log_ratio`` and its gradient in theta are kept, because fits use both, with the names of features and parameters,
because columns in another order give other answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.toys.base import EventSource, ToySpec, evenly_spaced

N_PROBES = 32
TOLERANCE = 1e-9
Answer = Callable[[Tensor, Tensor], Tensor]


class Parity(BaseModel):
    """Probes and the answers there, all in float64.

    Attributes:
        x: events (n, d).
        theta: points (n, p), one for each event.
        log_ratio: expected answers (n,).
        score: expected gradients in theta (n, p).
        tolerance: allowed |difference| / (1 + |expected|).
    """

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    features: tuple[str, ...]
    parameters: tuple[str, ...]
    x: list[list[float]]
    theta: list[list[float]]
    log_ratio: list[float]
    score: list[list[float]]
    tolerance: Annotated[float, Field(gt=0, le=1e-6)] = TOLERANCE

    def check(self, what: str, answer: Answer, tolerance: float | None = None) -> float:
        """Largest deviation of ``answer(x, theta) -> log_ratio`` and its gradient; raises `InputError` beyond the tolerance."""
        value, score = value_and_score(answer, _matrix(self.x), _matrix(self.theta))
        return self.compare(what, value, score, tolerance)

    def compare(self, what: str, value: Tensor, score: Tensor | None, tolerance: float | None = None) -> float:
        """Largest deviation of log ratios (n,) and gradients (n, p), if any; raises `InputError` beyond the tolerance."""
        worst = _deviation(value, torch.tensor(self.log_ratio, dtype=torch.float64))
        if score is not None:
            worst = max(worst, _deviation(score, _matrix(self.score)))
        allowed = self.tolerance if tolerance is None else tolerance
        if not worst <= allowed:
            raise InputError(
                f"{what}: its answers differ from those at export by {worst:.2g}; expected at most {allowed:.2g}; export it again"
            )
        return worst


def make_parity(estimator: Estimator, events: EventSource) -> Parity:
    """Probes among simulated events, evenly spaced, and what a float64 estimator answers."""
    probes = evenly_spaced(events, N_PROBES)
    x, theta = probes.x.double().cpu(), probes.theta.double().cpu()
    value, score = value_and_score(estimator.log_ratio, x, theta)
    return Parity(
        features=tuple(feature.name for feature in estimator.spec.features),
        parameters=estimator.spec.parameters.names,
        x=x.tolist(),
        theta=theta.tolist(),
        log_ratio=value.tolist(),
        score=score.tolist(),
    )


def read_parity(folder: object, data: bytes, toy: ToySpec) -> Parity:
    """The probes in ``data``; raises `InputError` if they are corrupt or of other features or parameters than the toy's."""
    try:
        parity = Parity.model_validate_json(data)
    except ValidationError as error:
        raise InputError(f"bundle {folder}: parity.json is corrupt ({error.errors()[0]['msg'].splitlines()[0]}); save it again") from error
    features = tuple(feature.name for feature in toy.features)
    for what, expected, got in (("features", features, parity.features), ("parameters", toy.parameters.names, parity.parameters)):
        if expected != got:
            raise InputError(f"bundle {folder}: the manifest has {what} {', '.join(expected)}; it was exported with {', '.join(got)}")
    n = len(parity.x)
    widths = {(name, len(row)) for name in ("x", "theta", "score") for row in getattr(parity, name)}
    p = len(toy.parameters)
    lengths = {len(column) for column in (parity.theta, parity.log_ratio, parity.score)}
    if not n or lengths != {n} or widths != {("x", len(features)), ("theta", p), ("score", p)}:
        raise InputError(f"bundle {folder}: parity.json is corrupt (expected rows of one length); save it again")
    return parity


def value_and_score(answer: Answer, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """``answer`` (n,) and its gradient (n, p) in theta, detached, float64."""
    theta = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = answer(x, theta)
        (score,) = torch.autograd.grad(value.sum(), theta, allow_unused=True) if value.requires_grad else (None,)
    score = torch.zeros_like(theta) if score is None else score
    return value.detach().double().cpu(), score.detach().double().cpu()


def _matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _deviation(found: Tensor, expected: Tensor) -> float:
    """Largest |found - expected| / (1 + |expected|); infinite for other shapes, or where only one of them is not finite."""
    if found.shape != expected.shape:
        return torch.inf
    same = (found == expected) | (found.isnan() & expected.isnan())
    deviation = torch.where(same, 0.0, (found - expected).abs() / (1 + expected.abs()))
    return float(deviation.nan_to_num(nan=torch.inf).max())
