"""Coverage-calibrated thresholds: the quantile of t among pseudo-experiments at theta, in place of a chi2 quantile.

    t(mu) = 2 [ln L(best) - max ln L(mu)],   P(t(mu) <= threshold(mu, nu) | mu, nu) = level

Wilks' theorem says that the threshold is that of chi2 with one degree of freedom. It is not near a bound, with a second
maximum, or with few events. The best fit is inside the bounds, so that t orders as Feldman and Cousins do (1998,
arXiv:physics/9711021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy.stats import chi2, ncx2
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.result import Result
from touchneedle.inference.simulated import Progress, Simulation
from touchneedle.toys.base import ParameterSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Fits of data by MINUIT are that exact; where t is discrete, it must not decide.
T_ERROR = 1e-3
# Above it a surface is mentioned, in sigma.
_NOTICED = 0.1
LEVELS = (0.6827, 0.95)


@dataclass(frozen=True)
class Thresholds(Result):
    """Thresholds of t at some points of theta.

    Attributes:
        points: where (m, p).
        levels: confidence levels (l).
        threshold: quantiles of t (m, l).
        error: their Monte Carlo errors, that of the finite pool included (m, l).
        t: of every pseudo-experiment (m, e), NaN where its fit failed.
        failed: fits that failed at each point (m,), which no quantile counts.
        method: how most fits were done at each point (m): ``surface`` or ``batched``.
        check_rms: between maxima on the surface and exact ones, in sigma (m,); NaN where no surface was tried.
    """

    parameter: str
    names: tuple[str, ...]
    points: Tensor
    levels: tuple[float, ...]
    threshold: Tensor
    error: Tensor
    t: Tensor
    failed: Tensor
    method: tuple[str, ...]
    check_rms: Tensor

    @property
    def asymptotic(self) -> Tensor:
        """Quantiles of chi2 with one degree of freedom (l,)."""
        return torch.tensor(chi2.ppf(self.levels, 1), dtype=torch.float64)

    @property
    def values(self) -> Tensor:
        """The parameter's values (m,)."""
        return self.points[:, self.names.index(self.parameter)]

    def p_value(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Share of pseudo-experiments with a larger t than observed (m,) at each point, and its binomial error."""
        found = self.t.isfinite()
        above = ((self.t >= t[:, None] - T_ERROR) & found).sum(-1)
        return share_with_error(above, found.sum(-1))

    def summary(self) -> str:
        """One line a point."""
        lines = [f"thresholds of t for {self.parameter}, {self.t.shape[-1]} pseudo-experiments a point"]
        lines += [self._line(row) for row in range(len(self.points))]
        return "\n".join([*lines, *self.doubts()])

    def doubts(self) -> list[str]:
        """Lines on fits that failed, and on a surface that is not quite the likelihood; none if all is well."""
        failed, rms = int(self.failed.sum()), float(self.check_rms.nan_to_num().amax())
        lines = [f"{failed} of {self.t.numel()} fits of pseudo-experiments failed and are in no quantile"] if failed else []
        return [*lines, f"fits on the surface are up to {rms:.2g} sigma (rms) off exact ones"] if rms > _NOTICED else lines

    def draw(self) -> Figure:
        """Thresholds with errors against the parameter, and the asymptotic ones as lines."""
        from touchneedle.inference.drawing import blank

        figure, axes = blank(self.parameter, "threshold of t")
        for column, level in enumerate(self.levels):
            axes.errorbar(self.values, self.threshold[:, column], self.error[:, column], fmt="o", label=f"{100 * level:.3g} %")
            axes.axhline(float(self.asymptotic[column]), color="0.6", linestyle="--")
        axes.legend(frameon=False)
        return figure

    def _line(self, row: int) -> str:
        each = [
            f"{100 * level:.3g} %: {self.threshold[row, k]:.2f} +- {self.error[row, k]:.2f} (chi2: {self.asymptotic[k]:.2f})"
            for k, level in enumerate(self.levels)
        ]
        return f"  {self.values[row]:.4g}  " + "  ".join(each)


def calibrated_thresholds(
    likelihood: Likelihood,
    parameter: str,
    points: Tensor,
    simulation: Simulation,
    levels: Sequence[float] = LEVELS,
    progress: Progress | None = None,
) -> Thresholds:
    """Quantiles of t for one parameter of interest at points (m, p), nuisances profiled in each pseudo-experiment.

    Raises `InputError` for an unknown parameter, a nuisance, or a point at which no fit converged.
    """
    column = interest_column(likelihood.parameters, parameter)
    t, errors, failed, methods, checks = [], [], [], [], []
    for number, point in enumerate(points.double()):
        done = simulation.fit(likelihood, point, stream=number)
        t.append(torch.where(done.kept, done.fits.t_true[:, column], torch.nan))
        errors.append(done.pool_error)
        failed.append(done.failed)
        methods.append(done.fits.method)
        checks.append(done.fits.check_rms)
        if progress is not None:
            progress(number + 1, len(points))
    every = torch.stack(t)
    quantiles = [[quantile_with_error(row, level) for level in levels] for row in every]
    threshold, error = torch.tensor(quantiles, dtype=torch.float64).unbind(-1)
    pool = torch.tensor([[pool_shift(level, shift) for level in levels] for shift in errors], dtype=torch.float64)
    return Thresholds(
        parameter=parameter,
        names=likelihood.parameters.names,
        points=points.double(),
        levels=tuple(levels),
        threshold=threshold,
        error=torch.hypot(error, pool),
        t=every,
        failed=torch.tensor(failed),
        method=tuple(methods),
        check_rms=torch.tensor(checks, dtype=torch.float64),
    )


def interest_column(parameters: ParameterSpace, parameter: str) -> int:
    """Which of the parameters of interest it is; raises `InputError` for a nuisance or an unknown name."""
    column = parameters.index(parameter)
    if column not in parameters.interest:
        raise InputError(f"parameter {parameter}: expected a parameter of interest; got a nuisance; profile scans and MINOS serve those")
    return parameters.interest.index(column)


def quantile_with_error(sample: Tensor, level: float) -> tuple[float, float]:
    """The quantile of a sample (n,), NaN left out, and half the distance of those one binomial error of the level around it.

    What is left out could all lie above, or below; the error has room for that.
    Raises `InputError` for an empty sample.
    """
    found = sample[sample.isfinite()]
    if not len(found):
        raise InputError("pseudo-experiments: expected fits that converge; all failed at one point; fit one of them by `fit` to see why")
    missing = level * (1 - len(found) / len(sample))
    error = math.hypot(math.sqrt(level * (1 - level) / len(found)), missing)
    ranks = torch.tensor([level, level - error, level + error], dtype=torch.float64).clamp(0, 1)
    middle, low, high = torch.quantile(found, ranks).tolist()
    return middle, 0.5 * (high - low)


def share_with_error(count: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """count / total, and its binomial error at the share (count + 1) / (total + 2), which never vanishes."""
    smooth = (count + 1) / (total + 2)
    return count / total, (smooth * (1 - smooth) / total).sqrt()


def pool_shift(level: float, shift: float) -> float:
    """By how much the quantile of t moves if all estimates are off by ``shift`` sigma (non-central chi2)."""
    return float(ncx2.ppf(level, 1, shift**2) - chi2.ppf(level, 1))


def pool_share_shift(level: float, shift: float) -> float:
    """By how much the share of t below its quantile falls if all estimates are off by ``shift`` sigma."""
    return level - float(ncx2.cdf(chi2.ppf(level, 1), 1, shift**2))
