"""Control: the exact density of the toy. What no method can beat; every metric must rank it first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from touchneedle.estimators.base import Capability
from touchneedle.estimators.control import TruthControl, log_quotient
from touchneedle.toys.base import SignedToy


@dataclass
class OracleConfig:
    """No options."""


class Oracle(TruthControl):
    """log_ratio of the toy itself, in float64 from the start."""

    Config = OracleConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"log_prob", "sample", "score"})
    signed_capabilities: ClassVar[frozenset[Capability]] = frozenset({"score", "signed"})
    normalised = True

    def ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        """p(x|theta) / p(x|theta_0), shape (n,), which is negative where a signed density is."""
        return self.exact_ratio(*self._checked(x, theta), self.nominal)

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.exact_log_ratio(x, theta, self.nominal)

    def _log_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        if isinstance(self.toy, SignedToy):
            return super()._log_ratio_grid(x, theta)
        # The density at nominal once per event, not once per pair.
        every = torch.cat([self.nominal[None], theta])
        log_p = self.toy.log_prob(x.repeat_interleave(len(every), 0), every.repeat(len(x), 1)).reshape(len(x), len(every))
        return log_quotient(log_p[:, 1:], log_p[:, :1])

    def _relative_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        # Half the work, and finite for events outside the support at theta_0.
        return self.exact_log_density(x, theta)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.exact_toy.log_prob(x, theta)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        return self.exact_toy.sample(theta, generator=generator).x
