"""Baseline: counting. It knows nothing of shapes, so that a fit is left with the number of events and the constraints.

The floor of every table where the expected number of events depends on the parameter of interest. Where it does not, or in a fit of
shapes alone, the likelihood is flat: such fits have no error and are reported as failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from touchneedle.estimators.base import Capability, Design, Estimator


@dataclass
class CountingConfig:
    """No options."""


class Counting(Estimator):
    """log_ratio = 0 for every event."""

    Config = CountingConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score"})
    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint", "pairs", "nominal"})
    normalised = True

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        # Not a plain zero: gradients in theta are asked for, and are zero.
        return 0 * theta.sum(-1)
