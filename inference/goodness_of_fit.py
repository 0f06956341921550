"""Goodness of fit of an unbinned likelihood: are the data a likely sample of the model at the best fit?

The value of ln L does not tell (Heinrich 2003, arXiv:physics/0310167, PHYSTAT). Instead the data are compared with reference
events reweighted to the best fit: the energy distance in all features together, and a binned chi2 of each feature. Both are judged by
pseudo-experiments of the model, each fitted as the data were, since a fit draws the model towards its data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.calibrated import share_with_error
from touchneedle.inference.drawing import blank
from touchneedle.inference.fit import FitResult
from touchneedle.inference.fit_options import FitOptions
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.neyman import check_unit_weights
from touchneedle.inference.pools import effective_size, model_pool
from touchneedle.inference.pseudo_experiments import draw_pseudo_experiments
from touchneedle.inference.result import Result
from touchneedle.inference.simulated import fit_simulated, meaningful
from touchneedle.inference.two_sample import BinnedChi2, EnergyDistance
from touchneedle.toys.base import Events

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEWEST = 100
_THETAS_AT_A_TIME = 32


@dataclass(frozen=True)
class GoodnessOfFit(Result):
    """How well the data agree with the model at their best fit.

    Attributes:
        names: of the statistics (k): ``energy distance`` and ``chi2 of FEATURE``.
        observed: of the data (k,).
        p_value: share of pseudo-experiments that agree less, (1 + number) / (1 + n_pseudo) (k,).
        error: its binomial error (k,).
        pseudo: of the pseudo-experiments (k, e).
        failed: fits of pseudo-experiments that failed and are left out.
        pool_share: events of the data over the effective size of the pool that pseudo-experiments are drawn from; much below 1,
            or the data differ from the model more than pseudo-experiments do.
    """

    names: tuple[str, ...]
    observed: Tensor
    p_value: Tensor
    error: Tensor
    pseudo: Tensor
    failed: int
    pool_share: float

    def summary(self) -> str:
        """One line a statistic."""
        width = max(len(name) for name in self.names)
        lines = [f"goodness of fit, {self.pseudo.shape[1]} pseudo-experiments"]
        lines += [
            f"  {name:<{width}}  {self.observed[k]:10.4g}  p = {self.p_value[k]:.3g} +- {self.error[k]:.2g}"
            for k, name in enumerate(self.names)
        ]
        if self.failed:
            lines.append(f"{self.failed} fits of pseudo-experiments failed and are left out")
        if self.pool_share > 0.1:
            lines.append(f"the reference is small: data of {self.pool_share:.2g} times its effective size; p-values are too low")
        return "\n".join(lines)

    def draw(self) -> Figure:
        """The first statistic of pseudo-experiments and of the data."""
        figure, axes = blank(self.names[0], "pseudo-experiments")
        axes.hist(self.pseudo[0].numpy(), bins=30, color="0.75")
        axes.axvline(float(self.observed[0]), color="C3", label=f"data, p = {self.p_value[0]:.3g}")
        axes.legend(frameon=False)
        return figure


def goodness_of_fit(
    likelihood: Likelihood,
    events: Events,
    reference: Events,
    best: FitResult,
    n_pseudo: int = 200,
    *,
    n_bins: int = 20,
    n_sample: int = 4_000,
    options: FitOptions | None = None,
    seed: int = 0,
) -> GoodnessOfFit:
    """p-values of the data (unit weights) under the model at the best fit.

    Args:
        likelihood: what the data were fitted with.
        events: the data.
        reference: events at theta_0. Every second one is compared with, the others make the pseudo-experiments.
        best: the fit of the data.
        n_pseudo: number of pseudo-experiments.
        n_bins: of each feature at most.
        n_sample: reference events compared with at most; the energy distance looks at no more events of the data.
        options: how pseudo-experiments are fitted.
        seed: of the pseudo-experiments.

    Auxiliary measurements and control regions are redrawn around the best fit; so is the number of events, around the rate or
    the observed number.
    Raises `InputError` for weighted data, fewer than 100 reference events, and if no fit converges.
    """
    check_unit_weights(events)
    if len(reference) < 2 * _FEWEST:
        raise InputError(f"goodness of fit: expected at least {2 * _FEWEST} reference events at theta_0; got {len(reference)}")
    generator = torch.Generator().manual_seed(seed)
    mixed = reference[torch.randperm(len(reference), generator=generator)]
    compared, pool = mixed[: min(n_sample, len(mixed) // 2)], model_pool(likelihood.estimator, mixed[len(mixed) // 2 :], best.theta)
    expected = float(len(events)) if likelihood.rates is None else float(likelihood.rates(best.theta[None]).sum())
    experiments = draw_pseudo_experiments(
        pool.events, best.theta, expected, n_pseudo, likelihood.parameters, generator, likelihood.control
    )  # fmt: skip
    fits = fit_simulated(likelihood, experiments, options=options)
    kept = meaningful(fits).nonzero().flatten()
    if not len(kept):
        raise InputError("goodness of fit: expected fits of pseudo-experiments that converge; all failed: fit one by `fit` to see why")
    weights = _weights(likelihood, compared, torch.cat([best.theta[None], fits.theta[kept]]))
    tests = _Statistics.of(likelihood, compared, weights[0], len(events), n_bins, n_sample)
    observed = tests(events.x, weights[0])
    drawn = [pool.events.x[experiments.index[experiments.owner == int(row)]] for row in kept]
    pseudo = torch.stack([tests(x, weight) for x, weight in zip(drawn, weights[1:], strict=True)], -1)
    p_value, error = share_with_error((pseudo >= observed[:, None]).sum(-1) + 1, torch.tensor(len(kept) + 1))
    share = len(events) / effective_size(pool.events.weight)
    return GoodnessOfFit(tests.names, observed, p_value, error, pseudo, n_pseudo - len(kept), share)


def _weights(likelihood: Likelihood, reference: Events, theta: Tensor) -> Tensor:
    """Weights of reference events at theta (m, p), each set summing to one: (m, n)."""
    with torch.no_grad():
        parts = [likelihood.estimator.log_ratio_grid(reference.x, part).T for part in theta.split(_THETAS_AT_A_TIME)]
    weight = reference.weight.double() * torch.cat(parts).exp()
    return weight / weight.sum(-1, keepdim=True)


@dataclass(frozen=True)
class _Statistics:
    """All statistics of a data set."""

    names: tuple[str, ...]
    energy: EnergyDistance
    features: tuple[BinnedChi2, ...]

    @classmethod
    def of(cls, likelihood: Likelihood, reference: Events, weight: Tensor, n_events: int, n_bins: int, most: int) -> _Statistics:
        x = reference.x.double()
        names = tuple(f"chi2 of {feature.name}" for feature in likelihood.estimator.spec.features)
        features = tuple(BinnedChi2.to(column, weight, n_events, n_bins) for column in x.T.contiguous())
        return cls(("energy distance", *names), EnergyDistance.to(x, weight, most), features)

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Statistics (k,) of events x (n, d) against the reference with weights (m,)."""
        x = x.double()
        chi2 = [feature(column, weight) for feature, column in zip(self.features, x.T.contiguous(), strict=True)]
        return torch.tensor([self.energy(x, weight), *chi2], dtype=torch.float64)
