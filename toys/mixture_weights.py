"""Three Gaussians of equal mean and unequal shape: the weights of the mixture are measured, one component may move."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive, joint_truth, mixture_log_prob

__all__ = ["MixtureWeights", "MixtureWeightsConfig"]

# Variances of (x1, x2) of the components round, wide and tall.
VARIANCES = ((1.0, 1.0), (4.0, 0.5), (0.5, 4.0))
MOVES = (0.0, 1.0, 0.0)


@dataclass
class MixtureWeightsConfig:
    """Options.

    Attributes:
        a: change of the mean of x1 of the wide component per sigma of ``shift``.
        fit_events: expected events.
    """

    a: float = 0.2
    fit_events: int = 1_000


class MixtureWeights(ExactToy):
    """p(x) = (1 - w2 - w3) N(0, diag(1, 1)) + w2 N((a shift, 0), diag(4, 0.5)) + w3 N(0, diag(0.5, 4)), theta = (w2, w3, shift).

    The toy of event2vec (github.com/nsmith-/event2vec), to which the nuisance is new. At ``shift`` = 0 means and
    correlations know nothing of theta: it sits in the shapes alone.

    Exposes: methods that are linear in x, and classifiers that never hear of small changes of theta; the
    ratio is linear in the weights, so whatever is bent in them is the method's own.
    """

    Config = MixtureWeightsConfig

    def __init__(self, config: MixtureWeightsConfig) -> None:
        check_positive("mixture_weights", fit_events=config.fit_events)
        self.config = config
        self.fit_events = config.fit_events
        self.spec = ToySpec("mixture_weights", "1", _PARAMETERS, (Feature("x1"), Feature("x2")), ("round", "wide", "tall"))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` times the weights at theta (m, p): shape (m, 3)."""
        return self.fit_events * _fractions(theta.double())

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        label = torch.multinomial(_fractions(theta), 1, generator=generator).squeeze(-1)
        noise = torch.randn(len(theta), 2, generator=generator, dtype=torch.float64)
        x = noise * theta.new_tensor(VARIANCES).sqrt()[label]
        x[:, 0] += self._means(theta).gather(-1, label.unsqueeze(-1)).squeeze(-1)
        log_ratio, score = joint_truth(self, x.float(), label, theta)
        return Events(x.float(), theta, torch.ones_like(x[:, 0]), label, joint_log_ratio=log_ratio, joint_score=score)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return mixture_log_prob(_fractions(theta), self._log_prob_process(x, theta))

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        variance = theta.new_tensor(VARIANCES)
        square = (x[:, :1] - self._means(theta)).square() / variance[:, 0] + x[:, 1:].square() / variance[:, 1]
        return -0.5 * square - 0.5 * variance.log().sum(-1) - math.log(2 * math.pi)

    def _means(self, theta: Tensor) -> Tensor:
        """Mean of x1 in each component, shape (n, 3)."""
        return self.config.a * theta[:, 2:] * theta.new_tensor(MOVES)


def _fractions(theta: Tensor) -> Tensor:
    wide, tall, _ = theta.unbind(-1)
    return torch.stack([1 - wide - tall, wide, tall], -1)


# At the corner (0.5, 0.5) the round component is gone.
_PARAMETERS = ParameterSpace(
    (
        Parameter("weight_wide", "interest", 0.25, (0.0, 0.5), Uniform(0.0, 0.5), latex="w_2"),
        Parameter("weight_tall", "interest", 0.25, (0.0, 0.5), Uniform(0.0, 0.5), latex="w_3"),
        Parameter("shift", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu"),
    )
)
