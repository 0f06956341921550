"""Sweeps: overrides become cells, cells become runs. The only importer of Hydra.

Hydra composes configurations, splits sweeps and launches jobs (basic, joblib, or any other launcher
plugin). It keeps no folder, no log and no state: what was run is in the records, and what is left
to do follows from them. ``DictConfig`` never leaves this file.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, cast

from hydra import compose, initialize_config_module
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from touchneedle.benchmark.cells import Cell, Outcome, option_names, run_cell
from touchneedle.benchmark.config import ExperimentConfig, parse_config
from touchneedle.benchmark.overrides import COMPONENT_GROUPS, GROUPS, from_hydra, is_launch, key_of, last_of_each_key, members, to_hydra
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError

HYDRA_ERRORS = (HydraException, OmegaConfBaseException, MissingConfigException, TypeError, ValueError)
# The extra with the Hydra plugin of a launcher.
LAUNCHER_EXTRAS = {"joblib": "bench", "ray": "ray", "submitit_local": "slurm", "submitit_slurm": "slurm"}


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
    with _hydra():
        parsed = _parse(given)
        if not multirun:
            _refuse_sweeps(parsed)
            return Request([_without_launch(given)], _launch_of(given))
        blocks = [last_of_each_key([*preset, *given]) for preset in _presets(given)]
        launch = _launch_of(blocks[0])
        _refuse_sweeps(_parse(launch))
        split = [_split_arguments(_parse(_without_launch(block))) for block in blocks]
    return Request(_unique(itertools.chain.from_iterable(split)), launch)


def compose_cell(overrides: Sequence[str], launch: Sequence[str] = ()) -> ExperimentConfig:
    """The checked configuration of one cell; raises `InputError` naming the wrong override or field."""
    with _hydra():
        config = _compose([*(to_hydra(override) for override in overrides), *launch])
        return _experiment(config)


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
        experiment = _experiment(config)
        if self.total > 1:
            experiment.trainer.progress = False
        return run_cell(experiment, position, force=self.force, wait=self.wait, debug=self.debug)


def _numbers(cells: Sequence[Cell]) -> tuple[int, ...]:
    return tuple(cell.number for cell in cells)


def _launch(cells: Sequence[Cell], launch: Sequence[str], task: Callable[[DictConfig], Outcome]) -> list[Outcome]:
    with _hydra(), tempfile.TemporaryDirectory(prefix="touchneedle-") as folder:
        where = [f"hydra.sweep.dir='{folder}'", f"results='{cells[0].config.results}'"]
        master = _compose([*launch, *where], RunMode.MULTIRUN)
        hydra = GlobalHydra.instance()
        # Ray's driver would leave out lines that differ from another by numbers alone, as those of cells do.
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        context = HydraContext(config_loader=hydra.config_loader(), callbacks=Callbacks(master))
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=master)
        # Each job repeats the choice of launcher: the options of the launcher compose only with it.
        choice = [override for override in launch if key_of(override) == "launcher"]
        jobs = [[*choice, *map(to_hydra, cell.overrides)] for cell in cells]
        at_once = (os.cpu_count() or 1) if "launcher=submitit_local" in choice else len(jobs)
        returns = [
            job for first in range(0, len(jobs), at_once) for job in launcher.launch(jobs[first : first + at_once], initial_job_idx=first)
        ]
        return [cast(Outcome, job.return_value) for job in returns]


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra over ``touchneedle.conf``, with the components of the registry as members of their groups."""
    store = ConfigStore.instance()
    for group, names in (("toy", registry.toys.names()), ("estimator", registry.estimators.names())):
        for name in names:
            store.store(group=group, name=name, node={"name": name, "params": {}}, provider="touchneedle")
    with initialize_config_module("touchneedle.conf", version_base="1.3"):
        yield


def _compose(overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> DictConfig:
    try:
        if mode is RunMode.RUN:
            return compose("config", list(overrides), return_hydra_config=True)
        hydra = GlobalHydra.instance().hydra
        return cast(Any, hydra).compose_config("config", list(overrides), run_mode=mode, from_shell=False)
    except HYDRA_ERRORS as error:
        raise InputError(_one_line(error)) from error


def _experiment(config: DictConfig) -> ExperimentConfig:
    """Plain, checked dataclasses from a composed configuration."""
    try:
        values = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.masked_copy(config, _top_level(config)), resolve=True))
    except OmegaConfBaseException as error:
        raise InputError(_one_line(error)) from error
    values.pop("also", None)
    for field in fields(ExperimentConfig):
        _check_names(field.name, values.get(field.name))
    return parse_config(values)


def _top_level(config: DictConfig) -> list[str]:
    return [str(key) for key in config if key != "hydra"]


def _check_names(group: str, values: object) -> None:
    """Raise `InputError` for an option that a group does not have (nested dataclasses would ignore it)."""
    known = option_names(group)
    if known and isinstance(values, Mapping):
        unknown = [name for name in values if name not in known]
        if unknown:
            raise InputError(f"{group}: unknown option {unknown[0]!r}; known options: {', '.join(known)}")


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except HYDRA_ERRORS as error:
            text, reason = from_hydra(text), _grammar_reason(error)
            raise InputError(f"cannot read {text!r} ({reason}); expected key=value, with quotes if special: \"key='value'\"") from error
    for override in parsed:
        _check_choice(override)
    return parsed


def _grammar_reason(error: Exception) -> str:
    """What Hydra's parser says, without its headings, marks and links."""
    noise = ("Error parsing override", "See https", "Available", "^")
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line and not line.startswith(noise)), type(error).__name__)


def _check_choice(override: Override) -> None:
    """Raise `InputError` if a group is given something that cannot be the name of a member."""
    key = override.key_or_group
    value = override.value()
    if key in GROUPS and not override.is_sweep_override() and not override.is_delete() and not (isinstance(value, str) and value):
        raise InputError(f"{override.input_line}: expected the name of a member; known: {', '.join(members(key))}")
    if not key:
        raise InputError(f"{override.input_line}: expected key=value; got no key")


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
        raise InputError(_one_line(error)) from error
    # Its text of a single value loses interpolations; the user's own text does not.
    return [[text if o.is_sweep_override() else o.input_line or text for o, text in zip(wanted, cell, strict=True)] for cell in cells]


def _presets(given: Sequence[str]) -> list[list[str]]:
    """Blocks of overrides of the chosen ``sweep=`` preset; one empty block without a preset.

    A further block (``also``) is left out if the command line sets its first key.
    """
    choice = [override for override in given if key_of(override) == "sweep"]
    _refuse_sweeps([override for override in _parse(choice) if override.is_sweep_override()])
    if not choice:
        return [[]]
    config = _compose([choice[-1], *_launch_of(given)])
    _check_preset(config, choice[-1])
    params = dict(config.hydra.sweeper.params or {})
    taken = {key_of(override) for override in given}
    more = [dict(block) for block in config.get("also") or [] if next(iter(block)) not in taken]
    return [[to_hydra(f"{key}={value}") for key, value in {**params, **block}.items()] for block in [{}, *more]]


def _check_preset(config: DictConfig, choice: str) -> None:
    """A preset may only say what to sweep: anything else would silently not reach the cells of a job list."""
    plain = _compose([])
    for key in _top_level(config):
        if key != "also" and config[key] != plain.get(key):
            raise InputError(f"{choice}: preset sets {key!r} itself; write every value under hydra.sweeper.params")


def _without_launch(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not is_launch(override)]


def _launch_of(overrides: Sequence[str]) -> list[str]:
    return last_of_each_key(override for override in overrides if is_launch(override))


def _unique(cells: Iterator[list[str]]) -> list[list[str]]:
    return [list(cell) for cell in dict.fromkeys(tuple(cell) for cell in cells)]


def _one_line(error: Exception) -> str:
    """Hydra's message as one line that names the option and lists what there is."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group in COMPONENT_GROUPS:
            return _unknown_component(group, name)
        if group == "hydra/launcher" and name in LAUNCHER_EXTRAS:
            return f"launcher={name}: expected its Hydra plugin; it is not installed (pip install touchneedle[{LAUNCHER_EXTRAS[name]}])"
        return f"unknown {group or 'configuration'} {name!r}; known: {', '.join(error.options or [])}"
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    if first.startswith("Could not override"):
        key = from_hydra(first.split("'")[1])
        if is_launch(key):
            return f"unknown option {key!r} of the launcher; see the options of its Hydra plugin"
        return f"unknown option {key!r}; known: {', '.join(_known(key))}"
    return f"configuration: {first}"


def _unknown_component(group: str, name: str) -> str:
    try:
        (registry.toys if group == "toy" else registry.estimators).entry(name)
    except InputError as error:
        return str(error)
    return f"{group} {name!r} could not be composed"


def _known(key: str) -> list[str]:
    group = key.split(".")[0]
    options = option_names(group)
    return (
        [f"{group}.{name}" for name in options] if options else [field.name for field in fields(ExperimentConfig)] + ["launcher", "sweep"]
    )
