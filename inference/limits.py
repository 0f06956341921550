"""Upper limits by CLs: pseudo-experiments and asymptotic formulas side by side.

    q(mu) = 2 [ln L(best) - max ln L(mu)] if best < mu, else 0,   CLs(mu) = P(q >= q_obs | mu) / P(q >= q_obs | 0)

The best fit is inside the bounds; with a lower bound at 0 this is the q-tilde of Cowan, Cranmer, Gross and Vitells
(2011, arXiv:1007.1727, eq. 16). Values with CLs below 1 - level are excluded (Read 2002, J. Phys. G 28, 2693).
Nuisances of pseudo-experiments are at their conditional best fit to the data, of the background at mu = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy.stats import norm
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.asimov import asimov_from_simulator
from touchneedle.inference.calibrated import T_ERROR, interest_column, share_with_error
from touchneedle.inference.drawing import blank
from touchneedle.inference.fit import FitResult, fit
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.neyman import Bound, check_unit_weights, crossing
from touchneedle.inference.result import Result
from touchneedle.inference.scan import profile_scan
from touchneedle.inference.simulated import Progress, SimulatedFits, Simulation
from touchneedle.toys.base import Events

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Expected limits: the median experiment without signal, and those at -2 to +2 sigma.
SIGMAS = (-2, -1, 0, 1, 2)


@dataclass(frozen=True)
class UpperLimit(Result):
    """An upper limit on one parameter.

    Attributes:
        level: confidence level.
        values: tested values (m,).
        q: of the data (m,).
        cls: by pseudo-experiments (m,).
        error: Monte Carlo errors of ``cls``, that of the finite pool included (m,).
        asymptotic: CLs by the asymptotic formulas (m,).
        asymptotic_error: of ``asymptotic``, due to the finite sample of its Asimov data (m,).
        expected: CLs of experiments without signal at -2, -1, 0, 1, 2 sigma, by pseudo-experiments (m, 5).
        expected_error: their Monte Carlo errors (m, 5).
        limit: where ``cls`` falls below 1 - level.
        asymptotic_limit: the same of ``asymptotic``.
        expected_limits: of ``expected`` (5); where the scan is too short, it is its end.
        failed: fits of pseudo-experiments that failed at each value (m,), which no share counts.
        n_pseudo: pseudo-experiments at each value, with the signal and as many without.
    """

    parameter: str
    level: float
    values: Tensor
    q: Tensor
    cls: Tensor
    error: Tensor
    asymptotic: Tensor
    asymptotic_error: Tensor
    expected: Tensor
    expected_error: Tensor
    limit: Bound
    asymptotic_limit: Bound
    expected_limits: tuple[Bound, ...]
    failed: Tensor
    n_pseudo: int

    def summary(self) -> str:
        """The limit by both methods, the expected ones, and failures."""
        expected = ", ".join(f"{bound.value:.4g}" for bound in self.expected_limits)
        lines = [
            f"{self.parameter} < {self.limit} at {100 * self.level:.3g} % CLs",
            f"  asymptotic formulas: {self.asymptotic_limit}",
            f"  expected without signal, at -2 to +2 sigma: {expected}",
        ]
        failed = int(self.failed.sum())
        if failed:
            lines.append(f"{failed} of {2 * self.n_pseudo * len(self.values)} fits of pseudo-experiments failed and are in no share")
        return "\n".join(lines)

    def draw(self) -> Figure:
        """CLs against the parameter: observed, asymptotic, expected."""
        figure, axes = blank(self.parameter, "CLs")
        axes.fill_between(self.values, self.expected[:, 0], self.expected[:, 4], color="gold", linewidth=0)
        axes.fill_between(self.values, self.expected[:, 1], self.expected[:, 3], color="limegreen", linewidth=0)
        axes.plot(self.values, self.expected[:, 2], color="black", linestyle="--", label="expected")
        axes.errorbar(self.values, self.cls, self.error, fmt="o", color="black", label="observed")
        axes.plot(self.values, self.asymptotic, color="C0", label="asymptotic")
        axes.axhline(1 - self.level, color="0.5", linestyle=":")
        axes.legend(frameon=False)
        return figure


def upper_limit(
    likelihood: Likelihood,
    events: Events,
    parameter: str,
    simulation: Simulation,
    values: Tensor,
    *,
    level: float = 0.95,
    auxiliary: Tensor | None = None,
    best: FitResult | None = None,
    progress: Progress | None = None,
) -> UpperLimit:
    """CLs upper limit on one parameter of interest, for which 0 means no signal.

    Args:
        likelihood: of the data, and of the pseudo-experiments.
        events: the data, of unit weight.
        parameter: a parameter of interest.
        simulation: where pseudo-experiments come from, and how many.
        values: rising values above 0 to test (m,).
        level: confidence level.
        auxiliary: measured values of the constrained nuisances (p,); nominal by default.
        best: the fit of the data, where it is known.
        progress: called after each value with (done, total).

    Raises `InputError` for a nuisance, weighted data, and values that do not rise from above 0.
    """
    interest_column(likelihood.parameters, parameter)
    check_unit_weights(events)
    if len(values) < 2 or not float(values[0]) > 0 or not bool((values.diff() > 0).all()):
        raise InputError(f"values: expected at least two rising values above 0 to test; got {values.tolist()}")
    best = fit(likelihood, events, simulation.starts, auxiliary) if best is None else best
    every = torch.cat([torch.zeros(1, dtype=torch.float64), values.double()])
    scan = profile_scan(likelihood, events, parameter, every, auxiliary, best)
    column = likelihood.parameters.index(parameter)
    background, points = scan.theta[0], scan.theta[1:]
    q = one_sided(scan.t[1:], best.theta[column], values.double())
    test = _Test(likelihood, parameter, simulation, background)
    done = []
    for number, point in enumerate(points):
        done.append(test.at(point, q[number], number))
        if progress is not None:
            progress(number + 1, len(points))
    return _packed(parameter, level, values.double(), q, done, test.asymptotic(points, q), simulation.n_pseudo)


def one_sided(t: Tensor, best: Tensor, value: Tensor) -> Tensor:
    """q (n,): t where the best fit (n,) is below the tested value, 0 elsewhere."""
    return torch.where(best < value, t, 0.0)


def asymptotic_cls(q: Tensor, asimov: Tensor) -> Tensor:
    """CLs (m,) of q (m,), given q of the background's Asimov data (m,): arXiv:1007.1727, eqs. 64 and 65."""
    root, width = q.sqrt(), asimov.sqrt()
    ordinary = (root, root - width)
    beyond = ((q + asimov) / (2 * width), (q - asimov) / (2 * width))
    signal, background = (torch.where(q <= asimov, near, far) for near, far in zip(ordinary, beyond, strict=True))
    return torch.tensor(norm.sf(signal) / norm.sf(background), dtype=torch.float64)


@dataclass(frozen=True)
class _AtValue:
    """CLs of the data and of experiments without signal (5,), at one tested value."""

    cls: Tensor
    error: Tensor
    expected: Tensor
    expected_error: Tensor
    failed: int


@dataclass(frozen=True)
class _Test:
    """Pseudo-experiments with and without signal."""

    likelihood: Likelihood
    parameter: str
    simulation: Simulation
    background: Tensor

    def at(self, point: Tensor, q: Tensor, number: int) -> _AtValue:
        """Test one point (p,) of which the data have q."""
        signal = self.simulation.fit(self.likelihood, point, stream=2 * number)
        background = self.simulation.fit(self.likelihood, self.background, tested=point, stream=2 * number + 1)
        q_signal, q_background = self._q(signal, point), self._q(background, point)
        cls, error = _ratio(q_signal, q_background, q, max(signal.pool_error, background.pool_error))
        quantiles = torch.quantile(q_background, torch.tensor(norm.cdf(SIGMAS), dtype=torch.float64).flip(0))
        expected, expected_error = zip(*[_ratio(q_signal, q_background, entry, background.pool_error) for entry in quantiles], strict=True)
        return _AtValue(cls, error, torch.stack(expected), torch.stack(expected_error), signal.failed + background.failed)

    def asymptotic(self, points: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """CLs (m,) by the asymptotic formulas, from the background's Asimov data, and its error due to their finite sample."""
        pool = self.simulation.pool(self.likelihood, self.background, stream=1)
        asimov = asimov_from_simulator(self.likelihood, pool.events, self.background, self.simulation.n_events)
        likelihood = asimov.likelihood(self.likelihood)
        best = fit(likelihood, asimov.events, self.background, asimov.auxiliary, asimov=True)
        column = self.likelihood.parameters.index(self.parameter)
        scan = profile_scan(likelihood, asimov.events, self.parameter, points[:, column], asimov.auxiliary, best, asimov=True)
        root, shift = scan.t.sqrt(), pool.error(asimov.expected_events)
        up, down = asymptotic_cls(q, (root + shift) ** 2), asymptotic_cls(q, (root - shift).clamp_min(0) ** 2)
        return asymptotic_cls(q, scan.t), 0.5 * (up - down).abs()

    def _q(self, done: SimulatedFits, point: Tensor) -> Tensor:
        column = self.likelihood.parameters.index(self.parameter)
        t = done.fits.t_true[:, interest_column(self.likelihood.parameters, self.parameter)]
        return one_sided(t, done.fits.theta[:, column], point[column])[done.kept]


def _ratio(signal: Tensor, background: Tensor, q: Tensor, pool_error: float) -> tuple[Tensor, Tensor]:
    """CLs and its error from q of experiments with (n,) and without (b,) signal; a pool moves sqrt(q) of all of them."""
    above, above_error = _tail(signal, q, pool_error)
    below, below_error = _tail(background, q, pool_error)
    return above / below, torch.hypot(above_error, above / below * below_error) / below


def _tail(sample: Tensor, q: Tensor, pool_error: float) -> tuple[Tensor, Tensor]:
    share, error = share_with_error((sample >= q - T_ERROR).sum(), torch.tensor(len(sample)))
    moved = norm.pdf(norm.isf(float(share))) * pool_error
    return share, torch.hypot(error, torch.tensor(moved, dtype=error.dtype))


def _packed(
    parameter: str, level: float, values: Tensor, q: Tensor, done: list[_AtValue], asymptotic: tuple[Tensor, Tensor], n_pseudo: int
) -> UpperLimit:
    cls, error = torch.stack([entry.cls for entry in done]), torch.stack([entry.error for entry in done])
    expected, expected_error = torch.stack([entry.expected for entry in done]), torch.stack([entry.expected_error for entry in done])
    return UpperLimit(
        parameter=parameter,
        level=level,
        values=values,
        q=q,
        cls=cls,
        error=error,
        asymptotic=asymptotic[0],
        asymptotic_error=asymptotic[1],
        expected=expected,
        expected_error=expected_error,
        limit=excluded_from(values, cls, error, 1 - level),
        asymptotic_limit=excluded_from(values, *asymptotic, 1 - level),
        expected_limits=tuple(excluded_from(values, *pair, 1 - level) for pair in zip(expected.T, expected_error.T, strict=True)),
        failed=torch.tensor([entry.failed for entry in done]),
        n_pseudo=n_pseudo,
    )


def excluded_from(values: Tensor, cls: Tensor, error: Tensor, alpha: float) -> Bound:
    """Where CLs (m,) with errors (m,) first falls below alpha, by linear interpolation of log CLs.

    A share of 0 is known to its error only. The end of the scan, not crossed, if it never does or always is.
    """
    shown = torch.maximum(cls, error).clamp_min(1e-300)
    height, relative = (shown / alpha).log(), error / shown
    below = (cls < alpha).nonzero().flatten()
    if not len(below) or int(below[0]) == 0:
        return Bound(float(values[0 if len(below) else -1]), 0.0, False)
    last = int(below[0])
    pair = slice(last - 1, last + 1)
    return crossing(values[pair], height[pair], relative[pair])
