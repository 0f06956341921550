"""Seconds of the first step of a training with a compiled loss, and of a second such training in the same process, as JSON:
``python -m tests.performance.first_step spline_flow``; ``"one operation"`` compiles a sum, which shows what any compilation takes.

What is compiled, and the headers that are, lie below ``TMPDIR``: a fresh one makes a cold start, the same one again a warm start.
"""

from __future__ import annotations

import importlib
import json
import sys
import time

import torch

from tests.performance.ratios import Task
from tests.performance.training_steps import estimator_step
from touchneedle.estimators.compilation import BACKEND

NOTHING = "one operation"
# What torch calls the parts; g++ runs beside the others, two at a time.
PARTS = {
    "tracing": "bytecode_tracing",
    "inductor": "GraphLowering.codegen",
    "g++ and loading (of all processes)": "compile_file",
}


def main(name: str) -> None:
    torch.set_num_threads(1)
    # What every training needs is no part of it: libraries, and the plain step.
    estimator_step("ratio_bce" if name == NOTHING else name, compile=False)()
    start = time.perf_counter()
    importlib.import_module("torch._inductor.compile_fx")
    imported = time.perf_counter()
    compiled_task(name)()
    first = time.perf_counter()
    compiled_task(name)()
    found = {"first": first - start, "second": time.perf_counter() - first, "importing the compiler": imported - start}
    print(json.dumps(found | {part: seconds_of(key) for part, key in PARTS.items()}))


def compiled_task(name: str) -> Task:
    """A step of a method, or the gradient of a sum."""
    if name != NOTHING:
        return estimator_step(name, compile=True)
    total = torch.compile(torch.sum, dynamic=False, **BACKEND)
    return lambda: total(torch.ones(64, 64, requires_grad=True)).backward()


def seconds_of(part: str) -> float:
    from torch._dynamo.utils import compilation_time_metrics

    return sum(compilation_time_metrics.get(part, []))


if __name__ == "__main__":
    main(sys.argv[1])
