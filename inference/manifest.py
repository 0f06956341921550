"""The manifest of a bundle: everything that must be known of a trained estimator before it serves a measurement.

It names every file beside it with its SHA-256, and carries a digest of itself, so that no edit goes unnoticed. (Digests
show accidents and careless edits, not who wrote the bundle: anybody can compute them.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from touchneedle.conf.errors import InputError
from touchneedle.inference.consistency import problems_of_rates, problems_of_toy
from touchneedle.inference.rates import RateModel
from touchneedle.toys.base import ToySpec

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
PARITY = "parity.json"
README = "README.md"
GRAPH = "log_ratio.pt2"
ONNX = "log_ratio.onnx"
ONNX_GRADIENT = "log_ratio_gradient.onnx"
REQUIRED = (WEIGHTS, PARITY, README)
OPTIONAL = (GRAPH, ONNX, ONNX_GRADIENT)

Family = Literal["likelihood", "posterior", "ratio", "signed ratio"]
Number = str | float | int | bool | None
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """Base of the manifest's parts: unknown fields are refused, infinities survive as JSON."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class EnsembleEntry(Part):
    """How members were combined, and how many there are."""

    combine: str
    members: Annotated[int, Field(ge=1)]


class EstimatorEntry(Part):
    """Which estimator, of which version, from which distribution, with which options; ``dtype`` is that of its weights."""

    name: str
    version: str
    distribution: str
    dtype: Literal["float32", "float64"]
    params: dict[str, Any] = Field(default_factory=dict)
    ensemble: EnsembleEntry | None = None


class Training(Part):
    """The events that the estimator was trained on.

    Attributes:
        sha256: of (x, theta, weight) in float64; of streamed events chunk by chunk.
        range: lowest and highest value of each parameter.
        feature_range: the same of each feature.
    """

    events: Annotated[int, Field(ge=1)]
    sha256: Sha256
    range: dict[str, tuple[float, float]]
    feature_range: dict[str, tuple[float, float]]


class Score(Part):
    """One number of the benchmark at export, with its standard error."""

    family: str
    name: str
    at: dict[str, Number] = Field(default_factory=dict)
    value: float | None
    stderr: float | None = None


class Source(Part):
    """The run that the bundle was made from, and what the benchmark found."""

    run_id: str
    fit_id: str
    toy_params: dict[str, Any]
    n_train: int
    design: str
    seed: int
    track: str
    gates: dict[str, str] = Field(default_factory=dict)
    scores: tuple[Score, ...] = ()

    @property
    def failed(self) -> list[str]:
        """Gates that the run does not pass."""
        return [name for name, state in self.gates.items() if state == "fail"]


class Manifest(Part):
    """What a bundle says of itself.

    Attributes:
        family: what was learned: a likelihood, a posterior, or a ratio.
        toy: parameters with bounds and constraints, and ordered features with units.
        rates: expected events; None for a shape fit.
        versions: of Python and of the packages that made the bundle.
        exports: for each graph format that was tried, the file, or why there is none.
        files: SHA-256 of every other file.
        digest: SHA-256 of the manifest's own content.
    """

    schema_version: int = SCHEMA_VERSION
    family: Family
    estimator: EstimatorEntry
    toy: ToySpec
    rates: RateModel | None = None
    training: Training
    source: Source | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    exports: dict[str, str] = Field(default_factory=dict)
    files: dict[str, Sha256] = Field(default_factory=dict)
    digest: str = ""

    def to_bytes(self) -> bytes:
        """The file, with the digest of its content."""
        content = json.loads(self.model_dump_json())
        content["digest"] = content_digest(content)
        return (json.dumps(content, indent=1) + "\n").encode()

    def outside_training(self, theta: Any) -> list[str]:
        """What is to be said of each parameter of theta (n, p) that lies outside the training range."""
        found = []
        for column, name in enumerate(self.toy.parameters.names):
            low, high = self.training.range[name]
            values = theta[..., column]
            wrong = values[(values < low) | (values > high)]
            if len(wrong):
                found.append(f"{name} = {wrong.flatten()[0].item():.4g}, trained in [{low:.4g}, {high:.4g}]")
        return found


def content_digest(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content, without its digest, as canonical JSON."""
    text = json.dumps({key: value for key, value in content.items() if key != "digest"}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path, data: bytes) -> Manifest:
    """The manifest in ``data``; raises `InputError` if it is corrupt, altered, of another schema or at odds with itself."""
    content = _parse(folder, data)
    if content.get("schema_version") != SCHEMA_VERSION:
        found = str(content.get("schema_version", "none"))[:20]
        raise InputError(f"bundle {folder}: expected schema version {SCHEMA_VERSION}; got {found}; save it again")
    if content.get("digest") != content_digest(content):
        raise InputError(f"bundle {folder}: {MANIFEST} was altered (its digest is another); copy or save it again")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(f"bundle {folder}: {MANIFEST} is corrupt ({where}: {_one_line(first['msg'])}); save it again") from error
    problem = next(_problems(manifest), "")
    if problem:
        raise InputError(f"bundle {folder}: {MANIFEST}: {problem}; save it again")
    return manifest


def _parse(folder: Path, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"bundle {folder}: {MANIFEST} is corrupt (not JSON: {_one_line(str(error))}); save it again") from error
    if not isinstance(content, dict):
        raise InputError(f"bundle {folder}: {MANIFEST} is corrupt (expected an object; got {type(content).__name__}); save it again")
    return content


def _one_line(text: str) -> str:
    return text.splitlines()[0][:120] if text else "no message"


def _problems(manifest: Manifest) -> Iterator[str]:
    """What contradicts itself or cannot be."""
    yield from problems_of_toy(manifest.toy)
    features = tuple(feature.name for feature in manifest.toy.features)
    training = manifest.training
    for what, names, found in (
        ("range", manifest.toy.parameters.names, training.range),
        ("feature_range", features, training.feature_range),
    ):
        if set(found) != set(names):
            yield f"training.{what}: expected {', '.join(names)}; got {', '.join(found) or 'none'}"
    if manifest.rates is not None:
        yield from problems_of_rates(manifest.rates, manifest.toy)
    for name in REQUIRED:
        if name not in manifest.files:
            yield f"files: expected {name} among them"
    for name in manifest.files:
        if name not in REQUIRED + OPTIONAL:
            yield f"files: expected {', '.join(REQUIRED + OPTIONAL)}; got {name[:80]!r}"
