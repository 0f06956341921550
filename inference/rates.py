"""Rates as data: expected events per process, for likelihoods that are deployed without their toy.

    rate_k(theta) = yield_k * prod_j term_kj(theta_j) * prod_l code4(alpha_l; up_kl, down_kl)

over parameters j and nuisances l, alpha = (theta - nominal) / width. Terms are powers that
physics has: 1, mu, 1 - mu (a fraction), sqrt(mu) (interference), mu - sqrt(mu) and 1 - sqrt(mu) (off-shell Higgs, signal
and background less interference; ATLAS 2024, arXiv:2412.01548), or a polynomial, which nuisances may have, too (a free yield).
Where no such product is exact, yield and terms, or the factors of all nuisances, or everything gives way to a polynomial in
several parameters together if that is closer. How far the model is from the function it was fitted to is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.joint_polynomial import JointPolynomial, fit_joint
from touchneedle.toys.base import Parameter, ParameterSpace

TermName = Literal["1", "mu", "1-mu", "sqrt(mu)", "mu-sqrt(mu)", "1-sqrt(mu)", "polynomial"]

TERMS: dict[str, Callable[[Tensor], Tensor]] = {
    "1": torch.ones_like,
    "mu": lambda mu: mu,
    "1-mu": lambda mu: 1 - mu,
    "sqrt(mu)": torch.sqrt,
    "mu-sqrt(mu)": lambda mu: mu - torch.sqrt(mu),
    "1-sqrt(mu)": lambda mu: 1 - torch.sqrt(mu),
}

MAX_DEGREE = 4
_SCAN_POINTS = 21
_EXACT = 1e-9
_NOTHING = 1e-3
_TEST_POINTS = 1_024
_BASE_QUANTILES = (0.7, 0.35)


@dataclass(frozen=True)
class PoiTerm:
    """How a process depends on one parameter (of interest, but for polynomials).

    Attributes:
        coefficients: of the polynomial in the parameter, constant first; empty for the named terms.
    """

    parameter: str
    kind: TermName = "1"
    coefficients: tuple[float, ...] = ()

    def __call__(self, mu: Tensor) -> Tensor:
        """The factor at values (m,)."""
        if self.kind != "polynomial":
            return TERMS[self.kind](mu)
        value = torch.zeros_like(mu)
        for coefficient in reversed(self.coefficients):
            value = value * mu + coefficient
        return value


@dataclass(frozen=True)
class NuisanceFactor:
    """Ratios to nominal at nominal +- ``width`` of one nuisance, interpolated by HistFactory code 4."""

    parameter: str
    nominal: float
    width: float
    up: float
    down: float

    def __call__(self, value: Tensor) -> Tensor:
        """The factor at values (m,)."""
        from touchneedle.estimators.interpolation import interpolate_code4

        return interpolate_code4((value - self.nominal) / self.width, value.new_tensor(self.up), value.new_tensor(self.down))


@dataclass(frozen=True)
class ProcessRate:
    """Expected events of one process: a yield, times factors.

    Attributes:
        joint: a polynomial in several parameters, one more factor; None for a product.
    """

    nominal_yield: float
    terms: tuple[PoiTerm, ...] = ()
    factors: tuple[NuisanceFactor, ...] = ()
    joint: JointPolynomial | None = None


@dataclass(frozen=True)
class RateModel:
    """Rates of all processes as plain numbers; JSON through pydantic.

    Attributes:
        names: the parameters, in the order of theta.
        worst_deviation: largest |model - function| of a process over the total rate, at prior draws it was not fitted to.
    """

    names: tuple[str, ...]
    processes: tuple[ProcessRate, ...]
    worst_deviation: float = 0.0

    def rates(self, theta: Tensor) -> Tensor:
        """Expected events per process at theta (m, p): shape (m, k); differentiable."""
        return torch.stack([self._rate(process, theta) for process in self.processes], -1)

    def expected_events(self, theta: Tensor) -> Tensor:
        """Total expected events at theta (m, p): shape (m,)."""
        return self.rates(theta).sum(-1)

    def _rate(self, process: ProcessRate, theta: Tensor) -> Tensor:
        rate = torch.full_like(theta[:, 0], process.nominal_yield)
        factors: list[PoiTerm | NuisanceFactor] = [*process.terms, *process.factors]
        for factor in factors:
            rate = rate * factor(theta[:, self.names.index(factor.parameter)])
        return rate if process.joint is None else rate * process.joint(theta, self.names)


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
