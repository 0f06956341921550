"""Overrides: the ``key=value`` words of the command line, as text; no Hydra needed to read this file.

``toy.NAME=value`` and ``estimator.NAME=value`` are options of the chosen component. They live under
``params`` in the composed configuration, so they are rewritten before Hydra sees them, and back
before people do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable

from touchneedle.conf import registry

COMPONENT_GROUPS = ("toy", "estimator")
GROUPS = (
    "toy", "estimator", "budget", "design", "evaluation", "trainer", "optimizer", "ensemble", "tuning", "tracking", "launcher", "sweep",
)  # fmt: skip
PLAIN_KEYS = ("seed", "results", "data.memory_limit", "data.workers", "data.training")
# These say how to launch, not what to run.
LAUNCH_KEYS = ("launcher", "hydra")

_OPTION = re.compile(r"^(?:\+{0,2})(toy|estimator)\.(?:params\.)?([^=]+)=", re.DOTALL)
_REWRITTEN = re.compile(r"^\+\+(toy|estimator)\.params\.")


def to_hydra(override: str) -> str:
    """The override as Hydra reads it.

    >>> to_hydra("toy.shift=2"), to_hydra("launcher.n_jobs=2"), to_hydra("seed=1")
    ('++toy.params.shift=2', 'hydra.launcher.n_jobs=2', 'seed=1')
    """
    if override.startswith("launcher."):
        return f"hydra.{override}"
    return _OPTION.sub(r"++\1.params.\2=", override)


def from_hydra(override: str) -> str:
    """The inverse of `to_hydra`, for job lists and messages.

    >>> from_hydra("++toy.params.shift=2")
    'toy.shift=2'
    """
    return _REWRITTEN.sub(r"\1.", override.replace("hydra.launcher.", "launcher.", 1))


def key_of(override: str) -> str:
    """The key of an override, without the signs that add or delete."""
    return override.partition("=")[0].lstrip("+~")


def is_launch(override: str) -> bool:
    """Whether an override says how to launch (``launcher=joblib``, ``hydra.launcher.n_jobs=2``)."""
    return re.split(r"[./]", key_of(override))[0] in LAUNCH_KEYS


def last_of_each_key(overrides: Iterable[str]) -> list[str]:
    """Overrides without those that a later one replaces, in order of first appearance."""
    return list({key_of(override): override for override in overrides}.values())


def members(group: str) -> list[str]:
    """Names that a group offers: YAML files, and registry names for toys and estimators. Imports nothing heavy."""
    names = {_stem(file.name) for file in _files(group)}
    if group in COMPONENT_GROUPS:
        names |= set((registry.toys if group == "toy" else registry.estimators).names())
    return sorted(names)


def describe_preset(group: str, name: str) -> str:
    """The first comment of a preset's YAML file that is not a Hydra header; empty if it has none."""
    for file in _files(group):
        if _stem(file.name) == name:
            lines = file.read_text(encoding="utf-8").splitlines()
            comments = [line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @package")]
            return comments[0] if comments else ""
    return ""


def complete(text: str) -> list[str]:
    """What may follow ``text`` on the command line: keys, then members of a group, comma by comma."""
    key, equals, value = text.partition("=")
    if not equals:
        return [f"{name}=" for name in (*GROUPS, *PLAIN_KEYS) if name.startswith(key)]
    if key not in GROUPS:
        return []
    chosen, comma, last = value.rpartition(",")
    taken = chosen.split(",")
    return [f"{key}={chosen}{comma}{name}" for name in members(key) if name.startswith(last) and name not in taken]


def complete_words(words: Sequence[str], incomplete: str) -> list[str]:
    """Completion of ``toy=mas<TAB>``; bash hands over ``toy``, ``=`` and ``mas`` as words, or ``toy`` and nothing."""
    split = list(words[-1:]) == ["="]
    key = words[-2] if split and len(words) > 1 else words[-1] if words else ""
    if split or (key in GROUPS and not incomplete):
        return [found.partition("=")[2] for found in complete(f"{key}={incomplete}")]
    return complete(incomplete)


def _files(group: str) -> list[Traversable]:
    folder = files("touchneedle.conf").joinpath(group)
    return [file for file in folder.iterdir() if file.name.endswith(".yaml")] if folder.is_dir() else []


def _stem(name: str) -> str:
    return name.removesuffix(".yaml")
