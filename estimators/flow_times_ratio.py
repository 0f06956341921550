"""Hybrid density: a flow of all events, times a classifier's ratio to it, divided by its mean over the flow.

    p(x|theta) = q(x) r(x, theta) / E_q[r(., theta)]

After the hybrid densities of hnsbi-toolkit (github.com/rafaellopesdesa/hnsbi-toolkit). q is an unconditional spline flow of the marginal of
the training events, which covers p(x|theta) for every theta and for every design; r is the ratio to that marginal, as in `ratio_bce`.
Where the flow is wrong by a factor that depends on x alone, log_ratio does not notice: a fit is that of the classifier, and the flow adds
what it lacks, a density and samples. The mean E_q[r] is taken over quasi-random points of the flow: log_prob divides by it, and fits
subtract it as local normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from touchneedle.estimators.base import Capability, Stage
from touchneedle.estimators.flow_density import FlowDensity, SplineFlowConfig
from touchneedle.estimators.ratio_network import RatioNetwork, RatioNetworkConfig, cross_entropy
from touchneedle.estimators.shared_rows import values_at_rows
from touchneedle.estimators.standardise import require_positive
from touchneedle.estimators.zuko_flows import spline_autoregressive
from touchneedle.toys.base import Events, EventSource, ToySpec


@dataclass
class FlowTimesRatioConfig(RatioNetworkConfig, SplineFlowConfig):
    """Options of `FlowTimesRatio`: those of the flow, and of every `RatioNetwork`; ``reference_events`` are points of the flow.

    Attributes:
        candidates: events of the flow among which each event of `sample` is chosen.
    """

    reference_events: PositiveInt = 8_192
    candidates: PositiveInt = 32


class FlowTimesRatio(RatioNetwork):
    """A density whose shape in theta is a classifier's. Needs events of positive weight: `prepare` raises `SkipCell` for others.

    `sample` is sampling with importance resampling (Rubin 1988): of ``candidates`` events of the flow one is chosen with chances in
    proportion to r. Its density is off by a factor 1 + O(Var[r] / candidates).
    """

    Config = FlowTimesRatioConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"log_prob", "sample", "score"})

    def __init__(self, spec: ToySpec, config: FlowTimesRatioConfig) -> None:
        super().__init__(spec, config)
        self.flow = MarginalFlow(spec, config)

    def stages(self) -> tuple[Stage, ...]:
        """The flow, then the classifier."""
        return (Stage("flow", tuple(self.flow.parameters())), Stage("ratio", tuple(self.network.parameters())))

    def finish(self, validation: Events) -> None:
        """Points of the trained flow, for the mean of r."""
        self._draw_reference()

    def _prepare(self, source: EventSource) -> None:
        require_positive(source, "flow_times_ratio needs events of positive weight: its flow and its mean of ratios are densities")
        super()._prepare(source)
        self.flow.prepare(source)
        self._draw_reference()

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        # In each stage one of the two is constant.
        return self.flow.loss(events, generator) + cross_entropy(self._pairs(events, generator))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        log_mean = values_at_rows(self._log_mean, theta)
        return self.flow._log_prob(x, theta) + self._log_evidence_ratio(x, theta) - log_mean

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        size = max(1, self.rows_per_chunk // self.config.candidates)
        return torch.cat([self._resampled(part, generator) for part in theta.split(size)])

    def _resampled(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        every = theta.repeat_interleave(self.config.candidates, 0)
        x = self.flow._sample(every, generator)
        with torch.no_grad():
            chances = self._log_evidence_ratio(x, every).double().reshape(len(theta), -1).softmax(-1)
        chosen = torch.multinomial(chances.to(generator.device), 1, generator=generator).to(x.device)
        return x.reshape(len(theta), self.config.candidates, -1).gather(1, chosen[..., None].expand(-1, -1, x.shape[1])).squeeze(1)

    def _draw_reference(self) -> None:
        points = self.flow.spread_points(self.config.reference_events)
        self.reference_x = points.to(self.nominal)
        self.reference_weight = torch.full((len(points),), 1 / len(points)).to(self.nominal)


class MarginalFlow(FlowDensity):
    """A spline flow of x alone; theta is ignored."""

    def __init__(self, spec: ToySpec, config: SplineFlowConfig) -> None:
        super().__init__(spec, config)
        # A constant context: zuko has no splines of a single feature without one.
        self.flow = spline_autoregressive(spec.x_dim, 1, config)

    def spread_points(self, count: int) -> Tensor:
        """``count`` quasi-random events of the flow, the images of scrambled Sobol points: shape (count, d)."""
        sobol = torch.quasirandom.SobolEngine(self.spec.x_dim, scramble=True, seed=0)
        uniform = sobol.draw(count, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        noise = torch.special.ndtri(uniform).to(self.nominal)
        z = self.flow.from_noise(noise, _constant(noise))
        return self.support.inverse(self.standardise_x.inverse(z))

    def _log_density_scaled(self, z: Tensor, theta: Tensor) -> Tensor:
        return self.flow.log_prob(z, _constant(z))

    def _sample_scaled(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        return self.flow.sample(_constant(theta), generator)


def _constant(rows: Tensor) -> Tensor:
    """A context (n, 1) of zeros for as many rows."""
    return torch.zeros_like(rows[:, :1])
