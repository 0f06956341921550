"""Parameters of interest and nuisance parameters, with their priors and constraint terms.

A *prior* is the training proposal only. A *constraint* is the auxiliary likelihood of a nuisance,
added in fits alone. They are never mixed (Cranmer, Pavez, Louppe 2015, arXiv:1506.02169, treat both
as theta; ATLAS 2024, arXiv:2412.01600, adds the constraints in the fit).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.constraints import Constraint, GaussianConstraint

_EDGE = 1e-12


@dataclass(frozen=True)
class Uniform:
    """Flat density on [low, high]."""

    low: float
    high: float
    kind: Literal["uniform"] = "uniform"

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, -inf outside."""
        inside = (value >= self.low) & (value <= self.high)
        return torch.where(inside, -math.log(self.high - self.low), -math.inf).to(value.dtype)

    def to_normal(self, value: Tensor) -> Tensor:
        """Monotone map to u ~ N(0, 1); values beyond the edges stay at about +-7."""
        fraction = (value - self.low) / (self.high - self.low)
        return torch.special.ndtri(fraction.clamp(_EDGE, 1 - _EDGE))

    def from_normal(self, u: Tensor) -> Tensor:
        """Inverse of `to_normal`."""
        return self.low + (self.high - self.low) * torch.special.ndtr(u)


@dataclass(frozen=True)
class Normal:
    """Gaussian density with mean and standard deviation."""

    mean: float
    std: float
    kind: Literal["normal"] = "normal"

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density."""
        return -0.5 * self.to_normal(value) ** 2 - math.log(self.std * math.sqrt(2 * math.pi))

    def to_normal(self, value: Tensor) -> Tensor:
        """Map to u ~ N(0, 1)."""
        return (value - self.mean) / self.std

    def from_normal(self, u: Tensor) -> Tensor:
        """Inverse of `to_normal`."""
        return self.mean + self.std * u


Prior = Uniform | Normal


@dataclass(frozen=True)
class Parameter:
    """One parameter of a toy.

    Attributes:
        kind: ``interest`` (measured) or ``nuisance`` (profiled).
        nominal: value at theta_0.
        bounds: values outside raise `InputError`; use infinities for none.
        prior: training proposal.
        constraint: auxiliary likelihood, for nuisances that have one.
        anchors: values of the single-nuisance templates; by default the constraint's interval of one sigma.
    """

    name: str
    kind: Literal["interest", "nuisance"]
    nominal: float
    bounds: tuple[float, float]
    prior: Prior
    constraint: Constraint | None = None
    anchors: tuple[float, ...] | None = None
    unit: str = ""
    latex: str = ""

    def __post_init__(self) -> None:
        positive = self.constraint is not None and not isinstance(self.constraint, GaussianConstraint)
        if positive and not self.nominal > 0:
            raise InputError(f"parameter {self.name}: expected a nominal value above 0 with this constraint; got {self.nominal:g}")

    @property
    def template_anchors(self) -> tuple[float, ...]:
        """``anchors``, or nominal -+ one sigma of the constraint (of 1 without any)."""
        if self.anchors is not None:
            return self.anchors
        return (GaussianConstraint(1.0) if self.constraint is None else self.constraint).interval(self.nominal)


@dataclass(frozen=True)
class ParameterSpace:
    """The ordered parameters of a toy; theta has shape (n, p) in this order."""

    parameters: tuple[Parameter, ...]

    def __len__(self) -> int:
        return len(self.parameters)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Parameter names in the order of theta."""
        return tuple(parameter.name for parameter in self.parameters)

    @cached_property
    def nominal(self) -> Tensor:
        """theta_0, shape (p,), float64."""
        return torch.tensor([parameter.nominal for parameter in self.parameters], dtype=torch.float64)

    @cached_property
    def low(self) -> Tensor:
        """Lower bounds, shape (p,)."""
        return torch.tensor([parameter.bounds[0] for parameter in self.parameters], dtype=torch.float64)

    @cached_property
    def high(self) -> Tensor:
        """Upper bounds, shape (p,)."""
        return torch.tensor([parameter.bounds[1] for parameter in self.parameters], dtype=torch.float64)

    @cached_property
    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Columns of the Gaussian constraints, and their sigmas, each (k,): a fit of many adds them at once."""
        constraints = [(column, p.constraint) for column, p in enumerate(self.parameters)]
        found = [(column, c.sigma) for column, c in constraints if isinstance(c, GaussianConstraint)]
        return torch.tensor([c for c, _ in found], dtype=torch.long), torch.tensor([sigma for _, sigma in found], dtype=torch.float64)

    @property
    def interest(self) -> tuple[int, ...]:
        """Columns of theta that are parameters of interest."""
        return self._columns("interest")

    @property
    def nuisance(self) -> tuple[int, ...]:
        """Columns of theta that are nuisance parameters."""
        return self._columns("nuisance")

    def index(self, name: str) -> int:
        """Column of ``name`` in theta; raises `InputError` for an unknown name."""
        if name not in self.names:
            raise InputError(f"unknown parameter {name!r}; known: {', '.join(self.names)}")
        return self.names.index(name)

    def sample_prior(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` draws from the prior, shape (n, p), float64."""
        return self.from_normal(torch.randn(n, len(self), generator=generator, dtype=torch.float64))

    def log_prior(self, theta: Tensor) -> Tensor:
        """Log prior density of theta (n, p), shape (n,)."""
        return torch.stack([p.prior.log_prob(theta[..., i]) for i, p in enumerate(self.parameters)], -1).sum(-1)

    def to_normal(self, theta: Tensor) -> Tensor:
        """Coordinates u in which the prior is N(0, 1)^p, shape of theta."""
        return torch.stack([p.prior.to_normal(theta[..., i]) for i, p in enumerate(self.parameters)], -1)

    def from_normal(self, u: Tensor) -> Tensor:
        """Inverse of `to_normal`."""
        return torch.stack([p.prior.from_normal(u[..., i]) for i, p in enumerate(self.parameters)], -1)

    def check(self, theta: Tensor) -> None:
        """Raise `InputError` naming the first parameter outside its bounds (or not a number)."""
        for column, parameter in enumerate(self.parameters):
            low, high = parameter.bounds
            values = theta[..., column].detach()
            wrong = ~((values >= low) & (values <= high))
            if bool(wrong.any()):
                raise InputError(
                    f"parameter {parameter.name}: expected a value in [{low:g}, {high:g}]; got {values[wrong].flatten()[0].item():g}"
                )

    def _columns(self, kind: str) -> tuple[int, ...]:
        return tuple(i for i, parameter in enumerate(self.parameters) if parameter.kind == kind)
