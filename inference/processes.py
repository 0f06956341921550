"""Processes: what an event may come from, each with a density that estimators give.

    log r_p(x|theta) = sum of the answers of p's factors,   r_p = p_p(x|theta) / p_ref(x)

The reference p_ref is one for all processes and cancels in fits: it is 1 for densities (``log_prob``), and for ratios
whatever they were trained against (ATLAS 2024, arXiv:2412.01600, sec. 3). A factor that is a ratio to the process' own
nominal density needs another that brings this to the reference (Benato et al. 2025, arXiv:2505.05544, eq. 7:
g_p(x) exp[Delta_p(x) . nu]). One estimator may serve several processes, with some of its parameters held at values
that stand for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.toys.base import ParameterSpace

Answer = Literal["log_ratio", "log_prob"]


@dataclass(frozen=True)
class Factor:
    """One factor of a process' density: the answer of an estimator, at parameters that are found by name.

    Attributes:
        answer: ``log_ratio`` to the estimator's nominal point, or ``log_prob``.
        at: parameters of the estimator that are constants here.
        normalisation: theta (m, p of the estimator) -> log of the factor's mean (m,), which is subtracted.
    """

    estimator: Estimator
    answer: Answer = "log_ratio"
    at: Mapping[str, float] = field(default_factory=dict)
    normalisation: Callable[[Tensor], Tensor] | None = None

    def log_value(self, x: Tensor, theta: Tensor, parameters: ParameterSpace) -> Tensor:
        """Log of the factor for x (n, d) at theta (n, p) of ``parameters``: shape (n,)."""
        own = self.own_theta(theta, parameters)
        answer = self.estimator.log_ratio if self.answer == "log_ratio" else self.estimator.log_prob
        value = answer(x, own)
        return value if self.normalisation is None else value - self.normalisation(own)

    def log_mean(self, theta: Tensor, parameters: ParameterSpace) -> Tensor:
        """What is left of the factor's log normalisation at theta (m, p): shape (m,)."""
        if self.answer == "log_prob" or self.estimator.normalised or self.normalisation is not None:
            return torch.zeros(len(theta), dtype=torch.float64)
        return self.estimator.log_normalisation(self.own_theta(theta, parameters)).double().cpu()

    def own_theta(self, theta: Tensor, parameters: ParameterSpace) -> Tensor:
        """The estimator's parameters, shape (n, q), from those of a mixture (n, p)."""
        columns = [
            torch.full_like(theta[:, 0], self.at[name]) if name in self.at else theta[:, parameters.index(name)]
            for name in self.estimator.spec.parameters.names
        ]
        return torch.stack(columns, -1)

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters that move the factor."""
        return tuple(name for name in self.estimator.spec.parameters.names if name not in self.at)

    def check(self, process: str, parameters: ParameterSpace) -> None:
        """Raise `InputError` for parameters that are neither constants nor known, or an answer that the estimator lacks."""
        known = self.estimator.spec.parameters.names
        if self.answer == "log_prob":
            self.estimator.require("log_prob")
        for name in self.at:
            if name not in known:
                raise InputError(f"process {process}: no parameter {name!r} to hold constant; its estimator knows {', '.join(known)}")
        for name in self.free:
            if name not in parameters.names:
                raise InputError(
                    f"process {process}: its estimator depends on {name!r}, which is no parameter of the likelihood "
                    f"({', '.join(parameters.names)}); add it, or hold it constant with at={{{name!r}: ...}}"
                )


@dataclass(frozen=True)
class Process:
    """A process: a name, and the factors whose product is its density over the common reference."""

    name: str
    factors: tuple[Factor, ...]

    def log_ratio(self, x: Tensor, theta: Tensor, parameters: ParameterSpace) -> Tensor:
        """log r_p of x (n, d) at theta (n, p) of ``parameters``: shape (n,)."""
        return torch.stack([factor.log_value(x, theta, parameters) for factor in self.factors]).sum(0)

    def log_mean(self, theta: Tensor, parameters: ParameterSpace) -> Tensor:
        """What is left of the log normalisation at theta (m, p): shape (m,)."""
        return torch.stack([factor.log_mean(theta, parameters) for factor in self.factors]).sum(0)

    def check(self, parameters: ParameterSpace) -> None:
        """Raise `InputError` unless there are factors, all of them usable."""
        if not self.factors:
            raise InputError(f"process {self.name}: expected at least one factor; got none")
        for factor in self.factors:
            factor.check(self.name, parameters)
