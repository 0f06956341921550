"""Generated event sets: what a generator hands over chunk by chunk, and how the folder that holds it is read.

``touchneedle data make`` writes such folders: ``chunk-00000.parquet`` and its like, and a ``manifest.json`` that
says how they came about and what their hashes are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from touchneedle.conf.errors import InputError

__all__ = ["Chunk", "CrossSection", "EventGenerator", "Manifest", "read_generated", "read_manifest", "sha256"]

MANIFEST = "manifest.json"
Columns = dict[str, NDArray[Any]]


class CrossSection(BaseModel):
    """A cross-section before selection, in pb, with its standard error."""

    model_config = ConfigDict(frozen=True)

    pb: float
    stderr: float


@dataclass(frozen=True)
class Chunk:
    """What one call of a generator gives.

    Attributes:
        columns: one array per column, all of the length n_selected.
        cross_sections: by process.
    """

    columns: Columns
    cross_sections: Mapping[str, CrossSection]


class EventGenerator(Protocol):
    """A data set that can be generated in chunks. A class that is built from its options, as toys are.

    Attributes:
        Config: dataclass of the options, with real defaults.
        version: raised whenever the same options and seed would give other events.
        packages: distributions that must be installed; their versions are part of the data set's identity.
        extra: extra of Touchneedle that installs them.
        config: the options of this one.
    """

    Config: ClassVar[type]
    version: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    extra: ClassVar[str]
    config: Any

    def __init__(self, config: Any) -> None: ...

    def chunk(self, n: int, seed: np.random.SeedSequence) -> Chunk:
        """``n`` generated events, those that pass the selection; all randomness comes from ``seed``."""
        ...


class Manifest(BaseModel):
    """How a data set came about.

    Attributes:
        key: SHA-256 of all of the following that decides the events.
        files: SHA-256 of every output file by name, in the order of the events.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    generator_version: str
    config: dict[str, Any]
    n: int
    seed: int
    chunk_size: int
    packages: dict[str, str]
    key: str
    n_generated: int
    n_selected: int
    cross_sections: dict[str, CrossSection]
    files: dict[str, str]


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a generated data set; raises `InputError` where there is none or it is not one."""
    file = Path(folder) / MANIFEST
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError(f"data set {folder}: expected a folder written by 'touchneedle data make'; it has no {MANIFEST}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(f"data set {folder}: {MANIFEST} is corrupt ({where}: {first['msg']}); make the data set again") from error


def read_generated(folder: str | Path, name: str) -> tuple[Columns, Manifest]:
    """Columns and manifest of the data set ``name``; every file is held against its hash.

    Raises:
        InputError: no manifest, a data set of another generator, a missing or changed file, no events.
    """
    manifest = read_manifest(folder)
    if manifest.name != name:
        raise InputError(f"data set {folder}: expected events of {name}; it holds {manifest.name}")
    if manifest.n_selected == 0:
        raise InputError(f"data set {folder}: expected events; none of {manifest.n_generated} passed the selection")
    tables = [_read_file(Path(folder) / file, digest) for file, digest in manifest.files.items()]
    table = pa.concat_tables(tables)
    return {column: table.column(column).to_numpy() for column in table.column_names}, manifest


def _read_file(file: Path, digest: str) -> pa.Table:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"data set {file.parent}: {file.name}: {error.strerror or error}; make the data set again") from error
    if sha256(content) != digest:
        raise InputError(f"data set {file.parent}: {file.name} is not what the manifest says; delete it and make the data set again")
    return pq.read_table(pa.BufferReader(content))
