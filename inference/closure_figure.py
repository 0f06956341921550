"""The figure of the post-fit closure: data against the model's expectation, and their ratio, feature by feature."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from touchneedle.conf.errors import InputError
from touchneedle.inference.closure import Closure, FeatureClosure
from touchneedle.inference.figure_style import BLUE, GREY, label, new_figure, plain_text, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_COLUMNS = 4
_STEEP = 50


def draw_closure(result: Closure) -> Figure:
    """Events per unit of each feature above, data over model below; bands are the errors of data less model."""
    if not result.features:
        raise InputError("figures: expected at least one feature; got none")
    columns = min(_MOST_COLUMNS, len(result.features))
    rows = math.ceil(len(result.features) / columns)
    with styled():
        figure = new_figure(0.6 + 3.5 * columns, 3.7 * rows)
        panels = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2.4, 1] * rows)
        for k, one in enumerate(result.features):
            row, column = divmod(k, columns)
            _draw_feature(panels[2 * row, column], panels[2 * row + 1, column], one)
        for empty in range(len(result.features), rows * columns):
            row, column = divmod(empty, columns)
            panels[2 * row, column].set_axis_off()
            panels[2 * row + 1, column].set_axis_off()
        return figure


def _draw_feature(upper: Axes, lower: Axes, one: FeatureClosure) -> None:
    edges = _shown_edges(one)
    width = np.ones(len(edges) - 1) if one.discrete else np.diff(edges)
    middle = 0.5 * (edges[1:] + edges[:-1])
    data, model, error = one.data.numpy() / width, one.model.numpy() / width, one.variance.sqrt().numpy() / width
    upper.stairs(model, edges, color=BLUE, linewidth=1.5, label="model")
    upper.stairs(model + error, edges, baseline=model - error, fill=True, color=BLUE, alpha=0.2, linewidth=0)
    upper.plot(middle, data, "o", color="black", markersize=3.5, label="data")
    if (model > 0).all() and model.max() > _STEEP * model.min():
        upper.set_yscale("log")
    else:
        upper.set_ylim(bottom=min(0.0, float((model - error).min())))
    upper.set_ylabel("events" if one.discrete else f"events / {plain_text(one.feature.unit) or 'unit'}")
    upper.set_title(f"$\\chi^2$ / dof = {one.chi2:.1f} / {one.dof},  p = {one.p_value:.2g}", fontsize=9)
    upper.legend(loc="best")
    upper.tick_params(labelbottom=False)
    upper.set_xlim(edges[0], edges[-1])
    _draw_ratio(lower, one, edges, middle)


def _shown_edges(one: FeatureClosure) -> np.ndarray:
    """Edges as drawn: the outer bins hold all events beyond, and are no wider than twice their neighbours."""
    edges = one.edges.numpy().copy()
    if one.discrete or len(edges) < 4:
        return edges
    edges[0] = max(edges[0], edges[1] - 2 * (edges[2] - edges[1]))
    edges[-1] = min(edges[-1], edges[-2] + 2 * (edges[-2] - edges[-3]))
    return edges


def _draw_ratio(axes: Axes, one: FeatureClosure, edges: np.ndarray, middle: np.ndarray) -> None:
    model = one.model.numpy()
    known = np.where(model > 0, model, np.nan)
    error = np.nan_to_num(one.variance.sqrt().numpy() / known)
    axes.stairs(1 + error, edges, baseline=1 - error, fill=True, color=BLUE, alpha=0.2, linewidth=0)
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.plot(middle, one.data.numpy() / known, "o", color="black", markersize=3.5)
    away = np.abs(one.data.numpy() / known - 1)
    reach = min(1.0, 1.15 * float(np.nanmax([*away, *error], initial=0.05)))
    axes.set_ylim(1 - reach, 1 + reach)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel(label(one.feature))
    axes.set_ylabel("data / model")
