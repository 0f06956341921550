"""log_ratio of events and its gradient in theta, in chunks of events so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from touchneedle.estimators.base import Estimator
from touchneedle.toys.base import expand_theta

CHUNK_ROWS = 2**15


def ratio_and_score(estimator: Estimator, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """log_ratio up to a function of x (n,), and its gradient in theta (n, p), for theta (n, p) or one point (p,); detached float64."""
    size = min(CHUNK_ROWS, estimator.rows_per_chunk)
    pairs = zip(x.split(size), expand_theta(theta, len(x)).split(size), strict=True)
    ratios, scores = zip(*[_ratio_and_score(estimator, *pair) for pair in pairs], strict=True)
    return torch.cat(ratios), torch.cat(scores)


def _ratio_and_score(estimator: Estimator, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    theta = theta.detach().clone().requires_grad_()
    with torch.enable_grad(), frozen(estimator):
        ratio = estimator.relative_log_prob(x, theta)
        (score,) = torch.autograd.grad(ratio.sum(), theta)
    return ratio.detach().double().cpu(), score.double().cpu()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients of weights inside: nothing is stored for them, and a network may keep what depends on its weights alone."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
