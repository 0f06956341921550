"""Control: the exact log_ratio divided by 0.81, too confident by 1 / 0.9 in sigma.

Its best fits are right and its intervals are too short, which a metric of calibration or coverage
must see and one of bias must not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from touchneedle.estimators.base import Capability
from touchneedle.estimators.control import TruthControl


@dataclass
class OracleNarrowConfig:
    """Options of `OracleNarrow`.

    Attributes:
        shrink: what the exact log_ratio is divided by; the square of the factor on sigma.
    """

    shrink: float = 0.81


class OracleNarrow(TruthControl):
    """log_ratio / 0.81."""

    Config = OracleNarrowConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score"})

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.exact_log_ratio(x, theta, self.nominal) / self.config.shrink

    def _relative_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.exact_log_density(x, theta) / self.config.shrink
