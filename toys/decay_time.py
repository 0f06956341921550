"""Decay times of tagged B mesons: a fast oscillation under a steep fall, smeared, with the tag as a discrete feature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.faddeeva import faddeeva_upper
from touchneedle.toys.mixture import check_positive, draw_labels

__all__ = ["DecayTime", "DecayTimeConfig"]

REACH = 14.0
ROOT_2 = math.sqrt(2)


@dataclass
class DecayTimeConfig:
    """Options; times in picoseconds.

    Attributes:
        lifetime: mean decay time 1 / Gamma.
        frequency: mass difference dm, the angular frequency of the oscillation, in 1/ps.
        resolution: standard deviation sigma of the measured time at nominal.
        asymmetry: nominal S.
        dilution: nominal D = 1 - 2 (probability of a wrong tag).
        a: change of log sigma per sigma of ``resolution``.
        b: change of the log odds of D per sigma of ``dilution``.
        fit_events: expected events.
    """

    lifetime: float = 1.5
    frequency: float = 17.7
    resolution: float = 0.045
    asymmetry: float = 0.3
    dilution: float = 0.7
    a: float = 0.1
    b: float = 0.15
    fit_events: int = 1_000


class DecayTime(ExactToy):
    r"""Time-dependent CP asymmetry: S is measured, time resolution and tagging dilution are uncertain.

    p(t, q) = int_0^inf Gamma e^{-Gamma u} [1 + q D S sin(dm u)] / 2 N(t; u, sigma^2) du for a tag q = -1 or +1, a density
    in t times a probability of q. With z = (sigma Gamma - t / sigma) / sqrt 2 and E = Gamma e^{(sigma Gamma)^2 / 2 - Gamma t}
    erfc(z) / 2, p = E (1 + q D S rho) / 2, where rho, the smeared sine relative to E, follows from the Faddeeva function
    (`_smeared_sine`); no exponential overflows on either side. sigma = resolution exp(a resolution) and
    D = sigmoid(logit(D_0) + b dilution). Joint ratio and score come from the true decay time u.

    Exposes a sharp turn-on at t = 0, an oscillation of a few periods per lifetime that smooth networks average away, and
    a discrete feature taken for a continuous one.
    Source: Karbach, Raven, Schiller 2014, arXiv:1407.0748.
    """

    Config = DecayTimeConfig

    def __init__(self, config: DecayTimeConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        features = (Feature("time", "ps", "t"), Feature("tag", latex="q", kind="discrete", support=(-1.0, 1.0)))
        self.spec = ToySpec("decay_time", "1", _parameters(config.asymmetry), features, ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        u = torch.rand(len(theta), generator=generator, dtype=torch.float64)
        decay = -self.config.lifetime * torch.log1p(-u)
        plus = draw_labels(0.5 * (1 + self._amplitude(theta) * torch.sin(self.config.frequency * decay)), generator)
        tag = 2 * plus.double() - 1
        noise = torch.randn(len(theta), generator=generator, dtype=torch.float64)
        time = decay + self._log_sigma(theta).exp() * noise
        log_ratio, score = self._joint_truth(time, tag, decay, theta)
        x = torch.stack([time, tag], -1).float()
        return Events(x, theta, torch.ones_like(u), joint_log_ratio=log_ratio, joint_score=score)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        time, tag = x.unbind(-1)
        c, sigma = self.config, self._log_sigma(theta).exp()
        width = sigma / c.lifetime
        envelope = 0.5 * width**2 - time / c.lifetime + torch.special.log_ndtr(time / sigma - width) - math.log(c.lifetime)
        modulation = torch.log1p(tag.clamp(-1, 1) * self._amplitude(theta) * self._smeared_sine(time, sigma))
        return torch.where(tag.abs() == 1, envelope + modulation - math.log(2), -math.inf)

    def _smeared_sine(self, time: Tensor, sigma: Tensor) -> Tensor:
        """rho, between -1 and 1, shape (n,): Im w(y + i abs(z)) with y = sigma dm / sqrt 2, relative to the envelope.

        For z < 0, w(-conj z) = conj w(z) and w(-z) = 2 exp(-z^2) - w(z) bring the argument to the upper half-plane.
        """
        c, width = self.config, sigma / self.config.lifetime
        z = (width - time / sigma) / ROOT_2
        size = torch.where(z >= 0, z, -z)
        upper = faddeeva_upper(torch.complex(sigma * c.frequency / ROOT_2, size)).imag
        damping = torch.exp(-0.5 * (sigma * c.frequency) ** 2)
        late = damping * torch.sin(c.frequency * (time - sigma * width)) + 0.5 * torch.exp(-(size**2)) * upper
        return torch.where(z >= 0, upper / torch.special.erfcx(size), late / (0.5 * torch.erfc(-size)))

    def _amplitude(self, theta: Tensor) -> Tensor:
        """D S, shape (n,)."""
        d = self.config.dilution
        return theta[:, 0] * torch.sigmoid(math.log(d / (1 - d)) + self.config.b * theta[:, 2])

    def _log_sigma(self, theta: Tensor) -> Tensor:
        return math.log(self.config.resolution) + self.config.a * theta[:, 1]

    def _joint_truth(self, time: Tensor, tag: Tensor, decay: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Joint log ratio (n,) and joint score (n, p), given the true decay time."""
        theta = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            log_joint = self._log_joint(time, tag, decay, theta)
            (score,) = torch.autograd.grad(log_joint.sum(), theta)
        nominal = self.spec.parameters.nominal.to(theta.device).expand_as(theta)
        return log_joint.detach() - self._log_joint(time, tag, decay, nominal), score

    def _log_joint(self, time: Tensor, tag: Tensor, decay: Tensor, theta: Tensor) -> Tensor:
        """log p(t, q, u|theta) up to terms without theta, shape (n,)."""
        log_sigma = self._log_sigma(theta)
        modulation = torch.log1p(tag * self._amplitude(theta) * torch.sin(self.config.frequency * decay))
        return modulation - 0.5 * ((time - decay) * torch.exp(-log_sigma)) ** 2 - log_sigma


def _check(config: DecayTimeConfig) -> None:
    positive = {name: getattr(config, name) for name in ("lifetime", "frequency", "resolution", "fit_events")}
    check_positive("decay_time", **positive)
    if not abs(config.asymmetry) < 1:
        raise InputError(f"toy decay_time: option asymmetry: expected a value between -1 and 1; got {config.asymmetry:g}")
    if not 0 < config.dilution < 1:
        raise InputError(f"toy decay_time: option dilution: expected a value between 0 and 1; got {config.dilution:g}")


def _parameters(asymmetry: float) -> ParameterSpace:
    return ParameterSpace(
        (
            Parameter("asymmetry", "interest", asymmetry, (-1.0, 1.0), Uniform(-1.0, 1.0), latex="S"),
            Parameter("resolution", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
            Parameter("dilution", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        )
    )
