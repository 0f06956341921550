"""A best fit: values, errors, pulls, and what is doubtful about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from touchneedle.inference.curvature import Method
from touchneedle.inference.interval import Interval
from touchneedle.inference.maximise import sigma_of
from touchneedle.inference.normalisation import LocalNormalisation
from touchneedle.inference.prefit import prefit
from touchneedle.inference.result import Result, plain
from touchneedle.inference.text_table import signed, table
from touchneedle.toys.base import ParameterSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TRAINED_SIGMA = 3.0


@dataclass(frozen=True)
class Minimum:
    """A minimum of -2 ln L.

    Attributes:
        theta: (p,).
        distance: 2 [ln L(best) - ln L] there.
    """

    theta: Tensor
    distance: float


@dataclass(frozen=True)
class FitResult(Result):
    """A best fit.

    Attributes:
        theta: best fit (p,).
        covariance: (p, p), the errors that are reported: the inverse Hessian of -ln L, or for weighted events the
            sandwich that corrects it (`touchneedle.inference.weighted`); NaN where there is none.
        inverse_hessian: (p, p), the naive covariance of weighted events, the same otherwise.
        value: ln L at the best fit, up to a constant.
        valid: converged, with a positive definite Hessian.
        calls: evaluations of ln L.
        reason: why it is not valid; empty otherwise.
        normalisation: the local normalisation that was used, if any.
        auxiliary: the measured values of the constrained nuisances (p,).
        edm: estimated distance to the maximum in ln L.
        hessian: how second derivatives were found.
        at_bound: names of the parameters that the slope of ln L holds at a limit of the fit.
        minima: distinct minima of -2 ln L within 9 of the lowest one, which comes first.
        starts: number of starting points that were tried.
        non_positive: events at which a signed density is not positive at the best fit.
        weighted: the events had weights other than 1 and were not Asimov data.
        intervals: asymmetric errors, if they were added (`with_intervals`).
    """

    parameters: ParameterSpace
    theta: Tensor
    covariance: Tensor
    inverse_hessian: Tensor
    value: float
    valid: bool
    calls: int
    auxiliary: Tensor
    reason: str = ""
    normalisation: LocalNormalisation | None = None
    edm: float = float("nan")
    hessian: Method = "exact"
    at_bound: tuple[str, ...] = ()
    minima: tuple[Minimum, ...] = ()
    starts: int = 1
    non_positive: int = 0
    weighted: bool = False
    intervals: tuple[Interval, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names in the order of theta."""
        return self.parameters.names

    @property
    def sigma(self) -> Tensor:
        """Standard errors (p,); NaN where there are none."""
        return sigma_of(self.covariance)

    @property
    def naive_sigma(self) -> Tensor:
        """Standard errors from the Hessian alone (p,), which are wrong for weighted events."""
        return sigma_of(self.inverse_hessian)

    @property
    def correlation(self) -> Tensor:
        """Correlation matrix (p, p)."""
        return self.covariance / self.sigma[:, None] / self.sigma

    @cached_property
    def prefit(self) -> tuple[Tensor, Tensor]:
        """Values and errors of the nuisances before the fit, each (p,); NaN for parameters without constraint."""
        return prefit(self.parameters, self.auxiliary)

    @property
    def pull(self) -> Tensor:
        """(best fit - value before the fit) / error before the fit (p,)."""
        centre, sigma = self.prefit
        return (self.theta - centre) / sigma

    @property
    def constraint(self) -> Tensor:
        """Error after the fit / error before the fit (p,)."""
        return self.sigma / self.prefit[1]

    @property
    def beyond_prior(self) -> tuple[str, ...]:
        """Names of the parameters that are more than 3 sigma of their training prior away: learned answers end there."""
        far = self.parameters.to_normal(self.theta).abs() > _TRAINED_SIGMA
        return tuple(name for name, outside in zip(self.names, far.tolist(), strict=True) if outside)

    def with_intervals(self, intervals: Sequence[Interval]) -> FitResult:
        """The same fit with asymmetric errors in its summary."""
        return replace(self, intervals=tuple(intervals))

    def summary(self) -> str:
        """A table of parameters, then what is doubtful."""
        rows = [self._row(column) for column in range(len(self.names))]
        header = ["parameter", "value", "error", "naive error", "unit", "pull", "constraint", "note"]
        return "\n".join([table(header, rows), *self._flags()])

    def to_dict(self) -> dict[str, Any]:
        """One entry per parameter, the matrices, and how the fit went."""
        names = (
            "value",
            "valid",
            "reason",
            "edm",
            "calls",
            "hessian",
            "at_bound",
            "minima",
            "starts",
            "non_positive",
            "weighted",
            "intervals",
        )
        return {
            "parameters": [self._entry(column) for column in range(len(self.names))],
            **{name: plain(getattr(self, name)) for name in (*names, "theta", "covariance", "inverse_hessian", "auxiliary")},
            "normalisation_residual": None if self.normalisation is None else plain(self.normalisation.residual),
        }

    def draw(self) -> Figure:
        """Pulls of the nuisances, and the correlations."""
        from touchneedle.inference.figures import draw_fit

        return draw_fit(cast(Any, self))

    def _entry(self, column: int) -> dict[str, Any]:
        parameter = self.parameters.parameters[column]
        numbers = {name: getattr(self, name)[column] for name in ("theta", "sigma", "naive_sigma", "pull", "constraint")}
        said = {"name": parameter.name, "kind": parameter.kind, "unit": parameter.unit, "at_bound": parameter.name in self.at_bound}
        return {**said, **plain(numbers)}

    def _row(self, column: int) -> list[str]:
        parameter = self.parameters.parameters[column]
        interval = next((found for found in self.intervals if found.parameter == parameter.name), None)
        error = f"+- {float(self.sigma[column]):.4g}" if interval is None else interval.errors
        naive = f"{float(self.naive_sigma[column]):.4g}" if self.weighted else ""
        notes = ["at a bound" * (parameter.name in self.at_bound), "beyond the prior" * (parameter.name in self.beyond_prior)]
        constrained = parameter.constraint is not None
        pull, constraint = (signed(self.pull[column]), f"{float(self.constraint[column]):.3g}") if constrained else ("", "")
        return [
            parameter.name,
            f"{float(self.theta[column]):.6g}",
            error,
            naive,
            parameter.unit,
            pull,
            constraint,
            ", ".join(filter(None, notes)),
        ]

    def _flags(self) -> list[str]:
        state = "valid" if self.valid else f"NOT VALID: {self.reason}"
        lines = [f"{state}; estimated distance to the maximum {self.edm:.1e} in ln L; {self.calls} calls; Hessian: {self.hessian}"]
        if self.weighted:
            lines.append("weighted events: errors are corrected (sandwich); the naive ones ignore the spread of the weights")
        if self.at_bound:
            lines.append(f"at a bound of the fit, errors are not symmetric: {', '.join(self.at_bound)}")
        if self.beyond_prior:
            lines.append(f"more than 3 sigma of the training prior away, where nothing was learned: {', '.join(self.beyond_prior)}")
        lines += [f"another minimum, {other.distance:.3g} higher in -2 ln L, at {_point(self.names, other)}" for other in self.minima[1:]]
        return lines


def _point(names: Sequence[str], minimum: Minimum) -> str:
    return ", ".join(f"{name} = {value:.4g}" for name, value in zip(names, minimum.theta.tolist(), strict=True))
