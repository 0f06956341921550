"""Bundles: a trained estimator as a folder that another machine can load and trust.

``manifest.json`` (schema version, estimator, its options, the toy's spec, rates, hash of the weights) and
``weights.safetensors``. Nothing is unpickled or executed: the estimator is rebuilt through the registry.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.rates import RateModel
from touchneedle.toys.base import ToySpec

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"


class EstimatorEntry(BaseModel):
    """Which estimator, of which version, with which options."""

    model_config = ConfigDict(extra="forbid")

    name: str
    version: str
    dtype: Literal["float32", "float64"]
    params: dict[str, Any] = Field(default_factory=dict)


class Manifest(BaseModel):
    """What a bundle says of itself."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    schema_version: int = SCHEMA_VERSION
    estimator: EstimatorEntry
    toy: ToySpec
    rates: RateModel | None = None
    weights_sha256: str


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: the estimator, ready to evaluate, and what it came with."""

    estimator: Estimator
    manifest: Manifest

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood of real events, in float64, with rates where the bundle has them."""
        rates = self.manifest.rates
        return Likelihood(self.estimator.double(), None if rates is None else rates.rates)


def save_bundle(folder: str | Path, estimator: Estimator, rates: RateModel | None = None) -> Path:
    """Write a trained estimator to a new folder, whole or not at all.

    Raises `InputError` if the folder exists, cannot be written, or the estimator needs the toy (a control).
    """
    folder = Path(folder)
    if estimator.needs_truth:
        raise InputError(f"bundle: expected a learned estimator; {type(estimator).__name__} is a control that needs the toy itself")
    if folder.exists() or folder.is_symlink():
        raise InputError(f"bundle {folder}: expected a folder that does not exist yet; remove it or choose another")
    weights = save({name: value.detach().cpu().clone().contiguous() for name, value in estimator.state_dict().items()})
    manifest = _describe(estimator, rates, hashlib.sha256(weights).hexdigest())
    _write_folder(folder, {MANIFEST: (manifest.model_dump_json(indent=1) + "\n").encode(), WEIGHTS: weights})
    return folder


def load_bundle(path: str | Path) -> Bundle:
    """Read and verify a bundle, and rebuild its estimator.

    Raises `InputError` for a missing, corrupt or altered bundle, another schema or estimator version, and for
    links (a bundle holds plain files only).
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    weights = _read_file(folder, WEIGHTS)
    found = hashlib.sha256(weights).hexdigest()
    if found != manifest.weights_sha256:
        raise InputError(f"bundle {folder}: expected weights with sha256 {manifest.weights_sha256[:12]}; got {found[:12]}; copy it again")
    return Bundle(_rebuild(folder, manifest, weights), manifest)


def _describe(estimator: Estimator, rates: RateModel | None, sha256: str) -> Manifest:
    entry = EstimatorEntry(
        name=registered_name(estimator),
        version=estimator.version,
        dtype="float64" if estimator.dtype == torch.float64 else "float32",
        params=asdict(estimator.config),
    )
    return Manifest(estimator=entry, toy=estimator.spec, rates=rates, weights_sha256=sha256)


def registered_name(estimator: Estimator) -> str:
    """The registry name of an estimator's class; raises `InputError` if it has none."""
    target = f"{type(estimator).__module__}:{type(estimator).__qualname__}"
    for entry in registry.estimators.entries().values():
        if entry.target == target:
            return entry.name
    raise InputError(f"bundle: expected a registered estimator; {target} is not; register it with @register_estimator or an entry point")


def _rebuild(folder: Path, manifest: Manifest, weights: bytes) -> Estimator:
    entry = manifest.estimator
    estimator = build_estimator(entry.name, manifest.toy, **entry.params)
    if estimator.version != entry.version:
        raise InputError(
            f"bundle {folder}: expected {entry.name} version {entry.version}; version {estimator.version} is installed; "
            "install the other or train again"
        )
    estimator = estimator.to(torch.float64 if entry.dtype == "float64" else torch.float32)
    try:
        estimator.load_tensors(load(weights))
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise InputError(f"bundle {folder}: its weights do not fit {entry.name}: {str(error).splitlines()[0]}") from error
    return estimator.eval()


def _read_manifest(folder: Path) -> Manifest:
    if not folder.is_dir():
        raise InputError(f"bundle {folder}: expected a folder with {MANIFEST} and {WEIGHTS}; there is none")
    try:
        manifest = Manifest.model_validate_json(_read_file(folder, MANIFEST))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(f"bundle {folder}: {MANIFEST} is corrupt ({where}: {first['msg']}); save it again") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise InputError(f"bundle {folder}: expected schema version {SCHEMA_VERSION}; got {manifest.schema_version}; save it again")
    return manifest


def _read_file(folder: Path, name: str) -> bytes:
    path = folder / name
    if path.is_symlink():
        raise InputError(f"bundle {folder}: expected a plain file {name}; got a link")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"bundle {folder}: cannot read {name}: {error.strerror or error}") from error


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(f"cannot write bundle {folder}: {error.strerror or error}; choose a writable folder with free space") from error
