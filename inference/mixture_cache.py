"""Fits of mixtures whose networks see x alone: their outputs are kept, and a fit costs matrix products.

Where every factor of every process is linear (`Estimator.linear_terms`) or has no free parameter,

    log r_p(x_i|theta) = row_i . F_p(theta) + s_p(theta)

with one row of numbers for each event: the terms of all linear members, and the constant part of each process.
Rows that do not fit into memory lie in a temporary file, memory-mapped, which is gone with the fit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator
from touchneedle.inference.mixture import ProcessMixture, mixture_log
from touchneedle.inference.processes import Factor
from touchneedle.inference.second_derivatives import curvature_of
from touchneedle.inference.terms import ExactTerms, Summaries
from touchneedle.toys.base import EventSource

# Bytes of rows above which they are spilled to a file.
MEMORY_LIMIT = 2 * 2**30


@dataclass(frozen=True)
class KeptRows:
    """The rows (n, k + processes) of all events, and their weights (n,), float64."""

    rows: Tensor
    weight: Tensor


@dataclass(frozen=True)
class MixtureObjective:
    """ln L and its gradient for one data set of which the rows are known.

    Attributes:
        chunk: rows at a time.
    """

    estimator: ProcessMixture
    kept: KeptRows
    chunk: int
    data: Summaries
    terms: ExactTerms

    def __call__(self, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """ln L (1,) and gradient (1, p) at theta (1, p)."""
        value, gradient = self.terms.with_gradient(theta, self.data[rows])
        theta = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            inputs = (*_coefficients(self.estimator, theta), self.estimator.rates(theta))
            event_value, slopes = self._events(*(tensor.detach().requires_grad_() for tensor in inputs))
            moving = [(tensor, slope) for tensor, slope in zip(inputs, slopes, strict=True) if tensor.requires_grad]
            (event_gradient,) = torch.autograd.grad([t for t, _ in moving], theta, [s for _, s in moving])
        return value + event_value, gradient + event_gradient

    def curvature(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Minus the Hessian (1, p, p) at theta (1, p)."""
        matrix = self.terms.curvature(theta, self.data[rows])
        theta = theta.detach().clone().requires_grad_()
        for part, weight in self._chunks():
            with torch.enable_grad():
                inputs = (*_coefficients(self.estimator, theta), self.estimator.rates(theta))
                matrix = matrix + curvature_of(_log_sum(part, weight, *inputs), theta)
        return matrix

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.kept.rows.split(self.chunk), self.kept.weight.split(self.chunk), strict=True)

    def _events(self, factors: Tensor, shifts: Tensor, rates: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The sum over events, and its slopes in the three inputs."""
        inputs = (factors, shifts, rates)
        value, slopes = torch.zeros((), dtype=torch.float64), [torch.zeros_like(tensor) for tensor in inputs]
        for rows, weight in self._chunks():
            part = _log_sum(rows, weight, factors, shifts, rates)
            for total, slope in zip(slopes, torch.autograd.grad(part, inputs), strict=True):
                total += slope
            value += part.detach()
        return value, slopes


def _log_sum(rows: Tensor, weight: Tensor, factors: Tensor, shifts: Tensor, rates: Tensor) -> Tensor:
    """sum_i w_i log p(x_i|theta) of some rows."""
    return weight @ mixture_log(rates.expand(len(rows), -1), rows @ factors + shifts) - weight.sum() * rates.sum().log()


def is_cacheable(estimator: Estimator) -> bool:
    """Whether an estimator is a mixture whose members need to see an event only once."""
    return isinstance(estimator, ProcessMixture) and all(_is_constant(f) or _is_linear(f) for f in estimator.factors)


def keep_rows(mixture: ProcessMixture, source: EventSource, chunk: int, memory_limit: int = MEMORY_LIMIT) -> KeptRows:
    """See every event once; rows of more than ``memory_limit`` bytes are spilled."""
    n, width = len(source), event_rows(mixture, torch.zeros(1, mixture.spec.x_dim)).shape[1]
    rows = _empty(n, width, memory_limit)
    weight = torch.empty(n, dtype=torch.float64)
    start = 0
    for batch in source.batches(chunk):
        stop = start + len(batch)
        rows[start:stop] = event_rows(mixture, batch.x)
        weight[start:stop] = batch.weight
        start = stop
    return KeptRows(rows, weight)


def event_rows(mixture: ProcessMixture, x: Tensor) -> Tensor:
    """What is kept of x (n, d): the terms of each linear member, then the constant part of each process, (n, k + processes)."""
    with torch.no_grad():
        nominal = mixture.spec.parameters.nominal.expand(len(x), -1)
        constants = torch.zeros(len(x), len(mixture.processes), dtype=torch.float64)
        for column, process in enumerate(mixture.processes):
            for factor in filter(_is_constant, process.factors):
                constants[:, column] += factor.log_value(x, nominal, mixture.spec.parameters).cpu()
        return torch.cat([*(member.linear_terms(x).cpu() for member in _linear_members(mixture)), constants], -1)


def _coefficients(mixture: ProcessMixture, theta: Tensor) -> tuple[Tensor, Tensor]:
    """F (k + processes, processes) and s (processes,) at theta (1, p)."""
    members, parameters = _linear_members(mixture), mixture.spec.parameters
    columns, shifts = [], []
    for process in mixture.processes:
        blocks = {id(member): torch.zeros(_width(member), dtype=torch.float64) for member in members}
        shift = torch.zeros((), dtype=torch.float64)
        for factor in process.factors:
            if not _is_constant(factor):
                own = factor.own_theta(theta, parameters)
                blocks[id(factor.estimator)] = blocks[id(factor.estimator)] + factor.estimator.linear_coefficients(own)[0]
                shift = shift if factor.normalisation is None else shift - factor.normalisation(own)[0]
        columns.append(torch.cat(list(blocks.values())) if blocks else torch.zeros(0, dtype=torch.float64))
        shifts.append(shift)
    constants = torch.eye(len(columns), dtype=torch.float64)
    return torch.cat([torch.stack(columns, -1), constants]), torch.stack(shifts)


def _linear_members(mixture: ProcessMixture) -> list[Estimator]:
    """Linear members, each once."""
    return list(dict.fromkeys(factor.estimator for factor in mixture.factors if not _is_constant(factor)))


def _width(member: Estimator) -> int:
    return member.linear_coefficients(member.nominal[None]).shape[1]


def _is_constant(factor: Factor) -> bool:
    return not factor.free


def _is_linear(factor: Factor) -> bool:
    return factor.answer == "log_ratio" and factor.estimator.linear


def _empty(n: int, width: int, memory_limit: int) -> Tensor:
    if 8 * n * width <= memory_limit:
        return torch.empty(n, width, dtype=torch.float64)
    # The file has no name: it is gone as soon as nothing maps it, even after a crash.
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, dtype=np.float64, mode="w+", shape=(n, width)))
