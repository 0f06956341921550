"""One stage of a training, step by step: what a loop calls, be it the plain one or that of several processes.

The weights of the best validation loss are kept. Several processes may share a training (see `ranks`): each computes its
share of every batch, and all know the losses of all.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from touchneedle.benchmark.batches import Batches, IndexBatches, StreamBatches
from touchneedle.benchmark.best_epoch import BestEpoch
from touchneedle.benchmark.members import Trainee
from touchneedle.benchmark.optimizers import build_optimizer, build_schedule
from touchneedle.benchmark.share import Share
from touchneedle.benchmark.training_plan import TrainingPlan
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, EventSource

VALIDATION_BATCH = 8_192
# Steps whose losses are looked at together, by device: each look waits for a GPU.
CHECKED_AT_ONCE = {"cuda": 50}


class NonFiniteLoss(InputError):
    """Training stopped because the loss became infinite or not a number."""


class StageTraining:
    """A trainee, its events and what has become of them.

    Attributes:
        batches: training events of one epoch, reshuffled in each; as rows if the events are in memory.
        train_losses: mean loss of each epoch.
        validation_losses: likewise.
        best: the weights to keep.
        reason: why to stop before the last epoch; "" to go on.
    """

    def __init__(
        self, trainee: Trainee, stage: str, training: EventSource, validation: Events, plan: TrainingPlan, share: Share, first_epoch: int
    ) -> None:
        self.trainee, self.plan = trainee, plan
        self._stage, self._share, self._first_epoch = stage, share, first_epoch
        self._training, self._validation = training, validation
        self.device = torch.device("cpu")
        self.batches = _batches(training, plan)
        self.validation_batches = IndexBatches(len(validation), VALIDATION_BATCH)
        self.train_losses: list[float] = []
        self.validation_losses: list[float] = []
        self.best, self.reason = BestEpoch(plan.trainer.patience), ""
        self._generator = torch.Generator().manual_seed(share.seed(plan.seed))
        self._unchecked: list[tuple[int, Tensor]] = []
        self._train_sum, self._validation_sum = _Sum(), _Sum()

    @property
    def epoch(self) -> int:
        """Epochs of this stage that are over."""
        return len(self.train_losses)

    @property
    def state(self) -> str:
        """For the eye: stage, epoch, and the validation loss of the epoch before."""
        loss = f", validation loss {self.validation_losses[-1]:.4g}" if self.validation_losses else ""
        return f"{self._stage}: epoch {self.epoch + 1} of {self.plan.trainer.max_epochs}{loss}"

    def to(self, device: torch.device) -> None:
        """Bring the events of memory to where the trainee is; those of a stream come batch by batch."""
        self.device = device
        if isinstance(self._training, Events):
            self._training = self._training.to(device)
        self._validation = self._validation.to(device)

    def optimizer(self) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
        """What moves the trainee, and the schedule of its learning rate."""
        trainer, config = self.plan.trainer, self.plan.optimizer
        optimizer = build_optimizer(config, self.trainee.trained(), fused=trainer.compile)
        return optimizer, build_schedule(config, optimizer, trainer.max_epochs * len(self.batches))

    def loss(self, batch: Tensor | Events, step: int) -> Tensor:
        """Loss of a batch, whose gradient is the step's; raises `NonFiniteLoss`."""
        events, rows, factor = self._chosen(batch)
        losses = self.trainee.losses(events, rows, self._generator)
        if factor:
            self._train_sum.add(losses)
        loss = _mean(losses, factor)
        self._unchecked.append((step, loss.detach()))
        if len(self._unchecked) >= CHECKED_AT_ONCE.get(loss.device.type, 1):
            self._require_finite()
        return loss

    def start_validation(self) -> None:
        """The same draws in every epoch, so that epochs can be compared."""
        self._validation_generator = torch.Generator().manual_seed(self._share.seed(self.plan.seed + 2))

    def validate(self, batch: Tensor) -> None:
        """Loss of a batch of validation events."""
        rows, factor = self._share.of(batch.to(self.device))
        losses = self.trainee.losses(self._validation[rows], None, self._validation_generator)
        if factor:
            self._validation_sum.add(losses)

    def end_validation(self) -> None:
        """Keep the weights if they are the best ones so far, and see whether to go on."""
        means = self._validation_sum.take_means(self._share, self.device)
        self.validation_losses.append(means[0])
        self.best.see(means, self.trainee)
        if self.best.all_stopped:
            self.reason = f"no better validation loss for {self.plan.trainer.patience} epochs"

    def end_epoch(self) -> None:
        """Tell the epoch's losses; raises `NonFiniteLoss`."""
        if self._unchecked:
            self._require_finite()
        self.train_losses.append(self._train_sum.take_means(self._share, self.device)[0])
        if self.plan.follower is not None:
            losses = {f"{self._stage}/train": self.train_losses[-1], f"{self._stage}/validation": self.validation_losses[-1]}
            self.plan.follower.log_metrics(losses, self._first_epoch + self.epoch - 1)
            self.plan.follower.save()

    def _chosen(self, batch: Tensor | Events) -> tuple[Events, Tensor | None, float]:
        """Events of a batch, their rows among the training events if these are in memory, and the factor of their mean loss."""
        batch = batch.to(self.device)
        if isinstance(batch, Events):
            return batch, None, 1.0
        rows, factor = self._share.of(batch)
        return cast(Events, self._training)[rows], rows, factor

    def _require_finite(self) -> None:
        """Check the losses of the steps since the last time."""
        steps, losses = zip(*self._unchecked, strict=True)
        self._unchecked.clear()
        for step, loss in zip(steps, torch.stack(losses).tolist(), strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLoss(
                    f"stage {self._stage}: the loss became {loss} in epoch {self.epoch}, step {step}; "
                    f"lower optimizer.learning_rate (now {self.plan.optimizer.learning_rate:g}) or check the features"
                )


class _Sum:
    """Running mean of the members' losses in one epoch."""

    def __init__(self) -> None:
        self.total, self.count = torch.zeros(1, dtype=torch.float64), 0

    def add(self, losses: Tensor) -> None:
        """Losses of one batch (K, n)."""
        self.total = self.total.to(losses.device) + losses.detach().double().sum(1)
        self.count += losses.shape[1]

    def take_means(self, share: Share, device: torch.device) -> list[float]:
        """Means of the members over the events of all ranks; the sum starts anew."""
        sums = share.total(torch.cat([self.total.cpu(), torch.tensor([self.count], dtype=torch.float64)]), device)
        self.total, self.count = torch.zeros(1, dtype=torch.float64), 0
        return (sums[:-1] / sums[-1].clamp_min(1)).tolist()


def _mean(losses: Tensor, factor: float) -> Tensor:
    """Mean over the batch's events of losses (K, n), summed over members: their gradients do not mix. In a rank, its part of that mean."""
    return factor * losses.mean(1).sum()


def _batches(training: EventSource, plan: TrainingPlan) -> Batches:
    shuffle = torch.Generator().manual_seed(plan.seed + 1)
    if not isinstance(training, Events):
        return StreamBatches(training, plan.trainer.batch_size, shuffle)
    return IndexBatches(len(training), plan.trainer.batch_size, shuffle)
