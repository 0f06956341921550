"""Events of one point carried to another by a learned ratio, and how far the weighted sample can be trusted.

Effective size (sum w)^2 / sum w^2 and the largest share of the weight say how many events carry the result. Neither,
nor the standard error, can see a weight whose variance is infinite: the events that would show it have not come yet.
The tail index of the largest 1 % of the weights can (Hill 1975; as in Vehtari et al. 2015, arXiv:1507.02646): P(w > t)
falls as t^(-1/tail), with infinite variance for tail > 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from touchneedle.benchmark.metrics.statistics import mean_row, missing_row
from touchneedle.benchmark.records import Metric

MIN_EFFECTIVE = 100
# Error of a ratio that is the same for all events.
ROUNDING = 1e-9
MAX_TAIL = 0.5
TAIL_SHARE = 0.01
_MIN_TAIL = 10


@dataclass(frozen=True)
class Transport:
    """Events x (n, d) of one point with their own weights (n,), and the learned ratio (n,) to another point."""

    x: Tensor
    own: Tensor
    ratio: Tensor

    @cached_property
    def weight(self) -> Tensor:
        """Own weight times ratio (n,)."""
        return self.own * self.ratio

    @property
    def share_nonfinite(self) -> float:
        """Share of events whose ratio is NaN or infinite."""
        return float((~self.ratio.isfinite()).double().mean())

    @property
    def problem(self) -> str:
        """Why there is no number; empty if there is one."""
        if self.share_nonfinite:
            return f"the learned ratio is not finite for a share {self.share_nonfinite:.3g} of the events"
        return "" if float(self.weight.sum()) > 0 else "the learned weights sum to zero or less"

    @property
    def effective(self) -> float:
        """Effective number of events."""
        return float(self.weight.sum() ** 2 / self.weight.square().sum())

    @property
    def max_share(self) -> float:
        """Largest weight over the sum of all."""
        return float(self.weight.abs().max() / self.weight.abs().sum())

    @cached_property
    def tail(self) -> float | None:
        """Hill's tail index of the largest 1 % of the weights; None if too few events have any weight."""
        k = max(_MIN_TAIL, int(TAIL_SHARE * len(self.weight)))
        if len(self.weight) <= k:
            return None
        top = self.weight.abs().topk(k + 1).values
        return float((top[:-1] / top[-1]).log().mean()) if float(top[-1]) > 0 else None

    @property
    def conclusive(self) -> bool:
        """Effective size of at least 100, and a tail index below 1/2."""
        return self.effective >= MIN_EFFECTIVE and self.tail is not None and self.tail < MAX_TAIL

    def health(self) -> dict[str, Any]:
        """What a row says of the sample behind it."""
        if self.problem:
            return {"share_nonfinite": self.share_nonfinite, "conclusive": False}
        return {"effective": self.effective, "max_share": self.max_share, "tail": self.tail, "conclusive": self.conclusive}

    def mean_row(self, name: str, at: dict[str, Any]) -> Metric:
        """The mean of the ratio, which should be 1."""
        if self.problem:
            return missing_row("closure", name, self.problem, {**at, **self.health()})
        at = {**at, "target": 1.0, **self.health()}
        row = mean_row("closure", name, self.ratio, at, weight=self.own, direction="target")
        return row.model_copy(update={"stderr": max(row.stderr or 0.0, ROUNDING)})

    def size_row(self, name: str, at: dict[str, Any]) -> Metric:
        """The effective size as a share of the events; delta method on (sum w)^2 / (n sum w^2)."""
        if self.problem:
            return missing_row("closure", name, self.problem, {**at, **self.health()})
        weight, n = self.weight, len(self.weight)
        first, second = weight.mean(), weight.square().mean()
        gradient = 2 * first / second * (weight - first) - first**2 / second**2 * (weight**2 - second)
        stderr = float(gradient.std() / n**0.5)
        return Metric(family="closure", name=name, at=at, value=self.effective / n, stderr=stderr, n=n, direction="higher")

    def __getitem__(self, rows: Tensor | slice) -> Transport:
        return Transport(self.x[rows], self.own[rows], self.ratio[rows])
