"""Training: the only importer of Lightning.

Events stay in memory and are batched by index (a DataLoader over single events costs several times
more per step). The weights of the best validation loss are kept. A method without stages is fitted
in ``prepare`` alone.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.estimators.base import Estimator, Stage
from touchneedle.toys.base import Events, EventSource, collect

VALIDATION_BATCH = 8_192
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "nadam": torch.optim.NAdam, "radam": torch.optim.RAdam}


class NonFiniteLoss(InputError):
    """Training stopped because the loss became infinite or not a number."""


def train(estimator: Estimator, source: EventSource, trainer: TrainerConfig, optimizer: OptimizerConfig, seed: int) -> TrainingLog:
    """Train ``estimator`` in place on a source of events and return the log.

    Args:
        seed: derives shuffling and the randomness of the loss; initial weights come with the estimator.

    Raises:
        NonFiniteLoss: with the stage, epoch and step.
        SkipCell: if a stage has no events.
    """
    events = collect(source)
    if not bool(torch.isfinite(events.weight).all()) or float(events.weight.abs().sum()) == 0:
        raise InputError("training events: expected finite weights that are not all zero")
    log = TrainingLog()
    start = time.perf_counter()
    training, validation = _split(events, trainer.validation_fraction, seed)
    estimator.prepare(training if estimator.stages() else events)
    _check_stages(estimator.stages(), training, validation)
    for stage in estimator.stages():
        _run_stage(estimator, stage, training, validation, trainer, optimizer, seed, log)
    estimator.eval()
    estimator.finish(validation)
    log.seconds = time.perf_counter() - start
    return log


def _split(events: Events, fraction: float, seed: int) -> tuple[Events, Events]:
    """The same validation split for every estimator of a cell's events: it depends on the events' number alone."""
    n_validation = max(1, round(fraction * len(events)))
    order = torch.randperm(len(events), generator=torch.Generator().manual_seed(len(events)))
    return events[order[n_validation:]], events[order[:n_validation]]


def _events_of(stage: Stage, events: Events) -> Events:
    return events if stage.event_filter is None else events[stage.event_filter(events)]


def _check_stages(stages: tuple[Stage, ...], training: Events, validation: Events) -> None:
    """Before the first one is trained: without validation events the weights of a random epoch would be kept."""
    for stage in stages:
        sizes = len(_events_of(stage, training)), len(_events_of(stage, validation))
        if not all(sizes):
            raise SkipCell(
                f"stage {stage.name}: expected events of its own; got {sizes[0]} for training, {sizes[1]} for validation: raise the budget"
            )


def _run_stage(
    estimator: Estimator,
    stage: Stage,
    training: Events,
    validation: Events,
    trainer: TrainerConfig,
    optimizer: OptimizerConfig,
    seed: int,
    log: TrainingLog,
) -> None:
    training, validation = _events_of(stage, training), _events_of(stage, validation)
    module = _StageModule(estimator, stage, training, validation, trainer, optimizer, seed)
    with warnings.catch_warnings(), _others_frozen(estimator, stage):
        warnings.filterwarnings("ignore", module="lightning")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        _lightning_trainer(trainer).fit(module, module.batches(), module.validation_batches())
    estimator.load_state_dict(module.best)
    estimator.cpu()
    log.stages += [stage.name] * len(module.train_losses)
    log.train_loss += module.train_losses
    log.validation_loss += module.validation_losses
    log.stopped = module.reason or f"{trainer.max_epochs} epochs"


@contextmanager
def _others_frozen(estimator: Estimator, stage: Stage) -> Iterator[None]:
    """No gradients are computed for parameters of other stages."""
    trained = {id(parameter) for parameter in stage.parameters}
    others = [parameter for parameter in estimator.parameters() if parameter.requires_grad and id(parameter) not in trained]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _lightning_trainer(trainer: TrainerConfig) -> pl.Trainer:
    show = trainer.progress and sys.stderr.isatty()
    return pl.Trainer(
        accelerator=trainer.accelerator,
        devices=1,
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
    """One stage of one estimator as Lightning sees it; keeps the weights of the best validation loss."""

    def __init__(
        self,
        estimator: Estimator,
        stage: Stage,
        training: Events,
        validation: Events,
        trainer: TrainerConfig,
        optimizer: OptimizerConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.estimator = estimator
        self.stage, self.training_events, self.validation_events = stage, training, validation
        self.trainer_config, self.optimizer_config, self.seed = trainer, optimizer, seed
        self.loss_generator = torch.Generator().manual_seed(seed)
        self.train_losses: list[float] = []
        self.validation_losses: list[float] = []
        self.best: dict[str, Any] = {}
        self.best_loss, self.best_epoch, self.reason = math.inf, -1, ""
        self._sums: dict[str, list[float]] = {"train": [0.0, 0.0], "validation": [0.0, 0.0]}

    def batches(self) -> DataLoader[Tensor]:
        shuffle = torch.Generator().manual_seed(self.seed + 1)
        return _loader(_IndexBatches(len(self.training_events), self.trainer_config.batch_size, shuffle))

    def validation_batches(self) -> DataLoader[Tensor]:
        return _loader(_IndexBatches(len(self.validation_events), VALIDATION_BATCH, None))

    def on_fit_start(self) -> None:
        self.training_events = self.training_events.to(self.device)
        self.validation_events = self.validation_events.to(self.device)

    def training_step(self, index: Tensor, batch_index: int) -> Tensor:
        loss = self._mean_loss("train", self.training_events[index], self.loss_generator)
        if not bool(torch.isfinite(loss)):
            raise NonFiniteLoss(
                f"stage {self.stage.name}: the loss became {loss.item()} in epoch {self.current_epoch}, step {batch_index}; "
                f"lower optimizer.learning_rate (now {self.optimizer_config.learning_rate:g}) or check the features"
            )
        return loss

    def on_validation_epoch_start(self) -> None:
        # The same draws in every epoch, so that epochs can be compared.
        self.validation_generator = torch.Generator().manual_seed(self.seed + 2)

    def validation_step(self, index: Tensor, batch_index: int) -> None:
        self._mean_loss("validation", self.validation_events[index], self.validation_generator)

    def on_train_epoch_end(self) -> None:
        self.train_losses.append(self._epoch_mean("train"))

    def on_validation_epoch_end(self) -> None:
        loss = self._epoch_mean("validation")
        self.validation_losses.append(loss)
        if loss < self.best_loss or not self.best:
            self.best_loss, self.best_epoch = loss, self.current_epoch
            self.best = copy.deepcopy(self.estimator.state_dict())
        elif self.current_epoch - self.best_epoch >= self.trainer_config.patience:
            self.reason = f"no better validation loss for {self.trainer_config.patience} epochs"
            self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        config = self.optimizer_config
        optimizer = OPTIMIZERS[config.name](self.stage.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        if config.schedule == "constant":
            return optimizer
        steps = self.trainer_config.max_epochs * math.ceil(len(self.training_events) / self.trainer_config.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _mean_loss(self, part: str, events: Events, generator: torch.Generator) -> Tensor:
        losses = self.estimator.loss(events, generator)
        sums = self._sums[part]
        sums[0] += float(losses.detach().double().sum())
        sums[1] += len(losses)
        return losses.mean()

    def _epoch_mean(self, part: str) -> float:
        total, count = self._sums[part]
        self._sums[part] = [0.0, 0.0]
        return total / max(count, 1.0)


def _loader(batches: _IndexBatches) -> DataLoader[Tensor]:
    # Its own generator: a DataLoader otherwise draws from the global random state.
    return DataLoader(batches, batch_size=None, generator=torch.Generator().manual_seed(0))
