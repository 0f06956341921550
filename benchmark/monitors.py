"""What a search looks at beside the loss: is the ratio calibrated, and does it close, on the validation events?

These are the events of the budget that training held back: no others are simulated, and test events play no part. They
have chosen the epoch, and whatever `Estimator.finish` calibrates, so the numbers are a little too good. They find what is
wrong; that a ratio is right, test events say.

Each event x has the point theta_a that made it and the point theta_b that made another event. Both were drawn alike, and
x knows nothing of theta_b, hence:

* ``calibration``: which of the two made x? Shown in random order, the first did with probability sigmoid(log r(x|theta_1) -
  log r(x|theta_2)): ``ece`` and ``calibration_slope`` as in `reliability`.
* ``closure``: ``mean_ratio``, E[r(x|theta_c) / r(x|theta_a)] = 1 with theta_c on the way from theta_a to theta_b, the farthest of a few
  at which half of the effective events are left.

Local normalisation is left out: it takes a sum over all reference events at every theta. As the two points are drawn alike, a
normalisation that drifts along theta cancels in the mean; its curvature, which is left, counts once it is some ten per cent.

A row judges by its distance from the target in standard errors, ``at["z"]``; one that is not ``conclusive``, or has no number
for want of information, judges nothing; a ratio that is not finite for what has happened is infinitely wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from touchneedle.benchmark.config import ExperimentConfig
from touchneedle.benchmark.metrics.closure_points import SHARES
from touchneedle.benchmark.metrics.reliability import Labelled, labelled_rows
from touchneedle.benchmark.metrics.statistics import missing_row
from touchneedle.benchmark.metrics.transport import Transport
from touchneedle.benchmark.records import Metric
from touchneedle.benchmark.seeding import derive_generator
from touchneedle.benchmark.train import held_out
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.estimators.ratio_network import random_partner
from touchneedle.estimators.trained_range import extrapolation_allowed
from touchneedle.toys.base import Events

MIN_EVENTS = 200
MAX_EVENTS = 5_000
MIN_EFFECTIVE_SHARE = 0.5
_PLACE = {"where": "validation"}
_CALIBRATION = ("ece", "calibration_slope")


@dataclass(frozen=True)
class _Sample:
    """Events x (n, d) with weights (n,).

    Attributes:
        own: point that made each event (n, p).
        other: point that made another event (n, p).
        first: whether own is the first of the two (n,).
    """

    x: Tensor
    weight: Tensor
    own: Tensor
    other: Tensor
    first: Tensor


def check_monitors(config: ExperimentConfig, events: Events) -> None:
    """Raise `InputError` if the monitors of a search cannot work on these training events, before anything is trained."""
    chosen: Any = registry.estimators.load(config.estimator.name)
    if "signed" in chosen.capabilities:
        raise InputError(f"tuning.monitor: expected positive ratios; {config.estimator.name} is signed; use tuning.monitor=[]")
    validation = held_out(events, config.trainer)
    if len(validation) < MIN_EVENTS:
        raise InputError(
            f"tuning.monitor: expected at least {MIN_EVENTS} validation events; got {len(validation)}; raise the budget "
            f"or trainer.validation_fraction (now {config.trainer.validation_fraction:g})"
        )
    own = _points_of(validation)
    if bool((own == own[0]).all()):
        raise InputError(f"tuning.monitor: expected events of several points; design {config.design} has one; use tuning.monitor=[]")
    if "calibration" in config.tuning.monitor and bool((validation.weight < 0).any()):
        raise InputError("tuning.monitor: calibration expects events of positive weight; some are negative; use tuning.monitor=[closure]")


def monitor_rows(names: Sequence[str], estimator: Estimator, validation: Events, seed: int) -> list[Metric]:
    """Rows of the named monitors for a trained estimator; the same pairs of events and points for all that share the events."""
    sample = _sample(validation[:MAX_EVENTS], derive_generator(seed, "monitor"))
    with extrapolation_allowed(), torch.no_grad():
        return [row for name in names for row in _MONITORS[name](estimator.eval(), sample)]


def worst_z(rows: Sequence[Metric]) -> float:
    """The largest distance from a target, in standard errors; 0 if no row judges."""
    return max(map(_distance, rows), default=0.0)


def _distance(row: Metric) -> float:
    if row.value is None:
        return math.inf if "share_nonfinite" in row.at else 0.0
    if row.at.get("conclusive") is False:
        return 0.0
    z = float(row.at["z"] or 0.0)
    return max(z, 0.0) if row.direction == "lower" else abs(z)


def _sample(events: Events, generator: torch.Generator) -> _Sample:
    n, own = len(events), _points_of(events)
    partner = random_partner(n, generator)
    # Half of the events, whatever their number: classes of equal size.
    first = torch.randperm(n, generator=generator) < n // 2
    return _Sample(events.x, events.weight.double(), own, own[partner], first)


def _points_of(events: Events) -> Tensor:
    """The point that made each event (n, p), which need not be the hypothesis that it is shown with."""
    return events.theta if events.generated_at is None else events.generated_at


def _calibration_rows(estimator: Estimator, sample: _Sample) -> list[Metric]:
    own, other = estimator.log_ratio(sample.x, sample.own), estimator.log_ratio(sample.x, sample.other)
    # The event did happen at its own point; at the other one it may be impossible.
    wrong = ~own.isfinite() | other.isnan() | (other == math.inf)
    if bool(wrong.any()):
        share = float(wrong.double().mean())
        reason = f"the learned ratio is not finite for a share {share:.3g} of the events"
        return [missing_row("calibration", name, reason, {**_PLACE, "share_nonfinite": share}) for name in _CALIBRATION]
    odds = torch.where(sample.first, own - other, other - own)
    kept = sample.weight > 0
    label = sample.first[kept].double()
    rows = labelled_rows(Labelled(odds[kept], label, _balanced(sample.weight[kept], label)), _PLACE)
    # The intercept says nothing: the order of the two points is random.
    return [row for row in rows if row.name in _CALIBRATION]


def _balanced(weight: Tensor, label: Tensor) -> Tensor:
    """Weights of equal sum in both classes, n in total."""
    total = torch.where(label > 0, (weight * label).sum(), (weight * (1 - label)).sum())
    return 0.5 * len(weight) * weight / total


def _closure_rows(estimator: Estimator, sample: _Sample) -> list[Metric]:
    share, carried = _farthest(estimator, sample)
    row = carried.mean_row("mean_ratio", {**_PLACE, "pulled": share})
    if row.value is None or row.stderr is None:
        return [row]
    return [row.model_copy(update={"at": {**row.at, "z": (row.value - 1.0) / row.stderr}})]


def _farthest(estimator: Estimator, sample: _Sample) -> tuple[float, Transport]:
    """The largest share of the way to the other point at which the events carry the ratio, and the ratio there; else the smallest."""
    own = estimator.log_ratio(sample.x, sample.own)
    for share in SHARES[:-1]:
        carried = _carried(estimator, sample, own, share)
        if carried.problem or (carried.conclusive and carried.effective >= MIN_EFFECTIVE_SHARE * len(own)):
            return share, carried
    return SHARES[-1], _carried(estimator, sample, own, SHARES[-1])


def _carried(estimator: Estimator, sample: _Sample, own: Tensor, share: float) -> Transport:
    between = sample.own + share * (sample.other - sample.own)
    return Transport(sample.x, sample.weight, (estimator.log_ratio(sample.x, between) - own).exp())


_MONITORS: dict[str, Callable[[Estimator, _Sample], list[Metric]]] = {"closure": _closure_rows, "calibration": _calibration_rows}
