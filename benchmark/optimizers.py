"""The optimisers by name, and the schedule of their learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

# The first optimiser of a process imports it, which takes a second: here, where no training is timed.
import torch._dynamo
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from touchneedle.benchmark.config import OptimizerConfig
from touchneedle.benchmark.energy_conserving import EnergyConserving

OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "energy_conserving": EnergyConserving,
}
# Whose step may be one kernel, which rounds otherwise.
FUSED = ("adam", "adamw")
# These look at all weights at once, so that stacked members would disturb each other.
NOT_BY_ELEMENT = ("energy_conserving",)


def build_optimizer(config: OptimizerConfig, parameters: Sequence[nn.Parameter], *, fused: bool) -> torch.optim.Optimizer:
    """The optimiser of these parameters; its step is one kernel if asked for, where there is one."""
    options = {"fused": True} if fused and config.name in FUSED else {}
    return OPTIMIZERS[config.name](parameters, lr=config.learning_rate, weight_decay=config.weight_decay, **options)


def build_schedule(config: OptimizerConfig, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler | None:
    """What is stepped after each of so many steps; None for a constant learning rate."""
    return None if config.schedule == "constant" else CosineAnnealingLR(optimizer, steps)
