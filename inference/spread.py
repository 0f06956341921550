"""The spread of an ensemble as a nuisance: an extra parameter moves log r along what its members disagree on most.

    log r(x|theta, z) = log r(x|theta) + z m(x, theta),   z ~ N(0, 1)

m is the first principal direction of the members' deviations from their mean, over reference events and points, so long
that z = 1 is one standard deviation of the spread along it (ATLAS 2024, arXiv:2412.01600, sec. 6, carries the statistics of the
training sample as one nuisance). The first order of the covariance of `touchneedle.inference.network_error`, but inside the
fit, where it is profiled and shows up among impacts. ``share`` says how much of the spread it holds: the rest is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.network_error import KnowsItsError
from touchneedle.toys.base import GaussianConstraint, Normal, Parameter, ParameterSpace

_BOUND = 5.0


@dataclass
class EnsembleSpreadConfig:
    """No options."""


class EnsembleSpread(Estimator):
    """An ensemble with one more parameter, last in theta; in float64, its members as well. Made by `spread_as_nuisance`.

    ``log_normalisation`` is that of the ensemble and of the first order in z: events do not constrain z by their number alone.

    Attributes:
        share: share of the variance of log r over members that the direction holds.
    """

    Config = EnsembleSpreadConfig

    direction: Tensor

    def __init__(self, ensemble: Estimator, direction: Tensor, share: float, name: str) -> None:
        spread = Parameter(name, "nuisance", 0.0, (-_BOUND, _BOUND), Normal(0.0, 1.0), GaussianConstraint(1.0))
        space = ParameterSpace((*ensemble.spec.parameters.parameters, spread))
        super().__init__(replace(ensemble.spec, parameters=space), EnsembleSpreadConfig())
        self.ensemble, self.share = ensemble, share
        self.register_buffer("direction", direction)
        self.double()
        self.nominal = space.nominal.to(self.nominal)

    def log_normalisation(self, theta: Tensor) -> Tensor:
        """log E[r] over the reference events of the ensemble at theta (m, p), shape (m,)."""
        own, z = theta[:, :-1], theta[:, -1]
        modes = _knowing(self.ensemble).log_normalisation_modes(own)[:, : len(self.direction)]
        return self.ensemble.log_normalisation(own) + z * (modes.to(self.direction) @ self.direction)

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.ensemble.log_ratio(x, theta[:, :-1]) + self._moved(x, theta)

    def _relative_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.ensemble.relative_log_prob(x, theta[:, :-1]) + self._moved(x, theta)

    def _moved(self, x: Tensor, theta: Tensor) -> Tensor:
        return theta[:, -1] * (_knowing(self.ensemble).log_ratio_modes(x, theta[:, :-1]) @ self.direction)


def spread_as_nuisance(ensemble: Estimator, x: Tensor, points: Tensor, name: str = "network_spread") -> EnsembleSpread:
    """An ensemble whose spread is a constrained nuisance called ``name``.

    Args:
        ensemble: an estimator with ``log_ratio_modes``, such as an `Ensemble` of two members or more, or `ratio_wifi`.
        x: reference events (n, d), spread as the data are.
        points: where its members are compared (m, p), for instance draws from the prior.
        name: of the new parameter.

    Raises `InputError` for an estimator that does not know its error, a name that is taken, or members that agree.
    """
    if name in ensemble.spec.parameters.names:
        raise InputError(f"spread_as_nuisance: expected a new name; there is a parameter {name!r} already")
    knowing = _knowing(ensemble)
    with torch.no_grad():
        gram = sum(_gram(knowing.log_ratio_modes(x, point.expand(len(x), -1))) for point in points)
    values, vectors = torch.linalg.eigh(torch.as_tensor(gram))
    if not float(values[-1]) > 0:
        raise InputError("spread_as_nuisance: expected members that differ; they all answer the same")
    return EnsembleSpread(ensemble, vectors[:, -1], float(values[-1] / values.sum()), name)


def _gram(modes: Tensor) -> Tensor:
    """Products of modes (n, K), summed over events: shape (K, K)."""
    modes = modes.double().cpu()
    return modes.T @ modes


def _knowing(estimator: Any) -> KnowsItsError:
    if not isinstance(estimator, KnowsItsError):
        raise InputError(
            f"spread_as_nuisance: expected an estimator with log_ratio_modes; {type(estimator).__name__} has none: use an ensemble"
        )
    return estimator
