"""ln L of events: the sum of an estimator's log_ratio over events, and the exact terms.

    ln L(theta) = sum_i w_i [log_ratio(x_i, theta) - c(theta)] + extended term + sum_k log C_k(t_k|theta_k)

`Likelihood` is what an analysis fits. `EventObjective` is the same for many data sets at once (the
pseudo-experiments). Both are float64; the gradient is the sum of per-event scores by automatic
differentiation, in chunks of events, so that memory stays bounded for any number of events.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.control_regions import ControlRegions
from touchneedle.inference.events_at import CHUNK_ROWS, ratio_and_score
from touchneedle.inference.fittable import Objective
from touchneedle.inference.linear import LinearObjective, sum_linear_terms
from touchneedle.inference.mixture import ProcessMixture
from touchneedle.inference.mixture_cache import MixtureObjective, is_cacheable, keep_rows
from touchneedle.inference.normalisation import LocalNormalisation
from touchneedle.inference.second_derivatives import weighted_curvature
from touchneedle.inference.seen import LastSeen
from touchneedle.inference.streaming import StreamedObjective, total_weight
from touchneedle.inference.terms import ExactTerms, Rates, Summaries
from touchneedle.toys.base import Events, EventSource, ParameterSpace


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
        control: binned control regions, whose counts are data beside the events.
        seen: what is kept of the last events between objectives; leave it alone.
    """

    estimator: Estimator
    rates: Rates | None = None
    normalisation: LocalNormalisation | None = None
    control: ControlRegions | None = None
    seen: LastSeen = field(default_factory=LastSeen, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.control is not None:
            self.control.check(self.parameters)

    @property
    def parameters(self) -> ParameterSpace:
        """The parameters, in the order of theta."""
        return self.estimator.spec.parameters

    def value(self, theta: Tensor, events: EventSource, auxiliary: Tensor | None = None) -> Tensor:
        """ln L at theta (p,), up to a constant; auxiliary measurements (p,) are nominal by default."""
        return self.value_and_gradient(theta, events, auxiliary)[0]

    def value_and_gradient(self, theta: Tensor, events: EventSource, auxiliary: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ln L (scalar) and gradient (p,) at theta (p,); raises `InputError` outside the bounds."""
        self.parameters.check(theta)
        value, gradient = self.objective(events, auxiliary)(theta[None].double(), torch.zeros(1, dtype=torch.int64))
        return value[0], gradient[0]

    def count_non_positive(self, theta: Tensor, events: EventSource) -> int:
        """Number of events whose density at theta (p,) is not positive, where it may be signed."""
        if "signed" not in self.estimator.capabilities:
            return 0
        with torch.no_grad():
            return sum(int((~self.estimator.is_positive(batch.x, theta.double())).sum()) for batch in events.batches(CHUNK_ROWS))

    def objective(self, events: EventSource, auxiliary: Tensor | None = None) -> Objective:
        """ln L of these events as a batch of one.

        What allows it is seen once: estimators linear in functions of the event, and mixtures of them. Of the others,
        events in memory stay there, and a source is read again for every value of ln L.
        """
        data, terms = self._data(events, auxiliary), self._terms
        if self.estimator.linear:
            sums = self.seen.get(self.estimator, events, lambda: sum_linear_terms(self.estimator, events, CHUNK_ROWS))
            return LinearObjective(self.estimator, sums[None], data, terms)
        mixture = self.estimator
        if isinstance(mixture, ProcessMixture) and is_cacheable(mixture):
            kept = self.seen.get(mixture, events, lambda: keep_rows(mixture, events, CHUNK_ROWS))
            return MixtureObjective(mixture, kept, CHUNK_ROWS, data, terms)
        if isinstance(events, Events):
            return weighted_objective(self.estimator, events, data, terms)
        check_additive(self.estimator)
        return StreamedObjective(self.estimator, events, CHUNK_ROWS, data, terms)

    @property
    def _terms(self) -> ExactTerms:
        return ExactTerms(self.parameters, self.rates, normalisation=self.normalisation, control=self.control)

    def _data(self, events: EventSource, auxiliary: Tensor | None) -> Summaries:
        """What the exact terms need to know of the events and of what was measured beside them."""
        auxiliary = self.parameters.nominal if auxiliary is None else auxiliary.double()
        if auxiliary.shape != (len(self.parameters),):
            raise InputError(
                f"auxiliary: expected one measurement per parameter, shape ({len(self.parameters)},); got {tuple(auxiliary.shape)}"
            )
        one = torch.ones(1, dtype=torch.float64)
        counts = None if self.control is None else self.control.observed[None].double()
        return Summaries(total_weight(events, CHUNK_ROWS)[None], one, auxiliary[None], counts)

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
