"""Weights of a log ratio that is linear in given features, by Newton on a convex loss, with their covariance.

log r = w . f, for pairs of class 1 (whose density is the numerator of r) and of class 0:

    L(w) = E_1[phi(-w . f)] + E_0[phi(w . f)]

``likelihood``: phi(t) = t + exp t - 1, the symmetrised maximum-likelihood loss (Benevedes, Thaler et al. 2025,
arXiv:2506.00113); ``cross_entropy``: phi(t) = log(1 + exp t). Both are convex in w, with their optimum at the exact ratio
where it is linear in f. Over samples of n pairs w has the sandwich covariance V^-1 U V^-1 / n (Huber 1967): V is the
Hessian, U the covariance of what one event adds to the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from touchneedle.conf.errors import InputError

LossName = Literal["likelihood", "cross_entropy"]

_MAX_STEPS = 50
_SHORTEST_STEP = 1e-6
# Relative decrease of the loss that Newton expects of its next step when it stops.
_CONVERGED = 1e-12
# Directions of the Hessian below this share of its largest eigenvalue are left alone: features that agree.
_FLAT = 1e-10


@dataclass(frozen=True)
class _Shape:
    """phi and its first two derivatives."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    bend: Callable[[Tensor], Tensor]


_SHAPES = {
    "likelihood": _Shape(lambda t: t + torch.expm1(t), lambda t: 1 + t.exp(), torch.exp),
    "cross_entropy": _Shape(softplus, torch.sigmoid, lambda t: torch.sigmoid(t) * torch.sigmoid(-t)),
}


@dataclass(frozen=True)
class Features:
    """Features of the pairs of two classes, in float64.

    Attributes:
        numerator: of n pairs of class 1 (n, k).
        denominator: of s pairs of class 0 for each of these (s, n, k).
        numerator_weight: of mean 1 (n,).
        denominator_weight: of mean 1 (s, n).
    """

    numerator: Tensor
    denominator: Tensor
    numerator_weight: Tensor
    denominator_weight: Tensor

    def loss(self, w: Tensor, name: LossName) -> Tensor:
        """L at w (k,), a scalar."""
        phi = _SHAPES[name].value
        numerator = self.numerator_weight * phi(-self.numerator @ w)
        return numerator.mean() + (self.denominator_weight * phi(self.denominator @ w)).mean()

    def slopes(self, w: Tensor, name: LossName) -> tuple[Tensor, Tensor]:
        """What each pair adds to n times the gradient of L: (n, k) of class 1, and (s, n, k) of class 0, divided by s."""
        phi = _SHAPES[name].slope
        numerator = -(self.numerator_weight * phi(-self.numerator @ w))[:, None] * self.numerator
        denominator = (self.denominator_weight * phi(self.denominator @ w))[..., None] * self.denominator
        return numerator, denominator / len(denominator)

    def hessian(self, w: Tensor, name: LossName) -> Tensor:
        """V (k, k)."""
        phi = _SHAPES[name].bend
        numerator = self.numerator.T @ ((self.numerator_weight * phi(-self.numerator @ w))[:, None] * self.numerator)
        flat, weight = self.denominator.flatten(0, 1), self.denominator_weight.flatten()
        denominator = flat.T @ ((weight * phi(flat @ w))[:, None] * flat)
        return numerator / len(self.numerator) + denominator / len(flat)


def fit_weights(features: Features, start: Tensor, name: LossName) -> Tensor:
    """w (k,) of the smallest loss, by Newton with step halving from ``start`` (k,); raises `InputError` if it does not get there."""
    w, loss = start, features.loss(start, name)
    for _ in range(_MAX_STEPS):
        numerator, denominator = features.slopes(w, name)
        gradient = (numerator.sum(0) + denominator.sum((0, 1))) / len(numerator)
        step = -inverse(features.hessian(w, name)) @ gradient
        decrease = -(gradient @ step)
        if bool(decrease <= _CONVERGED * (1 + loss.abs())):
            return w + step
        length = 1.0
        while not bool((trial := features.loss(w + length * step, name)) <= loss - 1e-4 * length * decrease):
            length /= 2
            if length < _SHORTEST_STEP:
                raise InputError(f"weights: Newton found no decrease of the {name} loss at {loss:.6g}; are the features finite?")
        w, loss = w + length * step, trial
    raise InputError(f"weights: Newton did not converge on the {name} loss within {_MAX_STEPS} steps")


def sandwich(hessian: Tensor, influence: Tensor) -> Tensor:
    """V^-1 U V^-1 / n (k, k) from V (k, k) and what each of n independent events adds to n times the gradient (n, k)."""
    centred = influence - influence.mean(0)
    bread = inverse(hessian)
    return bread @ (centred.T @ centred / len(centred) ** 2) @ bread


def inverse(hessian: Tensor) -> Tensor:
    """Inverse of a symmetric matrix (k, k) on its directions that are not flat."""
    return torch.linalg.pinv(hessian, rtol=_FLAT, hermitian=True)


def square_root(covariance: Tensor) -> Tensor:
    """L (k, k) with L L^t = covariance, which may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()
