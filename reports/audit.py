"""The judges judged: planted defects against metrics, as `touchneedle audit` found them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from touchneedle.benchmark.verdicts import FLAGGED, Verdict

# `touchneedle.benchmark.gates.significance` ends at 37, where double precision does; the correction for several rows takes some off.
HIGHEST = 36.0
ABOUT = (
    "Estimators with one known fault, and the exact answer, went through the scores on toys whose density was hidden. Each number says how "
    "far the worst row of a metric lies beyond its threshold, in sigma, corrected for the number of rows of its gate (median over seeds); "
    "above 2 (bold) the gate fails by this metric. A dash: at the threshold or better."
)


@dataclass(frozen=True)
class AuditCell:
    """One metric on one case: text for a reader, and whether it flags the case in at least half of the seeds."""

    text: str
    flagged: bool


@dataclass(frozen=True)
class AuditLine:
    """One case over all its seeds.

    Attributes:
        gates: gates that flagged it, with shares of seeds, such as ``closure 3/3``.
    """

    about: str
    toy: str
    sound: bool
    seeds: int
    gates: str
    cells: tuple[AuditCell, ...]


def audit_metrics(verdicts: Sequence[Verdict]) -> list[str]:
    """The metrics that judged anything, in order of first appearance."""
    return list(dict.fromkeys(name for verdict in verdicts for name in verdict.significance))


def audit_lines(verdicts: Sequence[Verdict]) -> list[AuditLine]:
    """One line per case, sound ones first, in the order of the audit."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in sorted(verdicts, key=lambda verdict: not verdict.sound):
        groups.setdefault((verdict.about, verdict.toy), []).append(verdict)
    names = audit_metrics(verdicts)
    return [_line(group, names) for group in groups.values()]


def _line(group: Sequence[Verdict], names: Sequence[str]) -> AuditLine:
    first = group[0]
    return AuditLine(first.about, first.toy, first.sound, len(group), _gates(group), tuple(_cell(group, name) for name in names))


def _gates(group: Sequence[Verdict]) -> str:
    counts: dict[str, int] = {}
    for name in (name for verdict in group for name in verdict.flagged):
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{name.removeprefix('gate_')} {count}/{len(group)}" for name, count in counts.items()) or "none"


def _cell(group: Sequence[Verdict], name: str) -> AuditCell:
    values = [verdict.significance[name] for verdict in group if name in verdict.significance]
    if not values:
        return AuditCell("n/a", flagged=False)
    middle = median(values)
    return AuditCell(_text(middle), flagged=middle > FLAGGED)


def _text(sigma: float) -> str:
    if sigma <= 0:
        return "\N{EN DASH}"
    return f"> {HIGHEST:.0f}" if sigma >= HIGHEST else f"{sigma:.1f}"
