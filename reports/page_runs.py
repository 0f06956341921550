"""Runs on the page: seeds, configuration, provenance, losses, the end of a traceback, the command that repeats it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from touchneedle.reports.anchors import Anchors
from touchneedle.reports.losses import loss_picture
from touchneedle.reports.numbers import format_number
from touchneedle.reports.repeat import repeat_command
from touchneedle.reports.rows import Run
from touchneedle.reports.trials import trial_text


@dataclass
class Numbered:
    """Long texts met so far, numbered from 1: many runs share one, and the page shows each once."""

    texts: dict[str, int] = field(default_factory=dict)

    def number(self, value: Any) -> int:
        """Number of a text; nested options are indented."""
        text = value if isinstance(value, str) else json.dumps(value, indent=1, sort_keys=True, default=str, ensure_ascii=False)
        return self.texts.setdefault(text, len(self.texts) + 1)


@dataclass
class RunViews:
    """Makes the views of runs, and keeps what they share.

    Attributes:
        longest: characters of a traceback, counted from its end.
        everything: good runs have blocks too, not failed ones alone.
    """

    anchors: Anchors
    longest: int
    everything: bool
    environments: Numbered = field(default_factory=Numbered)
    configurations: Numbered = field(default_factory=Numbered)
    tracebacks: dict[str, str] = field(default_factory=dict)

    def shows(self, run: Run) -> bool:
        """Whether the run has a block of its own; a skipped one never started."""
        return run.record.status == "failed" or (self.everything and run.record.status == "ok")

    def anchor(self, run: Run) -> str:
        """Where the run stands; empty if it is left out."""
        return self.anchors.of("run", run.record.run_id, run.file.name) if self.shows(run) else ""

    def links(self, runs: Iterable[Run]) -> list[dict[str, str]]:
        """Runs as links: seed, status, anchor."""
        return [{"seed": str(run.record.seed), "status": run.record.status, "anchor": self.anchor(run)} for run in runs]

    def view(self, run: Run) -> dict[str, Any]:
        """A run as plain texts."""
        record = run.record
        traceback = self._tail(record.traceback)
        first = self.tracebacks.setdefault(traceback, self.anchor(run)) if traceback else ""
        return {
            "anchor": self.anchor(run),
            "id": record.run_id,
            "fit": record.fit_id,
            "title": f"{record.toy.name}, {record.budget.name}, {record.design}, seed {record.seed}",
            "status": record.status,
            "reason": record.reason,
            "traceback": traceback if first == self.anchor(run) else "",
            "same": first,
            "command": repeat_command(record) if record.config else "",
            "configuration": self.configurations.number(_without_seed(record.config)),
            "environment": self.environments.number(record.environment),
            "seeds": ", ".join(f"{name} {seed}" for name, seed in sorted(record.seeds.items())),
            "trials": [trial_text(trial) for trial in record.trials],
            "cost": ", ".join(f"{name} {_plain_number(value)}" for name, value in sorted(record.cost.items())),
            "loss": Markup(loss_picture(run.curves)),
        }

    def _tail(self, traceback: str) -> str:
        """The end of a traceback, where its cause stands."""
        return traceback if len(traceback) <= self.longest else f"[first part left out]\n{traceback[-self.longest :]}"


def _without_seed(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "seed"}


def _plain_number(value: float | int | str | None) -> str:
    return format_number(value) if isinstance(value, float) else str(value)
