"""Training on files larger than memory may be: peak of resident memory, events and bytes a second, and reading against a bare loop.

    python -m tests.performance.streaming --gigabytes 20 --memory-limit 2GB --folder FOLDER -o results/reference/scale/streaming.json

Writes events of a linear model with Gaussian noise (28 features, 3 parameters, weights) as parquet files to FOLDER, trains ratio_bce for
one epoch in a fresh process, reads a part of the files by several loops, and removes them. The peak is VmHWM, as Linux counts it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tests.performance.ratios import side_by_side
from touchneedle.benchmark.allocator import keep_freed_memory
from touchneedle.benchmark.config import DataConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.records import write_atomically
from touchneedle.conf.registry import build_options
from touchneedle.toys.base import Events, Feature, Normal, Parameter, ParameterSpace, ToySpec
from touchneedle.toys.event_layout import column_names, write_events
from touchneedle.toys.event_stream import EventStream

FEATURES, PARAMETERS, CHUNK, FILES = 28, 3, 2**17, 40
SPEC = ToySpec(
    name="linear_model",
    version="1",
    parameters=ParameterSpace(tuple(Parameter(f"theta_{k}", "interest", 0.0, (-9.0, 9.0), Normal(0.0, 1.0)) for k in range(PARAMETERS))),
    features=tuple(Feature(f"x_{k}") for k in range(FEATURES)),
    processes=("all",),
)
# Files that the loops read, so that they are in the cache of the system for all of them.
READ_FILES, READ_ROUNDS = 1, 9


def draw(n: int, seed: int) -> Iterator[Events]:
    """``n`` events in chunks: x = A theta + noise."""
    generator = torch.Generator().manual_seed(seed)
    slopes = torch.linspace(-1, 1, PARAMETERS * FEATURES).reshape(PARAMETERS, FEATURES)
    for start in range(0, n, CHUNK):
        size = min(CHUNK, n - start)
        theta = torch.randn(size, PARAMETERS, generator=generator).clamp(-9, 9)
        x = torch.randn(size, FEATURES, generator=generator) + theta @ slopes
        yield Events(x, theta.double(), 0.5 + torch.rand(size, generator=generator, dtype=torch.float64))


def write(folder: Path, n: int) -> None:
    """The events as files of equal size; those that are there already are kept."""
    for k in range(FILES):
        path = folder / f"events_{k}.parquet"
        if not path.exists():
            write_events(path, draw(n // FILES, k), SPEC)


def open_stream(folder: Path, limit: int, workers: int, files: int = FILES) -> EventStream:
    """The first files as a stream."""
    return EventStream([folder / f"events_{k}.parquet" for k in range(files)], SPEC, limit, workers)


def train_once(folder: Path, limit: int, workers: int) -> dict[str, Any]:
    """One epoch of ratio_bce in this process, and what it took."""
    from touchneedle.benchmark.train import train
    from touchneedle.estimators.base import build_estimator

    before = memory("VmRSS")
    stream = open_stream(folder, limit, workers)
    trainer = TrainerConfig(max_epochs=1, batch_size=2**15, validation_fraction=0.005, progress=False, accelerator="cpu")
    start = time.perf_counter()
    log = train(build_estimator("ratio_bce", SPEC, hidden=(16, 16)), stream, trainer, OptimizerConfig(), 0)
    seconds = time.perf_counter() - start
    return {
        "fits_in_memory": stream.fits,
        "window": stream.window,
        "seconds": seconds,
        "events_per_second": len(stream) / seconds,
        "bytes_per_second": len(stream) * stream.event_bytes / seconds,
        "resident_bytes_before": before,
        "resident_bytes_peak": memory("VmHWM"),
        "validation_loss": log.validation_loss[-1],
    }


def read_rates(folder: Path, limit: int) -> dict[str, float]:
    """Bytes of events a second of each loop."""
    stream = open_stream(folder, limit, 1, READ_FILES)
    size = len(stream) * stream.event_bytes
    return {name: size / statistics.median(found) for name, found in read_seconds(folder, limit).items()}


def read_seconds(folder: Path, limit: int) -> dict[str, list[float]]:
    """Wall seconds of each loop over the same files, in turns, with memory kept as in a training; two threads at most.

    As in a training, what is read in order is read for the first time and checked; what is shuffled has been read before.
    """
    keep_freed_memory()
    # Else OMP_NUM_THREADS decides, which workers of ours do not ask.
    pa.set_cpu_count(2)
    streams = {workers: open_stream(folder, limit, workers, READ_FILES) for workers in (1, 2)}
    calls: dict[str, Callable[[], object]] = {
        "bare_one_thread": lambda: bare_loop(streams[1], threads=False),
        "bare_threads": lambda: bare_loop(streams[1], threads=True),
    }
    for workers, stream in streams.items():
        calls[f"stream_{workers}"] = lambda workers=workers: count(open_stream(folder, limit, workers, READ_FILES).batches(2**15))
        count(stream.batches(2**15))
        calls[f"shuffled_{workers}"] = lambda stream=stream: count(stream.batches(2**15, torch.Generator().manual_seed(0)))
    return side_by_side(calls, READ_ROUNDS, time.perf_counter)


def bare_loop(stream: EventStream, *, threads: bool) -> None:
    """The row groups of its files as tables, and nothing else."""
    names = [name for field in ("x", "theta", "weight") for name in column_names(stream.spec)[field]]
    for path in stream.paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group, columns=names, use_threads=threads)


def count(batches: Iterator[Events]) -> int:
    """Number of events."""
    return sum(map(len, batches))


def memory(what: str) -> int:
    """Bytes of resident memory of this process: ``VmRSS`` now, ``VmHWM`` at its peak."""
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) * 1_024 for line in status if line.startswith(what))


def in_fresh_process(folder: Path, limit: int, workers: int) -> dict[str, Any]:
    """`train_once` where nothing has been allocated before."""
    words = ["--train", "--folder", folder, "--memory-limit", limit, "--workers", workers]
    command = [sys.executable, "-m", "tests.performance.streaming", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2_000:])
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path, limit: int, workers: int, gigabytes: float) -> dict[str, Any]:
    """All of it; the files are removed at the end."""
    n = int(gigabytes * 1e9 / (4 * FEATURES + 8 * (PARAMETERS + 1))) // FILES * FILES
    try:
        write(folder, n)
        stream = open_stream(folder, limit, workers)
        found = {
            "events": len(stream),
            "event_bytes": stream.event_bytes,
            "bytes": len(stream) * stream.event_bytes,
            "file_bytes": sum(path.stat().st_size for path in stream.paths),
            "memory_limit": limit,
            "workers": workers,
            "training": in_fresh_process(folder, limit, workers),
            "read_bytes_per_second": read_rates(folder, limit),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "pyarrow": pa.__version__}
    return {**found, "versions": versions, "cpus": os.cpu_count(), "torch_threads": torch.get_num_threads()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20.0, help="size of the events in memory")
    parser.add_argument("--memory-limit", default="2GB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True, help="where the files are written, and removed")
    parser.add_argument("--output", "-o", type=Path)
    parser.add_argument("--train", action="store_true", help="only train on the files that are there")
    words = parser.parse_args()
    limit = build_options(DataConfig, {"memory_limit": words.memory_limit}, "data").memory_limit
    where = words.folder, limit, words.workers
    found = train_once(*where) if words.train else measure(*where, words.gigabytes)
    print(json.dumps(found))
    if words.output:
        write_atomically(words.output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
