"""Where the time of a task goes, measured beside it: the notes of speeds that miss their target."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable, Mapping
from typing import Any

from torch.profiler import ProfilerActivity, profile

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mv", "aten::addmv")
SILU = ("aten::silu", "aten::silu_backward")


def needed_shares(task: Callable[[], object], calls: int = 10, *, closure: bool = False) -> dict[str, float]:
    """Shares of the processor time of a task that any library needs for the same networks, by torch.profiler, after one call to warm up.

    Where the optimiser computes the loss itself (``closure``), its own share cannot be told.
    """
    task()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(calls):
            task()
    events = found.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    # The optimiser's own operations are within its step.
    times = {
        "products of matrices": sum(event.self_cpu_time_total for event in events if event.key in PRODUCTS),
        "SiLU": sum(event.self_cpu_time_total for event in events if event.key in SILU),
    }
    if not closure:
        times["the optimiser"] = sum(event.cpu_time_total for event in events if event.key.startswith("Optimizer."))
    return {what: time / total for what, time in times.items()}


def needed_note(task: Callable[[], object], value: float, calls: int = 10, *, closure: bool = False) -> str:
    """The shares in words, and what the ratio ``value`` would be if a task took no time beyond them."""
    shares = needed_shares(task, calls, closure=closure)
    parts = ", ".join(f"{what} {share:.0%}" for what, share in shares.items() if share >= 0.005)
    return f"processor time by torch.profiler: {parts}; with nothing else it would be {value / sum(shares.values()):.1f} times"


def function_shares(task: Callable[[], object], functions: Mapping[str, Callable[..., Any]]) -> dict[str, float]:
    """Shares of the time of a task that are spent in functions, calls of others included, by cProfile."""
    found = cProfile.Profile()
    found.runcall(task)
    stats: dict[Any, Any] = pstats.Stats(found).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in stats.values())
    return {what: stats.get(_place(function), (0, 0, 0.0, 0.0))[3] / total for what, function in functions.items()}


def function_note(task: Callable[[], object], functions: Mapping[str, Callable[..., Any]]) -> str:
    """The shares in words."""
    return "time by cProfile: " + ", ".join(f"{what} {share:.0%}" for what, share in function_shares(task, functions).items())


def _place(function: Callable[..., Any]) -> tuple[str, int, str]:
    code = function.__code__
    return code.co_filename, code.co_firstlineno, code.co_name
