"""Post-fit closure: do the data look, feature by feature, as the fitted model says?

The model's expectation comes from reference events at theta_0, reweighted by exp(log_ratio(x, best fit)), and scaled to the
expected number of events. Data and expectation are histogrammed and compared by

    chi2 = sum_b (data_b - model_b)^2 / (var data_b + var model_b)

with the Poisson variance that the model expects, scaled by the mean of w^2 over that of w for weighted data, and the
variance of the reference sample. This is a check of one feature at a time: correlations are left to goodness-of-fit tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.fit_result import FitResult
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.pools import effective_size
from touchneedle.inference.result import Result
from touchneedle.inference.text_table import table
from touchneedle.toys.base import Events, Feature

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 20
_MOST_VALUES = 30
# Below it a bin's chi2 is not one: bins are merged until they hold as many expected events.
_FEWEST = 10.0
_CHUNK = 2**15


@dataclass(frozen=True)
class FeatureClosure:
    """One feature.

    Attributes:
        edges: of the bins (b + 1,).
        data: sum of weights (b,).
        model: expectation (b,).
        variance: of data less model (b,).
        chi2: of all bins.
        dof: number of bins, less one where the model was scaled to the data in them; parameters that were fitted are not
            subtracted, so that p-values are on the high side.
        discrete: bins are values.
    """

    feature: Feature
    edges: Tensor
    data: Tensor
    model: Tensor
    variance: Tensor
    chi2: float
    dof: int
    discrete: bool

    @property
    def p_value(self) -> float:
        """Probability of a larger chi2."""
        return float(stats.chi2.sf(self.chi2, self.dof)) if self.dof > 0 else math.nan


@dataclass(frozen=True)
class Closure(Result):
    """All features.

    Attributes:
        expected: total of the model; that of the data where there is no absolute rate.
        observed: sum of the data's weights.
        effective: Kish effective number of reweighted reference events, (sum w)^2 / sum w^2.
    """

    features: tuple[FeatureClosure, ...]
    expected: float
    observed: float
    effective: float

    def summary(self) -> str:
        """chi2 of each feature."""
        rows = [[one.feature.name, f"{one.chi2:.1f}", f"{one.dof}", f"{one.p_value:.3g}"] for one in self.features]
        head = f"closure: {self.observed:.6g} events, {self.expected:.6g} expected, {self.effective:.3g} effective reference events"
        return "\n".join([head, table(["feature", "chi2", "dof", "p-value"], rows)])

    def draw(self) -> Figure:
        """Data against model, and their ratio, feature by feature."""
        from touchneedle.inference.closure_figure import draw_closure

        return draw_closure(cast(Any, self))


def closure(likelihood: Likelihood, events: Events, best: FitResult, reference: Events, bins: int = _BINS) -> Closure:
    """Compare data with reference events (of theta_0, with their weights) reweighted to the best fit, per feature.

    Bins hold equal shares of the expectation, and at least 10 events; a discrete feature has a bin per value, merged at the
    ends likewise. Missing values are left out. Raises `InputError` without reference events, or where their reweighted total
    is not positive.
    """
    if not len(reference):
        raise InputError("closure: expected reference events at the nominal point; got none")
    weight = _reweighted(likelihood.estimator, reference, best.theta)
    if not float(weight.sum()) > 0:
        raise InputError(f"closure: expected reference events whose reweighted total is positive; got {float(weight.sum()):g}")
    observed = float(events.weight.double().sum())
    expected = observed if likelihood.rates is None else float(likelihood.rates(best.theta[None]).sum())
    data = events.weight.double().cpu()
    effective = effective_size(weight)
    weight = weight * (expected / weight.sum())
    found = tuple(
        _feature(feature, (events.x[:, k].double().cpu(), data), (reference.x[:, k].double().cpu(), weight), bins, likelihood.rates is None)
        for k, feature in enumerate(likelihood.estimator.spec.features)
    )
    return Closure(found, expected, observed, effective)


def _reweighted(estimator: Estimator, reference: Events, theta: Tensor) -> Tensor:
    """Weights (n,) of reference events at theta (p,)."""
    with torch.no_grad():
        ratio = torch.cat([estimator.ratio(part, theta).double().cpu() for part in reference.x.split(_CHUNK)])
    return reference.weight.double().cpu() * ratio


def _feature(feature: Feature, data: tuple[Tensor, Tensor], model: tuple[Tensor, Tensor], bins: int, shape_only: bool) -> FeatureClosure:
    (x, weight), (y, expected) = _present(feature, *data), _present(feature, *model)
    discrete = feature.kind == "discrete" and len(torch.cat([x, y]).unique()) <= _MOST_VALUES
    edges = _value_edges(x, y, expected) if discrete else _equal_edges(y, expected, x, bins)
    seen, wanted, error = _histogram(x, weight, edges), _histogram(y, expected, edges), _histogram(y, expected.square(), edges)
    # Expected, not observed, fluctuations: bins with few events would weigh too much.
    scale = weight.square().sum() / weight.sum().abs().clamp_min(1e-300)
    variance = scale * wanted.abs() + error
    filled = variance > 0
    chi2 = float(((seen - wanted).square()[filled] / variance[filled]).sum())
    scaled = shape_only and len(x) == len(data[0]) and len(y) == len(model[0])
    return FeatureClosure(feature, edges, seen, wanted, variance, chi2, int(filled.sum()) - scaled, discrete)


def _present(feature: Feature, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    if feature.missing is None:
        return values, weight
    there = values != feature.missing
    return values[there], weight[there]


def _value_edges(x: Tensor, y: Tensor, expected: Tensor) -> Tensor:
    """Edges halfway between the values that occur, without those that cut off fewer than 10 expected events at an end."""
    values = torch.cat([x, y]).unique()
    middle = 0.5 * (values[1:] + values[:-1])
    below = torch.stack([expected[y < edge].sum() for edge in middle]) if len(middle) else torch.empty(0)
    kept = middle[(below >= _FEWEST) & (expected.sum() - below >= _FEWEST)]
    return torch.cat([(values[0] - 0.5)[None], kept, (values[-1] + 0.5)[None]])


def _equal_edges(y: Tensor, expected: Tensor, x: Tensor, bins: int) -> Tensor:
    """Edges between which the model expects equal shares, at least 10 events each; the outer ones hold all data."""
    count = max(1, min(bins, int(float(expected.sum()) / _FEWEST)))
    order = y.argsort()
    share = expected[order].clamp_min(0).cumsum(0)
    inner = y[order][torch.searchsorted(share, share[-1] * torch.arange(1, count).double() / count).clamp_max(len(y) - 1)].unique()
    every = torch.cat([x, y])
    low, high = every.min(), every.max()
    return torch.cat([low[None], inner[(inner > low) & (inner < high)], high[None]])


def _histogram(values: Tensor, weight: Tensor, edges: Tensor) -> Tensor:
    return torch.from_numpy(np.histogram(values.numpy(), edges.numpy(), weights=weight.numpy())[0])
