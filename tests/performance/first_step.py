"""Seconds of the first step of a training with a compiled loss, and of a second such training in the same process:
``python -m tests.performance.first_step spline_flow``.

What is compiled, and the headers that are, lie below ``TMPDIR``: a fresh one makes a cold start, the same one again a warm start.
"""

from __future__ import annotations

import sys
import time

import torch

from tests.performance.training_steps import estimator_step


def main(name: str) -> None:
    torch.set_num_threads(1)
    # What every training needs is no part of it: libraries, and the plain step.
    estimator_step(name, compile=False)()
    for _ in range(2):
        start = time.perf_counter()
        estimator_step(name, compile=True)()
        print(time.perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1])
