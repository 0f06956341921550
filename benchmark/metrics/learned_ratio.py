"""The learned ratio as fits use it: local normalisation, where the estimator asks for it, is divided out."""

from __future__ import annotations

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator


def normalised_log_ratio(estimator: Estimator, x: Tensor, theta: Tensor) -> Tensor:
    """log_ratio (n, m) at points theta (m, p), local normalisation subtracted."""
    with torch.no_grad():
        return estimator.log_ratio_grid(x, theta) - _log_constant(estimator, theta)


def ratio_between(estimator: Estimator, x: Tensor, from_theta: Tensor, to_theta: Tensor) -> Tensor:
    """r(x|b) / r(x|a), shape (n, m), from one point a (p,) to points b (m, p).

    NaN from anywhere but nominal for a signed estimator: the quotient has poles where r(x|a) changes its sign.
    """
    at_nominal = bool((from_theta == estimator.spec.parameters.nominal).all())
    if "signed" in estimator.capabilities:
        return _signed_ratio(estimator, x, to_theta) if at_nominal else x.new_full((len(x), len(to_theta)), torch.nan).double()
    if at_nominal:
        return normalised_log_ratio(estimator, x, to_theta).exp()
    log_ratio = normalised_log_ratio(estimator, x, torch.cat([from_theta[None], to_theta]))
    return (log_ratio[:, 1:] - log_ratio[:, :1]).exp()


def _signed_ratio(estimator: Estimator, x: Tensor, theta: Tensor) -> Tensor:
    with torch.no_grad():
        columns = [estimator.ratio(x, point).double() for point in theta]
        return torch.stack(columns, -1) * (-_log_constant(estimator, theta)).exp()


def _log_constant(estimator: Estimator, theta: Tensor) -> Tensor:
    both = torch.cat([theta, estimator.spec.parameters.nominal[None].to(theta)])
    constant = estimator.log_normalisation(both).double()
    return constant[:-1] - constant[-1]
