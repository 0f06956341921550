"""Derived features of many files: one dask task for each partition of row groups, in any order, on any number of workers, resumable.

The output is a folder with one parquet file per input partition, ``part-00000.parquet`` and so on. Beside each stands a note with
its hash and with the key of what made it, written last; the manifest follows when all are there. What is there is not made again.
Partitions depend on the files alone, so that neither workers nor their memory change the result. The workers read the inputs and
write the outputs: a scheduler elsewhere needs a file system that all see.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from touchneedle.benchmark.derive_plan import VERSION, Partition, check_memory, plan_partitions
from touchneedle.benchmark.noted_files import FileNote, read_noted
from touchneedle.benchmark.records import write_atomically
from touchneedle.conf.errors import InputError
from touchneedle.toys.feature_recipe import read_recipe
from touchneedle.toys.open_table import open_table

MANIFEST = "manifest.json"
CONNECT_SECONDS = 5
# Longer: a batch system starts workers when it has room.
WORKER_SECONDS = 120
RETRIES = 2
# A limit of memory holds for a process.
WORKERS_ARE_PROCESSES = True
Progress = Callable[[int, int], None]


class Note(FileNote):
    """What is known of a finished partition.

    Attributes:
        key: of the partition that made it.
    """

    key: str
    n_read: int
    n_selected: int


def derive_tables(
    files: Sequence[str | Path],
    output: str | Path,
    derived: Mapping[str, str],
    selection: str = "",
    *,
    tree: str = "",
    scheduler: str = "",
    workers: int = 1,
    memory_limit: str = "1GB",
    progress: Progress | None = None,
) -> Path:
    """Write the selected events of all files with derived features beside their stored columns; returns the manifest.

    Columns of lists and structs are left out; the manifest names them (``left_out``). ``progress(done, partitions)`` is called after
    every partition, and once before the first.

    Args:
        scheduler: address of a dask scheduler; by default a local cluster of ``workers`` with ``memory_limit`` each.

    Raises:
        InputError: a file that cannot be read, files that disagree on a column, a formula that is no arithmetic, a partition too large
            for a worker, a folder with other results, a scheduler that does not answer or has no workers, dask that is not installed.
    """
    distributed = _import_distributed()
    partitions = plan_partitions(files, output, derived, selection, tree)
    limit = _bytes(memory_limit)
    if not scheduler:
        check_memory(partitions, limit)
    notes = {k: note for k, partition in enumerate(partitions) if (note := _finished(partition)) is not None}
    show = progress or (lambda done, total: None)
    left = [k for k in range(len(partitions)) if k not in notes]
    with _client(distributed, scheduler, min(workers, len(left)), limit) if left else nullcontext() as client:
        show(len(notes), len(partitions))
        for k, note in _computed(distributed, client, partitions, left):
            notes[k] = note
            show(len(notes), len(partitions))
    return _write_manifest(Path(output), partitions, [notes[k] for k in sorted(notes)])


def derive_partition(partition: Partition) -> Note:
    """Read, derive, select and write one partition; runs on a worker."""
    recipe = read_recipe(partition.derived, partition.selection)
    table = pa.concat_tables(list(open_table(partition.file, partition.tree).read(partition.columns, partition.chunks)))
    stored = {name: table.column(name).cast(pa.float64(), safe=False).to_numpy() for name in recipe.inputs()}
    columns, selected = recipe.evaluate(stored)
    for name in recipe.derived:
        table = table.append_column(name, pa.array(columns[name]))
    kept = table.filter(pa.array(selected))
    buffer = io.BytesIO()
    pq.write_table(kept, buffer, compression="zstd")
    note = Note(key=partition.key, sha256=hashlib.sha256(buffer.getvalue()).hexdigest(), n_read=len(table), n_selected=len(kept))
    write_atomically(Path(partition.output), buffer.getvalue())
    write_atomically(Path(partition.output).with_suffix(".json"), note.model_dump_json() + "\n")
    return note


def _bytes(text: str) -> int:
    try:
        return int(import_module("dask.utils").parse_bytes(text))
    except ValueError as error:
        raise InputError(f"data derive: --memory-limit: expected a size such as 1GB; got {text!r}") from error


def _import_distributed() -> Any:
    try:
        return import_module("distributed")
    except ModuleNotFoundError as error:
        raise InputError("data derive needs the packages dask and distributed; pip install 'touchneedle[hep]'") from error


@contextmanager
def _client(distributed: Any, scheduler: str, workers: int, limit: int) -> Iterator[Any]:
    """A client of the scheduler at an address, or of a cluster of its own that ends with it."""
    if scheduler:
        with _connected(distributed, scheduler) as client:
            yield client
        return
    options = {"memory_limit": limit, "processes": WORKERS_ARE_PROCESSES, "dashboard_address": "127.0.0.1:0", "silence_logs": logging.ERROR}
    with distributed.LocalCluster(n_workers=workers, threads_per_worker=1, **options) as cluster, distributed.Client(cluster) as client:
        yield client


def _connected(distributed: Any, scheduler: str) -> Any:
    try:
        # Before there is a client, which takes long to go if it finds nothing; in a thread, since a notebook has a loop of its own.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, _call(distributed, scheduler)).result()
        return distributed.Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # another kind of server may make it raise anything
        raise InputError(
            f"data derive: no dask scheduler answers at {scheduler!r} within {CONNECT_SECONDS} s; expected an address such as "
            "tcp://host:8786, or none for a local cluster"
        ) from error


async def _call(distributed: Any, scheduler: str) -> None:
    """Shake hands with the scheduler."""
    arguments = distributed.Security().get_connection_args("client")
    comm = await distributed.comm.connect(scheduler, timeout=CONNECT_SECONDS, **arguments)
    await comm.close()


def _computed(distributed: Any, client: Any, partitions: Sequence[Partition], left: Sequence[int]) -> Iterator[tuple[int, Note]]:
    """Notes of partitions as they are finished."""
    if not left:
        return
    jobs = {client.submit(derive_partition, partitions[k], pure=False, retries=RETRIES): k for k in left}
    try:
        # Once there is work: some clusters have workers only then.
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
        for job in distributed.as_completed(list(jobs), loop=client.loop):
            yield jobs[job], job.result()
    except TimeoutError as error:
        raise InputError(
            f"data derive: the scheduler has no workers within {WORKER_SECONDS} s; start some, such as dask worker "
            f"{client.scheduler.address}, and repeat the command"
        ) from error
    except distributed.KilledWorker as error:
        raise InputError(
            "data derive: workers were killed, by want of memory perhaps; raise --memory-limit and repeat the command to go on"
        ) from error
    finally:
        client.cancel(list(jobs))


def _finished(partition: Partition) -> Note | None:
    """The note of a partition that is there; None if it has to be made; raises `InputError` for other results in its place."""
    file = Path(partition.output)
    note = read_noted(file, Note, "data derive")
    if note is not None and note.key != partition.key:
        raise InputError(f"data derive: {file} was made from other files or formulas; choose another --output, or delete the folder")
    return note


def _write_manifest(folder: Path, partitions: Sequence[Partition], notes: Sequence[Note]) -> Path:
    first = partitions[0]
    stored = open_table(first.file, first.tree).schema.names
    manifest = {
        "version": VERSION,
        "derived": first.derived,
        "selection": first.selection,
        "left_out": [name for name in stored if name not in first.columns],
        "n_read": sum(note.n_read for note in notes),
        "n_selected": sum(note.n_selected for note in notes),
        "parts": [
            {
                "file": Path(part.output).name,
                "sha256": note.sha256,
                "n_selected": note.n_selected,
                "input": part.file,
                "chunks": part.chunks,
            }
            for part, note in zip(partitions, notes, strict=True)
        ],
    }
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return folder / MANIFEST
