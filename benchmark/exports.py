"""Which estimator leaves the benchmark as what: each is trained briefly, exported, loaded again and compared.

Weights and configuration (safetensors) serve every estimator, so they are not tried here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from touchneedle.benchmark.check_subject import Subject
from touchneedle.benchmark.export_rows import Export
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.estimators.trained_range import extrapolation_allowed
from touchneedle.inference.bundle import EXPORTERS, Format
from touchneedle.inference.exported import ExportFailed
from touchneedle.inference.parity import make_parity
from touchneedle.toys.base import SimulatedToy, build_toy

# Methods that other toys cannot serve: mined gold, signed weights, morphing.
TOYS = ("gaussian_shift", "eft_quadratic", "signed_mixture", "mass_bump")
HEAD = ("estimator", "toy", "format", "exports", "bytes", "seconds", "reason")


def survey_exports(names: Sequence[str] = (), formats: Sequence[Format] = ("pt2",)) -> Iterator[Export]:
    """Try every estimator that is not a control (or those named) in every format; answers must come out again to be a yes."""
    for name in names or registry.estimators.names():
        estimator_class: Any = registry.estimators.load(name)
        if not estimator_class.needs_truth:
            yield from _try(name, formats)


def _try(name: str, formats: Sequence[Format]) -> Iterator[Export]:
    subject, why = _subject(name)
    if subject is None:
        yield from (Export(estimator=name, toy="", format=each, size=0, seconds=0.0, reason=why) for each in formats)
        return
    estimator = subject.exact.eval()
    # The probe lies between and beyond the points of some designs.
    with extrapolation_allowed():
        parity = make_parity(estimator, subject.probe)
    for each in formats:
        start = time.perf_counter()
        try:
            size, reason = sum(map(len, EXPORTERS[each](estimator, parity).values())), ""
        except ExportFailed as error:
            size, reason = 0, str(error)
        seconds = time.perf_counter() - start
        yield Export(estimator=name, toy=subject.toy.spec.name, format=each, size=size, seconds=seconds, reason=reason)


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
