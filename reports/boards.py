"""Boards: what may be compared across toys. Equal budget, design, evaluation and track, and the same options on every toy.

Controls and baselines stay outside. Of several versions of a toy only the newest counts. A failed run is a run: it counts as
the worst in every family. A run that never was, or was skipped, is missing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from touchneedle.benchmark.records import BOARD_SEEDS, Record
from touchneedle.reports.judged import Numbers, Where, numbers_of
from touchneedle.reports.ranking import Withheld
from touchneedle.reports.rows import Row, canonical, changed_options, compact, role_of, row_key
from touchneedle.reports.sections import Section

ToyKey = tuple[str, str, str]
Nameless = tuple[str, dict[str, str]]
"""The estimator of a contestant and its options, before it is known which of them tell it apart."""
_SHARED = ("toy", "budget", "design", "track", "evaluation")


@dataclass(frozen=True)
class Contestant:
    """A method with its options, wherever it ran."""

    key: str
    estimator: str
    label: str


@dataclass
class Entry:
    """A contestant on one toy.

    Attributes:
        row: its good runs; None if all runs failed.
        failed: seeds whose runs failed.
        numbers: family -> (metric, place) -> seed -> badness.
    """

    row: Row | None = None
    failed: tuple[int, ...] = ()
    numbers: dict[str, Numbers] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of all runs."""
        return tuple(sorted({*(self.row.seeds if self.row else ()), *self.failed}))

    def judged(self, family: str) -> bool:
        """Whether the contestant was judged in a family here: it has a number, or all of its runs failed."""
        return self.row is None or family in self.numbers


@dataclass
class Board:
    """One comparison across toys.

    Attributes:
        toys: toys by key, with the index of their section.
        parameters: the parameter of interest of each toy.
        shared: options that all contestants have alike, in words.
        contestants: by label.
        entries: (contestant key, toy key) -> entry; cells that never ran are missing.
    """

    budget: str
    n_train: int
    design: str
    evaluation: str
    track: str
    shared: str = ""
    toys: dict[ToyKey, int] = field(default_factory=dict)
    parameters: dict[ToyKey, str] = field(default_factory=dict)
    contestants: list[Contestant] = field(default_factory=list)
    entries: dict[tuple[str, ToyKey], Entry] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Budget, design, evaluation; the track, if not the default one, and what else all contestants share."""
        evaluation = f", evaluation {self.evaluation}" if self.evaluation else ""
        track = "" if self.track == "default" else f", track {self.track}"
        shared = f", {self.shared}" if self.shared else ""
        return f"{self.budget} ({self.n_train:,} training events), design {self.design}{evaluation}{track}{shared}"

    @property
    def seeds(self) -> str:
        """Its seeds in words, and whose they are."""
        found = sorted({seed for entry in self.entries.values() for seed in entry.seeds})
        span = f"seed {found[0]}" if len(found) == 1 else f"seeds {found[0]} to {found[-1]}"
        ours = [seed in BOARD_SEEDS for seed in found]
        if all(ours):
            return f"{span}, kept for the published board: nothing was developed on their events"
        return f"{span}, some for the published board and some for development" if any(ours) else f"{span}, for development"

    @property
    def runs(self) -> int:
        """Runs that the board rests on."""
        return sum(len(entry.seeds) for entry in self.entries.values())


def build_boards(sections: Sequence[Section]) -> list[Board]:
    """Boards with at least two contestants, those with most runs first, then those with the largest budget."""
    boards: dict[str, Board] = {}
    found: dict[str, dict[str, Nameless]] = {}
    for index, section in _newest(sections):
        for row, failed, withheld in _rows(section):
            record = row.runs[0].record if row else failed[0]
            key, own = _split(record)
            board = boards.setdefault(key, _board(record))
            found.setdefault(key, {}).setdefault(own, (record.estimator.name, _options(record)))
            board.toys[section.toy], board.parameters[section.toy] = index, section.parameter
            numbers = numbers_of(row, section.parameter, withheld) if row else {}
            seeds = tuple(sorted({run.seed for run in failed} - set(row.seeds if row else ())))
            board.entries[own, section.toy] = Entry(row, seeds, numbers)
    for key, board in boards.items():
        board.shared = ", ".join(f"{name} {value}" for name, value in sorted(_shared(found[key])))
        board.contestants = _told_apart(found[key])
    kept = [(-board.runs, -board.n_train, board.title, key) for key, board in boards.items() if len(board.contestants) > 1]
    return [boards[key] for *_, key in sorted(kept)]


def _rows(section: Section) -> Iterable[tuple[Row | None, list[Record], dict[Where, Withheld]]]:
    """The ranked rows of a section with their failures and what is withheld; last, cells of which every run failed."""
    keys = set()
    for table in section.tables:
        for row in table.rows:
            keys.add(row.key)
            if row.role == "entry":
                yield row, [run.record for run in row.failed], table.withheld
    lost: dict[str, list[Record]] = {}
    for run in section.failed:
        if row_key(run.record) not in keys and role_of(run.record.estimator.name) == "entry":
            lost.setdefault(row_key(run.record), []).append(run.record)
    yield from ((None, records, {}) for records in lost.values())


def _split(record: Record) -> tuple[str, str]:
    """The board that a record belongs to, and who it is there."""
    parts = json.loads(row_key(record))
    board = canonical({name: parts[name] for name in _SHARED if name != "toy"})
    return board, canonical({name: value for name, value in parts.items() if name not in _SHARED})


def _options(record: Record) -> dict[str, str]:
    return {name: compact(value) for name, value in changed_options(record).items()}


def _shared(found: Mapping[str, Nameless]) -> set[tuple[str, str]]:
    """Options that all contestants of a board have alike."""
    return set.intersection(*({*options.items()} for _, options in found.values()))


def _board(record: Record) -> Board:
    evaluation = record.config.get("evaluation")
    name = str(evaluation.get("name", "")) if isinstance(evaluation, dict) else ""
    return Board(record.budget.name, record.budget.n_train, record.design, name, record.track)


def _told_apart(found: Mapping[str, Nameless]) -> list[Contestant]:
    """Contestants by label, with the options in which they differ; equal labels (other versions, other distributions) are numbered."""
    shared = _shared(found)
    labels = {
        key: " ".join([name, *(f"{k}={v}" for k, v in options.items() if (k, v) not in shared)]) for key, (name, options) in found.items()
    }
    counts, seen = Counter(labels.values()), Counter[str]()
    named = []
    for label, key in sorted((label, key) for key, label in labels.items()):
        seen[label] += 1
        named.append(Contestant(key, found[key][0], f"{label} ({seen[label]})" if counts[label] > 1 else label))
    return named


def _newest(sections: Sequence[Section]) -> list[tuple[int, Section]]:
    newest: dict[tuple[str, str], int] = {}
    for index, section in enumerate(sections):
        name, version, params = section.toy
        other = newest.get((name, params))
        if other is None or _natural(version) > _natural(sections[other].toy[1]):
            newest[name, params] = index
    return [(index, sections[index]) for index in sorted(newest.values())]


def _natural(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", version)]
