"""A reader's questions, each with the view of the page that answers it, or with what is missing for an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from touchneedle.benchmark.export_rows import Export
from touchneedle.reports.page_compare import shown_columns

MANY = 3


@dataclass(frozen=True)
class Question:
    """One question: where its answer stands (empty if nowhere), and what stands there."""

    text: str
    anchor: str
    answer: str


def questions(compared: Mapping[str, Any], exports: Sequence[Export]) -> list[Question]:
    """The questions of a physicist who must choose; ``compared`` is the data of the comparison."""
    traits = {trait for table in compared["tables"] for trait in table[5]}
    columns = shown_columns(compared)
    return [
        _few_events(columns),
        _many_nuisances(traits),
        _signed_weights(traits),
        _width(columns),
        Question("How long does it take?", "estimators?sort=train.ascending", "training time and time of one log_ratio, by estimator"),
        _deployment(exports),
    ]


def _few_events(columns: set[str]) -> Question:
    sizes = sorted(int(key.removeprefix("bias_")) for key in columns if re.fullmatch(r"bias_\d+", key))
    text = "Which method for few events?"
    if not sizes:
        return Question(text, "", "no record has fits of pseudo-experiments")
    return Question(text, _view(number=f"bias_{sizes[0]}"), f"bias of fits to {sizes[0]:,} events, against the best of each toy")


def _many_nuisances(traits: set[str]) -> Question:
    counts = sorted(int(trait.split()[0]) for trait in traits if re.fullmatch(r"\d+ nuisances?", trait))
    text = "Which with many nuisance parameters?"
    if not counts:
        return Question(text, "", "no toy of these records has any")
    trait = f"{counts[-1]} nuisance{'' if counts[-1] == 1 else 's'}"
    few = "" if counts[-1] >= MANY else ", the most that these records have"
    return Question(text, _view(trait=trait), f"toys with {trait}{few}")


def _signed_weights(traits: set[str]) -> Question:
    text = "Which with signed weights?"
    if "signed weights" not in traits:
        return Question(text, "", "no toy of these records has them")
    return Question(text, _view(trait="signed weights"), "toys with events of negative weight")


def _width(columns: set[str]) -> Question:
    text = "What does its interval cost in width against the oracle?"
    if "width" not in columns:
        return Question(text, "", "no record has intervals beside those of the oracle")
    return Question(text, _view(number="width"), "width of its intervals over the oracle's, toy by toy")


def _deployment(exports: Sequence[Export]) -> Question:
    text = "Can I deploy it in C++?"
    if not exports:
        return Question(text, "", "these records hold no survey of exports (touchneedle exports makes one)")
    return Question(text, "exports", "what exports as ONNX or .pt2, what does not, and why")


def _view(**state: str) -> str:
    return f"compare?{urlencode(state)}"
