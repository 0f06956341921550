"""The training loop of several processes, by Lightning: the only importer of it beside its loggers in `tracking`."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from touchneedle.benchmark.config import TrainerConfig
from touchneedle.benchmark.stage_training import StageTraining


def loop_with_others(stage: StageTraining, trainer: TrainerConfig) -> None:
    """Train a stage as one rank of several."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        _lightning_trainer(trainer).fit(_StageModule(stage), stage.batches, stage.validation_batches)


def _lightning_trainer(trainer: TrainerConfig) -> pl.Trainer:
    show = trainer.progress and sys.stderr.isatty()
    return pl.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.nodes,
        strategy=_between_ranks(),
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


class _StageModule(pl.LightningModule):
    """A stage of a training as Lightning sees it."""

    def __init__(self, stage: StageTraining) -> None:
        super().__init__()
        self.stage, self.trainee = stage, stage.trainee

    def on_fit_start(self) -> None:
        self.stage.to(self.device)

    def configure_optimizers(self) -> Any:
        optimizer, schedule = self.stage.optimizer()
        return optimizer if schedule is None else {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        return self.stage.loss(batch, batch_index)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: Any = None
    ) -> None:
        if gradient_clip_val:
            self.trainee.clip_gradients(gradient_clip_val)

    def on_validation_epoch_start(self) -> None:
        self.stage.start_validation()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.stage.validate(batch)

    def on_validation_epoch_end(self) -> None:
        self.stage.end_validation()
        self.trainer.should_stop = bool(self.stage.reason)

    def on_train_epoch_end(self) -> None:
        self.stage.end_epoch()
