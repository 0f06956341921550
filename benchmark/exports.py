"""Which estimator leaves the benchmark as what: each is trained briefly, exported, loaded again and compared.

``python -m touchneedle.benchmark.exports [NAME ...] [--onnx]`` prints one line for each. Weights and configuration (safetensors)
serve every estimator, so they are not tried here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from touchneedle.benchmark.check_subject import Subject
from touchneedle.benchmark.tables import show
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.inference.bundle import EXPORTERS, Format
from touchneedle.inference.exported import ExportFailed
from touchneedle.inference.parity import make_parity
from touchneedle.toys.base import SimulatedToy, build_toy

# Methods that other toys cannot serve: mined gold, signed weights, morphing.
TOYS = ("gaussian_shift", "eft_quadratic", "signed_mixture", "mass_bump")
HEAD = ("estimator", "toy", "format", "exports", "bytes", "seconds", "reason")


@dataclass(frozen=True)
class Export:
    """One estimator in one format; ``size`` in bytes of all its files, 0 where it does not export."""

    estimator: str
    toy: str
    format: Format
    size: int
    seconds: float
    reason: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of a table."""
        size = f"{self.size}" if self.size else ""
        return self.estimator, self.toy, self.format, "yes" if self.size else "no", size, f"{self.seconds:.1f}", self.reason


def survey_exports(names: Sequence[str] = (), formats: Sequence[Format] = ("pt2",)) -> Iterator[Export]:
    """Try every estimator that is not a control (or those named) in every format; answers must come out again to be a yes."""
    for name in names or registry.estimators.names():
        estimator_class: Any = registry.estimators.load(name)
        if not estimator_class.needs_truth:
            yield from _try(name, formats)


def _try(name: str, formats: Sequence[Format]) -> Iterator[Export]:
    subject, why = _subject(name)
    if subject is None:
        yield from (Export(name, "", each, 0, 0.0, why) for each in formats)
        return
    estimator = subject.exact.eval()
    parity = make_parity(estimator, subject.probe)
    for each in formats:
        start = time.perf_counter()
        try:
            size, reason = sum(map(len, EXPORTERS[each](estimator, parity).values())), ""
        except ExportFailed as error:
            size, reason = 0, str(error)
        yield Export(name, subject.toy.spec.name, each, size, time.perf_counter() - start, reason)


def _subject(name: str) -> tuple[Subject | None, str]:
    """The estimator, trained on the first toy that it can be trained on; the reason if there is none."""
    why = ""
    for toy in TOYS:
        candidate: Any = build_toy(toy)
        if not isinstance(candidate, SimulatedToy):
            continue
        subject = Subject(name, candidate)
        try:
            _ = subject.exact
        except InputError as error:
            why = str(error)
            continue
        return subject, ""
    return None, why


def _main(*words: str) -> None:
    formats: tuple[Format, ...] = ("pt2", "onnx") if "--onnx" in words else ("pt2",)
    for export in survey_exports([word for word in words if not word.startswith("-")], formats):
        show(HEAD, [export.cells])


if __name__ == "__main__":
    _main(*sys.argv[1:])
