"""Records of other machines: packed into one archive, and merged into a results folder after every file was checked.

An archive is a zip with ``manifest.json``, one ``RUN_ID.json`` per record and its ``RUN_ID/curves.parquet``; no weights, no events.
The manifest has the SHA-256 of every file, the schema version and the versions of the toys. Equal records give equal archives.

A record stands in one of three tracks, and the merge keeps it:

* ``default``: one training with the options that the record shows, chosen without looking at its scores;
* ``tuned``: a search over a declared space with a declared number of trials, judged on validation events alone; the record
  lists every trial;
* ``open``: anything else, such as options chosen by hand with the scores in view, or training that starts from the weights of
  another run and so sees more than the budget. ``touchneedle submit --open`` says so.

The published board has base seeds of its own (`touchneedle.benchmark.records.BOARD_SEEDS`), and takes no others. What a merge
cannot see is whether numbers are true: hashes find damage and careless edits, and a cell that matters is run again.
"""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from touchneedle.benchmark.contribution_checks import (
    MANIFEST,
    check_board_seed,
    check_curves,
    check_one_toy_version,
    check_record,
    check_track,
    is_file_of_a_run,
)
from touchneedle.benchmark.records import (
    SCHEMA_VERSION,
    Record,
    parse_record,
    read_record,
    record_bytes,
    record_files,
    record_path,
    write_atomically,
)
from touchneedle.conf.errors import InputError

FORMAT = 1
MAX_FILES = 20_001
MAX_MANIFEST, MAX_RECORD, MAX_CURVES = 8_000_000, 2_000_000, 200_000
_EPOCH = (1980, 1, 1, 0, 0, 0)


class Manifest(BaseModel):
    """What an archive says of itself: its format, the schema of its records, toys with their version, file -> SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    schema_version: int
    toys: dict[str, str]
    files: dict[str, str]


@dataclass(frozen=True)
class Merged:
    """Run ids that are new in the results folder, and those that were there already."""

    added: tuple[str, ...]
    known: tuple[str, ...]


def submit(sources: Sequence[Path], archive: Path, *, open_track: bool = False) -> Manifest:
    """Pack records, files or folders of them, with their curves.

    Raises:
        InputError: for a corrupt or altered record, a seed that is not the board's, a wrong track, mixed toy versions, two records of
            one run, or an archive that exists or cannot be written.
    """
    if archive.exists():
        raise InputError(f"archive {archive}: it exists already; choose another name")
    files: dict[str, bytes] = {}
    records = []
    for path in _record_paths(sources):
        record = _as_submitted(read_record(path), open_track)
        name = f"{record.run_id}.json"
        _check(name, record)
        content = record_bytes(path) if not open_track else (record.model_dump_json(indent=1) + "\n").encode()
        if files.setdefault(name, content) != content:
            raise InputError(f"record {path}: another record of run {record.run_id} with other content is packed already; choose one")
        records.append(record)
        curves = path.parent / record.run_id / "curves.parquet"
        if curves.is_file():
            files[f"{record.run_id}/curves.parquet"] = curves.read_bytes()
    hashes = {name: _sha256(files[name]) for name in sorted(files)}
    manifest = Manifest(format=FORMAT, schema_version=SCHEMA_VERSION, toys=check_one_toy_version(records), files=hashes)
    write_atomically(archive, _zipped({MANIFEST: (manifest.model_dump_json(indent=1) + "\n").encode(), **files}))
    return manifest


def merge(archive: Path, results: Path) -> Merged:
    """Add the records of an archive to a results folder: all of them or none, and nothing that is there is changed.

    Raises:
        InputError: for a damaged or altered archive, an unexpected, linked or oversized file, another schema, a record that does not
            agree with its own configuration, a development seed, mixed toy versions, or a run that is there with other content.
    """
    files = _read(archive)
    records = [_record(name, content) for name, content in files.items() if name.endswith(".json")]
    here = [read_record(path) for path in record_files(results)] if results.is_dir() else []
    check_one_toy_version([*here, *records])
    added: list[str] = []
    known: list[str] = []
    for record in records:
        (known if _is_there(results, record.run_id, files) else added).append(record.run_id)
    _write(results, files, added)
    return Merged(tuple(added), tuple(known))


def _record_paths(sources: Iterable[Path]) -> list[Path]:
    paths = [path for source in sources for path in (record_files(source) if source.is_dir() else [source])]
    if not paths:
        raise InputError("submit: expected at least one record (RESULTS/RUN_ID.json) or a folder of them; got none")
    return list(dict.fromkeys(paths))


def _as_submitted(record: Record, open_track: bool) -> Record:
    return record.model_copy(update={"track": "open"}) if open_track else record


def _read(archive: Path) -> dict[str, bytes]:
    """Files of an archive but its manifest, by name in order, each of them listed there with its hash."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            files = _contents(archive, zipped)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise InputError(f"archive {archive}: expected a zip of touchneedle submit; got something else ({error})") from error
    manifest = _manifest(archive, files.pop(MANIFEST, b""))
    if set(files) != set(manifest.files):
        odd = sorted(set(files) ^ set(manifest.files))[0]
        raise InputError(f"archive {archive}: expected the files of its manifest; {odd} is in one of them only; pack it again")
    alone = [name for name in files if name.endswith(".parquet") and f"{Path(name).parent}.json" not in files]
    if alone:
        raise InputError(f"archive {archive}: expected the record of every run; there is none beside {alone[0]}")
    for name, content in files.items():
        if _sha256(content) != manifest.files[name]:
            raise InputError(f"archive {archive}: {name} was altered after it was packed (SHA-256 differs); pack it again")
    return {name: files[name] for name in sorted(files)}


def _contents(archive: Path, zipped: zipfile.ZipFile) -> dict[str, bytes]:
    entries = zipped.infolist()
    if len(entries) > MAX_FILES:
        raise InputError(f"archive {archive}: expected at most {MAX_FILES} files; got {len(entries)}; pack it in parts")
    files: dict[str, bytes] = {}
    for entry in entries:
        name = entry.filename
        if name in files or not (name == MANIFEST or is_file_of_a_run(name)) or stat.S_ISLNK(entry.external_attr >> 16):
            raise InputError(f"archive {archive}: expected RUN_ID.json and RUN_ID/curves.parquet, once each, no links; got {name!r}")
        limit = MAX_MANIFEST if name == MANIFEST else MAX_RECORD if name.endswith(".json") else MAX_CURVES
        with zipped.open(entry) as stream:
            # What the header says of the size is not trusted.
            files[name] = stream.read(limit + 1)
        if len(files[name]) > limit:
            raise InputError(f"archive {archive}: expected at most {limit:,} bytes in {name}; it has more")
    return files


def _manifest(archive: Path, content: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"archive {archive}: expected a {MANIFEST} of touchneedle submit; got none that can be read") from error
    if (manifest.format, manifest.schema_version) != (FORMAT, SCHEMA_VERSION):
        raise InputError(
            f"archive {archive}: expected format {FORMAT} with records of schema version {SCHEMA_VERSION}; "
            f"got {manifest.format} and {manifest.schema_version}; submit it with the same version of touchneedle"
        )
    return manifest


def _record(name: str, content: bytes) -> Record:
    record = parse_record(name, content)
    _check(name, record)
    return record


def _check(name: str, record: Record) -> None:
    check_record(name, record)
    check_board_seed(record)
    check_track(record)


def _is_there(results: Path, run_id: str, files: Mapping[str, bytes]) -> bool:
    """Whether a run is in the results folder with the same content; raises `InputError` if with other content."""
    for name in _files_of(run_id, files):
        is_record = name.endswith(".json")
        path = record_path(results, run_id) if is_record else results / name
        if path.exists() and (record_bytes(path) if is_record else path.read_bytes()) != files[name]:
            raise InputError(f"results {results}: run {run_id} is there with another {path.name}; merge into another folder")
    return record_path(results, run_id).exists()


def _write(results: Path, files: Mapping[str, bytes], run_ids: Iterable[str]) -> None:
    """Write the files of runs, each record after its curves; if one fails, those before it are taken back."""
    written: list[Path] = []
    try:
        for run_id in run_ids:
            for name in _files_of(run_id, files):
                check_curves(name, files[name])
        for run_id in run_ids:
            for name in _files_of(run_id, files):
                written.append(results / name)
                write_atomically(results / name, files[name])
    except InputError:
        for path in reversed(written):
            path.unlink(missing_ok=True)
        raise


def _files_of(run_id: str, files: Mapping[str, bytes]) -> list[str]:
    """Curves first, the record last: what has a record is whole."""
    return [name for name in (f"{run_id}/curves.parquet", f"{run_id}.json") if name in files]


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip whose bytes depend on the files alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            zipped.writestr(entry, files[name])
    return buffer.getvalue()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
