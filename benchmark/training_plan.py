"""What all stages and members of a training share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig

Start = Mapping[str, Tensor] | None
"""A ``state_dict`` to start from, or None for the weights that the estimator has."""


class Follower(Protocol):
    """Whoever is told the losses of each epoch as they come; a logger of Lightning is one."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Losses by name, and the epoch."""

    def save(self) -> None:
        """Bring to disk what was told."""

    def finalize(self, status: str) -> None:
        """``success`` or ``failed``."""


@dataclass(frozen=True)
class TrainingPlan:
    """How to train: the loop, the optimiser, the seed of all randomness, weights to start from, and who follows the losses."""

    trainer: TrainerConfig
    optimizer: OptimizerConfig
    seed: int
    start: Start = None
    follower: Follower | None = None
