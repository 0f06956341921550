"""What all stages and members of a training share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

Start = Mapping[str, Tensor] | None
"""A ``state_dict`` to start from, or None for the weights that the estimator has."""


@dataclass(frozen=True)
class TrainingPlan:
    """How to train: the loop, the optimiser, the seed of all randomness, weights to start from, and who follows the losses."""

    trainer: TrainerConfig
    optimizer: OptimizerConfig
    seed: int
    start: Start = None
    logger: Logger | None = None
