"""Speeds measured side by side: tasks in turns, the ratio of their medians with a standard error, and the table that keeps them.

A single timing varies by 30 % on a busy machine; two tasks timed in turns see the same disturbances, so that their ratio holds.
"""

from __future__ import annotations

import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from touchneedle.reports.speed_rows import Speed as Speed

ROUNDS, RESAMPLES = 12, 400
# Rows of this session.
MEASURED: list[dict[str, Any]] = []
Task = Callable[[], object]


def side_by_side(tasks: Mapping[str, Task], rounds: int = ROUNDS, clock: Callable[[], float] = time.process_time) -> dict[str, list[float]]:
    """Seconds of each task in each round, the tasks in turns, after one call of each to warm up; a GPU is waited for."""
    for task in tasks.values():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            _wait()
            start = clock()
            task()
            _wait()
            seconds[name].append(clock() - start)
    return seconds


def ratio(slower: list[float], faster: list[float]) -> tuple[float, float]:
    """Median of one over median of the other, and its standard error by resampling rounds (both of a round together)."""
    draw = random.Random(0)
    pairs = list(zip(slower, faster, strict=True))
    resampled = [_over(draw.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES)]
    return _over(pairs), statistics.stdev(resampled)


def note_speed(benchmark: Any, *speeds: Speed) -> None:
    """Keep rows with the benchmark that measured them; ``--speed FILE`` writes those of a session into a table."""
    rows = [asdict(speed) | {"machine": machine()} for speed in speeds]
    benchmark.extra_info["speed"] = [*benchmark.extra_info.get("speed", []), *rows]
    MEASURED.extend(rows)


def merge_speeds(file: Path, rows: list[dict[str, Any]]) -> None:
    """Put rows into a table of rows, in place of those of the same topic, what and against."""
    kept = {_key(row): row for row in (json.loads(file.read_text()) if file.exists() else [])}
    kept |= {_key(row): row for row in rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([kept[key] for key in sorted(kept)], indent=1) + "\n")


def machine() -> dict[str, str | int]:
    """Processor or GPU, threads and versions: what a number depends on, and nothing that tells whose machine it is."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {"device": device, "threads": torch.get_num_threads(), "python": platform.python_version(), "torch": torch.__version__}


def _over(pairs: list[tuple[float, float]]) -> float:
    return statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["topic"], row["what"], row["against"]


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.machine()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
