"""Records: one JSON file per run, the only thing that reports read.

``<results>/<run_id>.json`` is written last and atomically; it may be gzipped (``<run_id>.json.gz``) for its size, a
sixth. Curves and pseudo-experiments lie beside it in ``<results>/<run_id>/`` (``curves.parquet``, ``fits.parquet``), weights in
``<results>/fits/<fit_id>/``.
"""

from __future__ import annotations

import gzip
import os
import uuid
import zlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from touchneedle.conf.errors import InputError

SCHEMA_VERSION = 1
Status = Literal["ok", "failed", "skipped"]
Direction = Literal["lower", "higher", "target"]

# The published board is trained and tested with these base seeds; all others are for development. Events follow from the seed, so
# that nothing which was chosen by looking at development scores has seen the board's test events. They are no secret: it is a
# fence against accidents, not a lock.
BOARD_SEEDS = range(1_000, 2_000)

PACKED = ".gz"
# More than any record has: a small file must not unpack into all of memory.
MAX_RECORD = 64 * 2**20

# Keys of ``Metric.at`` that say where a number holds; all others are notes on how it was obtained. Two rows of a
# record never agree in family, name and place.
PLACE = (
    "point", "to_point", "where", "theta", "pair", "parameter", "kind", "feature", "function", "slices", "classifier",
    "n_events", "n_set", "level", "network",
)  # fmt: skip


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Null(_Model):
    """Truth-vs-truth level of a sample metric at the same number of events."""

    value: float
    stderr: float | None = None


class Metric(_Model):
    """One number with its error.

    Attributes:
        family: density, calibration, closure, fit, gates or cost.
        at: where it holds (`PLACE`: parameter, feature, point (index of the theta point), level, n_events, ...), and
            notes: ``reason`` says why ``value`` is missing (n/a), ``target`` what it should be, ``p_value``, ...
        stderr: one standard error; None only where ``value`` is None or a plain count.
        n: what the number was averaged over (events, pseudo-experiments).
        direction: whether lower or higher is better, or a ``target`` given in ``at["target"]``.
        null: truth-vs-truth level, for sample metrics.
    """

    family: str
    name: str
    at: dict[str, str | float | int | bool | None] = Field(default_factory=dict)
    value: float | None
    stderr: float | None = None
    n: int | None = None
    direction: Direction = "lower"
    null: Null | None = None

    @property
    def place(self) -> dict[str, str | float | int | bool | None]:
        """The part of ``at`` that says where."""
        at = self.at
        return {key: at[key] for key in PLACE if at.get(key) is not None}


class ToyInfo(_Model):
    """Which toy: name, version (content hash for files), options."""

    name: str
    version: str = ""
    params: dict[str, Any] = Field(default_factory=dict)


class EstimatorInfo(_Model):
    """Which estimator: name, version, the distribution or file that it came from, options."""

    name: str
    version: str = ""
    distribution: str = ""
    params: dict[str, Any] = Field(default_factory=dict)


class Budget(_Model):
    """Number of simulated training events, validation included."""

    name: str
    n_train: int


class Trial(_Model):
    """One configuration that a search tried.

    Attributes:
        options: those it changed.
        fit_id: where its weights are.
        validation_loss: None if not finite.
        monitors: closure and calibration on the validation events, where the search looked at them.
        feasible: no monitor is off by more than the search allows.
    """

    options: dict[str, Any]
    fit_id: str
    validation_loss: float | None
    seconds: float
    chosen: bool
    monitors: list[Metric] = Field(default_factory=list)
    feasible: bool = True


class Record(_Model):
    """The outcome of one run. ``config`` repeats it; ``reason`` says why it failed or was skipped."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    fit_id: str
    status: Status
    reason: str = ""
    track: Literal["default", "tuned", "open"] = "default"
    toy: ToyInfo
    estimator: EstimatorInfo
    budget: Budget
    design: str
    seed: int
    seeds: dict[str, int] = Field(default_factory=dict)
    trials: list[Trial] = Field(default_factory=list)
    metrics: list[Metric] = Field(default_factory=list)
    cost: dict[str, float | int | str | None] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    traceback: str = ""


def record_path(results: str | Path, run_id: str) -> Path:
    """Where the record of a run lies: plain, unless only a gzipped one is there."""
    plain = Path(results) / f"{run_id}.json"
    packed = plain.with_name(plain.name + PACKED)
    return packed if packed.is_file() and not plain.is_file() else plain


def run_id_of(path: Path) -> str:
    """The run whose record lies at ``path``."""
    return path.name.removesuffix(PACKED).removesuffix(".json")


def write_record(results: str | Path, record: Record) -> Path:
    """Write a record atomically (temporary file, then rename), in place of a gzipped one."""
    path = Path(results) / f"{record.run_id}.json"
    write_atomically(path, record.model_dump_json(indent=1) + "\n")
    _discard(path.with_name(path.name + PACKED))
    return path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing; raises `InputError` for an unwritable folder or a full disk."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _discard(temporary)
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose a writable folder with free space") from error


def read_record(path: str | Path) -> Record:
    """Read one record; raises `InputError` naming the file if it is corrupt or of another schema."""
    return parse_record(path, record_bytes(path))


def record_bytes(path: str | Path) -> bytes:
    """The JSON of a record file, unpacked; raises `InputError` naming the file if it cannot be read."""
    file = Path(path)
    try:
        with gzip.open(file) if file.suffix == PACKED else file.open("rb") as stream:
            content = stream.read(MAX_RECORD + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"record {path} is corrupt ({error}); delete it and run again") from error
    except OSError as error:
        raise InputError(f"record {path}: {error.strerror or error}") from error
    if len(content) > MAX_RECORD:
        raise InputError(f"record {path} is corrupt (more than {MAX_RECORD >> 20} MB); delete it and run again")
    return content


def parse_record(name: str | Path, content: bytes) -> Record:
    """The record in the bytes of a file; raises `InputError` with its name if it is corrupt or of another schema."""
    try:
        record = Record.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(f"record {name} is corrupt ({where}: {first['msg']}); delete it and run again") from error
    if record.schema_version != SCHEMA_VERSION:
        raise InputError(f"record {name}: expected schema version {SCHEMA_VERSION}; got {record.schema_version}")
    return record


def record_files(path: str | Path) -> list[Path]:
    """The record files of a results folder, one a run, sorted; raises `InputError` if it is not a folder."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"results {folder}: expected a folder of records; there is none (run a sweep first)")
    # The plain one of two comes first, and counts.
    found = sorted(file for pattern in ("*.json", f"*.json{PACKED}") for file in folder.glob(pattern) if not file.name.startswith("."))
    return list({run_id_of(file): file for file in reversed(found)}.values())[::-1]


def read_records(path: str | Path) -> list[Record]:
    """All records of a results folder, sorted by file name."""
    return [read_record(file) for file in record_files(path)]


def _discard(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return
