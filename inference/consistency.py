"""What a toy's spec and rates must satisfy when they come from a file and not from a toy; each problem is one line of text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict

from touchneedle.inference.joint_polynomial import MAX_COEFFICIENTS, JointPolynomial
from touchneedle.inference.rates import MAX_DEGREE, ProcessRate, RateModel
from touchneedle.toys.base import Normal, Parameter, Prior, ToySpec

_PRINTABLE = re.compile(r"[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]{0,98}[^\s\x00-\x1f\x7f])?")


def problems_of_toy(toy: ToySpec) -> Iterator[str]:
    """Names that are missing, doubled or unprintable; parameters whose numbers cannot be."""
    yield from _problems_of_names("features", [feature.name for feature in toy.features])
    yield from _problems_of_names("parameters", [parameter.name for parameter in toy.parameters.parameters])
    for parameter in toy.parameters.parameters:
        yield from _problems_of_parameter(parameter)


def problems_of_rates(rates: RateModel, toy: ToySpec) -> Iterator[str]:
    """Rates of other parameters or processes than the toy's, or with factors that cannot be interpolated."""
    names = toy.parameters.names
    if rates.names != names or len(rates.processes) != len(toy.processes):
        found = f"{len(rates.processes)} in {', '.join(rates.names)}"
        yield f"rates: expected those of {len(toy.processes)} processes in {', '.join(names)}; got {found}"
    for process in rates.processes:
        yield from _problems_of_process(process, names)


def _problems_of_names(what: str, names: list[str]) -> Iterator[str]:
    if not names or len(set(names)) != len(names):
        yield f"{what}: expected at least one, each once; got {', '.join(names) or 'none'}"
    for name in names:
        if not _PRINTABLE.fullmatch(name):
            yield f"{what}: expected names of 1 to 100 printable characters; got {name[:80]!r}"


def _problems_of_parameter(parameter: Parameter) -> Iterator[str]:
    (low, high), nominal = parameter.bounds, parameter.nominal
    if not low <= nominal <= high or not low < high or not math.isfinite(nominal):
        yield f"parameter {parameter.name}: expected bounds around its nominal value {nominal:g}; got [{low:g}, {high:g}]"
    if not 0 < _width(parameter.prior) < math.inf:
        yield f"parameter {parameter.name}: expected a finite prior of positive width; got {parameter.prior}"
    numbers = {} if parameter.constraint is None else asdict(parameter.constraint)
    if not all(0 < value < math.inf for value in numbers.values() if not isinstance(value, str)):
        yield f"parameter {parameter.name}: expected a constraint of positive width; got {numbers}"


def _width(prior: Prior) -> float:
    """Width of a prior; NaN if its place is not finite."""
    if isinstance(prior, Normal):
        return prior.std + 0 * prior.mean
    return prior.high - prior.low


def _problems_of_process(process: ProcessRate, names: tuple[str, ...]) -> Iterator[str]:
    for name in [term.parameter for term in process.terms] + [factor.parameter for factor in process.factors]:
        if name not in names:
            yield f"rates: unknown parameter {name[:80]!r}"
    for factor in process.factors:
        if not (factor.width > 0 and factor.up > 0 and factor.down > 0):
            yield f"rates: expected a positive width, up and down for {factor.parameter}; got {factor}"
    if process.joint is not None:
        yield from _problems_of_joint(process.joint, names)


def _problems_of_joint(joint: JointPolynomial, names: tuple[str, ...]) -> Iterator[str]:
    width = len(joint.parameters)
    if not set(joint.parameters) <= set(names):
        yield f"rates: expected a polynomial in {', '.join(names)}; got {', '.join(joint.parameters)[:80]}"
    if len(joint.centre) != width or len(joint.width) != width or not all(value != 0 for value in joint.width):
        yield f"rates: expected a centre and a width other than 0 for each of {width} parameters"
    if not 0 < len(joint.coefficients) == len(joint.powers) <= MAX_COEFFICIENTS:
        found = f"{len(joint.powers)} and {len(joint.coefficients)}"
        yield f"rates: expected as many powers as coefficients, {MAX_COEFFICIENTS} at most; got {found}"
    if any(len(row) != width or not all(0 <= power <= MAX_DEGREE for power in row) for row in joint.powers):
        yield f"rates: expected powers from 0 to {MAX_DEGREE} of each of {width} parameters"
