"""What a fit asks of a likelihood, and of the data: `Fittable`, where it may search, and checks of events.

`Likelihood` is one; mixtures, control regions and streamed events are others. Fits, scans, intervals and impacts use
nothing but this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.maximise import Region
from touchneedle.inference.terms import fit_limits
from touchneedle.toys.base import EventSource, Feature, ParameterSpace

ROW = torch.zeros(1, dtype=torch.int64)
_BATCH = 2**16


class Objective(Protocol):
    """ln L of a batch of data sets; it may offer ``curvature(theta, rows)``, minus its Hessian (e, p, p)."""

    def __call__(self, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """ln L (e,) and gradient (e, p) of the data sets ``rows`` (e,) at theta (e, p)."""
        ...


class Fittable(Protocol):
    """A likelihood of events; ``limits`` (2, p) or ``estimator``, where it has them, say where it may be fitted."""

    @property
    def parameters(self) -> ParameterSpace:
        """The parameters, in the order of theta."""
        ...

    def value_and_gradient(self, theta: Tensor, events: Any, auxiliary: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ln L (scalar) and gradient (p,) at theta (p,)."""
        ...

    def objective(self, events: Any, auxiliary: Tensor | None = None) -> Objective:
        """ln L of these events as a batch of one."""
        ...


def search_limits(likelihood: Fittable) -> Tensor:
    """Lowest and highest theta (2, p) of a fit: the likelihood's own limits, those of its estimator, or the bounds."""
    limits = getattr(likelihood, "limits", None)
    if limits is not None:
        return limits
    estimator = getattr(likelihood, "estimator", None)
    if estimator is not None:
        return fit_limits(estimator)
    return torch.stack([likelihood.parameters.low, likelihood.parameters.high])


def region(parameters: ParameterSpace, limits: Tensor, fixed: Sequence[int] = ()) -> Region:
    """Where a fit may go: the limits (2, p); fixed parameters may sit anywhere inside their bounds."""
    low, high = limits.clone()
    free = torch.ones(len(parameters), dtype=torch.bool)
    for column in fixed:
        low[column], high[column] = parameters.parameters[column].bounds
        free[column] = False
    return Region(low, high, free)


def step_sizes(parameters: ParameterSpace) -> Tensor:
    """A tenth of each prior's standard width (p,): first steps of a search."""
    one = torch.ones(len(parameters), dtype=torch.float64)
    width = parameters.from_normal(one) - parameters.from_normal(-one)
    if not bool((width > 0).all()):
        raise InputError(f"parameters: expected priors of positive width; got {width.tolist()}")
    return 0.05 * width


def count_non_positive(likelihood: Fittable, theta: Tensor, events: EventSource) -> int:
    """Number of events whose density at theta (p,) is not positive, where the likelihood or its estimator can say so."""
    own = getattr(likelihood, "count_non_positive", None)
    if own is not None:
        return own(theta, events)
    estimator = getattr(likelihood, "estimator", None)
    if estimator is None or "signed" not in estimator.capabilities:
        return 0
    with torch.no_grad():
        return sum(int(estimator.log_ratio(batch.x, theta).isnan().sum()) for batch in events.batches(_BATCH))


def check_positive(likelihood: Fittable, theta: Tensor, events: EventSource) -> None:
    """Raise `InputError` if the density at theta (p,) is not positive at some event: there is no likelihood to start from."""
    bad = count_non_positive(likelihood, theta, events)
    if bad:
        point = ", ".join(f"{name}={value:g}" for name, value in zip(likelihood.parameters.names, theta.tolist(), strict=True))
        raise InputError(
            f"fit: expected a positive density at every event; at {point} it is not at {bad} of {len(events)} events: start elsewhere, "
            "or look for events outside the support"
        )


def check_events(likelihood: Fittable, events: EventSource) -> bool:
    """Whether the events are weighted (not all weights are 1); raises `InputError` for data that cannot be fitted.

    That is: no events, a value or weight that is not a number, or no positive weight.
    """
    if len(events) == 0:
        raise InputError("events: expected at least one; got none; look at the selection")
    features = _features(likelihood)
    weighted, positive = False, False
    for batch in events.batches(_BATCH):
        _check_values(batch.x, features)
        if not bool(batch.weight.isfinite().all()):
            raise InputError(f"events: expected finite weights; got {int((~batch.weight.isfinite()).sum())} that are not")
        weighted |= bool((batch.weight != 1).any())
        positive |= bool((batch.weight > 0).any())
    if not positive:
        raise InputError(f"events: expected positive weights; all {len(events)} are negative or zero; look at the weight column")
    return weighted


def _features(likelihood: Fittable) -> tuple[Feature, ...]:
    spec = getattr(getattr(likelihood, "estimator", None), "spec", None)
    return () if spec is None else spec.features


def _check_values(x: Tensor, features: tuple[Feature, ...]) -> None:
    wrong = ~x.isfinite()
    if not bool(wrong.any()):
        return
    column = int(wrong.any(0).nonzero()[0])
    name = features[column].name if column < len(features) else f"column {column}"
    raise InputError(
        f"events: feature {name}: expected finite numbers; {int(wrong[:, column].sum())} are not, the first in row "
        f"{int(wrong[:, column].nonzero()[0])}; drop these events or give missing values their mark"
    )
