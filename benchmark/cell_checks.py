"""What is wrong with a cell before it runs; apart from running, so that a sweep looks at its cells without importing all of it."""

from __future__ import annotations

from typing import Any

from touchneedle.benchmark.config import ExperimentConfig
from touchneedle.benchmark.ranks import check_ranks
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError


def check_config(config: ExperimentConfig) -> None:
    """Raise `InputError` for an unknown toy, estimator or option, before any job starts."""
    load_plugins(config)
    for table, component in ((registry.toys, config.toy), (registry.estimators, config.estimator)):
        chosen: Any = table.load(component.name)
        registry.build_options(chosen.Config, component.params, f"{table.kind} {component.name}")
    if config.budget.n_train < 2:
        raise InputError(f"budget.n_train: expected at least 2 events; got {config.budget.n_train}")
    check_ranks(config)


def load_plugins(config: ExperimentConfig) -> None:
    """Import the plugin files of a run, in whatever process it runs."""
    for file in config.plugins:
        registry.load_plugin_file(file)
