"""The density family: the learned density against the exact one, and drawn events against true ones.

At every theta point: divergences from known log p and log q (`divergence`), the error of the score (`score_error`), and two-sample
metrics beside their null (`sample_scores`). Over the prior: the error of log_ratio (`ratio_error`). The per-event
densities of the frozen test events are kept for paired differences (`event_densities`).
"""

from __future__ import annotations

from touchneedle.benchmark.metrics import divergence, ratio_error, sample_scores, score_error
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.event_densities import EventDensities, event_densities, events_table
from touchneedle.benchmark.metrics.scores import Scores

METRICS = (*divergence.METRICS, *ratio_error.METRICS, *score_error.METRICS, *sample_scores.METRICS)


def density_scores(context: EvaluationContext) -> Scores:
    """All density rows of one evaluation, and the table ``events``."""
    scores, kept = Scores(), list[EventDensities]()
    for index in range(len(context.points)):
        events = event_densities(context, index)
        drawn = sample_scores.draw_events(context, index)
        scores.metrics += divergence.divergence_rows(context, events, drawn)
        scores.metrics += score_error.score_rows(context, index)
        scores.metrics += sample_scores.sample_rows(context, index, drawn)
        kept.append(events)
    scores.metrics += ratio_error.log_ratio_rows(context)
    scores.tables["events"] = events_table(kept)
    return scores
