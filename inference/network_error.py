"""The error of a fit that comes from the training of its estimator, where the estimator knows its own error.

An estimator with random training changes log_ratio by sum_k z_k m_k(x, theta), z_k ~ N(0, 1) over retrainings, with k modes m_k. The
fit of the same events then moves by I^-1 B z, where B = sum_i w_i grad_theta m(x_i, theta) (p, k) and I is the Hessian of
-ln L, so that over both events and retrainings

    covariance = I^-1 + I^-1 B B^t I^-1

(Gong, Samaniego 1981, Ann. Statist. 9, 861; for classifiers Benevedes, Thaler et al. 2025, arXiv:2506.00113, where B B^t is A^t C A).
It is of first order: the bias of second order, given there too, is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.fit import FitResult, step_sizes
from touchneedle.inference.likelihood import Likelihood
from touchneedle.toys.base import Events

# Steps of the central differences, in units of the first steps of a fit: their error is of order 1e-6.
_STEP = 1e-2


@runtime_checkable
class KnowsItsError(Protocol):
    """An estimator that knows the covariance of its log_ratio over retrainings, as a sum over k modes."""

    def log_ratio_modes(self, x: Tensor, theta: Tensor) -> Tensor:
        """Modes of log_ratio of x (n, d) at theta (n, p), shape (n, k)."""
        ...

    def log_normalisation_modes(self, theta: Tensor) -> Tensor:
        """Modes of log_normalisation at theta (m, p), shape (m, k) or more: after the first k come errors of its own."""
        ...


@dataclass(frozen=True)
class NetworkError:
    """What training adds to the covariance of a fit.

    Attributes:
        covariance: I^-1 B B^t I^-1 (p, p).
        sigma: its errors (p,).
        total_sigma: errors (p,) over events and retrainings.
    """

    covariance: Tensor
    sigma: Tensor
    total_sigma: Tensor


def network_error(likelihood: Likelihood, events: Events, result: FitResult) -> NetworkError:
    """The training's share in the errors of a fit of ``events`` (`touchneedle.inference.fit.fit`).

    Raises `InputError` for an estimator that does not know its error, or a fit that is not valid.
    """
    estimator = likelihood.estimator
    if not isinstance(estimator, KnowsItsError):
        raise InputError(f"network_error: expected an estimator with log_ratio_modes; {type(estimator).__name__} has none: use ratio_wifi")
    if not result.valid:
        raise InputError(f"network_error: expected a valid fit; got one with {result.reason}")

    def total_modes(theta: Tensor) -> Tensor:
        """sum_i w_i [m(x_i, theta) - modes of the normalisation] (k,)."""
        weight = events.weight.double().cpu()
        total = weight @ estimator.log_ratio_modes(events.x, theta.expand(len(events), -1)).cpu()
        if result.normalisation is not None:
            normalisation = -weight.sum() * estimator.log_normalisation_modes(theta[None])[0].cpu()
            total = torch.cat([total + normalisation[: len(total)], normalisation[len(total) :]])
        return total

    shift = result.inverse_hessian @ _slopes(total_modes, result.theta, _STEP * step_sizes(likelihood.parameters))
    covariance = shift @ shift.T
    return NetworkError(covariance, covariance.diagonal().sqrt(), (result.covariance + covariance).diagonal().sqrt())


def _slopes(function: Callable[[Tensor], Tensor], theta: Tensor, step: Tensor) -> Tensor:
    """Central differences of theta (p,) -> (k,) with a step (p,): shape (p, k)."""
    with torch.no_grad():
        return torch.stack([(function(theta + move) - function(theta - move)) / (2 * move.sum()) for move in torch.diag(step)])
