"""The toy contracts: what is simulated, and how much of the truth a toy can tell. Read this first.

What to subclass:

* `ExactToy`: ``log_prob(x, theta)`` is known, normalised over x for every theta. The touchstones.
* `SignedToy`: the density may be negative (interference, subtracted mixtures); ``density`` is known.
* `SimulatedToy`: events can be drawn at every theta, the density is unknown.
* `FiniteToy`: a fixed sample of weighted events that can be reweighted to other theta, and moved if nuisances shift x.
* `MinedToy`: a `FiniteToy` that keeps the latent history of its events, and with it joint ratio and score.

Shapes, stated once: x (n, d), theta (n, p) with one row per event, results (n,). Authors write the
underscored methods on checked float64 tensors; the public ones check shapes and bounds, cast, and
broadcast a single theta (p,) to all events.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.toys.constraints import Constraint, GaussianConstraint, LogNormalConstraint, PoissonConstraint
from touchneedle.toys.events import Events, EventSource, Feature, collect, concatenate, evenly_spaced, in_chunks
from touchneedle.toys.parameters import Normal, Parameter, ParameterSpace, Prior, Uniform

__all__ = [
    "Constraint",
    "EventSource",
    "Events",
    "ExactToy",
    "Feature",
    "FiniteToy",
    "GaussianConstraint",
    "LogNormalConstraint",
    "MinedToy",
    "Normal",
    "Parameter",
    "ParameterSpace",
    "PoissonConstraint",
    "Prior",
    "SignedToy",
    "SimulatedToy",
    "Split",
    "Toy",
    "ToySpec",
    "Uniform",
    "build_toy",
    "check_matrix",
    "collect",
    "concatenate",
    "evenly_spaced",
    "expand_theta",
    "in_chunks",
    "register_toy",
]  # fmt: skip

Split = Literal["train", "test"]


@dataclass(frozen=True)
class ToySpec:
    """All that an estimator may know of a toy.

    Attributes:
        version: raised whenever the density changes; for files it contains the content hash.
        processes: names of the mixture components, in the order of ``Events.label`` and ``rates``.
    """

    name: str
    version: str
    parameters: ParameterSpace
    features: tuple[Feature, ...]
    processes: tuple[str, ...]

    @property
    def x_dim(self) -> int:
        """Number of observables d."""
        return len(self.features)

    @property
    def theta_dim(self) -> int:
        """Number of parameters p."""
        return len(self.parameters)


class Toy(ABC):
    """Abstract. A simulated problem.

    Attributes:
        Config: dataclass of the toy's options, with real defaults.
        regular: the likelihood has one maximum inside its bounds and Wilks' theorem holds.
        fit_events: number of events at which fits are judged, and the total expected yield.
    """

    Config: ClassVar[type]
    regular: ClassVar[bool] = True
    fit_events: int = 1_000
    spec: ToySpec

    @abstractmethod
    def rates(self, theta: Tensor) -> Tensor:
        """Expected events per process at theta (m, p): shape (m, k); coefficients may be negative."""

    def expected_events(self, theta: Tensor) -> Tensor:
        """Total expected events at theta (m, p): shape (m,)."""
        return self.rates(theta).sum(-1)


class SimulatedToy(Toy):
    """Abstract. A toy that draws events at any theta."""

    def sample(self, theta: Tensor, *, generator: torch.Generator) -> Events:
        """One event per row of theta (n, p); raises `InputError` outside the bounds."""
        theta = check_matrix("theta", theta, self.spec.theta_dim)
        self.spec.parameters.check(theta)
        return self._sample(theta, generator)

    @abstractmethod
    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events: ...


class ExactToy(SimulatedToy):
    """Abstract. A toy whose density is exact and normalised over x for every theta."""

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """log p(x|theta), shape (n,), float64, differentiable in theta; -inf outside the support."""
        x, theta = self._checked(x, theta)
        return self._log_prob(x, theta)

    def log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        """log p(x|theta, process), shape (n, k), where the toy is a mixture with exact components."""
        x, theta = self._checked(x, theta)
        return self._log_prob_process(x, theta)

    def log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        """log p(x|theta) - log p(x|theta_0), shape (n,)."""
        return self.log_prob(x, theta) - self.log_prob(x, self.spec.parameters.nominal.to(x.device))

    def score(self, x: Tensor, theta: Tensor) -> Tensor:
        """grad_theta log p(x|theta), shape (n, p), by automatic differentiation."""
        theta = expand_theta(theta, len(x)).detach().clone().requires_grad_()
        with torch.enable_grad():
            (score,) = torch.autograd.grad(self.log_prob(x, theta).sum(), theta)
        return score

    def _checked(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        x = check_matrix("x", x, self.spec.x_dim)
        theta = check_matrix("theta", expand_theta(theta, len(x)), self.spec.theta_dim)
        self.spec.parameters.check(theta)
        return x, theta

    @abstractmethod
    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor: ...

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        raise NotImplementedError(f"{self.spec.name} has no exact process densities")


class SignedToy(SimulatedToy):
    """Abstract. A toy whose normalised density may be negative; ``log_prob`` is not offered."""

    def density(self, x: Tensor, theta: Tensor) -> Tensor:
        """Signed density q(x|theta) with unit integral, shape (n,), float64."""
        x = check_matrix("x", x, self.spec.x_dim)
        theta = check_matrix("theta", expand_theta(theta, len(x)), self.spec.theta_dim)
        self.spec.parameters.check(theta)
        return self._density(x, theta)

    def observe(self, theta: Tensor, *, generator: torch.Generator) -> Events:
        """Events of unit weight, as data are, one per row of theta (n, p); `InputError` where the density is negative."""
        theta = check_matrix("theta", theta, self.spec.theta_dim)
        self.spec.parameters.check(theta)
        return self._observe(theta, generator)

    @abstractmethod
    def _density(self, x: Tensor, theta: Tensor) -> Tensor: ...

    def _observe(self, theta: Tensor, generator: torch.Generator) -> Events:
        raise NotImplementedError(f"{self.spec.name} cannot draw unweighted events")


class FiniteToy(Toy):
    """Abstract. A fixed sample: events are read, never drawn anew."""

    @abstractmethod
    def pool(self, split: Split) -> Events:
        """The events of one split at nominal; splits are disjoint by event hash.

        Weights are zero for events that only a shifted selection would keep.
        """

    @abstractmethod
    def reweight(self, events: Events, theta: Tensor) -> Tensor:
        """Weights (n,) of the same events at theta (p,) or (n, p); their sum estimates the expected yield."""

    def at(self, events: Events, theta: Tensor) -> Events:
        """Events of a pool at theta (p,) or (n, p): moved and reweighted, with the same latents at every theta."""
        theta = check_matrix("theta", expand_theta(theta, len(events)), self.spec.theta_dim)
        self.spec.parameters.check(theta)
        return replace(events, x=self._move(events, theta), theta=theta, weight=self.reweight(events, theta))

    def _move(self, events: Events, theta: Tensor) -> Tensor:
        """x (n, d) of the events at theta (n, p); where it is, unless a nuisance shifts features."""
        return events.x


class MinedToy(FiniteToy):
    """Abstract. A fixed sample whose events carry their latent history z, so that p(x, z|theta) is known up to a constant."""

    def joint_truth(self, events: Events, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Joint log ratio (n,) and joint score (n, p) at the hypothesis theta (n, p) of events as `at` gave them.

        The hypothesis need not be the point at which the events are (``events.theta``)
        (Brehmer et al. 2018, arXiv:1805.00020, eqs. 3 and 4).
        """
        theta = check_matrix("theta", expand_theta(theta, len(events)), self.spec.theta_dim).detach().clone()
        self.spec.parameters.check(theta)
        with torch.enable_grad():
            log_joint = self._log_joint(events, theta.requires_grad_())
            (score,) = torch.autograd.grad(log_joint.sum(), theta)
        return log_joint.detach() - self._log_joint(events, self.spec.parameters.nominal.expand_as(theta)), score

    @abstractmethod
    def _log_joint(self, events: Events, theta: Tensor) -> Tensor:
        """log p(x, z|theta) up to what does not depend on theta (n, p), shape (n,), differentiable in theta."""


def build_toy(name: str, **params: Any) -> Toy:
    """The toy called ``name`` with its options; raises `InputError` for a wrong name or option."""
    toy_class: Any = registry.toys.load(name)
    return toy_class(registry.build_options(toy_class.Config, params, f"toy {name}"))


def register_toy(name: str) -> Callable[[registry.Component], registry.Component]:
    """Class decorator: makes a toy available under ``name`` in this process."""
    return registry.toys.register(name)


def expand_theta(theta: Tensor, n: int) -> Tensor:
    """One row of theta per event: a single point (p,) is repeated, (n, p) is returned as it is."""
    if theta.ndim == 1:
        return theta.expand(n, -1)
    if theta.ndim != 2 or len(theta) != n:
        raise InputError(f"theta: expected shape (p,) or ({n}, p), one row per event; got {tuple(theta.shape)}")
    return theta


def check_matrix(name: str, value: Tensor, columns: int) -> Tensor:
    """``value`` as float64 (n, columns); raises `InputError` with both shapes."""
    if value.ndim != 2 or value.shape[1] != columns:
        raise InputError(f"{name}: expected shape (n, {columns}); got {tuple(value.shape)}")
    return value.double()
