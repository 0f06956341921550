"""Mined gold: the joint ratio and the joint score that a simulator hands over with each event.

With its latent history z a simulator knows r(x, z|theta) = p(x, z|theta) / p(x, z|theta_0) and
t(x, z|theta) = grad_theta log p(x, z|theta). Their means over z at fixed x are what is wanted,
E[r | x, theta_0] = p(x|theta) / p(x|theta_0) and E[t | x, theta] = grad_theta log p(x|theta), so regressions on
them learn ratio and score (Brehmer, Cranmer, Louppe, Pavez 2018, arXiv:1805.00013 and arXiv:1805.00020; the same
authors with the name, arXiv:1805.12244). In the design ``pairs`` half of the events are generated at their
hypothesis theta (numerator), half at theta_0 (denominator).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.standardise import mean_weight
from touchneedle.toys.base import Events


def is_numerator(events: Events) -> Tensor:
    """Mask (n,) of the events that were generated at their hypothesis theta."""
    if events.generated_at is None:
        return torch.ones(len(events), dtype=torch.bool, device=events.x.device)
    return (events.generated_at == events.theta).all(-1)


def joint_log_ratio(events: Events) -> Tensor:
    """Joint log ratio (n,), infinite where a support ends; raises `InputError` where it is missing or NaN."""
    joint = events.joint_log_ratio
    if joint is None or bool(joint.isnan().any()):
        raise InputError(f"events: expected a joint log ratio for each (design pairs); got {_found(joint)}")
    return joint


def joint_score(events: Events) -> Tensor:
    """Joint score (n, p); raises `InputError` where it is missing, or not finite for events generated at theta."""
    joint = events.joint_score
    if joint is None or not bool(joint[is_numerator(events)].isfinite().all()):
        raise InputError(f"events: expected a finite joint score for each (design pairs or nominal); got {_found(joint)}")
    return joint


def with_score_error(
    log_density: Callable[[Tensor, Tensor], Tensor], events: Events, theta: Tensor, width: Tensor
) -> tuple[Tensor, Tensor]:
    """log_density(x, theta) (n,), and the mean square of ``width`` (p,) times its gradient's distance from the joint score (n,).

    The distance is 0 for events that were not generated at their hypothesis: only over those of theta is the mean of
    the joint score the score. Training differentiates the gradient once more.
    """
    training = torch.is_grad_enabled()
    theta = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = log_density(events.x, theta)
        (score,) = torch.autograd.grad(value.sum(), theta, create_graph=training)
    distance = width * (score - joint_score(events))
    # The other joint scores may be infinite (supports that move): dropped before the square.
    kept = distance.where(is_numerator(events)[:, None], torch.zeros_like(distance))
    return value, kept.square().mean(-1)


def class_scales(weight: Tensor, numerator: Tensor) -> Tensor:
    """Factors (denominator, numerator) of the weights (n,) that give each class half of a total n: shape (2,).

    Raises `InputError` if a class is empty or has no positive weight.
    """
    parts = [weight[~numerator], weight[numerator]]
    if not all(len(part) for part in parts):
        raise InputError(f"events: expected some from theta and some from theta_0 (design pairs); got {len(parts[1])} and {len(parts[0])}")
    return torch.stack([0.5 * len(weight) / (mean_weight(part) * len(part)) for part in parts])


def _found(joint: Tensor | None) -> str:
    return "none" if joint is None else f"{int((~joint.isfinite()).sum())} that are not numbers"
