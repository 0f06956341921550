"""What a training leaves behind besides weights."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TrainingLog:
    """What training did: loss per epoch (name of the stage, training and validation loss), time, reason to stop."""

    stages: list[str] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str = "closed form"
