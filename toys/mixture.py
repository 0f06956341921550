"""What mixtures of processes share: the marginal density, class draws, and joint (latent) truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import ExactToy

# exp(700) is close to the largest float64; only components of weight zero come near it.
_LARGEST_EXPONENT = 700.0
_LOWEST = -1e308


def mixture_log_prob(fractions: Tensor, log_components: Tensor) -> Tensor:
    """log sum_k f_k p_k(x), shape (n,), from fractions (n, k) and component log densities (n, k).

    Unlike ``logsumexp(log f + log p)`` its gradient in f is finite at f = 0.
    """
    top = (fractions.log() + log_components).detach().amax(-1, keepdim=True).clamp(min=_LOWEST)
    relative = (log_components - top).clamp(max=_LARGEST_EXPONENT).exp()
    return top.squeeze(-1) + (fractions * relative).sum(-1).log()


def draw_labels(fraction: Tensor, generator: torch.Generator) -> Tensor:
    """True with probability ``fraction`` (n,), shape (n,)."""
    return torch.rand(fraction.shape, generator=generator, dtype=fraction.dtype) < fraction


def joint_truth(toy: ExactToy, x: Tensor, label: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Joint log ratio (n,) and joint score (n, p) of events x (n, d) with known process ``label`` (n,).

    The latent variable is the process: log p(x, z|theta) = log(rate_z / sum of rates) + log p(x|theta, z)
    (Brehmer et al. 2018, arXiv:1805.00020, eqs. 3 and 4). ``theta`` (n, p) need not be the point that
    generated the events.
    """
    nominal = toy.spec.parameters.nominal.to(theta.device)
    return latent_truth(partial(_log_joint, toy, x, label), theta, nominal)


def latent_truth(log_joint: Callable[[Tensor], Tensor], theta: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor]:
    """Joint log ratio (n,) and joint score (n, p) at theta (n, p) of log p(x, z|theta), a function of theta for given events."""
    theta = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = log_joint(theta)
        (score,) = torch.autograd.grad(value.sum(), theta)
    return value.detach() - log_joint(nominal.expand_as(theta)).detach(), score


def check_positive(owner: str, **options: float) -> None:
    """Raise `InputError` for the first option that is not a finite positive number."""
    for name, value in options.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"toy {owner}: option {name}: expected a positive number; got {value:g}")


def _log_joint(toy: ExactToy, x: Tensor, label: Tensor, theta: Tensor) -> Tensor:
    column = label.unsqueeze(-1)
    rates = toy.rates(theta)
    fraction = rates.gather(-1, column).squeeze(-1) / rates.sum(-1)
    return fraction.log() + toy.log_prob_process(x, theta).gather(-1, column).squeeze(-1)
