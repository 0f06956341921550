"""The two-class synthetic set of the factorizable-normalizing-flow paper, with its exact density.

Kinematics x = (x1, x2) of two Gaussian classes, and a score y = (y0, y1) drawn from a bivariate
normal whose moments depend on x, class and nuisances. The class is marginalised.

References:
    Factorizable normalizing flows, arXiv:2602.13184 (2026), appendix A; formulas and constants from
    the generator and configuration published with it (valsdav/factorizable-normalizing-flow).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive, draw_labels, joint_truth, mixture_log_prob

__all__ = ["FnfTwoClass", "FnfTwoClassConfig"]

SIGN = (-1.0, 1.0)
CENTRE = (-0.5, 0.5)
LOG_WIDTH = ((math.log(0.9), math.log(0.6)), (math.log(0.6), math.log(0.4)))
SHIFT, SQUEEZE, SHEAR = 0.3, 0.2, 0.10


@dataclass
class FnfTwoClassConfig:
    """Options.

    Attributes:
        distortion: strength delta of the distortion of y that data have and simulation has not (0.2
            in the paper); 0 switches it off altogether, its shear included.
        fit_events: expected events.
    """

    distortion: float = 0.0
    fit_events: int = 1_000


class Score(NamedTuple):
    """Moments of y given x, class and nuisances, each (n,)."""

    mean0: Tensor
    mean1: Tensor
    log_std0: Tensor
    log_std1: Tensor
    correlation: Tensor


class FnfTwoClass(ExactToy):
    """p(x, y) = (1 - f) p_A(x) p_A(y|x) + f p_B(x) p_B(y|x), nuisances ``shift`` and ``squeeze`` in both factors.

    With s = -1 (A), +1 (B), n = shift, q = squeeze:
    x1 ~ N(s (0.5 + 0.3 n), w1 exp(-0.2 s q)), x2 ~ N(0, w2 exp(0.2 s q)), (w1, w2) = (0.9, 0.6) A, (0.6, 0.4) B;
    y ~ N((m0, m1), (s0, s1), rho) with m0 = sin(1.5 x1) + 0.3 x2 + 0.3 s n tanh x1,
    m1 = 0.3 x1^2 - 1.2 + 0.5 sin x2 - 0.3 s n tanh x1, s0 = softplus(0.4 x1 + 0.1) exp(0.2 s q),
    s1 = softplus(-0.2 x1 + 0.4) exp(-0.2 s q), rho = 0.8 tanh((x1 + x2) / 2).
    """

    Config = FnfTwoClassConfig

    def __init__(self, config: FnfTwoClassConfig) -> None:
        check_positive("fnf_two_class", fit_events=config.fit_events)
        self.config = config
        self.fit_events = config.fit_events
        features = tuple(Feature(name) for name in ("x1", "x2", "y0", "y1"))
        self.spec = ToySpec("fnf_two_class", "1", _PARAMETERS, features, ("A", "B"))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` times (1 - f, f) at theta (m, p): shape (m, 2)."""
        return self.fit_events * _fractions(theta.double())

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        is_b = draw_labels(theta[:, 0], generator)
        noise = torch.randn(len(theta), 4, generator=generator, dtype=torch.float64)
        x = torch.where(is_b.unsqueeze(-1), self._transform(noise, theta, 1), self._transform(noise, theta, 0)).float()
        label = is_b.long()
        log_ratio, score = joint_truth(self, x, label, theta)
        return Events(x, theta, torch.ones_like(theta[:, 0]), label, joint_log_ratio=log_ratio, joint_score=score)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return mixture_log_prob(_fractions(theta), self._log_prob_process(x, theta))

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        return torch.stack([self._log_prob_class(x, theta, k) for k in (0, 1)], -1)

    def _log_prob_class(self, x: Tensor, theta: Tensor, k: int) -> Tensor:
        x1, x2, y0, y1 = x.unbind(-1)
        mean, log_std1, log_std2 = _kinematics(theta, k)
        kinematic = _log_normal(x1, mean, log_std1) + _log_normal(x2, 0.0, log_std2)
        log_jacobian = 0.0
        if self.config.distortion:
            y0, y1 = _undistort(x1, x2, y0, y1, k, self.config.distortion)
            log_jacobian = -math.log1p(2 * SHEAR * SIGN[k])
        return kinematic + _log_score(y0, y1, _score(x1, x2, theta, k)) + log_jacobian

    def _transform(self, noise: Tensor, theta: Tensor, k: int) -> Tensor:
        """Standard normal noise (n, 4) to events of one class (n, 4)."""
        mean, log_std1, log_std2 = _kinematics(theta, k)
        x1 = mean + log_std1.exp() * noise[:, 0]
        x2 = log_std2.exp() * noise[:, 1]
        score = _score(x1, x2, theta, k)
        y0 = score.mean0 + score.log_std0.exp() * noise[:, 2]
        mixed = score.correlation * noise[:, 2] + torch.sqrt(1 - score.correlation**2) * noise[:, 3]
        y1 = score.mean1 + score.log_std1.exp() * mixed
        if self.config.distortion:
            y0, y1 = _distort(x1, x2, y0, y1, k, self.config.distortion)
        return torch.stack([x1, x2, y0, y1], -1)


def _fractions(theta: Tensor) -> Tensor:
    return torch.stack([1 - theta[:, 0], theta[:, 0]], -1)


def _kinematics(theta: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of x1 and the log standard deviations of x1 and x2, each (n,)."""
    _, shift, squeeze = theta.unbind(-1)
    mean = CENTRE[k] + SHIFT * SIGN[k] * shift
    alpha = SQUEEZE * SIGN[k] * squeeze
    return mean, LOG_WIDTH[k][0] - alpha, LOG_WIDTH[k][1] + alpha


def _score(x1: Tensor, x2: Tensor, theta: Tensor, k: int) -> Score:
    _, shift, squeeze = theta.unbind(-1)
    moved = SHIFT * SIGN[k] * shift * torch.tanh(x1)
    beta = SQUEEZE * SIGN[k] * squeeze
    return Score(
        mean0=torch.sin(1.5 * x1) + 0.3 * x2 + moved,
        mean1=0.3 * x1**2 - 1.2 + 0.5 * torch.sin(x2) - moved,
        log_std0=_log_softplus(0.4 * x1 + 0.1) + beta,
        log_std1=_log_softplus(-0.2 * x1 + 0.4) - beta,
        correlation=0.8 * torch.tanh(0.5 * (x1 + x2)),
    )


def _log_softplus(value: Tensor) -> Tensor:
    """log softplus, which is the identity far below zero where softplus itself underflows."""
    return torch.where(value < -40, value, softplus(value.clamp(min=-40)).log())


def _log_normal(value: Tensor, mean: Tensor | float, log_std: Tensor) -> Tensor:
    return -0.5 * ((value - mean) * torch.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)


def _log_score(y0: Tensor, y1: Tensor, score: Score) -> Tensor:
    """Log density of the bivariate normal, as p(y0) p(y1|y0)."""
    pull = (y0 - score.mean0) * torch.exp(-score.log_std0)
    mean1 = score.mean1 + score.correlation * score.log_std1.exp() * pull
    log_std1 = score.log_std1 + 0.5 * torch.log1p(-(score.correlation**2))
    return _log_normal(y0, score.mean0, score.log_std0) + _log_normal(y1, mean1, log_std1)


def _angle(x1: Tensor, x2: Tensor, k: int, distortion: float) -> Tensor:
    return SIGN[k] * torch.tanh(x1 / 0.5) * 2 * distortion / (0.7 * torch.hypot(x1, x2) + 0.5)


def _distort(x1: Tensor, x2: Tensor, y0: Tensor, y1: Tensor, k: int, distortion: float) -> tuple[Tensor, Tensor]:
    """Rotate y by an angle that depends on x, then shear."""
    y0, y1 = _rotate(y0, y1, _angle(x1, x2, k, distortion))
    shear = SHEAR * SIGN[k] * (y0 - y1)
    return y0 + shear, y1 - shear


def _undistort(x1: Tensor, x2: Tensor, y0: Tensor, y1: Tensor, k: int, distortion: float) -> tuple[Tensor, Tensor]:
    """Inverse of `_distort`: the shear keeps y0 + y1 and stretches y0 - y1 by 1 + 0.2 s, its Jacobian."""
    shear = SHEAR * SIGN[k] * (y0 - y1) / (1 + 2 * SHEAR * SIGN[k])
    return _rotate(y0 - shear, y1 + shear, -_angle(x1, x2, k, distortion))


def _rotate(y0: Tensor, y1: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = angle.cos(), angle.sin()
    return cos * y0 - sin * y1, sin * y0 + cos * y1


# A million draws of a Gaussian prior stay within 7 sigma; 5 would refuse one of them.
_PARAMETERS = ParameterSpace(
    (
        Parameter("fraction_b", "interest", 0.5, (0.0, 1.0), Uniform(0.2, 0.8), latex="f_B"),
        Parameter("shift", "nuisance", 0.0, (-7.0, 7.0), Normal(0.0, 1.0), GaussianConstraint(1.0), latex=r"\nu_\mathrm{shift}"),
        Parameter("squeeze", "nuisance", 0.0, (-7.0, 7.0), Normal(0.0, 1.0), GaussianConstraint(1.0), latex=r"\nu_\mathrm{squeeze}"),
    )
)
