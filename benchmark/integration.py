"""Integrals of a toy's density over x: quadrature in one dimension, importance sampling in a few."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.toys.base import Events, ExactToy, SignedToy, Toy, expand_theta

N_NODES = 20_001
N_CENTRES = 500
N_DRAWS = 10_000
NEIGHBOURS = 10
CHUNK = 250
DEGREES_OF_FREEDOM = 4.0


@dataclass(frozen=True)
class WeightedPoints:
    """Points x (m, d) and weights (m,) with sum_i weight_i g(x_i) = integral of g, up to the method's error."""

    x: Tensor
    weight: Tensor


def density(toy: Toy, x: Tensor, theta: Tensor) -> Tensor:
    """p(x|theta), or the signed density, at one point theta (p,): shape (n,)."""
    rows = expand_theta(theta, len(x))
    if isinstance(toy, ExactToy):
        return toy.log_prob(x, rows).exp()
    if isinstance(toy, SignedToy):
        return toy.density(x, rows)
    raise TypeError(f"{toy.spec.name} has no density")


def integral(points: WeightedPoints, values: Tensor) -> tuple[float, float]:
    """Integral of values (m,), and its standard error if the points are random draws."""
    terms = points.weight * values * len(values)
    return terms.mean().item(), terms.std().item() / math.sqrt(len(values))


def line_points(toy: Toy, events: Events) -> WeightedPoints:
    """Midpoint rule on the support of a one-dimensional toy, mapped to the whole line where it has none.

    x = c + s t / (1 - t^2) reaches far into heavy tails; c and s are median and spread of ``events``.
    """
    support = toy.spec.features[0].support
    t = (torch.arange(N_NODES, dtype=torch.float64) + 0.5) / N_NODES
    if support is not None and all(math.isfinite(edge) for edge in support):
        low, high = support
        return WeightedPoints((low + (high - low) * t).unsqueeze(-1), torch.full_like(t, (high - low) / N_NODES))
    x = events.x[:, 0].double()
    t = 2 * t - 1
    scale = _spread(events.x).item()
    jacobian = (1 + t**2) / (1 - t**2) ** 2
    return WeightedPoints((x.median() + scale * t / (1 - t**2)).unsqueeze(-1), 2 * scale * jacobian / N_NODES)


def cloud_points(events: Events, generator: torch.Generator) -> WeightedPoints:
    """Draws from Student t kernels around the first events, as wide as the distance to the 10th neighbour.

    The kernels follow thin structures, and their tails are heavier than those of any Gaussian mixture.
    """
    scale = _spread(events.x)
    centres = events.x[:N_CENTRES].double() / scale
    width = torch.cdist(centres, centres).kthvalue(NEIGHBOURS + 1).values.clamp(min=1e-9)
    pick = torch.randint(len(centres), (N_DRAWS,), generator=generator)
    noise = torch.randn(N_DRAWS, centres.shape[1], generator=generator, dtype=torch.float64)
    chi2 = torch.randn(N_DRAWS, int(DEGREES_OF_FREEDOM), generator=generator, dtype=torch.float64).square().sum(-1)
    z = centres[pick] + width[pick].unsqueeze(-1) * noise * (DEGREES_OF_FREEDOM / chi2).sqrt().unsqueeze(-1)
    return WeightedPoints(z * scale, scale.prod() / _kernel_density(z, centres, width) / N_DRAWS)


def _kernel_density(z: Tensor, centres: Tensor, width: Tensor) -> Tensor:
    """Density of the equal mixture of Student t kernels at z (m, d), shape (m,)."""
    nu, d = DEGREES_OF_FREEDOM, z.shape[1]
    norm = math.exp(math.lgamma((nu + d) / 2) - math.lgamma(nu / 2)) / (nu * math.pi) ** (d / 2)
    # Chunks that fit the cache are ten times faster.
    pulls = (torch.cdist(part, centres).div_(width).square_().div_(nu).add_(1) for part in z.split(CHUNK))
    kernels = torch.cat([pull.log_().mul_(-(nu + d) / 2).exp_() @ width ** (-d) for pull in pulls])
    return norm * kernels / len(centres)


def _spread(x: Tensor) -> Tensor:
    """Robust scale per feature, shape (d,): half of the central 68 %."""
    edges = x.double().quantile(torch.tensor([0.16, 0.84], dtype=torch.float64), dim=0)
    return ((edges[1] - edges[0]) / 2).clamp(min=1e-9)
