"""The interval score of the FAIR Universe HiggsML challenge (2024, arXiv:2410.02867): short intervals that cover.

For N intervals of mean length w, of which a share c holds the truth, with s = sqrt(0.6827 0.3173 / N):

    score = -ln[(w + 0.001) f(c)],   f = 1                                    for |c - 0.6827| <= 2 s
                                     f = 1 + |(c - 0.6827 + 2 s) / s|^4       below
                                     f = 1 + |(c - 0.6827 - 2 s) / s|^3       above

Higher is better. Intervals are theta +- sigma of the first parameter of interest in its own unit, over all theta
points together. f depends on N through s, so scores at different N do not compare: N is the number of experiments,
whatever became of their fits, and is stated. A fit that failed has no interval: it does not cover and has no length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.averages import missing_fit, value_row
from touchneedle.benchmark.metrics.fit_cells import Outcome
from touchneedle.benchmark.metrics.scores import Row
from touchneedle.benchmark.records import Metric

LEVEL = 0.6827
EPSILON = 1e-3
REPLICAS = 200


def interval_score(length: Tensor, coverage: Tensor, n: int) -> Tensor:
    """The score of mean lengths (b,) and coverages (b,) of n intervals: shape (b,)."""
    sigma = math.sqrt(LEVEL * (1 - LEVEL) / n)
    below = ((LEVEL - 2 * sigma - coverage) / sigma).clamp_min(0)
    above = ((coverage - LEVEL - 2 * sigma) / sigma).clamp_min(0)
    return -torch.log((length + EPSILON) * (1 + below**4 + above**3))


def interval_score_row(outcomes: Sequence[Outcome], generator: torch.Generator) -> Metric:
    """The score over the outcomes of one number of events, with its bootstrap error over experiments."""
    length, holds, valid = (torch.cat([getattr(outcome, name) for outcome in outcomes]) for name in ("length", "holds", "valid"))
    n = len(valid)
    at: Row = {"n_events": outcomes[0].n_events, "parameter": outcomes[0].parameters[0], "n_intervals": n}
    if not bool(valid.any()):
        return missing_fit("interval_score", "no valid fits", **at)
    index = torch.cat([torch.arange(n)[None], torch.randint(n, (REPLICAS, n), generator=generator)])
    mean_length = length[index].sum(-1) / valid[index].sum(-1)
    score = interval_score(mean_length, holds[index].double().mean(-1), n)
    error = float(score[1:][score[1:].isfinite()].std())
    return value_row("interval_score", (float(score[0]), error), n, "higher", at)
