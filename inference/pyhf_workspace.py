"""A learned observable as a HistFactory workspace for pyhf: a binned cross-check of the unbinned fit.

The observable is log_ratio between two values of the parameter of interest, the optimal one of a test between them. Templates are
simulated events at theta_0, reweighted by learned ratios to each process and to each nuisance's anchors
(HistFactory: Cranmer et al. 2012, CERN-OPEN-2012-016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.interchange import CHANNEL, constrained, poi_modifiers, variations
from touchneedle.inference.process_ratios import ProcessRatios, process_ratios
from touchneedle.inference.terms import Rates
from touchneedle.toys.base import Events, Parameter

_SMALLEST_BIN = 1e-6
_FAR = 1e9


def pyhf_workspace(
    estimator: Estimator, rates: Rates, simulated: Events, data: Events, edges: Sequence[float] | int = 20
) -> dict[str, Any]:
    """A HistFactory workspace of the learned observable, as a dictionary for ``pyhf.Workspace``.

    Args:
        simulated: events at theta_0; the weights are scaled to the expected rate.
        data: what was observed, weights counted.
        edges: of the observable's bins, or the number of bins of equal expected content.

    Raises `InputError` unless there is one parameter of interest that multiplies exactly one process.
    """
    spec = estimator.spec
    poi, signal = _signal(estimator, rates)
    observable = learned_observable(estimator, simulated.x)
    weight = simulated.weight.double() / simulated.weight.double().sum()
    bins = _edges(observable, weight, edges)
    nominal = process_ratios(estimator, rates, simulated.x)
    moved = {parameter: variations(estimator, rates, simulated.x, parameter) for parameter in constrained(estimator)}
    samples = []
    for k, process in enumerate(spec.processes):
        modifiers: list[dict[str, Any]] = [{"name": poi.name, "type": "normfactor", "data": None}] if k == signal else []
        for parameter, ends in moved.items():
            high, low = (_template(observable, weight, end, k, bins).tolist() for end in ends)
            shape = {"hi_data": high, "lo_data": low}
            modifiers.append({"name": parameter.name, "type": "histosys", "data": shape})
        samples.append({"name": process, "data": _template(observable, weight, nominal, k, bins).tolist(), "modifiers": modifiers})
    observed = np.histogram(learned_observable(estimator, data.x).numpy(), bins.numpy(), weights=data.weight.double().numpy())[0]
    bounds = [max(poi.bounds[0], -1e3), min(poi.bounds[1], 1e3)]
    parameters = [{"name": poi.name, "bounds": [bounds], "inits": [poi.nominal]}]
    return {
        "channels": [{"name": CHANNEL, "samples": samples}],
        "observations": [{"name": CHANNEL, "data": observed.tolist()}],
        "measurements": [{"name": spec.name, "config": {"poi": poi.name, "parameters": parameters}}],
        "version": "1.0.0",
    }


def learned_observable(estimator: Estimator, x: Tensor) -> Tensor:
    """log p(x|mu+) - log p(x|mu-) with mu one prior sigma above and below nominal, nuisances nominal: shape (n,)."""
    parameters = estimator.spec.parameters
    column = parameters.interest[0]
    centre = parameters.to_normal(parameters.nominal[None])
    ends = []
    for step in (1.0, -1.0):
        normal = centre.clone()
        normal[:, column] = (centre[:, column] + step).clamp(-2, 2)
        point = parameters.nominal.clone()
        point[column] = parameters.from_normal(normal)[0, column].clamp(*parameters.parameters[column].bounds)
        ends.append(point)
    with torch.no_grad():
        high, low = estimator.log_ratio_grid(x, torch.stack(ends)).T
    return high - low


def _signal(estimator: Estimator, rates: Rates) -> tuple[Parameter, int]:
    """The one parameter of interest, and the one process that it multiplies."""
    parameters = estimator.spec.parameters
    scaled = [k for k in range(len(estimator.spec.processes)) if poi_modifiers(estimator, rates, k)]
    free = [parameter for parameter in parameters.parameters if parameter.constraint is None]
    only = poi_modifiers(estimator, rates, scaled[0])[0]["type"] if len(scaled) == 1 else ""
    if len(free) != 1 or only != "normfactor" or free[0].nominal != 1:
        raise InputError(
            "pyhf: expected one free parameter with nominal value 1 that multiplies one process; "
            f"got {', '.join(parameter.name for parameter in free)} acting on {len(scaled)} processes"
        )
    return free[0], scaled[0]


def _template(observable: Tensor, weight: Tensor, ratios: ProcessRatios, k: int, bins: Tensor) -> np.ndarray:
    """Expected events of process k in each bin; never below zero, which HistFactory does not know."""
    each = weight * ratios.ratio[:, k] * ratios.rates[k]
    return np.histogram(observable.numpy(), bins.numpy(), weights=each.numpy())[0].clip(min=_SMALLEST_BIN)


def _edges(observable: Tensor, weight: Tensor, edges: Sequence[float] | int) -> Tensor:
    """Edges of the bins; of equal content inside, and wide enough at both ends for any event."""
    if not isinstance(edges, int):
        return torch.tensor(edges, dtype=torch.float64)
    order = observable.argsort()
    content = weight[order].cumsum(0) / weight.sum()
    inner = observable[order][torch.searchsorted(content, torch.linspace(0, 1, edges + 1, dtype=torch.float64)[1:-1])]
    return torch.cat([torch.tensor([-_FAR]), inner.unique(), torch.tensor([_FAR])]).double()
