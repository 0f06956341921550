"""The tuning track: a declared search space and number of trials, judged on validation events alone.

Trial 0 is the configuration as it stands; the others are proposed at random (Bergstra, Bengio 2012, JMLR 13, 281), or by Optuna from
those before them (`optuna_search`). A trial is an ordinary training under its own ``fit_id``, so a search that was killed goes on
where it stopped. The lowest validation loss wins among the trials whose closure and calibration, where they are monitored
(`monitors`), are within ``max_z`` standard errors; if there is no such trial, the one that is least beyond. Test events and
scores play no part. Options that change the loss itself must not be in the space: their losses do not compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from touchneedle.benchmark.config import ExperimentConfig, TuningConfig, config_to_dict, parse_config
from touchneedle.benchmark.fitted import fitted
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.monitors import check_monitors, monitor_rows, worst_z
from touchneedle.benchmark.optuna_search import OptunaSearch
from touchneedle.benchmark.records import Metric, Trial
from touchneedle.benchmark.search_space import Span, samples_of
from touchneedle.benchmark.seeding import derive_generator
from touchneedle.benchmark.stage_training import NonFiniteLoss
from touchneedle.benchmark.store import hold_cell
from touchneedle.benchmark.train import held_out
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.benchmark.training_source import training_events
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, Toy, collect

TUNED_SECTIONS = ("estimator", "optimizer", "trainer")


class Search(Protocol):
    """What proposes trials, and keeps them."""

    def finished(self) -> list[Trial]:
        """The trials that are done, in order."""
        ...

    def ask(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """Options of the trial after these."""
        ...

    def tell(self, number: int, trial: Trial) -> None:
        """Keep a trial, unless that number is there already."""
        ...


@dataclass
class RandomSearch:
    """Proposes what was drawn beforehand, trial by trial."""

    choices: list[dict[str, Any]]
    trials: list[Trial] = field(default_factory=list)

    def finished(self) -> list[Trial]:
        """The trials told so far: what survives a kill is the weights."""
        return list(self.trials)

    def ask(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """The next draw."""
        return self.choices[len(trials)]

    def tell(self, number: int, trial: Trial) -> None:
        """Keep a trial."""
        self.trials.append(trial)


def tune(config: ExperimentConfig, toy: Toy) -> tuple[ExperimentConfig, list[Trial]]:
    """The configuration of the best trial, without tuning, and all trials; the configuration itself if there are none.

    Raises `InputError`, before anything is trained, for a space or a monitor that cannot work; and if no trial gives a finite loss.
    """
    tuning = config.tuning
    if not tuning.trials:
        return config, []
    check_space(config)
    events = _watched_events(config, toy)
    search = _search(config)
    trials = search.finished()
    while len(trials) < tuning.trials:
        options = search.ask(trials) if trials else {}
        search.tell(len(trials), _tried(config, toy, events, options))
        trials = search.finished()
    trials = trials[: tuning.trials]
    best = choose(trials, tuning.max_z)
    trials = [trial.model_copy(update={"chosen": k == best}) for k, trial in enumerate(trials)]
    return with_options(config, trials[best].options), trials


def choose(trials: Sequence[Trial], max_z: float) -> int:
    """Number of the best trial, the first of equals; raises `InputError` if none has a finite loss."""
    best = min(range(len(trials)), key=lambda k: _rank(trials[k], max_z))
    if trials[best].validation_loss is None:
        raise InputError(f"tuning: expected a finite validation loss from some trial; none of {len(trials)} gave one")
    return best


def draw_trials(config: ExperimentConfig) -> list[dict[str, Any]]:
    """Options of every trial of a random search; the first is empty."""
    generator = derive_generator(config.seed, "tuning")
    space = sorted(config.tuning.space.items())
    return [{}] + [{key: _draw(span, generator) for key, span in space} for _ in range(config.tuning.trials - 1)]


def check_space(config: ExperimentConfig) -> None:
    """Raise `InputError` for an option that does not exist, or that cannot be what the space says."""
    for key, span in config.tuning.space.items():
        for value in samples_of(span):
            identify(with_options(config, {key: value}))


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


def _rank(trial: Trial, max_z: float) -> tuple[float, float]:
    """How far beyond what is allowed, then the loss; the least is the best."""
    if trial.validation_loss is None:
        return math.inf, math.inf
    return max(0.0, worst_z(trial.monitors) - max_z), trial.validation_loss


def _search(config: ExperimentConfig) -> Search:
    return OptunaSearch(config) if config.tuning.sampler == "tpe" else RandomSearch(draw_trials(config))


def _watched_events(config: ExperimentConfig, toy: Toy) -> Events | None:
    """The training events, if the search looks at the validation events among them."""
    if not config.tuning.monitor:
        return None
    events = collect(training_events(config, toy))
    check_monitors(config, events)
    return events


def _draw(span: Span, generator: torch.Generator) -> Any:
    if isinstance(span, list):
        return span[int(torch.randint(len(span), (1,), generator=generator))]
    return span.at(float(torch.rand((), generator=generator, dtype=torch.float64)))


def _tried(config: ExperimentConfig, toy: Toy, events: Events | None, options: dict[str, Any]) -> Trial:
    """One trial: trained, or its weights found again; looked at, if there are events for it."""
    own = with_options(config, options)
    fit_id = identify(own)[0]
    monitors: list[Metric] = []
    with hold_cell(Path(config.results), fit_id, wait=True):
        try:
            estimator, log = fitted(own, toy, fit_id)
        except NonFiniteLoss:
            return Trial(options=options, fit_id=fit_id, validation_loss=None, seconds=0.0, chosen=False)
    if events is not None:
        monitors = monitor_rows(config.tuning.monitor, estimator, held_out(events, own.trainer), config.seed)
    return Trial(
        options=options,
        fit_id=fit_id,
        validation_loss=_final_loss(log),
        seconds=log.seconds,
        chosen=False,
        monitors=monitors,
        feasible=worst_z(monitors) <= config.tuning.max_z,
    )


def _final_loss(log: TrainingLog) -> float | None:
    """The best validation loss of the last stage; None without one."""
    losses = [loss for loss, stage in zip(log.validation_loss, log.stages, strict=True) if stage == log.stages[-1]]
    return min(filter(math.isfinite, losses), default=None)
