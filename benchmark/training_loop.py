"""The training loop of one stage: the only importer of Lightning beside its loggers in `tracking`.

Events in memory stay there and are batched by index (a DataLoader over single events costs several times
more per step); streamed ones come in batches. The weights of the best validation loss are kept. Several processes may share a
training (see `ranks`): each computes its share of every batch, and all know the losses of all.
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Iterator
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from touchneedle.benchmark.config import TrainerConfig
from touchneedle.benchmark.energy_conserving import EnergyConserving
from touchneedle.benchmark.members import Trainee
from touchneedle.benchmark.ranks import n_ranks, share_of
from touchneedle.benchmark.share import Share
from touchneedle.benchmark.stream_batches import StreamBatches
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.benchmark.training_plan import TrainingPlan
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, EventSource

VALIDATION_BATCH = 8_192
# Steps whose losses are looked at together, by device: each look waits for a GPU.
CHECKED_AT_ONCE = {"cuda": 50}
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


class NonFiniteLoss(InputError):
    """Training stopped because the loss became infinite or not a number."""


def run_stage(
    trainee: Trainee,
    stage: str,
    training: EventSource,
    validation: Events,
    plan: TrainingPlan,
    log: TrainingLog,
) -> None:
    """Train one stage in place and add its losses to the log; raises `NonFiniteLoss` with the stage, epoch and step."""
    share = share_of(plan.trainer)
    if share is None:
        raise InputError(f"trainer.devices: expected one of {n_ranks(plan.trainer)} processes; run_experiment starts them")
    module = _StageModule(trainee, stage, training, validation, plan, share, first_epoch=len(log.stages))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        _lightning_trainer(plan.trainer).fit(module, module.batches(), module.validation_batches())
    trainee.restore(module.selection.best)
    log.stages += [stage] * len(module.train_losses)
    log.train_loss += module.train_losses
    log.validation_loss += module.validation_losses
    log.stopped = module.reason or f"{plan.trainer.max_epochs} epochs"


def _lightning_trainer(trainer: TrainerConfig) -> pl.Trainer:
    show = trainer.progress and sys.stderr.isatty()
    return pl.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.nodes,
        strategy=_between_ranks() if n_ranks(trainer) > 1 else "auto",
        precision=trainer.precision,
        max_epochs=trainer.max_epochs,
        gradient_clip_val=trainer.gradient_clip,
        callbacks=[TQDMProgressBar(refresh_rate=20, leave=False)] if show else [],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=show,
        num_sanity_val_steps=0,
        # A loss may take gradients in theta, which inference mode forbids in validation.
        inference_mode=False,
        use_distributed_sampler=False,
    )


def _between_ranks() -> DDPStrategy:
    """Gradients averaged over processes that are there already, which is what the environment of torchrun means."""
    # Equal shares of a batch need not use the same parameters; buffers (reference events) are equal from the start and large.
    return DDPStrategy(cluster_environment=TorchElasticEnvironment(), find_unused_parameters=True, broadcast_buffers=False)


class _IndexBatches(IterableDataset[Tensor]):
    """Batches of event indices, reshuffled every epoch by an explicit generator; all in one step for validation."""

    def __init__(self, n: int, size: int, generator: torch.Generator | None) -> None:
        self.n, self.size, self.generator = n, size, generator

    def __len__(self) -> int:
        return math.ceil(self.n / self.size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.n) if self.generator is None else torch.randperm(self.n, generator=self.generator)
        yield from order.split(self.size)


class _StageModule(pl.LightningModule):
    """One stage of a training as Lightning sees it; keeps each member's weights of the best validation loss."""

    def __init__(
        self, trainee: Trainee, stage: str, training: EventSource, validation: Events, plan: TrainingPlan, share: Share, first_epoch: int
    ) -> None:
        super().__init__()
        self.trainee, self.share = trainee, share
        self.stage, self.training_events, self.validation_events = stage, training, validation
        self.trainer_config, self.optimizer_config, self.seed = plan.trainer, plan.optimizer, plan.seed
        self.follower, self.first_epoch = plan.follower, first_epoch
        self.loss_generator = torch.Generator().manual_seed(share.seed(plan.seed))
        self.train_losses: list[float] = []
        self.validation_losses: list[float] = []
        self.selection, self.reason = _Selection(plan.trainer.patience), ""
        self._unchecked: list[tuple[int, Tensor]] = []
        self._sums: dict[str, _Sum] = {"train": _Sum(), "validation": _Sum()}

    def batches(self) -> DataLoader[Any]:
        shuffle = torch.Generator().manual_seed(self.seed + 1)
        if not isinstance(self.training_events, Events):
            return _loader(StreamBatches(self.training_events, self.trainer_config.batch_size, shuffle))
        return _loader(_IndexBatches(len(self.training_events), self.trainer_config.batch_size, shuffle))

    def validation_batches(self) -> DataLoader[Any]:
        return _loader(_IndexBatches(len(self.validation_events), VALIDATION_BATCH, None))

    def on_fit_start(self) -> None:
        if isinstance(self.training_events, Events):
            self.training_events = self.training_events.to(self.device)
        self.validation_events = self.validation_events.to(self.device)

    def training_step(self, batch: Tensor | Events, batch_index: int) -> Tensor:
        loss = self._mean_loss("train", batch, self.loss_generator)
        self._unchecked.append((batch_index, loss.detach()))
        if len(self._unchecked) >= CHECKED_AT_ONCE.get(loss.device.type, 1):
            self._require_finite()
        return loss

    def _require_finite(self) -> None:
        """Check the losses of the steps since the last time."""
        steps, losses = zip(*self._unchecked, strict=True)
        self._unchecked.clear()
        for step, loss in zip(steps, torch.stack(losses).tolist(), strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLoss(
                    f"stage {self.stage}: the loss became {loss} in epoch {self.current_epoch}, step {step}; "
                    f"lower optimizer.learning_rate (now {self.optimizer_config.learning_rate:g}) or check the features"
                )

    def _chosen(self, part: str, batch: Tensor | Events) -> tuple[Events, Tensor | None, float]:
        """Events of a batch, their rows among the training events if these are in memory, and the factor of their mean loss."""
        if isinstance(batch, Events):
            return batch, None, 1.0
        rows, factor = self.share.of(batch)
        if part == "validation":
            return self.validation_events[rows], None, factor
        return cast(Events, self.training_events)[rows], rows, factor

    def on_validation_epoch_start(self) -> None:
        # The same draws in every epoch, so that epochs can be compared.
        self.validation_generator = torch.Generator().manual_seed(self.share.seed(self.seed + 2))

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self._mean_loss("validation", batch, self.validation_generator)

    def on_train_epoch_end(self) -> None:
        if self._unchecked:
            self._require_finite()
        self.train_losses.append(self._sums["train"].take_means(self.share, self.device)[0])
        if self.follower is not None:
            losses = {f"{self.stage}/train": self.train_losses[-1], f"{self.stage}/validation": self.validation_losses[-1]}
            self.follower.log_metrics(losses, self.first_epoch + self.current_epoch)
            self.follower.save()

    def on_validation_epoch_end(self) -> None:
        means = self._sums["validation"].take_means(self.share, self.device)
        self.validation_losses.append(means[0])
        self.selection.see(means, self.trainee)
        if self.selection.all_stopped:
            self.reason = f"no better validation loss for {self.trainer_config.patience} epochs"
            self.trainer.should_stop = True

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: Any = None
    ) -> None:
        if gradient_clip_val:
            self.trainee.clip_gradients(gradient_clip_val)

    def configure_optimizers(self) -> Any:
        config = self.optimizer_config
        fused = {"fused": True} if self.trainer_config.compile and config.name in FUSED else {}
        optimizer = OPTIMIZERS[config.name](self.trainee.trained(), lr=config.learning_rate, weight_decay=config.weight_decay, **fused)
        if config.schedule == "constant":
            return optimizer
        steps = self.trainer_config.max_epochs * math.ceil(len(self.training_events) / self.trainer_config.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _mean_loss(self, part: str, batch: Tensor | Events, generator: torch.Generator) -> Tensor:
        """Mean over the batch's events, summed over members: their gradients do not mix. In a rank, its part of that mean."""
        events, rows, factor = self._chosen(part, batch)
        losses = self.trainee.losses(events, rows, generator)
        if factor:
            self._sums[part].add(losses)
        return factor * losses.mean(1).sum()


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


class _Selection:
    """The best epoch of each member by validation loss; a member that ran out of patience keeps what it had."""

    def __init__(self, patience: int) -> None:
        self.patience, self.epoch = patience, -1
        self.best: list[dict[str, Any]] = []
        self.loss: list[float] = []
        self.best_epoch: list[int] = []
        self.stopped: list[bool] = []

    @property
    def all_stopped(self) -> bool:
        return all(self.stopped)

    def see(self, losses: list[float], trainee: Trainee) -> None:
        """Validation losses of one epoch."""
        self.epoch += 1
        if not self.best:
            self.best, self.loss = trainee.states(), losses
            self.best_epoch, self.stopped = [self.epoch] * len(losses), [False] * len(losses)
            return
        better = [k for k, loss in enumerate(losses) if loss < self.loss[k] and not self.stopped[k]]
        states = trainee.states() if better else []
        for k in better:
            self.best[k], self.loss[k], self.best_epoch[k] = states[k], losses[k], self.epoch
        self.stopped = [self.epoch - epoch >= self.patience for epoch in self.best_epoch]


def _loader(batches: _IndexBatches | StreamBatches) -> DataLoader[Any]:
    # Its own generator: a DataLoader otherwise draws from the global random state.
    return DataLoader(batches, batch_size=None, generator=torch.Generator().manual_seed(0))
