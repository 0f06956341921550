"""Sweeps: overrides become cells, cells become runs. With `compose`, the only importer of Hydra.

Hydra splits sweeps and launches jobs (basic, joblib, or any other launcher plugin). It keeps no folder,
no log and no state: what was run is in the records, and what is left to do follows from them.
"""

from __future__ import annotations

import copy
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict

from touchneedle.benchmark.cells import Cell, Outcome, run_cell
from touchneedle.benchmark.compose import (
    HYDRA_ERRORS,
    compose_config,
    hydra_session,
    one_line,
    parse,
    quick_config,
    to_experiment,
    top_level,
)
from touchneedle.benchmark.overrides import from_hydra, is_launch, key_of, last_of_each_key, to_hydra
from touchneedle.conf.errors import InputError


@dataclass(frozen=True)
class Request:
    """What a command line asks for: overrides of each cell, and how to launch them."""

    cells: list[list[str]]
    launch: list[str]


def expand(overrides: Sequence[str], multirun: bool) -> Request:
    """Cells of a command line: the preset of ``sweep=`` first, the command line's own values winning.

    Raises `InputError` for a wrong override, an unknown preset, or several values without ``-m``.
    """
    given = [to_hydra(override) for override in overrides]
    with hydra_session():
        parsed = parse(given)
        if not multirun:
            _refuse_sweeps(parsed)
            return Request([_without_launch(given)], _launch_of(given))
        blocks = [last_of_each_key([*preset, *given]) for preset in _presets(given)]
        launch = _launch_of(blocks[0])
        _refuse_sweeps(parse(launch))
        split = [_split_arguments(parse(_without_launch(block))) for block in blocks]
    return Request(_unique(itertools.chain.from_iterable(split)), launch)


def run_sweep(cells: Sequence[Cell], launch: Sequence[str], total: int, *, force: bool = False, debug: bool = False) -> list[Outcome]:
    """Run cells by Hydra's launcher; those that another process holds are tried again, waiting, at the end.

    ``launch`` are the overrides that choose and configure the launcher, ``total`` counts the cells of the
    whole sweep, ``force`` runs again what is done, ``debug`` raises what goes wrong.
    """
    outcomes = _launch(cells, launch, _Task(_numbers(cells), total, force, debug, wait=False))
    held = [cell for cell, outcome in zip(cells, outcomes, strict=True) if outcome.status == "held"]
    again = _launch(held, launch, _Task(_numbers(held), total, force, debug, wait=True)) if held else []
    return [outcome for outcome in outcomes if outcome.status != "held"] + again


@dataclass(frozen=True)
class _Task:
    """What a launcher calls in each job, possibly in another process; it never raises.

    Attributes:
        numbers: position of each job in the whole sweep, for the progress line.
    """

    numbers: tuple[int, ...]
    total: int
    force: bool
    debug: bool
    wait: bool

    def __call__(self, config: DictConfig) -> Outcome:
        number = self.numbers[int(HydraConfig.get().job.num)]
        position = f"{number:{len(str(self.total))}}/{self.total}"
        experiment = to_experiment(config)
        if self.total > 1:
            experiment.trainer.progress = False
        return run_cell(experiment, position, force=self.force, wait=self.wait, debug=self.debug)


class _JobLoader(ConfigLoaderImpl):
    """Makes the configuration of a job in the process that runs it: quickly where its words are plain, else as Hydra does."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The values of one job, with what the whole sweep says of launching."""
        config = quick_config(sweep_overrides)
        if config is None:
            return super().load_sweep_config(master_config, sweep_overrides)
        with open_dict(config):
            config.hydra = copy.deepcopy(master_config.hydra)
        config.hydra.overrides.task = sweep_overrides
        return config


def _numbers(cells: Sequence[Cell]) -> tuple[int, ...]:
    return tuple(cell.number for cell in cells)


def _launch(cells: Sequence[Cell], launch: Sequence[str], task: Callable[[DictConfig], Outcome]) -> list[Outcome]:
    with hydra_session(), tempfile.TemporaryDirectory(prefix="touchneedle-") as folder:
        where = [f"hydra.sweep.dir='{folder}'", f"results='{cells[0].config.results}'"]
        master = compose_config([*launch, *where], RunMode.MULTIRUN)
        own = GlobalHydra.instance().config_loader()
        loader = own if quick_config(launch) is None else _JobLoader(own.get_search_path())
        # Ray's driver would leave out lines that differ from another by numbers alone, as those of cells do.
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        context = HydraContext(config_loader=loader, callbacks=Callbacks(master))
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=master)
        # Each job repeats the choice of launcher: the options of the launcher compose only with it.
        choice = [override for override in launch if key_of(override) == "launcher"]
        jobs = [[*choice, *map(to_hydra, cell.overrides)] for cell in cells]
        at_once = (os.cpu_count() or 1) if "launcher=submitit_local" in choice else len(jobs)
        returns = [
            job for first in range(0, len(jobs), at_once) for job in launcher.launch(jobs[first : first + at_once], initial_job_idx=first)
        ]
        return [cast(Outcome, job.return_value) for job in returns]


def _refuse_sweeps(overrides: Sequence[Override]) -> None:
    for override in overrides:
        text = from_hydra(override.input_line or "")
        if override.is_sweep_override():
            raise InputError(f"{text}: expected one value; several need a sweep (touchneedle run -m), a list needs brackets")
        if override.key_or_group == "sweep" and override.value() != "none":
            raise InputError(f"{text}: a preset is a sweep; run it with -m (touchneedle run -m {text})")


def _split_arguments(overrides: list[Override]) -> list[list[str]]:
    """Hydra's own splitting into the Cartesian product (an internal function: the one place that calls it)."""
    wanted = [override for override in overrides if override.key_or_group != "sweep"]
    try:
        (cells,) = BasicSweeper.split_arguments(wanted, max_batch_size=None)
    except HYDRA_ERRORS as error:
        raise InputError(one_line(error)) from error
    # Its text of a single value loses interpolations; the user's own text does not.
    return [[text if o.is_sweep_override() else o.input_line or text for o, text in zip(wanted, cell, strict=True)] for cell in cells]


def _presets(given: Sequence[str]) -> list[list[str]]:
    """Blocks of overrides of the chosen ``sweep=`` preset; one empty block without a preset.

    A further block (``also``) is left out if the command line sets its first key.
    """
    choice = [override for override in given if key_of(override) == "sweep"]
    _refuse_sweeps([override for override in parse(choice) if override.is_sweep_override()])
    if not choice:
        return [[]]
    config = compose_config([choice[-1], *_launch_of(given)])
    _check_preset(config, choice[-1])
    params = dict(config.hydra.sweeper.params or {})
    taken = {key_of(override) for override in given}
    more = [dict(block) for block in config.get("also") or [] if next(iter(block)) not in taken]
    return [[to_hydra(f"{key}={value}") for key, value in {**params, **block}.items()] for block in [{}, *more]]


def _check_preset(config: DictConfig, choice: str) -> None:
    """A preset may only say what to sweep: anything else would silently not reach the cells of a job list."""
    plain = compose_config([])
    for key in top_level(config):
        if key != "also" and config[key] != plain.get(key):
            raise InputError(f"{choice}: preset sets {key!r} itself; write every value under hydra.sweeper.params")


def _without_launch(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not is_launch(override)]


def _launch_of(overrides: Sequence[str]) -> list[str]:
    return last_of_each_key(override for override in overrides if is_launch(override))


def _unique(cells: Iterator[list[str]]) -> list[list[str]]:
    return [list(cell) for cell in dict.fromkeys(tuple(cell) for cell in cells)]
