"""A mixture of processes with rates: the density of events of which nobody knows the process.

    p(x|theta) = sum_p nu_p(theta) r_p(x|theta) / sum_p nu_p(theta)

Rates may be negative, as the coefficients of interference are (mu - sqrt mu, sqrt mu, 1 - sqrt mu; ATLAS 2024,
arXiv:2412.01548), the sum may not. In the extended likelihood the rates cancel to
sum_i w_i log sum_p nu_p r_p(x_i) - sum_p nu_p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Capability, Estimator
from touchneedle.inference.processes import Process
from touchneedle.inference.terms import Rates, fit_limits
from touchneedle.toys.base import ParameterSpace, ToySpec

# Share of the sum of absolute terms below which the logarithm of a signed sum is continued linearly.
_SMALLEST_SHARE = 1e-6
_LOWEST = -1e308


@dataclass
class ProcessMixtureConfig:
    """No options."""


class ProcessMixture(Estimator):
    """An estimator made of estimators, for ``Likelihood(mixture, mixture.rates)``; in float64, its members as well.

    A fit may pass through points where the density is not positive at some event: there its logarithm is continued
    linearly below 1e-6 of the sum of absolute terms, a finite penalty whose slope leads back. `is_positive` tells.

    Attributes:
        rates: theta (m, p) -> expected events per process (m, k), for instance ``RateModel.rates``.
    """

    Config = ProcessMixtureConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score", "signed"})

    def __init__(self, parameters: ParameterSpace, processes: Sequence[Process], rates: Rates) -> None:
        processes = tuple(processes)
        _check(parameters, processes, rates)
        features = processes[0].factors[0].estimator.spec.features
        super().__init__(ToySpec("process_mixture", "1", parameters, features, tuple(p.name for p in processes)), ProcessMixtureConfig())
        self.processes, self.rates = processes, rates
        self.factors = tuple(factor for process in processes for factor in process.factors)
        self.members = nn.ModuleList(dict.fromkeys(factor.estimator for factor in self.factors))
        self.double()
        self.nominal = parameters.nominal.to(self.nominal)

    def log_ratios(self, x: Tensor, theta: Tensor) -> Tensor:
        """log r_p of x (n, d) at theta (n, p) for every process: shape (n, k)."""
        return torch.stack([process.log_ratio(x, theta, self.spec.parameters) for process in self.processes], -1)

    def is_positive(self, x: Tensor, theta: Tensor) -> Tensor:
        """Whether the density is positive, shape (n,)."""
        return self._in_chunks(self._share, x, theta) > 0

    def ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        """p(x|theta) / p(x|theta_0), shape (n,), which is negative where one of them is."""
        return self._in_chunks(self._ratio, x, theta)

    def log_normalisation(self, theta: Tensor) -> Tensor:
        """log of the integral of p(x|theta) at theta (m, p), shape (m,), from what the members say of theirs."""
        means = torch.stack([process.log_mean(theta, self.spec.parameters) for process in self.processes], -1)
        return mixture_log(self.rates(theta), means) - self._log_total(theta)

    def fit_limits(self) -> Tensor:
        """Lowest and highest theta of a fit (2, p): the bounds, and the limits of the members that depend on a parameter."""
        parameters = self.spec.parameters
        limits = torch.stack([parameters.low, parameters.high])
        for factor in self.factors:
            own = fit_limits(factor.estimator)
            for name in factor.free:
                column, source = parameters.index(name), factor.estimator.spec.parameters.index(name)
                limits[0, column] = torch.maximum(limits[0, column], own[0, source])
                limits[1, column] = torch.minimum(limits[1, column], own[1, source])
        return limits

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_where_positive(x, theta) - self._log_where_positive(x, self._zero(theta))

    def _log_where_positive(self, x: Tensor, theta: Tensor) -> Tensor:
        return torch.where(self._share(x, theta) > 0, self._relative_log_prob(x, theta), torch.nan)

    def _relative_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return mixture_log(self.rates(theta), self.log_ratios(x, theta)) - self._log_total(theta)

    def _ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        rates, zero = self.rates(theta), self._zero(theta)
        top, signed, _ = _scaled_sum(rates, self.log_ratios(x, theta))
        top_0, signed_0, _ = _scaled_sum(self.rates(zero), self.log_ratios(x, zero))
        return (top - top_0).exp() * (signed / signed_0) * (self._log_total(zero) - self._log_total(theta)).exp()

    def _share(self, x: Tensor, theta: Tensor) -> Tensor:
        """The signed sum over the sum of absolute terms, in [-1, 1], shape (n,); 0 where all terms vanish."""
        _, signed, absolute = _scaled_sum(self.rates(theta), self.log_ratios(x, theta))
        return torch.where(absolute > 0, signed / absolute.clamp_min(1e-300), 0.0)

    def _log_total(self, theta: Tensor) -> Tensor:
        return self.rates(theta).sum(-1).log()

    def _zero(self, theta: Tensor) -> Tensor:
        return self.nominal.expand_as(theta)


def mixture_log(rates: Tensor, log_ratios: Tensor) -> Tensor:
    """log sum_p nu_p r_p, shape (n,), from rates (n, k) of any sign and log ratios (n, k).

    Where the sum is less than 1e-6 of that of absolute values its logarithm is continued linearly: finite everywhere
    but where all terms vanish, which gives -1e308.
    """
    top, signed, absolute = _scaled_sum(rates, log_ratios)
    floor = (_SMALLEST_SHARE * absolute).detach().clamp_min(1e-300)
    held = torch.maximum(signed, floor)
    return top + held.log() + (signed - held) / floor


def _scaled_sum(rates: Tensor, log_ratios: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(t, s, a), each (n,): sum_p nu_p r_p = s exp(t), and a is s with absolute rates."""
    sizes = torch.where(rates == 0, -torch.inf, rates.abs().log() + log_ratios)
    top = sizes.detach().amax(-1).clamp_min(_LOWEST)
    relative = (log_ratios - top[:, None]).clamp(max=700.0).exp()
    terms = rates * relative
    return top, terms.sum(-1), terms.abs().sum(-1)


def _check(parameters: ParameterSpace, processes: tuple[Process, ...], rates: Rates) -> None:
    if not processes:
        raise InputError("process mixture: expected at least one process; got none")
    names = [process.name for process in processes]
    if len(set(names)) != len(names):
        raise InputError(f"process mixture: expected each process once; got {', '.join(names)}")
    for process in processes:
        process.check(parameters)
    _check_features(processes)
    shape = tuple(rates(parameters.nominal[None]).shape)
    if shape != (1, len(processes)):
        raise InputError(f"process mixture: expected rates of {len(processes)} processes, shape (1, {len(processes)}); got {shape}")


def _check_features(processes: tuple[Process, ...]) -> None:
    """All members must read the same columns of x, in the same order."""
    wanted = [feature.name for feature in processes[0].factors[0].estimator.spec.features]
    for process in processes:
        for factor in process.factors:
            names = [feature.name for feature in factor.estimator.spec.features]
            if names != wanted:
                raise InputError(
                    f"process {process.name}: expected an estimator of the features {', '.join(wanted)}, as those before it; "
                    f"got {', '.join(names)}"
                )
