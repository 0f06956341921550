"""The command line that repeats a run, from the configuration in its record."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from touchneedle.benchmark.config import BudgetConfig, EnsembleConfig, EvaluationConfig, OptimizerConfig, TrainerConfig, TuningConfig
from touchneedle.benchmark.records import Record
from touchneedle.reports.rows import section

_GROUPS: dict[str, dict[str, Any]] = {
    "budget": asdict(BudgetConfig()),
    "evaluation": asdict(EvaluationConfig()),
    "trainer": asdict(TrainerConfig()),
    "optimizer": asdict(OptimizerConfig()),
    "ensemble": asdict(EnsembleConfig()),
    "tuning": asdict(TuningConfig()),
}
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]*")


def repeat_command(record: Record) -> str:
    """``touchneedle run toy=... estimator=... ...``: what the record's configuration says, shell-quoted.

    A group under its default name lists the fields that differ from the defaults; a group under another
    name lists all of its fields, so that the command stays exact if that preset changes.
    """
    words = ["touchneedle", "run", *_words(record)]
    return " ".join(shlex.quote(word) for word in words)


def _words(record: Record) -> Iterator[str]:
    config = record.config
    plugins = config.get("plugins")
    for plugin in plugins if isinstance(plugins, list) else []:
        yield from ("--plugin", str(plugin))
    for name, info in (("toy", record.toy), ("estimator", record.estimator)):
        component = section(config, name)
        yield f"{name}={literal(component.get('name', info.name))}"
        yield from _overrides(name, component.get("params", info.params))
    for name, defaults in _GROUPS.items():
        yield from _group_words(name, section(config, name), defaults)
    yield f"design={literal(config.get('design', record.design))}"
    yield f"seed={literal(config.get('seed', record.seed))}"
    if "results" in config:
        yield f"results={literal(config['results'])}"


def _group_words(name: str, group: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    if not group:
        return
    preset = group.get("name", defaults["name"])
    yield f"{name}={literal(preset)}"
    for field, value in group.items():
        same = preset == defaults["name"] and _plain(value) == _plain(defaults.get(field))
        if field != "name" and not same:
            yield f"{name}.{field}={literal(value)}"


def _overrides(name: str, params: Any) -> Iterator[str]:
    if isinstance(params, Mapping):
        for field, value in sorted(params.items()):
            yield f"{name}.{field}={literal(value)}"


def literal(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ",".join(literal(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return _word(value)
    return repr(value)


def _word(text: str) -> str:
    reserved = text.lower() in ("true", "false", "null", "nan", "inf") or re.fullmatch(r"[0-9.+_e-]*", text, re.I) is not None
    return text if _PLAIN.fullmatch(text) and not reserved else json.dumps(text, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
