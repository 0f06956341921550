"""Bundles: a trained estimator as a folder that another machine can load and trust.

``manifest.json`` (what it is), ``weights.safetensors``, ``parity.json`` (answers that must come out again), a README,
and graphs for use elsewhere. Nothing is unpickled or executed: the estimator is rebuilt through the registry from
options that its own dataclass checks. The one exception is ``load_bundle(path, graph=True)``, for those who ask for it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.inference.averaged import AveragedLikelihood
from touchneedle.inference.bounded import SMALLEST, BoundedAllocation
from touchneedle.inference.bundle_readme import describe_bundle
from touchneedle.inference.description import describe_estimator
from touchneedle.inference.exported import ExportFailed, export_pt2, load_pt2
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.manifest import GRAPH, MANIFEST, PARITY, README, WEIGHTS, EstimatorEntry, Manifest, Source, read_manifest
from touchneedle.inference.onnx import export_onnx
from touchneedle.inference.parity import Parity, make_parity, read_parity
from touchneedle.inference.plain_folder import list_folder, read_plain, write_folder
from touchneedle.inference.rates import RateModel
from touchneedle.toys.base import EventSource

Format = Literal["pt2", "onnx"]
EXPORTERS: dict[Format, Callable[[Estimator, Parity], dict[str, bytes]]] = {"pt2": export_pt2, "onnx": export_onnx}
# A build makes masks and first weights beside the weights themselves.
_TIMES_THE_WEIGHTS, _SPARE_NUMBERS = 32, 10_000_000


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        estimator: in float64, ready to evaluate and to fit.
        graph: the exported graph (x, theta) -> log_ratio, where it was asked for.
    """

    estimator: Estimator
    manifest: Manifest
    graph: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def likelihood(self) -> Likelihood | AveragedLikelihood:
        """The likelihood of real events, with rates where the bundle has them; members that are averaged are so as a whole."""
        rates = None if self.manifest.rates is None else self.manifest.rates.rates
        ensemble, estimator = self.manifest.estimator.ensemble, cast(Any, self.estimator)
        if ensemble is not None and ensemble.combine == "average":
            return AveragedLikelihood(tuple(Likelihood(member, rates) for member in estimator.estimators))
        return Likelihood(self.estimator, rates)


def save_bundle(
    folder: str | Path,
    estimator: Estimator,
    events: EventSource,
    rates: RateModel | None = None,
    source: Source | None = None,
    formats: tuple[Format, ...] = (),
) -> Path:
    """Write a trained estimator to a new folder, whole or not at all.

    Args:
        folder: where; it must not exist yet.
        estimator: what was trained, or an ensemble of it.
        events: its training events, of which the manifest keeps the range and hash, and parity a few probes.
        rates: expected events per process; None for a shape fit.
        source: the benchmark run behind it.
        formats: graphs to export as well; one that does not export is left out, with the reason in the manifest.

    Raises `InputError` if the folder exists or cannot be written, or the estimator needs the toy (a control).
    """
    if estimator.needs_truth:
        raise InputError(f"bundle: expected a learned estimator; {type(estimator).__name__} is a control that needs the toy itself")
    ready = copy.deepcopy(estimator).cpu().double().eval()
    parity = make_parity(ready, events)
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in estimator.state_dict().items()}
    files = {WEIGHTS: save(tensors), PARITY: (parity.model_dump_json(indent=1) + "\n").encode()}
    exports: dict[str, str] = {}
    for each in formats:
        graphs, exports[each] = _export(each, ready, parity)
        files |= graphs
    manifest = describe_estimator(estimator, events, rates, source, exports)
    files[README] = describe_bundle(manifest).encode()
    manifest.files.update({name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())})
    write_folder(Path(folder), {MANIFEST: manifest.to_bytes(), **files})
    return Path(folder)


def load_bundle(path: str | Path, *, graph: bool = False) -> Bundle:
    """Read and verify a bundle, and rebuild its estimator.

    Args:
        path: the folder.
        graph: also load the exported graph. ``torch.export.load`` unpickles parts of the file and evaluates
            expressions in it: ask for it only if you trust who made the bundle.

    Raises `InputError` for a missing, corrupt or altered bundle, files that it does not list, links, another schema or
    estimator version, an estimator that is not installed, and answers that differ from those at export.
    """
    folder = Path(path)
    names = list_folder(folder)
    manifest = read_manifest(folder, read_plain(folder, MANIFEST))
    _check_listing(folder, names - {MANIFEST}, set(manifest.files))
    files = {name: _verified(folder, name, expected) for name, expected in manifest.files.items()}
    parity = read_parity(folder, files[PARITY], manifest.toy)
    estimator = _rebuild(folder, manifest, files[WEIGHTS])
    _check_parity(folder, parity, estimator.log_ratio)
    if not graph:
        return Bundle(estimator, manifest)
    if GRAPH not in files:
        raise InputError(f"bundle {folder}: it has no {GRAPH} ({manifest.exports.get('pt2', 'not asked for')})")
    loaded = load_pt2(folder / GRAPH, files[GRAPH])
    _check_parity(folder / GRAPH, parity, loaded)
    return Bundle(estimator, manifest, loaded)


def _export(name: Format, ready: Estimator, parity: Parity) -> tuple[dict[str, bytes], str]:
    """The files of one format, and what the manifest says of it."""
    try:
        files = EXPORTERS[name](ready, parity)
    except ExportFailed as error:
        return {}, f"not exported: {error}"
    return files, ", ".join(files)


def _check_listing(folder: Path, found: set[str], listed: set[str]) -> None:
    if extra := sorted(found - listed):
        raise InputError(f"bundle {folder}: expected the files of its manifest only; got {extra[0][:80]!r} as well; remove it")
    if missing := sorted(listed - found):
        raise InputError(f"bundle {folder}: cannot read {missing[0]}: it is listed in the manifest, but not there; copy the bundle again")


def _verified(folder: Path, name: str, expected: str) -> bytes:
    content = read_plain(folder, name)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise InputError(f"bundle {folder}: expected {name} with sha256 {expected[:12]}; got {found[:12]}; copy it again")
    return content


def _rebuild(folder: Path, manifest: Manifest, weights: bytes) -> Estimator:
    entry = manifest.estimator
    estimator_class: Any = _load_class(folder, entry)
    if estimator_class.version != entry.version:
        raise InputError(
            f"bundle {folder}: expected {entry.name} version {entry.version}; version {estimator_class.version} is installed; "
            "install the other or train again"
        )
    try:
        tensors = load(weights)
        with BoundedAllocation(_allowed(tensors), f"bundle {folder}: {entry.name}"):
            estimator = _build(manifest, tensors)
        estimator = estimator.to(torch.float64 if entry.dtype == "float64" else torch.float32)
        estimator.load_tensors(tensors)
        return estimator.double().eval()
    except InputError:
        raise
    except SafetensorError as error:
        raise InputError(f"bundle {folder}: {WEIGHTS} is corrupt: {_first_line(error)}; save it again") from error
    except Exception as error:
        # What an estimator says of nonsense in its options or weights is its own affair.
        raise InputError(f"bundle {folder}: its weights do not fit {entry.name}: {_first_line(error)}") from error


def _allowed(tensors: dict[str, Tensor]) -> int:
    return _TIMES_THE_WEIGHTS * sum(max(SMALLEST, tensor.numel()) for tensor in tensors.values()) + _SPARE_NUMBERS


def _load_class(folder: Path, entry: EstimatorEntry) -> type:
    ours = entry.distribution == registry.BUILT_IN
    if not ours and entry.name not in registry.estimators.names():
        raise InputError(
            f"bundle {folder}: its estimator {entry.name!r} comes from {entry.distribution[:80]}, which is not installed here; "
            "install it, or import the file that registers it"
        )
    try:
        return registry.estimators.load(entry.name)
    except InputError as error:
        missing = error.__cause__
        if not isinstance(missing, ModuleNotFoundError):
            raise
        how = "pip install 'touchneedle[bench]'" if ours else f"pip install {missing.name}"
        raise InputError(f"bundle {folder}: its estimator {entry.name!r} needs the package {missing.name}; {how}") from error


def _build(manifest: Manifest, tensors: dict[str, Tensor]) -> Estimator:
    entry = manifest.estimator
    # Layers draw first weights from the global state: fork it, so that nobody else notices.
    with torch.random.fork_rng(devices=[]):
        if entry.ensemble is None:
            return build_estimator(entry.name, manifest.toy, **entry.params)
        if entry.ensemble.members > len(tensors):
            raise InputError(f"ensemble: expected weights of {entry.ensemble.members} members; got {len(tensors)} tensors")
        ensemble_class: Any = registry.ensembles.load(entry.ensemble.combine)
        return ensemble_class([build_estimator(entry.name, manifest.toy, **entry.params) for _ in range(entry.ensemble.members)])


def _check_parity(folder: Path, parity: Parity, answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    try:
        parity.check(f"bundle {folder}", answer)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"bundle {folder}: it gives no answers: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
