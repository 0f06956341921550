"""Pseudo-experiments: data sets drawn from one pool of events, shared by all estimators and the oracle.

Because everybody fits the same events with the same auxiliary measurements, differences between fits
are paired: the fluctuation of the pool and of the experiments cancels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.control_regions import ControlRegions
from touchneedle.inference.terms import Summaries
from touchneedle.toys.base import Events, ParameterSpace


@dataclass(frozen=True)
class PseudoExperiments:
    """E data sets, as rows of a pool of N events at the true point.

    Attributes:
        pool: events at theta_true; their weights enter through the drawing only.
        theta_true: (p,).
        n_events: expected number of events.
        counts: observed number of events (E,).
        index: rows of the pool, experiment after experiment (sum of counts,).
        auxiliary: auxiliary measurements (E, p), redrawn around the truth; NaN for parameters without constraint.
        control: control regions, where the likelihood has them.
        control_counts: their counts (E, b), drawn at the truth.
    """

    pool: Events
    theta_true: Tensor
    n_events: float
    counts: Tensor
    index: Tensor
    auxiliary: Tensor
    control: ControlRegions | None = None
    control_counts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def owner(self) -> Tensor:
        """Experiment of every drawn event (sum of counts,)."""
        return torch.repeat_interleave(torch.arange(len(self)), self.counts)

    @property
    def first_rows(self) -> Tensor:
        """Where the events of each experiment begin among the drawn ones (E,)."""
        return self.counts.cumsum(0) - self.counts

    @property
    def summaries(self) -> Summaries:
        """What the exact terms of ln L need to know."""
        expected = torch.full((len(self),), float(self.n_events), dtype=torch.float64)
        return Summaries(self.counts.double(), expected, self.auxiliary, self.control_counts)

    @property
    def pool_summary(self) -> Summaries:
        """The same for the whole pool weighted to ``n_events``, with auxiliary measurements and control regions at the truth."""
        n = torch.tensor([float(self.n_events)], dtype=torch.float64)
        counts = None if self.control is None else self.control.expected(self.theta_true[None])
        return Summaries(n, n, self.theta_true[None], counts)

    @cached_property
    def pool_share(self) -> Tensor:
        """Weight of each pool event, summing to one (N,)."""
        weight = self.pool.weight.double()
        return weight / weight.sum()

    @property
    def effective_pool(self) -> float:
        """Kish effective size of the pool, (sum w)^2 / sum w^2."""
        return float(1 / self.pool_share.square().sum())

    def __getitem__(self, rows: Tensor) -> PseudoExperiments:
        """The experiments of these rows (e,), all different, in the order of all."""
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[rows] = True
        if not torch.equal(chosen.nonzero().flatten(), rows):
            raise ValueError("expected different experiments in the order of all")
        control_counts = None if self.control_counts is None else self.control_counts[rows]
        return replace(
            self,
            counts=self.counts[rows],
            index=self.index[chosen[self.owner]],
            auxiliary=self.auxiliary[rows],
            control_counts=control_counts,
        )  # fmt: skip


def draw_pseudo_experiments(
    pool: Events,
    theta_true: Tensor,
    n_events: float,
    n_experiments: int,
    parameters: ParameterSpace,
    generator: torch.Generator,
    control: ControlRegions | None = None,
) -> PseudoExperiments:
    """Draw data sets of Poisson(n_events) events from a pool, with replacement, in proportion to the weights.

    Auxiliary measurements and the counts of control regions are drawn around the truth.

    Equivalent to an independent Poisson count for every pool event (thinning of a Poisson process).
    Raises `InputError` for negative or vanishing weights, which cannot be drawn from.
    """
    weight = pool.weight.double()
    if not len(pool) or not bool((weight >= 0).all()) or not float(weight.sum()) > 0:
        raise InputError("pseudo-experiments: expected a pool of events with weights >= 0 and a positive sum; use unsigned events")
    expected = torch.full((n_experiments,), float(n_events), dtype=torch.float64)
    counts = torch.poisson(expected, generator=generator).long()
    edges = weight.cumsum(0)
    uniform = torch.rand(int(counts.sum()), generator=generator, dtype=torch.float64) * edges[-1]
    index = torch.searchsorted(edges, uniform, right=True).clamp_max(len(pool) - 1)
    theta_true = theta_true.double()
    auxiliary = draw_auxiliary(theta_true, n_experiments, parameters, generator)
    return PseudoExperiments(
        pool=pool,
        theta_true=theta_true,
        n_events=n_events,
        counts=counts,
        index=index,
        auxiliary=auxiliary,
        control=control,
        control_counts=None if control is None else control.sample(theta_true.expand(n_experiments, -1), generator),
    )


def draw_auxiliary(theta: Tensor, n: int, parameters: ParameterSpace, generator: torch.Generator) -> Tensor:
    """Auxiliary measurements (n, p) around theta (p,); NaN for parameters without constraint."""
    columns = [torch.full((n,), torch.nan, dtype=torch.float64)] * len(parameters)
    for column, parameter in enumerate(parameters.parameters):
        if parameter.constraint is not None:
            columns[column] = parameter.constraint.sample(theta[column].expand(n), generator)
    return torch.stack(columns, -1)
