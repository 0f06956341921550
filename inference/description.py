"""What a bundle's manifest says of a trained estimator, found out from the estimator and its training events."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.conf.registry import Entry, Registry
from touchneedle.estimators.base import Estimator
from touchneedle.inference.manifest import EnsembleEntry, EstimatorEntry, Family, Manifest, Source, Training
from touchneedle.inference.rates import RateModel
from touchneedle.toys.base import EventSource, in_chunks

_PACKAGES = ("touchneedle", "torch", "numpy", "safetensors")


def describe_estimator(
    estimator: Estimator, events: EventSource, rates: RateModel | None, source: Source | None, exports: dict[str, str]
) -> Manifest:
    """The manifest of an estimator, without its files; raises `InputError` if it is not registered."""
    return Manifest(
        family=family_of(estimator),
        estimator=_describe(estimator),
        toy=estimator.spec,
        rates=rates,
        training=_training(estimator, events),
        source=source,
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)},
        },
        exports=exports,
    )


def family_of(estimator: Estimator) -> Family:
    """What was learned, by what the estimator can do beyond its ratio."""
    families: dict[str, Family] = {"signed": "signed ratio", "log_prob": "likelihood", "posterior_log_prob": "posterior"}
    able = members_of(estimator)[0].capabilities
    for capability, family in families.items():
        if capability in able:
            return family
    return "ratio"


def registered_name(estimator: Estimator) -> str:
    """The registry name of an estimator's class; raises `InputError` if it has none."""
    entry = _find(registry.estimators, estimator)
    if entry is None:
        target = f"{type(estimator).__module__}:{type(estimator).__qualname__}"
        raise InputError(
            f"bundle: expected a registered estimator; {target} is not; register it with @register_estimator or an entry point"
        )
    return entry.name


def members_of(estimator: Estimator) -> list[Estimator]:
    """The members of an ensemble, or the one estimator."""
    return list(estimator.members) if _find(registry.ensembles, estimator) else [estimator]  # type: ignore[arg-type]


def _describe(estimator: Estimator) -> EstimatorEntry:
    members = members_of(estimator)
    combination = _find(registry.ensembles, estimator)
    name = registered_name(members[0])
    config: Any = members[0].config
    return EstimatorEntry(
        name=name,
        version=members[0].version,
        distribution=registry.estimators.entry(name).distribution,
        dtype="float64" if estimator.dtype == torch.float64 else "float32",
        params=asdict(config),
        ensemble=None if combination is None else EnsembleEntry(combine=combination.name, members=len(members)),
    )


def _find(table: Registry, estimator: Estimator) -> Entry | None:
    target = f"{type(estimator).__module__}:{type(estimator).__qualname__}"
    return next((entry for entry in table.entries().values() if entry.target == target), None)


def _training(estimator: Estimator, source: EventSource) -> Training:
    digest = hashlib.sha256()
    theta = x = torch.empty(0)
    for events in in_chunks(source):
        for column in (events.x, events.theta, events.weight):
            digest.update(column.double().cpu().numpy().tobytes())
        theta, x = _widened(theta, events.theta), _widened(x, events.x)
    names = [feature.name for feature in estimator.spec.features]
    return Training(
        events=len(source),
        sha256=digest.hexdigest(),
        range=_span(estimator.spec.parameters.names, theta),
        feature_range=_span(names, x),
    )


def _widened(ends: Tensor, values: Tensor) -> Tensor:
    """Lowest and highest of each column (2, k) among earlier ends (2, k), if there are any, and values (n, k)."""
    found = torch.stack([values.amin(0), values.amax(0)])
    return torch.stack([torch.minimum(ends[0], found[0]), torch.maximum(ends[1], found[1])]) if len(ends) else found


def _span(names: Sequence[str], ends: Tensor) -> dict[str, tuple[float, float]]:
    return {name: (low, high) for name, (low, high) in zip(names, ends.T.double().tolist(), strict=True)}


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
