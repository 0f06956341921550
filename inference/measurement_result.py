"""What a measurement found: the fit and every further result, as text, JSON and Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from touchneedle.inference.fit import FitResult
from touchneedle.inference.manifest import Manifest
from touchneedle.inference.result import Result


@dataclass(frozen=True)
class Measurement(Result):
    """What came out.

    Attributes:
        fit: the best fit.
        further: every other result, by name (``scan_mu``).
        manifest: of the bundle.
        n_events: number of events.
        sum_of_weights: of the events.
        notes: what the reader has to know: fits that failed, points outside the training range.
    """

    fit: FitResult
    further: dict[str, Result]
    manifest: Manifest
    n_events: int
    sum_of_weights: float
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """The text of the measurement, Markdown."""
        return self.to_markdown()

    def to_dict(self) -> dict[str, Any]:
        """Every result, and which bundle gave it."""
        return {
            "bundle": {"digest": self.manifest.digest, "estimator": self.manifest.estimator.name, "toy": self.manifest.toy.name},
            "n_events": self.n_events,
            "sum_of_weights": self.sum_of_weights,
            "notes": list(self.notes),
            "fit": self.fit.to_dict(),
            **{name: result.to_dict() for name, result in self.further.items()},
        }

    def to_markdown(self, figures: tuple[str, ...] = ()) -> str:
        """What was fitted with what, the numbers with their errors, what is doubtful, and links to figures."""
        lines = self._head()
        for name, result in {"fit": self.fit, **self.further}.items():
            lines += ["", f"## {name}", "", "```", result.summary(), "```"]
        if self.notes:
            lines += ["", "## Note", "", *(f"- {note}" for note in self.notes)]
        lines += [line for figure in figures for line in ("", f"![{figure}]({figure})")]
        return "\n".join(lines) + "\n"

    def _head(self) -> list[str]:
        manifest = self.manifest
        weighted = self.sum_of_weights != self.n_events
        events = f"{self.n_events:,} events" + (f" (sum of weights {self.sum_of_weights:,.6g})" if weighted else "")
        run = f" (run {manifest.source.run_id})" if manifest.source else ""
        return [
            f"# {manifest.toy.name}: {events} fitted with {manifest.estimator.name}",
            "",
            f"Bundle {manifest.digest[:12]}, trained on {manifest.training.events:,} simulated events{run}.",
        ]
