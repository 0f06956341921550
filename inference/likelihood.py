"""ln L of events: the sum of an estimator's log_ratio over events, and the exact terms.

    ln L(theta) = sum_i w_i [log_ratio(x_i, theta) - c(theta)] + extended term + sum_k log C_k(t_k|theta_k)

`Likelihood` is what an analysis fits. `EventObjective` is the same for many data sets at once (the
pseudo-experiments). Both are float64; the gradient is the sum of per-event scores by automatic
differentiation, in chunks of events, so that memory stays bounded for any number of events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.normalisation import LocalNormalisation
from touchneedle.inference.second_derivatives import weighted_curvature
from touchneedle.inference.terms import ExactTerms, Rates, Summaries
from touchneedle.toys.base import Events, ParameterSpace, expand_theta

CHUNK_ROWS = 2**15


@dataclass(frozen=True)
class EventObjective:
    """ln L and its gradient for E data sets that take their events from one pool.

    Attributes:
        x: the pool of events (N, d).
        index: row of the pool for every event of every data set (r,).
        owner: data set of every event (r,), in 0..E-1.
        weight: weight of every event (r,).
    """

    estimator: Estimator
    x: Tensor
    index: Tensor
    owner: Tensor
    weight: Tensor
    data: Summaries
    terms: ExactTerms

    def __call__(self, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """ln L (e,) and gradient (e, p) of the data sets ``rows`` (e,) at theta (e, p)."""
        value, gradient = self.terms.with_gradient(theta, self.data[rows])
        position = torch.full((len(self.data),), -1)
        position[rows] = torch.arange(len(rows))
        place = position[self.owner]
        for chosen in (place >= 0).nonzero().flatten().split(CHUNK_ROWS):
            ratio, score = ratio_and_score(self.estimator, self.x[self.index[chosen]], theta[place[chosen]])
            weight = self.weight[chosen]
            value.index_add_(0, place[chosen], weight * ratio)
            gradient.index_add_(0, place[chosen], weight[:, None] * score)
        return value, gradient

    def curvature(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Minus the Hessian (e, p, p) of the data sets ``rows`` (e,) at theta (e, p), by automatic differentiation."""
        matrix = self.terms.curvature(theta, self.data[rows])
        position = torch.full((len(self.data),), -1)
        position[rows] = torch.arange(len(rows))
        place = position[self.owner]
        for chosen in (place >= 0).nonzero().flatten().split(CHUNK_ROWS):
            owner = place[chosen]
            x = self.x[self.index[chosen]]
            matrix = matrix + weighted_curvature(self.estimator, x, theta[owner], self.weight[chosen], owner, len(rows))
        return matrix


def ratio_and_score(estimator: Estimator, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """log_ratio up to a function of x (n,), and its gradient in theta (n, p), for theta (n, p) or one point (p,); detached float64."""
    size = min(CHUNK_ROWS, estimator.rows_per_chunk)
    pairs = zip(x.split(size), expand_theta(theta, len(x)).split(size), strict=True)
    ratios, scores = zip(*[_ratio_and_score(estimator, *pair) for pair in pairs], strict=True)
    return torch.cat(ratios), torch.cat(scores)


def _ratio_and_score(estimator: Estimator, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    theta = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        ratio = estimator.relative_log_prob(x, theta)
        (score,) = torch.autograd.grad(ratio.sum(), theta)
    return ratio.detach().double().cpu(), score.double().cpu()


def weighted_objective(estimator: Estimator, events: Events, data: Summaries, terms: ExactTerms) -> EventObjective:
    """The objective of one data set made of weighted events."""
    check_additive(estimator)
    n = len(events)
    return EventObjective(
        estimator=estimator,
        x=events.x,
        index=torch.arange(n),
        owner=torch.zeros(n, dtype=torch.int64),
        weight=events.weight.double().cpu(),
        data=data,
        terms=terms,
    )


@dataclass(frozen=True)
class Likelihood:
    """The extended likelihood of real events, with constraint terms from the estimator's spec.

    Attributes:
        rates: theta (m, p) -> expected events per process (m, k), for instance ``RateModel.rates``; None for a shape fit.
        normalisation: local normalisation; `fit` finds it around its own best fit where the estimator needs one.
    """

    estimator: Estimator
    rates: Rates | None = None
    normalisation: LocalNormalisation | None = None

    @property
    def parameters(self) -> ParameterSpace:
        """The parameters, in the order of theta."""
        return self.estimator.spec.parameters

    def value(self, theta: Tensor, events: Events, auxiliary: Tensor | None = None) -> Tensor:
        """ln L at theta (p,), up to a constant; auxiliary measurements (p,) are nominal by default."""
        return self.value_and_gradient(theta, events, auxiliary)[0]

    def value_and_gradient(self, theta: Tensor, events: Events, auxiliary: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ln L (scalar) and gradient (p,) at theta (p,); raises `InputError` outside the bounds."""
        self.parameters.check(theta)
        value, gradient = self.objective(events, auxiliary)(theta[None].double(), torch.zeros(1, dtype=torch.int64))
        return value[0], gradient[0]

    def objective(self, events: Events, auxiliary: Tensor | None = None) -> EventObjective:
        """ln L of these events as a batch of one."""
        auxiliary = self.parameters.nominal if auxiliary is None else auxiliary.double()
        if auxiliary.shape != (len(self.parameters),):
            raise InputError(
                f"auxiliary: expected one measurement per parameter, shape ({len(self.parameters)},); got {tuple(auxiliary.shape)}"
            )
        one = torch.ones(1, dtype=torch.float64)
        data = Summaries(observed=events.weight.double().sum()[None].cpu(), expected=one, auxiliary=auxiliary[None])
        terms = ExactTerms(self.parameters, self.rates, normalisation=self.normalisation)
        return weighted_objective(self.estimator, events, data, terms)

    def normalised_by(self, normalisation: LocalNormalisation | None) -> Likelihood:
        """The same likelihood with another local normalisation."""
        return replace(self, normalisation=normalisation)


def check_additive(estimator: Estimator) -> None:
    """Raise `InputError` for set-level likelihoods, which fits cannot sum over events."""
    if not estimator.additive:
        raise InputError(
            f"fits: expected an estimator whose likelihood is a sum over events; {type(estimator).__name__} says additive=False; "
            "use one of its members"
        )
