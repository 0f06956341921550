"""Estimators of ratios that may be negative: what they are compared with, and what they answer.

Where events have weights of both signs, the density q(x|theta) that they represent may be negative. A ratio is
learned against a reference that must be positive: the losses are convex, and bounded below, only there. Neither
p(x) nor p(x|theta_0) serves. The marginal of the signed events is itself negative in places (on ``signed_mixture``
near the origin), and a design has few or no events at theta_0. So the reference is the marginal g(x) of the events
under their *absolute* weights, which is positive wherever there are events, and dominates the signed densities:

    rho(x, theta) = q(x|theta) / g(x),        ratio(x, theta) = rho(x, theta) / rho(x, theta_0).

The toy's nominal density has to be positive. With weights of one sign g(x) = p(x), the reference of `ratio_bce`.
The integral of g rho over x is 1 at every theta, which gives the local normalisation of `EvidenceRatio`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from touchneedle.estimators.base import Capability, Design
from touchneedle.estimators.normalisation import EvidenceRatio
from touchneedle.toys.base import EventSource, collect


class SignedLog(NamedTuple):
    """The number sign exp(log), for ratios whose exponential would overflow."""

    sign: Tensor
    log: Tensor


class SignedRatio(EvidenceRatio):
    """Abstract. ratio(x, theta) = rho(x, theta) / rho(x, theta_0) of either sign; write ``_rho``.

    ``log_ratio`` is NaN where rho is not positive, at theta or at theta_0.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score", "signed"})
    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint"})

    @abstractmethod
    def _rho(self, x: Tensor, theta: Tensor) -> SignedLog:
        """rho of x (n, d), each at its own m points theta (n, m, p): shape (n, m)."""

    def ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        """p(x|theta) / p(x|theta_0), shape (n,), negative where the learned density is."""
        return self._in_chunks(self._ratio, x, theta)

    def _ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        sign, log = self._rho(x, self._with_nominal(theta))
        return sign.prod(1) * (log[:, 1] - log[:, 0]).exp()

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        log = _log_of_positive(self._rho(x, self._with_nominal(theta)))
        return log[:, 1] - log[:, 0]

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return _log_of_positive(self._rho(x, theta[:, None])).squeeze(1)

    def _log_evidence_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        return _log_of_positive(self._rho(x, theta.expand(len(x), -1, -1)))

    def _with_nominal(self, theta: Tensor) -> Tensor:
        """theta_0 and theta of each event, shape (n, 2, p)."""
        return torch.stack([self.nominal.expand_as(theta), theta], 1)

    def keep_reference(self, source: EventSource, size: int) -> None:
        """Keep at most ``size`` training events with their absolute weights: the reference density g."""
        events = collect(source)
        super().keep_reference(events.with_weight(events.weight.abs()), size)

    def _weighted_sum(self, x: Tensor, weight: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        sign, log = self._rho(x, theta.expand(len(x), -1, -1))
        log = log.double()
        largest = log.detach().amax(0)
        return largest, weight.double() @ (sign * (log - largest).exp())


def _log_of_positive(value: SignedLog) -> Tensor:
    return torch.where(value.sign > 0, value.log, torch.nan)
