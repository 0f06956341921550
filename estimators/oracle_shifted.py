"""Control: the exact density, half a sigma off in every parameter of interest.

Sigma is the oracle's, with nuisances profiled, at ``toy.fit_events``. A metric of bias must see it, and
one of interval width must not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import Capability
from touchneedle.estimators.control import TruthControl
from touchneedle.estimators.oracle import Oracle, OracleConfig
from touchneedle.toys.base import ExactToy, SignedToy, Toy, ToySpec

_FISHER_EVENTS = 20_000


@dataclass
class OracleShiftedConfig:
    """Options of `OracleShifted`.

    Attributes:
        shift: displacement of each parameter of interest, in oracle sigma.
    """

    shift: float = 0.5


class OracleShifted(TruthControl):
    """The exact density at theta + delta, held inside the bounds; log_ratio is still 0 at theta_0."""

    Config = OracleShiftedConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"log_prob", "sample", "score"})
    signed_capabilities: ClassVar[frozenset[Capability]] = frozenset({"score", "signed"})
    normalised = True

    delta: Tensor

    def __init__(self, spec: ToySpec, config: OracleShiftedConfig, toy: Toy) -> None:
        super().__init__(spec, config, toy)
        of_interest = torch.zeros(spec.theta_dim, dtype=torch.float64)
        of_interest[list(spec.parameters.interest)] = config.shift
        self.register_buffer("delta", of_interest * profiled_sigma(self.toy))

    def ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        """p(x|theta + delta) / p(x|theta_0 + delta), shape (n,), which is negative where a signed density is."""
        x, theta = self._checked(x, theta)
        return self.exact_ratio(x, self._shifted(theta), self._shifted(self.nominal))

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.exact_log_ratio(x, self._shifted(theta), self._shifted(self.nominal))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.exact_toy.log_prob(x, self._shifted(theta))

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        return self.exact_toy.sample(self._shifted(theta), generator=generator).x

    def _shifted(self, theta: Tensor) -> Tensor:
        low, high = self.spec.parameters.low.to(theta), self.spec.parameters.high.to(theta)
        return torch.clamp(theta + self.delta, low, high)


def profiled_sigma(toy: ExactToy | SignedToy) -> Tensor:
    """Sigma of each parameter at nominal and ``toy.fit_events`` events, the others profiled: shape (p,), float64.

    Square roots of the diagonal of the inverse of n E[score score^T] + constraint terms 1 / sigma^2
    (Cramer-Rao), with the expectation over 20,000 (weighted) events of a fixed seed.
    """
    space = toy.spec.parameters
    nominal = space.nominal.expand(_FISHER_EVENTS, -1)
    events = toy.sample(nominal, generator=torch.Generator().manual_seed(_FISHER_EVENTS))
    score = Oracle(toy.spec, OracleConfig(), toy).score(events.x, nominal)
    constraints = [0.0 if p.constraint is None else p.constraint.standard_error(p.nominal) ** -2 for p in space.parameters]
    information = toy.fit_events * (score.T * events.weight) @ score / _FISHER_EVENTS + torch.diag(score.new_tensor(constraints))
    variance = torch.linalg.pinv(information, hermitian=True).diagonal()
    if not bool(torch.isfinite(variance).all()):
        raise SkipCell(f"control oracle_shifted needs a finite Fisher information; {toy.spec.name} has none at its nominal point")
    return variance.clamp_min(0).sqrt()
