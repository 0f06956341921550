"""Fractions that add up to one: a Dirichlet density on the simplex, with integrable singularities at its edges."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.gamma_draws import draw_log_gamma
from touchneedle.toys.mixture import check_positive

__all__ = ["DirichletFractions", "DirichletFractionsConfig"]

# Fractions smaller than this vanish in float32.
SMALLEST = 1e-37
# Float32 rounds sums close to one up to it, and out of the support.
ROUNDING = 1e-6


@dataclass
class DirichletFractionsConfig:
    """Options.

    Attributes:
        alpha: concentrations of the k fractions at nominal; below 1 the density diverges where the fraction vanishes.
        a: change of the log concentrations per sigma of ``spread``, common to all.
        fit_events: expected events.
    """

    alpha: list[float] = field(default_factory=lambda: [0.7, 1.5, 2.0, 3.0])
    a: float = 0.1
    fit_events: int = 1_000


class DirichletFractions(ExactToy):
    """p(x) = Gamma(sum a_i) prod x_i^(a_i - 1) / Gamma(a_i), x = the first k - 1 fractions, the last 1 - their sum.

    a_1 = alpha_1 exp(tilt + a spread), a_i = alpha_i exp(a spread) for the others: ``tilt`` moves the mean towards
    the first fraction, ``spread`` changes the concentration of all.

    Exposes: logarithms and logits as preprocessing, whose tails they make; densities that leak over the edges of the
    simplex or round off what diverges there.
    """

    Config = DirichletFractionsConfig

    def __init__(self, config: DirichletFractionsConfig) -> None:
        check_positive("dirichlet_fractions", fit_events=config.fit_events, **{f"alpha[{i}]": a for i, a in enumerate(config.alpha)})
        if len(config.alpha) < 2:
            raise InputError(f"toy dirichlet_fractions: option alpha: expected at least 2 concentrations; got {len(config.alpha)}")
        self.config = config
        self.fit_events = config.fit_events
        features = tuple(Feature(f"x{i + 1}", support=(0.0, 1.0)) for i in range(len(config.alpha) - 1))
        self.spec = ToySpec("dirichlet_fractions", "1", _PARAMETERS, features, ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        """Normalised gamma variates; their logarithms do not underflow at small concentrations."""
        fractions = draw_log_gamma(self._log_alpha(theta).exp(), generator).softmax(-1)
        x = fractions[:, :-1].clamp(min=SMALLEST).float()
        rounded_out = x.double().sum(-1, keepdim=True) >= 1
        return Events(torch.where(rounded_out, x * (1 - ROUNDING), x), theta, torch.ones_like(theta[:, 0]))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        fractions = torch.cat([x, 1 - x.sum(-1, keepdim=True)], -1)
        inside = (fractions > 0).all(-1)
        log_fractions = torch.where(inside.unsqueeze(-1), fractions, 0.5).log()
        alpha = self._log_alpha(theta).exp()
        log_norm = torch.lgamma(alpha.sum(-1)) - torch.lgamma(alpha).sum(-1)
        return torch.where(inside, log_norm + ((alpha - 1) * log_fractions).sum(-1), -math.inf)

    def _log_alpha(self, theta: Tensor) -> Tensor:
        """Log concentrations, shape (n, k)."""
        tilt, spread = theta[:, :1], theta[:, 1:]
        first = torch.nn.functional.pad(tilt, (0, len(self.config.alpha) - 1))
        return theta.new_tensor(self.config.alpha).log() + first + self.config.a * spread


_PARAMETERS = ParameterSpace(
    (
        Parameter("tilt", "interest", 0.0, (-0.5, 0.5), Uniform(-0.5, 0.5), latex=r"\theta"),
        Parameter("spread", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu"),
    )
)
