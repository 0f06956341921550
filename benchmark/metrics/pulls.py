"""The distribution of pulls (theta - theta_true) / sigma at nominal, as a histogram of the valid fits.

Curve ``pull``, series ``PARAMETER, n_events=N``: density per unit in bins of half a unit from -4 to 4; fits beyond stand in the
outermost bins. The band is the 68 % interval of Wilson 1927, which a bin without fits has, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.curves import curve_row
from touchneedle.benchmark.metrics.fit_cells import Cell
from touchneedle.benchmark.metrics.scores import Row

EDGE, BINS = 4.0, 16
MAX_PARAMETERS = 2


def pull_rows(cell: Cell) -> list[Row]:
    """Histograms of the first two parameters of interest."""
    parameters = cell.context.toy.spec.parameters
    return [
        row
        for column in parameters.interest[:MAX_PARAMETERS]
        for row in histogram_rows(f"{parameters.names[column]}, n_events={cell.experiments.n_events}", cell.pull(column))
    ]


def histogram_rows(series: str, pull: Tensor) -> list[Row]:
    """Density of pulls (n,) with its band; nothing where there are fewer than two."""
    n, width = len(pull), 2 * EDGE / BINS
    if n < 2:
        return []
    index = ((pull.clamp(-EDGE, EDGE) + EDGE) / width).long().clamp(0, BINS - 1)
    share = torch.bincount(index, minlength=BINS).double() / n
    centre, half = (share + 0.5 / n) / (1 + 1 / n), (share * (1 - share) / n + 0.25 / n**2).sqrt() / (1 + 1 / n)
    columns = [share / width, (centre - half) / width, (centre + half) / width]
    return [curve_row("pull", series, width * (k + 0.5) - EDGE, *(float(column[k]) for column in columns)) for k in range(BINS)]
