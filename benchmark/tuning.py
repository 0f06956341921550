"""The tuning track: a declared search space and number of trials, judged by the validation loss alone.

Trial 0 is the configuration as it stands; every other one draws each option of the space at random (Bergstra,
Bengio 2012, JMLR 13, 281). A trial is an ordinary training under its own ``fit_id``, so a search that was killed goes on where it
stopped. Test events and scores play no part. Options that change the loss itself must not be in the space: their
losses do not compare.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from touchneedle.benchmark.config import ExperimentConfig, TuningConfig, config_to_dict, parse_config
from touchneedle.benchmark.fitted import fitted
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.records import Trial
from touchneedle.benchmark.seeding import derive_generator
from touchneedle.benchmark.store import hold_cell
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.benchmark.training_loop import NonFiniteLoss
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Toy

TUNED_SECTIONS = ("estimator", "optimizer", "trainer")


def tune(config: ExperimentConfig, toy: Toy) -> tuple[ExperimentConfig, list[Trial]]:
    """The configuration of the best trial, without tuning, and all trials; the configuration itself if there are none.

    Raises `InputError` for an option of the space that is unknown, or if no trial gives a finite loss.
    """
    if not config.tuning.trials:
        return config, []
    choices = draw_trials(config)
    configs = [with_options(config, options) for options in choices]
    # All identities first: a wrong option is found before anything is trained.
    fit_ids = [identify(each)[0] for each in configs]
    logs = [_trained(each, toy, fit_id) for each, fit_id in zip(configs, fit_ids, strict=True)]
    losses = [_final_loss(log) for log in logs]
    known = [(loss, k) for k, loss in enumerate(losses) if loss is not None]
    if not known:
        raise InputError(f"tuning: expected a finite validation loss from some trial; none of {len(choices)} gave one")
    best = min(known)[1]
    trials = [
        Trial(options=options, fit_id=fit_id, validation_loss=loss, seconds=log.seconds if log else 0.0, chosen=k == best)
        for k, (options, fit_id, loss, log) in enumerate(zip(choices, fit_ids, losses, logs, strict=True))
    ]
    return configs[best], trials


def draw_trials(config: ExperimentConfig) -> list[dict[str, Any]]:
    """Options of every trial; the first is empty."""
    generator = derive_generator(config.seed, "tuning")
    return [{}] + [
        {key: values[int(torch.randint(len(values), (1,), generator=generator))] for key, values in sorted(config.tuning.space.items())}
        for _ in range(config.tuning.trials - 1)
    ]


def with_options(config: ExperimentConfig, options: dict[str, Any]) -> ExperimentConfig:
    """The configuration with some options replaced and no tuning; raises `InputError` for a wrong key."""
    values = config_to_dict(replace(config, tuning=TuningConfig()))
    for key, value in options.items():
        section, _, name = key.partition(".")
        if section not in TUNED_SECTIONS or not name:
            raise InputError(f"tuning.space: expected keys like {', '.join(f'{s}.OPTION' for s in TUNED_SECTIONS)}; got {key!r}")
        target = values["estimator"]["params"] if section == "estimator" else values[section]
        if section != "estimator" and name not in target:
            raise InputError(f"tuning.space: {section} has no option {name!r}; known: {', '.join(target)}")
        target[name] = value
    return parse_config(values)


def _trained(config: ExperimentConfig, toy: Toy, fit_id: str) -> TrainingLog | None:
    with hold_cell(Path(config.results), fit_id, wait=True):
        try:
            return fitted(config, toy, fit_id)[1]
        except NonFiniteLoss:
            return None


def _final_loss(log: TrainingLog | None) -> float | None:
    """The best validation loss of the last stage."""
    if log is None or not log.validation_loss:
        return None
    return min(loss for loss, stage in zip(log.validation_loss, log.stages, strict=True) if stage == log.stages[-1])
