"""Densities of single processes from an estimator of their mixture.

The expected density of events is a sum over processes whose rates are known,

    nu(mu) r(x|mu, alpha) = sum_k nu_k(mu, alpha) r_k(x|alpha),    r = p(x|.) / p(x|theta_0),

so r at several values mu of the parameters of interest gives r_k by linear least squares, wherever the rates tell the
processes apart. Rates may be negative (interference). The residual says how far the estimator is from a mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.terms import Rates
from touchneedle.toys.base import ParameterSpace

_POINTS_PER_PROCESS = 4
_PRIOR_SIGMAS = 1.0
_CONDITION = 1e6


@dataclass(frozen=True)
class ProcessRatios:
    """p_k(x) / p(x|theta_0) of n events for K processes.

    Attributes:
        ratio: (n, K); a learned one may be slightly negative where the process is absent.
        rates: expected events of each process at the nominal parameters of interest (K,).
        residual: root mean square of the least-squares residual, relative to the root mean square of the density.
    """

    ratio: Tensor
    rates: Tensor
    residual: float


def process_ratios(estimator: Estimator, rates: Rates, x: Tensor, nuisances: Tensor | None = None) -> ProcessRatios:
    """Ratios of every process at events x (n, d), with nuisances at those of ``nuisances`` (p,), nominal by default.

    Raises `InputError` where the rates do not tell the processes apart.
    """
    parameters = estimator.spec.parameters
    theta = _points(parameters, parameters.nominal if nuisances is None else nuisances.double(), rates)
    expected = rates(theta).double()
    scaled = expected / expected.abs().amax(0).clamp_min(1e-300)
    if float(torch.linalg.cond(scaled)) > _CONDITION:
        raise InputError(f"processes: expected rates that tell {expected.shape[1]} processes apart; at {len(theta)} points they do not")
    with torch.no_grad():
        density = expected.sum(-1)[:, None] * estimator.log_ratio_grid(x, theta).exp().T
    solution = torch.linalg.lstsq(expected, density).solution
    residual = (expected @ solution - density).square().mean().sqrt() / density.square().mean().sqrt()
    return ProcessRatios(solution.T, rates(theta[:1]).double()[0], float(residual))


def _points(parameters: ParameterSpace, base: Tensor, rates: Rates) -> Tensor:
    """The base point, then others that differ in the parameters of interest: a Sobol sequence over the core of their prior."""
    processes = rates(base[None]).shape[1]
    count = _POINTS_PER_PROCESS * processes
    columns = list(parameters.interest)
    u = torch.quasirandom.SobolEngine(len(columns), scramble=False).draw(count + 1, dtype=torch.float64)[1:]
    normal = parameters.to_normal(base[None]).repeat(count, 1)
    normal[:, columns] = _PRIOR_SIGMAS * (2 * u - 1)
    points = base.repeat(count + 1, 1)
    points[1:, columns] = parameters.from_normal(normal)[:, columns]
    points[0, columns] = parameters.nominal[columns]
    return points
