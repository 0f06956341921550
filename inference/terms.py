"""The part of ln L that is not a sum over events: constraints, the extended term, local normalisation, control regions.

For one data set of N events (sum of weights), n of them expected at the true point:

    sum_k log C_k(t_k|theta_k)  +  N log[nu(theta)/nu_ref] - n nu(theta)/nu_ref  -  N c(theta)

and the Poisson terms of control regions, with nu the total rate (Barlow 1990, "Extended maximum likelihood") and c the local normalisation.
These terms are exact everywhere: no surface approximates them. All in float64 and differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator
from touchneedle.inference.normalisation import LocalNormalisation
from touchneedle.toys.base import GaussianConstraint, ParameterSpace, Uniform

# Where training events end, in standard normal coordinates of the prior: of a flat one, and of a Gaussian one.
_FLAT_PRIOR_END, _NORMAL_PRIOR_END = 3.0, 4.0

Rates = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Summaries:
    """What the exact terms need to know of E data sets.

    Attributes:
        observed: number of events, the sum of weights (E,).
        expected: expected events at the reference rate (E,).
        auxiliary: auxiliary measurements (E, p); NaN for parameters without constraint.
        counts: counts of the control regions (E, b), where there are any.
    """

    observed: Tensor
    expected: Tensor
    auxiliary: Tensor
    counts: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Summaries:
        counts = None if self.counts is None else self.counts[rows]
        return Summaries(self.observed[rows], self.expected[rows], self.auxiliary[rows], counts)

    def __len__(self) -> int:
        return len(self.observed)


class CountTerm(Protocol):
    """What ln L takes from control regions (`touchneedle.inference.control_regions`)."""

    def log_prob(self, theta: Tensor, counts: Tensor) -> Tensor:
        """ln L of counts (m, b) at theta (m, p): shape (m,)."""
        ...


@dataclass(frozen=True)
class ExactTerms:
    """Constraint, extended, normalisation and control-region terms of ln L.

    Attributes:
        rates: theta (m, p) -> expected events per process (m, k); None for shape-only fits.
        reference: total rate nu_ref at which ``Summaries.expected`` events are expected.
        limits: lowest and highest theta of a fit (2, p), see `fit_limits`; the bounds by default.
        control: the term of ``Summaries.counts``.
    """

    parameters: ParameterSpace
    rates: Rates | None = None
    reference: float = 1.0
    normalisation: LocalNormalisation | None = None
    limits: Tensor | None = None
    control: CountTerm | None = None

    @property
    def range(self) -> Tensor:
        """Lowest and highest theta of a fit (2, p)."""
        return torch.stack([self.parameters.low, self.parameters.high]) if self.limits is None else self.limits

    def __call__(self, theta: Tensor, data: Summaries) -> Tensor:
        """ln L without the sum over events, at theta (E, p): shape (E,)."""
        value = constraint_term(self.parameters, theta, data.auxiliary)
        if self.rates is not None:
            relative = self.rates(theta).sum(-1) / self.reference
            value = value + data.observed * relative.log() - data.expected * relative
        if self.normalisation is not None:
            value = value - data.observed * self.normalisation(theta)
        if self.control is not None and data.counts is not None:
            value = value + self.control.log_prob(theta, data.counts)
        return value

    def with_gradient(self, theta: Tensor, data: Summaries) -> tuple[Tensor, Tensor]:
        """Value (E,) and gradient (E, p)."""
        theta = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = self(theta, data)
            (gradient,) = torch.autograd.grad(value.sum(), theta)
        # A term without theta has an expanded zero as gradient, which nobody could add to in place.
        return value.detach(), gradient.contiguous()

    def curvature(self, theta: Tensor, data: Summaries) -> Tensor:
        """Minus the Hessian (E, p, p)."""
        theta = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self(theta, data).sum(), theta, create_graph=True)
            if not gradient.requires_grad:
                return torch.zeros(*theta.shape, theta.shape[-1], dtype=theta.dtype)
            columns = [_gradient_or_zero(column.sum(), theta) for column in gradient.unbind(-1)]
        return -torch.stack(columns, -1)

    def normalised_by(self, normalisation: LocalNormalisation | None) -> ExactTerms:
        """The same terms with another local normalisation."""
        return replace(self, normalisation=normalisation)


def constraint_term(parameters: ParameterSpace, theta: Tensor, auxiliary: Tensor) -> Tensor:
    """sum_k log C_k(t_k|theta_k) at theta (E, p) given the auxiliary measurements (E, p): shape (E,)."""
    columns, sigma = parameters.gaussian
    pulls = (auxiliary[..., columns] - theta[..., columns]) / sigma
    each = torch.zeros_like(theta).index_copy(-1, columns, -0.5 * pulls**2)
    for column, parameter in enumerate(parameters.parameters):
        if not (parameter.constraint is None or isinstance(parameter.constraint, GaussianConstraint)):
            value = parameter.constraint.log_prob(auxiliary[..., column], theta[..., column])
            each = each.index_copy(-1, torch.tensor([column]), value[..., None])
    # A running sum adds in the order of the parameters; 0 times theta keeps a gradient where nothing is constrained.
    return 0.0 * theta.sum(-1) + each.cumsum(-1)[..., -1]


def _gradient_or_zero(value: Tensor, theta: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(value, theta, retain_graph=True, allow_unused=True)
    return torch.zeros_like(theta) if gradient is None else gradient


@runtime_checkable
class KnowsItsLimits(Protocol):
    """An estimator that says itself where it may be fitted."""

    def fit_limits(self) -> Tensor:
        """Lowest and highest theta of a fit (2, p)."""
        ...


def fit_limits(estimator: Estimator) -> Tensor:
    """Lowest and highest theta (2, p) at which an estimator may be fitted: the bounds, or less if it has learned.

    A flat prior ends somewhere, and beyond its end (and in its last 0.1 %, where a posterior over a vanishing
    prior diverges) a learned answer means nothing, so learned estimators stay inside.
    """
    if isinstance(estimator, KnowsItsLimits):
        return estimator.fit_limits()
    parameters = estimator.spec.parameters
    limits = torch.stack([parameters.low, parameters.high])
    if estimator.needs_truth:
        return limits
    for column, parameter in enumerate(parameters.parameters):
        reach = _FLAT_PRIOR_END if isinstance(parameter.prior, Uniform) else _NORMAL_PRIOR_END
        ends = parameter.prior.from_normal(torch.tensor([-reach, reach], dtype=torch.float64))
        limits[0, column] = torch.maximum(limits[0, column], ends[0])
        limits[1, column] = torch.minimum(limits[1, column], ends[1])
    return limits


def reference_rate(rates: Rates | None, theta: Tensor) -> float:
    """Total rate at one point theta (p,); 1 without rates."""
    if rates is None:
        return 1.0
    return float(rates(theta[None].double()).sum())
