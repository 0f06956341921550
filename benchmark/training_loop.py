"""The training loop of one stage: plain for one process, by Lightning for several that share a training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from touchneedle.benchmark.config import TrainerConfig
from touchneedle.benchmark.environment import device_of
from touchneedle.benchmark.joined_weights import JoinedWeights
from touchneedle.benchmark.members import Trainee
from touchneedle.benchmark.optimizers import NOT_BY_ELEMENT
from touchneedle.benchmark.ranks import n_ranks, share_of
from touchneedle.benchmark.stage_training import StageTraining
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.benchmark.training_plan import TrainingPlan
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, EventSource

Advance = Callable[[], None]


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
    stage_training = StageTraining(trainee, stage, training, validation, plan, share, first_epoch=len(log.stages))
    if share.ranks == 1:
        _loop(stage_training, plan.trainer)
    else:
        # Its import takes seconds: only for ranks.
        from touchneedle.benchmark.lightning_loop import loop_with_others

        loop_with_others(stage_training, plan.trainer)
    trainee.restore(stage_training.best.weights)
    log.stages += [stage] * stage_training.epoch
    log.train_loss += stage_training.train_losses
    log.validation_loss += stage_training.validation_losses
    log.stopped = stage_training.reason or f"{plan.trainer.max_epochs} epochs"


def _loop(stage: StageTraining, trainer: TrainerConfig) -> None:
    device = device_of(trainer)
    stage.trainee.to(device)
    stage.to(device)
    with _steps(stage, trainer, device) as step, _progress(stage, trainer) as advance:
        while stage.epoch < trainer.max_epochs and not stage.reason:
            for number, batch in enumerate(stage.batches):
                step(batch, number)
                advance()
            with torch.no_grad(), _evaluating(stage.trainee), _precision(trainer, device):
                stage.start_validation()
                for batch in stage.validation_batches:
                    stage.validate(batch)
                stage.end_validation()
            stage.end_epoch()


@contextmanager
def _steps(stage: StageTraining, trainer: TrainerConfig, device: torch.device) -> Iterator[Callable[[Tensor | Events, int], None]]:
    """A step of the optimiser on a batch with its number."""
    optimizer, schedule = stage.optimizer()
    weights = JoinedWeights(optimizer, joined=stage.plan.optimizer.name not in NOT_BY_ELEMENT)

    def step(batch: Tensor | Events, number: int) -> None:
        def loss_and_gradient() -> Tensor:
            with _precision(trainer, device):
                loss = stage.loss(batch, number)
            weights.zero_grad()
            loss.backward()
            if trainer.gradient_clip:
                stage.trainee.clip_gradients(trainer.gradient_clip)
            weights.take_gradients()
            return loss

        # Some optimisers look at the loss, too.
        optimizer.step(loss_and_gradient)  # type: ignore[arg-type]
        if schedule is not None:
            schedule.step()

    try:
        yield step
    finally:
        weights.separate()


def _precision(trainer: TrainerConfig, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if trainer.precision == "bf16-mixed" else nullcontext()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation for a while; then whatever was in training is so again, and nothing else."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def _progress(stage: StageTraining, trainer: TrainerConfig) -> Iterator[Advance]:
    """A bar of all steps on a terminal, which tells the epoch and the validation loss; silent elsewhere."""
    if not (trainer.progress and sys.stderr.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    steps = trainer.max_epochs * len(stage.batches)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(stage.state, total=steps)
        yield lambda: bar.update(task, advance=1, description=stage.state)
