"""The average of the likelihoods of an ensemble's members: wider than any of them where they disagree.

    L(theta) = 1/K sum_k L_k(theta) / L_k(theta_0)

of the whole set of events, a Bayesian model average with equal weights (factorizable normalising flows,
arXiv:2602.13184, average the members of a bootstrap so). It is no sum over events. The additive kind of averaging, the
mean of log ratios, is an estimator of its own (`touchneedle.estimators.ensemble.Ensemble`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.fittable import ROW, Objective
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.terms import fit_limits
from touchneedle.toys.base import EventSource, ParameterSpace


@dataclass(frozen=True)
class AveragedObjective:
    """ln L of one data set, its gradient and Hessian, from those of the members.

    Attributes:
        at_nominal: ln L_k at theta_0 (K,): members know theirs up to constants of their own.
    """

    members: tuple[Any, ...]
    at_nominal: Tensor

    def __call__(self, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """ln L (1,) and gradient (1, p) at theta (1, p)."""
        values, gradients = self._members(theta, rows)
        return values.logsumexp(0) - math.log(len(self.members)), (values.softmax(0)[..., None] * gradients).sum(0)

    def curvature(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Minus the Hessian (1, p, p) at theta (1, p): the members' mean, less the scatter of their gradients."""
        values, gradients = self._members(theta, rows)
        share = values.softmax(0)
        apart = gradients - (share[..., None] * gradients).sum(0)
        bent = torch.stack([member.curvature(theta, rows) for member in self.members])
        return torch.einsum("ke,kepq->epq", share, bent) - torch.einsum("ke,kep,keq->epq", share, apart, apart)

    def _members(self, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """ln [L_k(theta) / L_k(theta_0)] (K, 1) and gradients (K, 1, p)."""
        values, gradients = zip(*[member(theta, rows) for member in self.members], strict=True)
        return torch.stack(values) - self.at_nominal[:, None], torch.stack(gradients)


@dataclass(frozen=True)
class AveragedLikelihood:
    """The average of likelihoods that differ by their estimators alone; raises `InputError` for other parameters.

    A fit does not normalise members: give each a normalisation of its own (`fit_normalisation`) where it needs one.
    """

    members: tuple[Likelihood, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise InputError("averaged likelihood: expected at least one member; got none")
        for member in self.members[1:]:
            if member.parameters != self.parameters:
                raise InputError(
                    f"averaged likelihood: expected members of the same parameters ({', '.join(self.parameters.names)}); "
                    f"got {', '.join(member.parameters.names)}"
                )

    @property
    def parameters(self) -> ParameterSpace:
        """The parameters, in the order of theta."""
        return self.members[0].parameters

    @property
    def limits(self) -> Tensor:
        """Lowest and highest theta (2, p) that all members allow."""
        low, high = torch.stack([fit_limits(member.estimator) for member in self.members]).unbind(1)
        return torch.stack([low.amax(0), high.amin(0)])

    def value_and_gradient(self, theta: Tensor, events: EventSource, auxiliary: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ln L (scalar) and gradient (p,) at theta (p,); raises `InputError` outside the bounds."""
        self.parameters.check(theta)
        value, gradient = self.objective(events, auxiliary)(theta[None].double(), ROW)
        return value[0], gradient[0]

    def objective(self, events: EventSource, auxiliary: Tensor | None = None) -> AveragedObjective:
        """ln L of these events as a batch of one."""
        objectives: tuple[Objective, ...] = tuple(member.objective(events, auxiliary) for member in self.members)
        nominal = self.parameters.nominal[None]
        return AveragedObjective(objectives, torch.cat([objective(nominal, ROW)[0] for objective in objectives]))

    def count_non_positive(self, theta: Tensor, events: EventSource) -> int:
        """Most events at which a member's density at theta (p,) is not positive."""
        return max(member.count_non_positive(theta, events) for member in self.members)
