"""Quadratic ratio: morphing in the parameters of interest, whose coefficients are functions of x and of the nuisances.

    r(x, c, nu) = q(x, c, nu) / t(c, nu),   q = |A(x, nu) v|^2,   t = |B(nu) v|^2,   v = (1, c_1, ..., c_k)

q stands for the differential yield, t for its integral: where amplitudes are linear in c, both are positive semidefinite forms in v,
and the ratio is exact (effective field theory: Brehmer et al. 2018, arXiv:1805.00020; as A^t A in event2vec, github.com/nsmith-/event2vec).
``basis="interference"`` has v = (1, sqrt mu): signal, interference and background of a resonance. With ``positive=False`` forms become sums
of signed terms: the polynomial itself, or for interference (ATLAS 2024, arXiv:2412.01600)

    q = (mu - sqrt mu) S + sqrt mu SBI + (1 - sqrt mu) B

of positive S, SBI and B. Such a sum may be negative where it is not yet learned: its logarithm is continued linearly, so that
training can leave that place. All is trained at once by the cross-entropy of `ratio_bce`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.monomials import count_monomials, monomials
from touchneedle.estimators.networks import mlp
from touchneedle.estimators.ratio_network import RatioNetwork, RatioNetworkConfig, cross_entropy
from touchneedle.toys.base import Events, ToySpec

# Ratios below it are continued linearly in log r (signed sums), or raised to it (forms).
_SMALLEST = 1e-4


@dataclass
class RatioQuadraticConfig(RatioNetworkConfig):
    """Options of `RatioQuadratic`: those of every `RatioNetwork`, and the polynomial.

    Attributes:
        basis: ``quadratic`` in the parameters of interest, or ``interference``, quadratic in the square root of the only one.
        positive: positive semidefinite forms; otherwise sums of signed terms.
    """

    basis: Literal["quadratic", "interference"] = "quadratic"
    positive: bool = True


class RatioQuadratic(RatioNetwork):
    """A classifier whose odds are a quotient of quadratic forms; raises `SkipCell` for parameters that have no such basis."""

    Config = RatioQuadraticConfig

    def __init__(self, spec: ToySpec, config: RatioQuadraticConfig) -> None:
        interest = [spec.parameters.parameters[column] for column in spec.parameters.interest]
        if config.basis == "interference" and not (len(interest) == 1 and interest[0].bounds[0] >= 0):
            raise SkipCell(f"ratio_quadratic: basis interference needs one parameter of interest >= 0; toy {spec.name} has another set")
        super().__init__(spec, config)
        # A constant beside the nuisances, so that a toy without any is no special case.
        self.integral = mlp(1 + len(self.nuisance), self._terms, config.hidden)

    @property
    def _size(self) -> int:
        """Length of v."""
        return 1 + len(self.interest)

    @property
    def _terms(self) -> int:
        """Coefficients of a form, or of a sum of terms."""
        return self._size**2 if self.config.positive else count_monomials(len(self.interest), 2)

    def _build_network(self) -> nn.Module:
        return mlp(self.standardise_x.dim + len(self.nuisance), self._terms, self.config.hidden)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return cross_entropy(self._pairs(events, generator))

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        z = self.standardise_theta(theta)[:, self.nuisance]
        in_x = self.network(torch.cat([self.standardise_x(x), z], -1))
        in_all = self.integral(torch.cat([z.new_ones(z.shape[0], 1), z], -1))
        log_polynomial = self._log_form if self.config.positive else self._log_sum
        return log_polynomial(in_x, theta) - log_polynomial(in_all, theta)

    def _coordinates(self, theta: Tensor) -> Tensor:
        """Parameters of interest in which q is quadratic, shape (n, k)."""
        interest = theta[:, self.interest]
        return interest.sqrt() if self.config.basis == "interference" else interest / self.standardise_theta.std[self.interest]

    def _log_form(self, coefficients: Tensor, theta: Tensor) -> Tensor:
        """log |A v|^2 with A of coefficients (n, k * k), to whose first entry 1 is added: the ratio starts near 1."""
        v = torch.cat([torch.ones_like(theta[:, :1]), self._coordinates(theta)], -1)
        amplitude = torch.einsum("nij,nj->ni", coefficients.unflatten(-1, (self._size, self._size)), v)
        start = torch.eye(1, self._size, dtype=v.dtype, device=v.device)
        return ((amplitude + start).square().sum(-1) + _SMALLEST).log()

    def _log_sum(self, coefficients: Tensor, theta: Tensor) -> Tensor:
        """log of the signed sum of terms with coefficients (n, terms)."""
        if self.config.basis == "interference":
            root = self._coordinates(theta)[:, 0]
            signs = torch.stack([root.square() - root, root, 1 - root], -1)
            largest = coefficients.amax(-1)
            return largest + continued_log((signs * (coefficients - largest[:, None]).exp()).sum(-1))
        return continued_log(1 + (coefficients * monomials(self._coordinates(theta), 2)).sum(-1))


def continued_log(value: Tensor) -> Tensor:
    """log of values above 1e-4, below it the tangent there: finite, with a slope that leads back."""
    held = value.clamp_min(_SMALLEST)
    return held.log() + (value - held) / _SMALLEST
