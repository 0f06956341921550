"""The results folder: identities of runs, locks, and the weights and tables that lie beside records.

A ``fit_id`` is the hash of everything that affects training; a ``run_id`` adds the evaluation. Two
processes on one folder never train the same cell: each holds a lock that the operating system frees
when the process dies, however it dies. No time of a file and no name of a host decides anything.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, SoftFileLock, Timeout
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from touchneedle.benchmark.metrics.scores import Table
from touchneedle.benchmark.records import write_atomically
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator

IDENTITY_LENGTH = 16
# Curves are for the eye: single precision halves the files, which are kept under version control.
CURVE_COLUMNS = {
    "curve": pa.string(),
    "series": pa.string(),
    "x": pa.float32(),
    "y": pa.float32(),
    "low": pa.float32(),
    "high": pa.float32(),
}


class CorruptFit(UserWarning):
    """Weights that cannot be read, as a machine leaves them that vanished while it wrote; the cell is trained again."""


def hash_identity(payload: dict[str, Any]) -> str:
    """Short hash of a JSON-ready mapping, independent of key order.

    >>> hash_identity({"seed": 0, "design": "prior"}) == hash_identity({"design": "prior", "seed": 0})
    True
    """
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:IDENTITY_LENGTH]


@contextmanager
def hold_cell(results: Path, fit_id: str, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a cell; yields False at once if another process has it and ``wait`` is false.

    Raises `InputError` if the results folder cannot be written, or is on a file system without locks.
    """
    folder = results / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquire(folder / f"{fit_id}.lock", wait)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise InputError(
            f"results {results}: cannot write there ({error.strerror or error}); choose another with results=FOLDER"
        ) from error
    try:
        yield True
    finally:
        lock.release()


def _acquire(path: Path, wait: bool) -> FileLock:
    """The lock of a file, held. Not by its mere existence (`SoftFileLock`): that would outlive a machine that vanished."""
    lock = FileLock(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flock not supported")
        lock.acquire(timeout=-1 if wait else 0)
    if isinstance(lock, SoftFileLock):
        lock.release()
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    return lock


def clear_leftovers(results: Path, run_id: str) -> None:
    """Remove what a killed process left half-written for this cell (call with the lock held)."""
    for file in [*results.glob(f".{run_id}.*.tmp"), *(results / run_id).glob(".*.tmp")]:
        file.unlink(missing_ok=True)


def clear_unfinished_fit(results: Path, fit_id: str) -> None:
    """Remove weights that a killed process left half-written (call with the lock of the cell held)."""
    for folder in (results / "fits").glob(f".{fit_id}.*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def save_fit(results: Path, fit_id: str, estimator: Estimator, log: TrainingLog) -> None:
    """Keep the weights and the training log: the folder appears whole or not at all."""
    final = results / "fits" / fit_id
    temporary = final.with_name(f".{fit_id}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in estimator.state_dict().items()}, temporary / "weights.safetensors")
        (temporary / "training.json").write_text(json.dumps(asdict(log)))
        for file in temporary.iterdir():
            _bring_to_disk(file)
        # Corrupt ones may be there, or ones that a slow file system does not show yet.
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {final}: {reason}; choose a writable folder with free space") from error


def load_fit(results: Path, fit_id: str, estimator: Estimator) -> TrainingLog | None:
    """Restore weights kept by `save_fit`; None if there are none (`CorruptFit` is warned of any that cannot be read)."""
    kept = _read_fit(results / "fits" / fit_id)
    if kept is None:
        return None
    tensors, log = kept
    estimator.load_tensors(tensors)
    return log


def load_weights(results: Path, fit_id: str) -> dict[str, Tensor] | None:
    """The tensors kept by `save_fit`; None if there are none, as in `load_fit`."""
    kept = _read_fit(results / "fits" / fit_id)
    return None if kept is None else kept[0]


def _read_fit(folder: Path) -> tuple[dict[str, Tensor], TrainingLog] | None:
    try:
        log = TypeAdapter(TrainingLog).validate_json((folder / "training.json").read_bytes())
        return load_file(folder / "weights.safetensors"), log
    except FileNotFoundError:
        return None
    except (ValidationError, SafetensorError) as error:
        warnings.warn(f"{folder} is corrupt ({str(error).splitlines()[0]}): training it again", CorruptFit, stacklevel=3)
        return None


def _bring_to_disk(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


def write_table(path: Path, content: Table, schema: dict[str, pa.DataType] | None = None) -> None:
    """Write rows or columns as parquet, atomically."""
    wanted = pa.schema(list(schema.items())) if schema else None
    table = pa.Table.from_pylist(content, schema=wanted) if isinstance(content, list) else pa.table(dict(content), schema=wanted)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())
