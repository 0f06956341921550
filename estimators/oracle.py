"""Control: the exact density of the toy. What no method can beat; every metric must rank it first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import Capability, Design, Estimator
from touchneedle.toys.base import ExactToy, Toy, ToySpec


@dataclass
class OracleConfig:
    """No options."""


class Oracle(Estimator):
    """log_ratio of the toy itself, in float64 from the start."""

    Config = OracleConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"log_prob", "sample", "score"})
    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint", "pairs"})
    needs_truth = True
    normalised = True

    def __init__(self, spec: ToySpec, config: OracleConfig, toy: Toy) -> None:
        super().__init__(spec, config)
        self.toy = require_exact(toy, "oracle")
        self.double()

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return exact_log_ratio(self.toy, x, theta, self.nominal)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.toy.log_prob(x, theta)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        return self.toy.sample(theta, generator=generator).x


def require_exact(toy: Toy, control: str) -> ExactToy:
    """The toy if its density is exact; raises `SkipCell` with the reason otherwise."""
    if not isinstance(toy, ExactToy):
        raise SkipCell(f"control {control} needs a toy with an exact density; {toy.spec.name} has none")
    return toy


def exact_log_ratio(toy: ExactToy, x: Tensor, theta: Tensor, reference: Tensor) -> Tensor:
    """log p(x|theta) - log p(x|reference), shape (n,); 0 where both densities vanish."""
    log_p = toy.log_prob(x, theta)
    log_reference = toy.log_prob(x, reference.expand_as(theta))
    nowhere = torch.isneginf(log_p) & torch.isneginf(log_reference)
    return torch.where(nowhere, torch.zeros_like(log_p), log_p - log_reference)
