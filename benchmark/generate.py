"""Generating event data: chunks with seeds of their own, in any order and by any number of workers, resumable.

A data set is a folder ``<output>/<name>-<key>``, where the key is the hash of all that decides its events: options,
number of events, seed, versions of the generator and of its packages. Each chunk is two files: the events, and a note
with their hash, written last. The manifest follows when all chunks are there. What is there is not made again.
"""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from touchneedle.benchmark.noted_files import FileNote, read_noted
from touchneedle.benchmark.records import write_atomically
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.toys.generated import MANIFEST, Chunk, CrossSection, EventGenerator, Manifest, read_manifest, sha256

CHUNK_SIZE = 10_000
KEY_DIGITS = 12
Progress = Callable[[int, int], None]


class Note(FileNote):
    """What is known of one finished chunk."""

    n_generated: int
    n_selected: int
    cross_sections: dict[str, CrossSection]


@dataclasses.dataclass(frozen=True)
class Order:
    """A data set to be made; `folder` is where it lies.

    Attributes:
        n: generated events; those that pass the selection are kept.
        packages: versions by distribution.
    """

    name: str
    generator: EventGenerator
    n: int
    seed: int
    chunk_size: int
    packages: Mapping[str, str]
    output: Path

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the events."""
        return {
            "name": self.name,
            "generator_version": self.generator.version,
            "config": dataclasses.asdict(self.generator.config),
            "n": self.n,
            "seed": self.seed,
            "chunk_size": self.chunk_size,
            "packages": dict(sorted(self.packages.items())),
        }

    @property
    def key(self) -> str:
        """SHA-256 of the identity."""
        return sha256(json.dumps(self.identity, sort_keys=True).encode())

    @property
    def folder(self) -> Path:
        """Folder of the data set."""
        return self.output / f"{self.name}-{self.key[:KEY_DIGITS]}"

    @property
    def sizes(self) -> list[int]:
        """Generated events of each chunk."""
        whole, rest = divmod(self.n, self.chunk_size)
        return [self.chunk_size] * whole + [rest] * (rest > 0)


def make_data(
    name: str,
    n: int,
    seed: int,
    *,
    params: Mapping[str, Any] | None = None,
    workers: int = 1,
    output: str | Path = "data",
    chunk_size: int = CHUNK_SIZE,
    progress: Progress | None = None,
) -> Path:
    """Generate ``n`` events of the data set ``name``, or go on where that stopped; returns the folder.

    ``progress(done, chunks)`` is called after every chunk, and once at the beginning.

    Raises:
        InputError: unknown name or option, a package that is missing, n, seed or workers out of range, a folder that
            cannot be written, a finished chunk whose content is not what was written.
    """
    return fill_order(place_order(name, n, seed, params=params or {}, output=output, chunk_size=chunk_size), workers, progress)


def fill_order(order: Order, workers: int = 1, progress: Progress | None = None) -> Path:
    """Make what is missing of a data set; returns its folder. Raises `InputError` as `make_data` does."""
    _check_at_least("workers", workers, 1)
    _check_writable(order.folder)
    show = progress or (lambda done, chunks: None)
    notes = {index: note for index in range(len(order.sizes)) if (note := _finished(order, index)) is not None}
    show(len(notes), len(order.sizes))
    left = [index for index in range(len(order.sizes)) if index not in notes]
    for index, note in _made(order, left, workers):
        notes[index] = note
        show(len(notes), len(order.sizes))
    _write_manifest(order, [notes[index] for index in sorted(notes)])
    return order.folder


def place_order(
    name: str, n: int, seed: int, *, params: Mapping[str, Any], output: str | Path = "data", chunk_size: int = CHUNK_SIZE
) -> Order:
    """What is to be made, checked; nothing is generated. Raises `InputError` as `make_data` does."""
    for option, value, least in (("n", n, 1), ("seed", seed, 0), ("chunk_size", chunk_size, 1)):
        _check_at_least(option, value, least)
    generator_class: Any = registry.generators.load(name)
    generator = generator_class(registry.build_options(generator_class.Config, params, f"generator {name}"))
    return Order(name, generator, n, seed, chunk_size, _versions(name, generator), Path(output))


def _check_at_least(option: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"data: option {option}: expected a whole number of at least {least}; got {value}")


def _check_writable(folder: Path) -> None:
    """Say so before events are generated that nobody can write."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"data: cannot write {folder}: {error.strerror}; choose another --output") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"data: cannot write {folder}: Permission denied; choose another --output")


def _versions(name: str, generator: EventGenerator) -> dict[str, str]:
    found = {}
    for package in generator.packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError as error:
            raise InputError(
                f"generator {name} needs the package {package}, which is not installed; pip install 'touchneedle[{generator.extra}]'"
            ) from error
    return found


def _made(order: Order, left: list[int], workers: int) -> Iterator[tuple[int, Note]]:
    """Chunks as they are finished."""
    if workers == 1 or len(left) < 2:
        yield from ((index, _make_chunk(order, index)) for index in left)
        return
    # Fresh processes: a generator library may hold state that does not survive a fork.
    with ProcessPoolExecutor(min(workers, len(left)), multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(_make_chunk, order, index): index for index in left}
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        except BrokenProcessPool as error:
            raise InputError("data: a worker was killed, by want of memory perhaps; repeat the command to go on") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _make_chunk(order: Order, index: int) -> Note:
    """Generate and write one chunk, with the seed that belongs to its place."""
    # The same as SeedSequence(seed).spawn(index + 1)[index].
    seed = np.random.SeedSequence(order.seed, spawn_key=(index,))
    size = order.sizes[index]
    chunk = order.generator.chunk(size, seed)
    content = _parquet(chunk)
    rows = len(next(iter(chunk.columns.values())))
    note = Note(sha256=sha256(content), n_generated=size, n_selected=rows, cross_sections=dict(chunk.cross_sections))
    write_atomically(_file(order, index), content)
    write_atomically(_file(order, index).with_suffix(".json"), note.model_dump_json() + "\n")
    return note


def _parquet(chunk: Chunk) -> bytes:
    """Zstd over byte-stream-split floats: similar bytes of neighbouring numbers stand together."""
    table = pa.table({name: pa.array(values) for name, values in chunk.columns.items()})
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    buffer = io.BytesIO()
    how: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "use_byte_stream_split": floats}
    pq.write_table(table, buffer, **how)
    return buffer.getvalue()


def _file(order: Order, index: int) -> Path:
    return order.folder / f"chunk-{index:05d}.parquet"


def _finished(order: Order, index: int) -> Note | None:
    """The note of a chunk that is there; None if it has to be made; raises `InputError` if it is corrupt."""
    return read_noted(_file(order, index), Note, "data")


def _write_manifest(order: Order, notes: list[Note]) -> None:
    """Write the manifest, unless the same is there."""
    manifest = Manifest(
        **order.identity,
        key=order.key,
        n_generated=sum(note.n_generated for note in notes),
        n_selected=sum(note.n_selected for note in notes),
        cross_sections={process: _combined(process, notes) for process in notes[0].cross_sections},
        files={_file(order, index).name: note.sha256 for index, note in enumerate(notes)},
    )
    file = order.folder / MANIFEST
    if not file.is_file() or read_manifest(order.folder) != manifest:
        write_atomically(file, manifest.model_dump_json(indent=1) + "\n")


def _combined(process: str, notes: list[Note]) -> CrossSection:
    """The mean over chunks, weighted by their generated events; the chunks are independent."""
    share = np.array([note.n_generated for note in notes], dtype=np.float64)
    share /= share.sum()
    found = [note.cross_sections[process] for note in notes]
    values, errors = np.array([(section.pb, section.stderr) for section in found]).T
    return CrossSection(pb=float(share @ values), stderr=float(np.linalg.norm(share * errors)))
