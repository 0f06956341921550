"""A sweep of 500 cells through two launchers: joblib until it is killed, then submitit on this machine for the rest.

``python -m tests.performance.many_cells`` (some ten minutes on two cores) writes ``results/reference/scale/many_cells.json``.
Cells are cheap ones: what is looked at is the sweep, not the methods.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from touchneedle.benchmark.records import read_records

SWEEP = (
    "toy=gaussian_shift,mass_bump,fnf_two_class,linear_gaussian,crystal_ball",
    "estimator=oracle,oracle_narrow,best_gaussian,counting,template_histogram",
    "seed=" + ",".join(map(str, range(20))),
    "budget=tiny", "design=templates", "evaluation=quick", "evaluation.n_test=2000", "evaluation.families=[density]",
)  # fmt: skip
CELLS = 5 * 5 * 20


def main() -> None:
    """Run the sweep and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--killed-at", type=int, default=440, help="records after which the first launcher is killed")
    parser.add_argument("-o", "--output", type=Path, default=Path("results/reference/scale/many_cells.json"))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        killed = _killed(results, chosen.killed_at)
        before = {path.name: path.stat().st_mtime_ns for path in results.glob("*.json")}
        rest = _finished(results, "submitit_local")
        again = _finished(results, "joblib")
        records = read_records(results)
        figures = {
            "cells": CELLS,
            "joblib, killed": killed,
            "submitit_local, the rest": rest,
            "joblib, nothing left": again,
            "records": len(records),
            "records ok": sum(record.status == "ok" for record in records),
            "good records written twice": sum(
                path.stat().st_mtime_ns != before.get(path.name, path.stat().st_mtime_ns) for path in results.glob("*.json")
            ),
            "cores": os.cpu_count(),
        }
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def _killed(results: Path, count: int) -> dict[str, Any]:
    """Run by joblib, and kill it with all its workers once there are so many records."""
    start = time.perf_counter()
    process = _run(results, "joblib")
    while process.poll() is None and len(list(results.glob("*.json"))) < count:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return _told(start, len(list(results.glob("*.json"))))


def _finished(results: Path, launcher: str) -> dict[str, Any]:
    start, before = time.perf_counter(), len(list(results.glob("*.json")))
    code = _run(results, launcher).wait()
    return {**_told(start, len(list(results.glob("*.json"))) - before), "exit status": code}


def _told(start: float, records: int) -> dict[str, Any]:
    seconds = time.perf_counter() - start
    return {"records": records, "seconds": round(seconds, 1), "seconds a cell": round(seconds / records, 2) if records else None}


def _run(results: Path, launcher: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "touchneedle.benchmark.main", "run", "-m", *SWEEP, f"launcher={launcher}", f"results={results}"]
    return subprocess.Popen([*command, "tracking=none"], start_new_session=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
