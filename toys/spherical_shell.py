"""A spherical shell in 2 to 20 dimensions: the radius is measured, the hole in the middle is the trap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive

__all__ = ["SphericalShell", "SphericalShellConfig"]

MAX_DIM = 20
# At the very centre the density diverges as 1 / r^(d - 1).
SMALLEST_RADIUS = 1e-300


@dataclass
class SphericalShellConfig:
    """Options.

    Attributes:
        dim: dimension d of x, 2 to 20.
        width: standard deviation of the radius at nominal.
        b: change of the log width per sigma of ``thickness``.
        fit_events: expected events.
    """

    dim: int = 3
    width: float = 0.25
    b: float = 0.2
    fit_events: int = 1_000


class SphericalShell(ExactToy):
    """x = r n with r ~ N(radius, s^2) truncated at 0, s = width exp(b thickness), and n uniform on the unit sphere.

    p(x) = N(r; radius, s) / [Phi(radius / s) S_d r^(d - 1)], r = |x|, S_d = 2 pi^(d/2) / Gamma(d/2).

    Exposes: the topology of a base density. A shell is not a ball: flows from a Gaussian leave bridges through the hole
    or tear the shell (Stimper et al. 2022, arXiv:2110.15828), the more so the thinner it is.
    """

    Config = SphericalShellConfig

    def __init__(self, config: SphericalShellConfig) -> None:
        check_positive("spherical_shell", width=config.width, fit_events=config.fit_events)
        if not 2 <= config.dim <= MAX_DIM:
            raise InputError(f"toy spherical_shell: option dim: expected 2 to {MAX_DIM}; got {config.dim}")
        self.config = config
        self.fit_events = config.fit_events
        features = tuple(Feature(f"x{i + 1}") for i in range(config.dim))
        self.spec = ToySpec("spherical_shell", "1", _PARAMETERS, features, ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        direction = torch.randn(len(theta), self.config.dim, generator=generator, dtype=torch.float64)
        u = torch.rand(len(theta), generator=generator, dtype=torch.float64)
        radius, log_width = theta[:, 0], self._log_width(theta)
        # Invert the survival function Phi((radius - r) / s) / Phi(radius / s), which is uniform.
        inside = torch.special.ndtr(radius * torch.exp(-log_width))
        r = radius - log_width.exp() * torch.special.ndtri(inside * (1 - u))
        x = direction * (r.clamp(min=0) / direction.norm(dim=-1)).unsqueeze(-1)
        return Events(x.float(), theta, torch.ones_like(u))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        d, log_width = self.config.dim, self._log_width(theta)
        r = x.norm(dim=-1).clamp(min=SMALLEST_RADIUS)
        z, depth = (r - theta[:, 0]) * torch.exp(-log_width), theta[:, 0] * torch.exp(-log_width)
        log_radial = -0.5 * z**2 - log_width - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(depth)
        log_sphere = math.log(2) + 0.5 * d * math.log(math.pi) - math.lgamma(d / 2)
        return log_radial - log_sphere - (d - 1) * r.log()

    def _log_width(self, theta: Tensor) -> Tensor:
        return math.log(self.config.width) + self.config.b * theta[:, 1]


_PARAMETERS = ParameterSpace(
    (
        Parameter("radius", "interest", 2.0, (1.0, 3.0), Uniform(1.0, 3.0), latex="R"),
        Parameter("thickness", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu"),
    )
)
