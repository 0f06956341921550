"""A signed mixture: source plus mu times (target - source), each a difference of two Gaussians, sampled with signed weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, SignedToy, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive

__all__ = ["SignedMixture", "SignedMixtureConfig"]

# Coefficient and width of the components: source wide, source narrow, target wide, target narrow.
SHARES = (4 / 3, -1 / 3, 2.0, -1.0)
WIDTHS = (2.5, 2.3, 2.0, 1.2)
IS_TARGET = (0.0, 0.0, 1.0, 1.0)


@dataclass
class SignedMixtureConfig:
    """Options.

    Attributes:
        a: change of the log width of the target per sigma of ``target_scale``.
        fit_events: expected events.
    """

    a: float = 0.05
    fit_events: int = 1_000


class SignedMixture(SignedToy):
    """p(x) = (1 - mu) source(x) + mu target(x; nu) in the plane, from zero-mean isotropic Gaussians N(width^2).

    source = [4 N(2.5^2) - N(2.3^2)] / 3 is positive, target = 2 N((2 k)^2) - N((1.2 k)^2) with k = exp(a nu) is
    negative near the origin (Drnevich et al. 2024, arXiv:2410.10216, and 2512.19913); the nuisance on the
    target's scale is new. Nominal mu = 0, where p = source > 0 and the nuisance has no effect.

    Events: a component is drawn in proportion to its absolute coefficient c_k, and weighted with
    sign(c_k) sum |c|, whose mean is 1. At mu = 0 the effective share of the events is 36 %, at mu = 1 11 %.
    p >= 0 for -1.4 < mu < 0.43 at nu = 0: only there can data be observed and fitted.

    Exposes: losses that are unbounded below with negative weights, ratios that cannot be negative.
    """

    Config = SignedMixtureConfig

    def __init__(self, config: SignedMixtureConfig) -> None:
        check_positive("signed_mixture", fit_events=config.fit_events)
        self.config = config
        self.fit_events = config.fit_events
        processes = ("source_wide", "source_narrow", "target_wide", "target_narrow")
        self.spec = ToySpec("signed_mixture", "1", _PARAMETERS, (Feature("x1"), Feature("x2")), processes)

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` times the signed coefficients at theta (m, p): shape (m, 4)."""
        return self.fit_events * _coefficients(theta.double())

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        coefficients = _coefficients(theta)
        label, x = self._draw(coefficients.abs(), theta, generator)
        sign = coefficients.gather(-1, label.unsqueeze(-1)).squeeze(-1).sign()
        return Events(x.float(), theta, sign * coefficients.abs().sum(-1), label)

    def _observe(self, theta: Tensor, generator: torch.Generator) -> Events:
        """Rejection from the components of positive coefficient; a proposal of negative density ends it."""
        x = torch.empty(len(theta), 2, dtype=torch.float64)
        missing = torch.arange(len(theta))
        while len(missing):
            here = theta[missing]
            positive = _coefficients(here).clamp(min=0)
            _, proposal = self._draw(positive, here, generator)
            keep = self.density(proposal, here) / (positive * self._components(proposal, here)).sum(-1)
            if bool((keep < 0).any()):
                raise InputError(
                    f"toy signed_mixture: cannot observe events where the density is negative; got mu = {here[keep < 0][0, 0]:g}"
                )
            accepted = torch.rand(keep.shape, generator=generator, dtype=torch.float64) < keep
            x[missing[accepted]] = proposal[accepted]
            missing = missing[~accepted]
        return Events(x.float(), theta, torch.ones_like(theta[:, 0]))

    def _density(self, x: Tensor, theta: Tensor) -> Tensor:
        return (_coefficients(theta) * self._components(x, theta)).sum(-1)

    def _draw(self, share: Tensor, theta: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Component (n,) in proportion to ``share`` (n, 4), and x (n, 2) from it."""
        label = torch.multinomial(share, 1, generator=generator)
        width = self._log_widths(theta).gather(-1, label).exp()
        return label.squeeze(-1), width * torch.randn(len(theta), 2, generator=generator, dtype=torch.float64)

    def _components(self, x: Tensor, theta: Tensor) -> Tensor:
        """Densities of the components, shape (n, 4)."""
        log_width = self._log_widths(theta)
        square = x.square().sum(-1, keepdim=True) * torch.exp(-2 * log_width)
        return torch.exp(-0.5 * square - 2 * log_width - math.log(2 * math.pi))

    def _log_widths(self, theta: Tensor) -> Tensor:
        return theta.new_tensor(WIDTHS).log() + self.config.a * theta[:, 1:] * theta.new_tensor(IS_TARGET)


def _coefficients(theta: Tensor) -> Tensor:
    """Signed coefficients of the components, which add up to 1: shape (n, 4)."""
    mu, is_target = theta[:, :1], theta.new_tensor(IS_TARGET)
    return theta.new_tensor(SHARES) * torch.where(is_target > 0, mu, 1 - mu)


_PARAMETERS = ParameterSpace(
    (
        Parameter("mu", "interest", 0.0, (-1.0, 2.0), Uniform(-1.0, 2.0), latex=r"\mu"),
        Parameter("target_scale", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu"),
    )
)
