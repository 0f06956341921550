"""Identities of runs: hashes of everything that affects training (fit_id) and scoring (run_id)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from touchneedle.benchmark.config import ExperimentConfig, TuningConfig
from touchneedle.benchmark.store import hash_identity
from touchneedle.benchmark.training_source import data_identity
from touchneedle.conf import registry
from touchneedle.toys.base import build_toy

# Raised when the same configuration would train (or score) to other numbers.
TRAINING_VERSION = 1
METRICS_VERSION = 6
NOT_IN_IDENTITY = ("name", "accelerator", "progress", "threads")
# Options that came later: without them identities are those from before they could be chosen. Several devices give the
# result of one within rounding only, or within other draws of the loss; so does compiled code, and lower precision more so.
LEFT_OUT_AT = {"start": "", "devices": 1, "nodes": 1, "compile": False, "precision": "32", "event_id": ""}


def identify(config: ExperimentConfig) -> tuple[str, str]:
    """``(fit_id, run_id)`` of a configuration; raises `InputError` for wrong names, options or input files."""
    toy = build_toy(config.toy.name, **config.toy.params)
    estimator_class: Any = registry.estimators.load(config.estimator.name)
    options = registry.build_options(estimator_class.Config, config.estimator.params, f"estimator {config.estimator.name}")
    toy_class: Any = type(toy)
    training = {
        "version": TRAINING_VERSION,
        "toy": [config.toy.name, toy.spec.version, _toy_options(toy_class, config)],
        "estimator": [config.estimator.name, estimator_class.version, _origin(config), asdict(options)],
        "budget": None if config.data.training else config.budget.n_train,
        "design": config.design,
        "trainer": _identity(asdict(config.trainer)),
        "optimizer": asdict(config.optimizer),
        "ensemble": _ensemble(config),
        "seed": config.seed,
    }
    if config.tuning.trials:
        training["tuning"] = _search(config.tuning)
    given = data_identity(config, toy)
    if given:
        training["data"] = given
    fit_id = hash_identity(training)
    return fit_id, hash_identity({"fit": fit_id, "evaluation": _identity(asdict(config.evaluation)), "metrics": METRICS_VERSION})


def _ensemble(config: ExperimentConfig) -> Any:
    """One network is one network, whatever the other options say."""
    ensemble = config.ensemble
    return 1 if ensemble.members == 1 else [ensemble.members, ensemble.resample, ensemble.combine]


def _search(tuning: TuningConfig) -> list[Any]:
    """A random search by the loss alone keeps the identity from before there was anything else."""
    values = asdict(tuning)
    plain = tuning.sampler == "random" and not tuning.monitor
    return [values[name] for name in ("trials", "space", *(() if plain else ("sampler", "monitor", "max_z")))]


def _origin(config: ExperimentConfig) -> list[str]:
    """Distributions of the toy and the estimator: a new plugin version is a new fit."""
    return [registry.toys.entry(config.toy.name).distribution, registry.estimators.entry(config.estimator.name).distribution]


def _toy_options(toy_class: Any, config: ExperimentConfig) -> dict[str, Any]:
    options = asdict(registry.build_options(toy_class.Config, config.toy.params, f"toy {config.toy.name}"))
    # Where a file lies does not matter: its content hash is in the toy's version.
    return {name: value for name, value in options.items() if name != "path" and (name, value) not in LEFT_OUT_AT.items()}


def _identity(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in NOT_IN_IDENTITY and (name, value) not in LEFT_OUT_AT.items()}
