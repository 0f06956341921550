"""A trial of a search in one line of text: its options, its loss, what the monitors said, and what became of it."""

from __future__ import annotations

from touchneedle.benchmark.records import Metric, Trial
from touchneedle.reports.numbers import format_number
from touchneedle.reports.rows import compact


def trial_text(trial: Trial) -> str:
    """``{"optimizer.learning_rate":0.002}: loss 0.524417, mean_ratio 1.01 +- 0.02, chosen``."""
    # Losses differ in digits that three would hide.
    loss = "not finite" if trial.validation_loss is None else f"{trial.validation_loss:.6g}"
    fate = [*([] if trial.feasible else ["not feasible"]), *(["chosen"] if trial.chosen else [])]
    return f"{compact(trial.options)}: {', '.join([f'loss {loss}', *map(_monitor, trial.monitors), *fate])}"


def _monitor(row: Metric) -> str:
    value = f"n/a ({row.at.get('reason', '')})" if row.value is None else format_number(row.value, row.stderr)
    return f"{row.name} {value}"
