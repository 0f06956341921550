"""Asimov data: one data set without fluctuations, whose fit returns the theta that it was made at.

Two kinds, always told apart (Cowan, Cranmer, Gross and Vitells 2011, arXiv:1007.1727, sec. 3.3):

* ``simulator``: weighted events of the simulator at theta. A fit shows the bias of a learned likelihood.
* ``model``: reference events reweighted by exp(log_ratio). A fit returns theta whether the model is true or not;
  its intervals are those that the model expects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.pools import effective_size, reweighted
from touchneedle.inference.simulated import expected_events
from touchneedle.toys.base import Events


@dataclass(frozen=True)
class Asimov:
    """Weighted events that stand for the data expected at theta. Weights are not 1: they are no data set of an experiment.

    ``fit`` and scans take them with ``asimov=True``, which allows Delta ln L intervals: those of the median experiment. Statistics
    that need unit weights (p-values of pseudo-experiments, goodness of fit) do not apply.

    Attributes:
        events: their weights sum to the expected number.
        theta: where (p,).
        auxiliary: measurements without fluctuation (p,), theta itself.
        kind: who says what is expected.
    """

    events: Events
    theta: Tensor
    auxiliary: Tensor
    kind: Literal["simulator", "model"]

    def likelihood(self, likelihood: Likelihood) -> Likelihood:
        """A likelihood with its control regions, if any, at the counts expected at theta."""
        if likelihood.control is None:
            return likelihood
        return replace(likelihood, control=likelihood.control.with_observed(likelihood.control.expected(self.theta[None])[0]))

    @property
    def expected_events(self) -> float:
        """Sum of the weights."""
        return float(self.events.weight.sum())

    @property
    def sample_error(self) -> float:
        """How far a fit may be off theta because the sample is finite, in its sigma: sqrt(n / effective size of the sample)."""
        return math.sqrt(self.expected_events / effective_size(self.events.weight))


def asimov_from_simulator(likelihood: Likelihood, sample: Events, theta: Tensor, n_events: float | None = None) -> Asimov:
    """Asimov data of a simulator's weighted sample at theta (p,).

    ``n_events`` is the expected number where the likelihood has no rates. Raises `InputError` for theta outside the bounds
    and a sample without positive total weight.
    """
    theta = _checked(likelihood, theta)
    return Asimov(_scaled(sample, expected_events(likelihood, theta, n_events)), theta, theta, "simulator")


def asimov_from_model(likelihood: Likelihood, reference: Events, theta: Tensor, n_events: float | None = None) -> Asimov:
    """Asimov data of the model: reference events at theta_0, reweighted to theta (p,) by exp(log_ratio).

    Raises `InputError` as `asimov_from_simulator` does, and where a log_ratio is not finite.
    """
    theta = _checked(likelihood, theta)
    sample = reweighted(likelihood.estimator, reference, theta)
    return Asimov(_scaled(sample, expected_events(likelihood, theta, n_events)), theta, theta, "model")


def _checked(likelihood: Likelihood, theta: Tensor) -> Tensor:
    likelihood.parameters.check(theta)
    return theta.double()


def _scaled(events: Events, total: float) -> Events:
    weight = events.weight.double()
    if not float(weight.sum()) > 0:
        raise InputError(f"Asimov data: expected a sample with a positive sum of weights; got {float(weight.sum()):g}")
    return events.with_weight(weight * (total / weight.sum()))
