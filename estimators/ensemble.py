"""Ensembles of estimators of one kind: the mean of their log_ratio, or the average of their likelihoods.

The mean of log ratios is a geometric mean of ratios, so it is not normalised even if its members are; where these
keep reference events, so does the ensemble: those of its first member. The averaged
likelihood of a set of events is a Bayesian model average with equal weights (factorizable normalising flows,
arXiv:2602.13184, average the members of a bootstrap so): where members disagree it is wider than any of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Capability, Estimator, Stage
from touchneedle.estimators.normalisation import EvidenceRatio
from touchneedle.toys.base import Events


class Ensemble(EvidenceRatio):
    """log_ratio = mean over members."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score"})

    def __init__(self, members: Sequence[Estimator]) -> None:
        if not members or len({type(member) for member in members}) > 1:
            raise InputError(f"ensemble: expected members of one kind; got {[type(member).__name__ for member in members]}")
        super().__init__(members[0].spec, members[0].config)
        self.members = nn.ModuleList(members)
        self.normalise = getattr(members[0], "normalise", "none")
        self.linear = all(member.linear for member in members)

    @property
    def reference_x(self) -> Tensor:  # type: ignore[override]
        """Reference events of the first member."""
        return cast(EvidenceRatio, self.members[0]).reference_x

    @property
    def reference_weight(self) -> Tensor:  # type: ignore[override]
        """Their weights."""
        return cast(EvidenceRatio, self.members[0]).reference_weight

    @property
    def estimators(self) -> list[Estimator]:
        """The members."""
        return [member for member in self.members if isinstance(member, Estimator)]

    def stages(self) -> tuple[Stage, ...]:
        """None: members are trained as what they are."""
        return ()

    def log_ratio_modes(self, x: Tensor, theta: Tensor) -> Tensor:
        """Deviations of the K members from their mean, over sqrt(K - 1), shape (n, K): see `log_ratio_variance`.

        `touchneedle.inference.network_error` propagates them to fitted parameters.
        """
        values = torch.stack([member.log_ratio(x, theta) for member in self.estimators], 1)
        return (values - values.mean(1, keepdim=True)) / math.sqrt(len(self.members) - 1)

    def log_ratio_variance(self, x: Tensor, theta: Tensor) -> Tensor:
        """Variance of log_ratio over members (n,), with K - 1 in the denominator; needs two members at least.

        Of a bootstrap it estimates the statistical error of log_ratio from the finite training sample; of different
        initial weights, that of one training's own randomness (the mean's variance is smaller by K).
        """
        return self.log_ratio_modes(x, theta).square().sum(-1)

    def log_normalisation_modes(self, theta: Tensor) -> Tensor:
        """Changes of `log_normalisation` at theta (m, p) along `log_ratio_modes`, shape (m, K)."""
        if self.normalise == "none":
            return torch.zeros(len(theta), len(self.members), dtype=torch.float64, device=theta.device)
        modes = torch.stack([self._mean_modes(point) for point in torch.cat([self.nominal[None], self._cast(theta)])])
        return (modes[1:] - modes[0]).to(theta.device)

    def _mean_modes(self, point: Tensor) -> Tensor:
        """Modes of log E[r] over the reference events at one point (p,), shape (K,)."""
        share = (self.reference_weight.double().log() + self._in_chunks(self._log_evidence_ratio, self.reference_x, point)).softmax(0)
        return share @ self.log_ratio_modes(self.reference_x, point)

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._combined([member._log_ratio(x, theta) for member in self.estimators])

    def _relative_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._combined([member._relative_log_prob(x, theta) for member in self.estimators])

    def _log_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._combined([member._log_ratio_grid(x, theta) for member in self.estimators])

    def _linear_terms(self, x: Tensor) -> Tensor:
        return torch.cat([member._linear_terms(x) for member in self.estimators], -1)

    def _linear_coefficients(self, theta: Tensor) -> Tensor:
        return torch.cat([member._linear_coefficients(theta) for member in self.estimators], -1) / len(self.members)

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._combined([cast(EvidenceRatio, member)._log_evidence_ratio(x, theta) for member in self.members])

    def _log_evidence_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._combined([cast(EvidenceRatio, member)._log_evidence_ratio_grid(x, theta) for member in self.members])

    def _combined(self, values: list[Tensor]) -> Tensor:
        """What the ensemble makes of its members' values."""
        return torch.stack(values).mean(0)


class AveragedEnsemble(Ensemble):
    """ln L(theta) - ln L(theta_0) of a set of events = log mean over members of exp of theirs.

    For one event that is the log of the mean ratio, so normalised members give a normalised ratio; there is no local
    normalisation.
    """

    additive: ClassVar[bool] = False

    def __init__(self, members: Sequence[Estimator]) -> None:
        super().__init__(members)
        self.normalise = "none"
        self.linear = False

    def log_likelihood_ratio(self, events: Events, theta: Tensor) -> Tensor:
        """Log of the members' mean likelihood ratio of the set, at theta (m, p): shape (m,)."""
        return _log_mean([member.log_likelihood_ratio(events, theta) for member in self.estimators])

    def _relative_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_ratio(x, theta)

    def _combined(self, values: list[Tensor]) -> Tensor:
        return _log_mean(values)


def _log_mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).logsumexp(0) - math.log(len(values))
