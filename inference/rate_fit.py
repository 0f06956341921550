"""Fitting rates: a `RateModel` for a rate function, process by process.

A product of terms and factors is anchored at one point and scanned parameter by parameter. Where no such product is exact,
yield and terms, or the factors of all nuisances, or everything gives way to a polynomial in several parameters together if that is
closer at draws from the prior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.joint_polynomial import fit_joint
from touchneedle.inference.rates import MAX_DEGREE, TERMS, NuisanceFactor, PoiTerm, ProcessRate, RateModel
from touchneedle.toys.base import Parameter, ParameterSpace

_SCAN_POINTS = 21
_EXACT = 1e-9
_NOTHING = 1e-3
_TEST_POINTS = 1_024
_BASE_QUANTILES = (0.7, 0.35)


def fit_rate_model(parameters: ParameterSpace, rates: Callable[[Tensor], Tensor]) -> RateModel:
    """Describe a rate function theta (m, p) -> (m, k) by a `RateModel`.

    Raises `InputError` if the rates are not finite, or vanish wherever the model is anchored.
    """
    with torch.no_grad():
        base = _base_point(parameters)
        at_base = _evaluate(rates, base[None])[0]
        products = tuple(_fit_process(parameters, rates, base, at_base, k) for k in range(len(at_base)))
        sample, other = (_Sample.draw(parameters, rates, seed) for seed in (0, 1))
        processes = tuple(sample.improved(process, k) for k, process in enumerate(products))
        return RateModel(parameters.names, processes, other.deviation(processes))


def _base_point(parameters: ParameterSpace) -> Tensor:
    """Where factors are anchored: nuisances nominal, interests off their special values (0 and 1)."""
    base = parameters.nominal.clone()
    for order, column in enumerate(parameters.interest):
        quantile = torch.full((len(parameters),), _BASE_QUANTILES[order % 2], dtype=torch.float64)
        base[column] = parameters.from_normal(torch.special.ndtri(quantile))[column]
    return base


def _fit_process(parameters: ParameterSpace, rates: Callable[[Tensor], Tensor], base: Tensor, at_base: Tensor, k: int) -> ProcessRate:
    if float(at_base[k]) == 0:
        return ProcessRate(0.0)
    terms = tuple(_fit_term(parameters, rates, base, column, k) for column in parameters.interest)
    linear = {column: _fit_polynomial_nuisance(parameters, rates, base, column, k) for column in parameters.nuisance}
    terms += tuple(term for term in linear.values() if term is not None)
    factors = tuple(
        factor
        for column in parameters.nuisance
        if linear[column] is None and (factor := _fit_factor(parameters.parameters[column], rates, base, column, k)) is not None
    )
    scale = at_base[k]
    for term in terms:
        scale = scale / term(base[parameters.index(term.parameter)][None])[0]
    return ProcessRate(float(scale), tuple(term for term in terms if term.kind != "1"), factors)


def _fit_term(parameters: ParameterSpace, rates: Callable[[Tensor], Tensor], base: Tensor, column: int, k: int) -> PoiTerm:
    """The first named term that is proportional to the scan along one parameter, else the lowest sufficient polynomial."""
    name = parameters.names[column]
    values = _scan(parameters, column)
    points = base.repeat(len(values), 1)
    points[:, column] = values
    scanned = _evaluate(rates, points)[:, k]
    for kind in TERMS:
        if "sqrt" in kind and float(values.min()) < 0:
            continue
        term = PoiTerm(name, kind)  # type: ignore[arg-type]
        if float(term(base[column][None]).abs()) > 1e-6 and _misfit(term(values)[:, None], scanned)[0] < _EXACT:
            return term
    return _fit_polynomial(name, values, scanned)


def _fit_polynomial(name: str, values: Tensor, scanned: Tensor) -> PoiTerm:
    coefficients = torch.zeros(1)
    for degree in range(1, MAX_DEGREE + 1):
        misfit, coefficients = _misfit(torch.stack([values**power for power in range(degree + 1)], -1), scanned)
        if misfit < _EXACT:
            break
    return PoiTerm(name, "polynomial", tuple(coefficients.tolist()))


def _fit_polynomial_nuisance(
    parameters: ParameterSpace, rates: Callable[[Tensor], Tensor], base: Tensor, column: int, k: int
) -> PoiTerm | None:
    """An exact polynomial of first or second degree in a nuisance; None if there is none, or nothing depends on it."""
    values = _scan(parameters, column)
    points = base.repeat(len(values), 1)
    points[:, column] = values
    scanned = _evaluate(rates, points)[:, k]
    for degree in range(3):
        misfit, coefficients = _misfit(torch.stack([values**power for power in range(degree + 1)], -1), scanned)
        if misfit < _EXACT:
            return PoiTerm(parameters.names[column], "polynomial", tuple(coefficients.tolist())) if degree else None
    return None


def _misfit(columns: Tensor, wanted: Tensor) -> tuple[float, Tensor]:
    """Largest relative residual of a least-squares fit, and its coefficients."""
    coefficients = torch.linalg.lstsq(columns, wanted[:, None]).solution
    residual = (columns @ coefficients)[:, 0] - wanted
    return float(residual.abs().max() / wanted.abs().max().clamp_min(1e-300)), coefficients[:, 0]


def _fit_factor(parameter: Parameter, rates: Callable[[Tensor], Tensor], base: Tensor, column: int, k: int) -> NuisanceFactor | None:
    """Up and down ratios at half the distance of the anchors; None where the nuisance does nothing."""
    low, high = parameter.template_anchors[0], parameter.template_anchors[-1]
    width = 0.5 * (high - low)
    points = base.repeat(3, 1)
    points[1, column], points[2, column] = parameter.nominal + width, parameter.nominal - width
    nominal, up, down = (_evaluate(rates, points)[:, k]).tolist()
    if up == nominal and down == nominal:
        return None
    if up / nominal <= 0 or down / nominal <= 0:
        raise InputError(f"rates: expected rates of one sign at nominal +- 1 sigma of {parameter.name}; got {up:g}, {nominal:g}, {down:g}")
    return NuisanceFactor(parameter.name, parameter.nominal, width, up / nominal, down / nominal)


def _scan(parameters: ParameterSpace, column: int) -> Tensor:
    """Values of one parameter across the central 98 % of its prior, inside the bounds."""
    quantiles = torch.linspace(0.01, 0.99, _SCAN_POINTS, dtype=torch.float64)
    values = parameters.parameters[column].prior.from_normal(torch.special.ndtri(quantiles))
    return values.clamp(*parameters.parameters[column].bounds)


@dataclass(frozen=True)
class _Sample:
    """Exact rates at prior draws, by which models of a process are compared.

    Attributes:
        theta: (m, p).
        exact: (m, k).
        total: |sum over processes| (m,).
    """

    parameters: ParameterSpace
    theta: Tensor
    exact: Tensor
    total: Tensor

    @classmethod
    def draw(cls, parameters: ParameterSpace, rates: Callable[[Tensor], Tensor], seed: int) -> _Sample:
        theta = parameters.sample_prior(_TEST_POINTS, torch.Generator().manual_seed(seed))
        theta = torch.minimum(torch.maximum(theta, parameters.low), parameters.high)
        exact = _evaluate(rates, theta)
        return cls(parameters, theta, exact, exact.sum(-1).abs().clamp_min(1e-300))

    def deviation(self, processes: tuple[ProcessRate, ...]) -> float:
        """Largest |model - exact| of a process, over the total rate."""
        model = RateModel(self.parameters.names, processes)
        return float(((model.rates(self.theta) - self.exact) / self.total[:, None]).abs().max())

    def improved(self, product: ProcessRate, k: int) -> ProcessRate:
        """The product, or what describes process k better: a joint polynomial in place of a part of it, or of everything."""
        best, smallest = product, self._misfit(product, k)
        for columns, rest in self._parts(product):
            for degree in range(2, MAX_DEGREE + 1):
                if smallest < _EXACT or not columns:
                    return best
                found = self._joint(columns, rest, degree, k)
                misfit = torch.inf if found is None else self._misfit(found, k)
                if found is not None and misfit < smallest:
                    best, smallest = found, misfit
        return best

    def _parts(self, product: ProcessRate) -> Iterator[tuple[list[int], ProcessRate]]:
        """Columns of parameters that a joint polynomial may describe, and what stays of the product beside it."""
        space = self.parameters
        interest = tuple(term for term in product.terms if space.index(term.parameter) in space.interest)
        yield list(space.interest), ProcessRate(1.0, (), product.factors)
        if interest and len(space.nuisance) > 1:
            yield list(space.nuisance), ProcessRate(1.0, interest)
        yield list(range(len(space))), ProcessRate(1.0)

    def _misfit(self, process: ProcessRate, k: int) -> float:
        rate = RateModel(self.parameters.names, (process,)).rates(self.theta)[:, 0]
        return float(((rate - self.exact[:, k]) / self.total).abs().max())

    def _joint(self, columns: list[int], rest: ProcessRate, degree: int, k: int) -> ProcessRate | None:
        space = self.parameters
        beside = RateModel(space.names, (rest,)).rates(self.theta)[:, 0]
        one = torch.ones(len(space), dtype=torch.float64)
        low, high = space.from_normal(-one)[columns], space.from_normal(one)[columns]
        names = [space.names[column] for column in columns]
        # Where the rest vanishes (mu - sqrt mu at 1) nothing is known of the polynomial.
        known = beside.abs() > _NOTHING * beside.abs().amax()
        theta, wanted = self.theta[known][:, columns], (self.exact[:, k] / beside)[known]
        joint = fit_joint(names, theta, wanted, degree, 0.5 * (low + high), 0.5 * (high - low))
        return None if joint is None else replace(rest, joint=joint)


def _evaluate(rates: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    values = rates(theta).double()
    if not bool(values.isfinite().all()):
        raise InputError("rates: expected finite rates at every theta; got some that are not")
    return values
