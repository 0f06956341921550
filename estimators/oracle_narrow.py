"""Control: the exact log_ratio divided by 0.81, too confident by 1 / 0.9 in sigma.

Its best fits are right and its intervals are too short, which a metric of calibration or coverage
must see and one of bias must not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from touchneedle.estimators.base import Capability, Design, Estimator
from touchneedle.estimators.oracle import exact_log_ratio, require_exact
from touchneedle.toys.base import Toy, ToySpec


@dataclass
class OracleNarrowConfig:
    """Options of `OracleNarrow`.

    Attributes:
        shrink: what the exact log_ratio is divided by; the square of the factor on sigma.
    """

    shrink: float = 0.81


class OracleNarrow(Estimator):
    """log_ratio / 0.81."""

    Config = OracleNarrowConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score"})
    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint", "pairs"})
    needs_truth = True

    def __init__(self, spec: ToySpec, config: OracleNarrowConfig, toy: Toy) -> None:
        super().__init__(spec, config)
        self.toy = require_exact(toy, "oracle_narrow")
        self.double()

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return exact_log_ratio(self.toy, x, theta, self.nominal) / self.config.shrink
