"""Estimators that answer through the likelihood-to-evidence ratio, and its local normalisation.

Classifiers and posteriors learn r(x, theta) = p(x|theta) / p(x) = p(theta|x) / p(theta), where p(x)
is the marginal of the (weighted) training events. Its mean over p(x) is 1 at every theta; a learned
ratio drifts, and a fit multiplies the drift by the number of events. So such an estimator keeps
training x as reference events, and `log_normalisation` tells a fit what to subtract per event.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.estimators.pairs import on_pairs
from touchneedle.toys.base import EventSource, evenly_spaced

Normalise = Literal["none", "local"]


class EvidenceRatio(Estimator):
    """Abstract. log_ratio(x, theta) = log r(x, theta) - log r(x, theta_0); write ``_log_evidence_ratio``."""

    reference_x: Tensor
    reference_weight: Tensor

    def _register_reference(self, normalise: Normalise) -> None:
        self.normalise = normalise
        self.register_buffer("reference_x", torch.zeros(0, self.spec.x_dim))
        self.register_buffer("reference_weight", torch.zeros(0))

    @abstractmethod
    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        """log r of each pair, shape (n,)."""

    def _log_evidence_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        """log r of every x (n, d) at every theta (m, p), shape (n, m)."""
        return on_pairs(self._log_evidence_ratio, x, theta)

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_evidence_ratio(x, theta) - self._log_evidence_ratio(x, self.nominal.expand_as(theta))

    def _relative_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_evidence_ratio(x, theta)

    def _log_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        values = self._log_evidence_ratio_grid(x, torch.cat([self.nominal[None], theta]))
        return values[:, 1:] - values[:, :1]

    def keep_reference(self, source: EventSource, size: int) -> None:
        """Keep at most ``size`` training events, evenly spaced, for `log_normalisation`."""
        if self.normalise != "none":
            self._store_reference(source, size)

    def _store_reference(self, source: EventSource, size: int) -> None:
        kept = evenly_spaced(source, size)
        weight = kept.weight.double()
        self.reference_x = kept.x.to(self.nominal)
        self.reference_weight = (weight / weight.sum()).to(self.nominal)

    def log_normalisation(self, theta: Tensor) -> Tensor:
        """log E[r(x, theta)] - log E[r(x, theta_0)] over the reference events, shape (m,); 0 with ``normalise="none"``.

        Exact ratios have E[r] = 1, so 0 everywhere. The constant at theta_0 keeps the corrected ratio 0 there.
        NaN where events of negative weight leave a mean that is not positive.
        Differentiable in theta. The error of n times this number is about sqrt(n / reference_events) sigma in a fit.
        """
        if self.normalise == "none":
            return super().log_normalisation(theta)
        if not len(self.reference_x):
            raise InputError(f"{type(self).__name__}: no reference events yet; call prepare (or load_tensors) first")
        means = self._log_mean(torch.cat([self.nominal[None], self._cast(theta)])).to(theta.device)
        return means[1:] - means[0]

    def _log_mean(self, theta: Tensor) -> Tensor:
        if self.linear:
            return self._log_mean_of_sums(theta)
        size = max(1, self.rows_per_chunk // len(theta))
        chunks = zip(self.reference_x.split(size), self.reference_weight.split(size), strict=True)
        # Gradients recompute each chunk instead of keeping all pairs in memory.
        parts = [checkpoint(self._weighted_sum, x, weight, theta, use_reentrant=False, preserve_rng_state=False) for x, weight in chunks]
        largest, sums = (torch.stack(column) for column in zip(*parts, strict=True))
        top = largest.amax(0)
        return top + (sums * (largest - top).exp()).sum(0).log()

    def _log_mean_of_sums(self, theta: Tensor) -> Tensor:
        """The same where log r is linear in functions of x: the network sees the reference events once."""
        with torch.no_grad():
            at_nominal = self._in_chunks(self._log_evidence_ratio, self.reference_x, self.nominal)
        log_r = at_nominal[:, None] + self.linear_terms(self.reference_x) @ self.linear_coefficients(theta).T
        top = log_r.detach().amax(0)
        return top + (self.reference_weight.double() @ (log_r - top).exp()).log()

    def _weighted_sum(self, x: Tensor, weight: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Largest log r (m,), and the sum of w r divided by that r (m,): weights may be negative."""
        log_r = self._log_evidence_ratio_grid(x, theta).double()
        largest = log_r.detach().amax(0)
        return largest, weight.double() @ (log_r - largest).exp()


class NominalRatio(EvidenceRatio):
    """Abstract. The evidence is p(x|theta_0): ``_log_evidence_ratio`` is log_ratio itself, and reference events come from theta_0."""

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_evidence_ratio(x, theta)

    def _log_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_evidence_ratio_grid(x, theta)
