"""Composition: overrides become the checked configuration of one cell, by Hydra's rules; ``DictConfig`` goes no further than `sweep`.

Hydra takes 0.15 s to compose a cell. Those of a sweep share their choices of groups, but for toys and estimators, and
differ in plain values: what the choices make is composed once and copied, and Hydra's own function sets the values in the copy.
Whatever is not plainly so, or goes wrong, is left to Hydra as a whole.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from typing import Any, cast

from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from touchneedle.benchmark.cells import option_names
from touchneedle.benchmark.config import ExperimentConfig, parse_config
from touchneedle.benchmark.overrides import COMPONENT_GROUPS, GROUPS, from_hydra, is_launch, members, to_hydra
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError

HYDRA_ERRORS = (HydraException, OmegaConfBaseException, MissingConfigException, TypeError, ValueError)
# The extra with the Hydra plugin of a launcher.
LAUNCHER_EXTRAS = {"joblib": "bench", "ray": "ray", "submitit_local": "slurm", "submitit_slurm": "slurm"}

QUICK_KINDS = ("component", "value", "choice")
# Launchers and their options; other words for Hydra, such as hydra.searchpath, may change what everything else means.
_PLAIN_LAUNCH = re.compile(r"(hydra/)?launcher=\w+|hydra\.launcher\.[^$]*", re.DOTALL)
_PLAIN_CHOICE = re.compile(r"\w+=\w+")
# Without interpolations, which may ask for anything.
_PLAIN_VALUE = re.compile(r"\+{0,2}\w+(\.\w+)*=[^$]*", re.DOTALL)


def compose_cell(overrides: Sequence[str], launch: Sequence[str] = ()) -> ExperimentConfig:
    """The checked configuration of one cell; raises `InputError` naming the wrong override or field."""
    words = [*(to_hydra(override) for override in overrides), *launch]
    quick = quick_config(words)
    if quick is not None:
        return to_experiment(quick)
    with hydra_session():
        return to_experiment(compose_config(words))


@contextmanager
def hydra_session() -> Iterator[None]:
    """Hydra over ``touchneedle.conf``, with the components of the registry as members of their groups; may be nested."""
    _offer_components()
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("touchneedle.conf", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def compose_config(overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> DictConfig:
    """What Hydra composes (call within `hydra_session`); raises `InputError` naming the wrong override."""
    try:
        if mode is RunMode.RUN:
            return compose("config", list(overrides), return_hydra_config=True)
        instance = GlobalHydra.instance().hydra
        return cast(Any, instance).compose_config("config", list(overrides), run_mode=mode, from_shell=False)
    except HYDRA_ERRORS as error:
        raise InputError(one_line(error)) from error


def quick_config(overrides: Sequence[str]) -> DictConfig | None:
    """What `compose_config` gives, without the node ``hydra``, and without its work; None if that is for Hydra to say."""
    _offer_components()
    try:
        given = [_read(override) for override in overrides]
        kinds = [_kind(override) for override in given]
        components, values, choices = ([o for o, kind in zip(given, kinds, strict=True) if kind == one] for one in QUICK_KINDS)
        if not set(kinds) <= set(QUICK_KINDS) or len({o.key_or_group for o in components}) < len(components):
            return None
        config = copy.deepcopy(_chosen(tuple(o.input_line or "" for o in choices)))
        for override in components:
            config[override.key_or_group].name = override.value()
        # The rules by which Hydra sets values: an internal function, called in this one place.
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except (*HYDRA_ERRORS, InputError):
        return None
    return config


def to_experiment(config: DictConfig) -> ExperimentConfig:
    """Plain, checked dataclasses from a composed configuration."""
    try:
        values = cast(dict[str, Any], OmegaConf.to_container(without_hydra(config) if "hydra" in config else config, resolve=True))
    except OmegaConfBaseException as error:
        raise InputError(one_line(error)) from error
    values.pop("also", None)
    for field in fields(ExperimentConfig):
        _check_names(field.name, values.get(field.name))
    return parse_config(values)


def without_hydra(config: DictConfig) -> DictConfig:
    """The configuration of a cell alone."""
    return OmegaConf.masked_copy(config, top_level(config))


def top_level(config: DictConfig) -> list[str]:
    """Keys of the configuration of a cell."""
    return [str(key) for key in config if key != "hydra"]


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra's grammar reads them (call within `hydra_session`); raises `InputError` for one that it cannot read."""
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


def one_line(error: Exception) -> str:
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


@lru_cache(4_096)
def _read(override: str) -> Override:
    return OverridesParser.create().parse_overrides([override])[0]


@lru_cache(256)
def _chosen(choices: tuple[str, ...]) -> DictConfig:
    """What choices of groups make of the default configuration."""
    with hydra_session():
        config = without_hydra(compose_config(choices))
    OmegaConf.set_struct(config, True)
    return config


def _kind(override: Override) -> str:
    """One of `QUICK_KINDS`: a component (nothing but its name depends on it), a value, or a choice; empty for anything unusual."""
    text, key = override.input_line or "", override.key_or_group
    if override.is_sweep_override():
        return ""
    if _PLAIN_LAUNCH.fullmatch(text):
        return "choice"
    if key in GROUPS:
        return ("component" if _is_component(key, override.value()) else "choice") if _PLAIN_CHOICE.fullmatch(text) else ""
    return "value" if _PLAIN_VALUE.fullmatch(text) and not is_launch(key) else ""


def _is_component(group: str, name: object) -> bool:
    return group in COMPONENT_GROUPS and f"{name}.yaml" in ConfigStore.instance().repo[group]


def _offer_components() -> None:
    """Make the components of the registry members of their groups."""
    store = ConfigStore.instance()
    for group, table in (("toy", registry.toys), ("estimator", registry.estimators)):
        offered = store.repo.get(group, {})
        for name in table.names():
            if f"{name}.yaml" not in offered:
                store.store(group=group, name=name, node={"name": name, "params": {}}, provider="touchneedle")


def _check_names(group: str, values: object) -> None:
    """Raise `InputError` for an option that a group does not have (nested dataclasses would ignore it)."""
    known = option_names(group)
    if known and isinstance(values, Mapping):
        unknown = [name for name in values if name not in known]
        if unknown:
            raise InputError(f"{group}: unknown option {unknown[0]!r}; known options: {', '.join(known)}")


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
