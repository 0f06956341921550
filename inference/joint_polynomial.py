"""Polynomials in several parameters together, as plain numbers: for rates that are no product of one-parameter factors.

A yield quadratic in two couplings has a cross term; the last of several fractions is one less the others. Parameters enter as
u = (theta - centre) / width, so that coefficients are of one size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Coefficients at most; beyond them a fit would need more points than rates are worth.
MAX_COEFFICIENTS = 500


@dataclass(frozen=True)
class JointPolynomial:
    """sum_m c_m prod_j u_j^(powers_mj) over some parameters.

    Attributes:
        parameters: their names.
        centre, width: of each parameter.
        powers: of each parameter, term by term.
        coefficients: term by term.
    """

    parameters: tuple[str, ...]
    centre: tuple[float, ...]
    width: tuple[float, ...]
    powers: tuple[tuple[int, ...], ...]
    coefficients: tuple[float, ...]

    def __call__(self, theta: Tensor, names: Sequence[str]) -> Tensor:
        """Value at theta (m, p) whose columns are ``names``: shape (m,); differentiable."""
        columns = [names.index(name) for name in self.parameters]
        u = (theta[:, columns] - theta.new_tensor(self.centre)) / theta.new_tensor(self.width)
        return terms(u, self.powers) @ theta.new_tensor(self.coefficients)


def powers_up_to(degree: int, parameters: int) -> tuple[tuple[int, ...], ...]:
    """Powers of all monomials of a total degree up to ``degree``."""
    return tuple(_powers(degree, parameters))


def _powers(degree: int, parameters: int) -> Iterator[tuple[int, ...]]:
    for total in range(degree + 1):
        for chosen in itertools.combinations_with_replacement(range(parameters), total):
            yield tuple(chosen.count(column) for column in range(parameters))


def terms(u: Tensor, powers: Sequence[Sequence[int]]) -> Tensor:
    """Monomials of u (m, p): shape (m, C)."""
    # By multiplication: the derivative of u ** 0 at zero would be NaN.
    table = [torch.ones_like(u)]
    for _ in range(max((max(row, default=0) for row in powers), default=0)):
        table.append(table[-1] * u)
    columns = [torch.stack([table[power][:, column] for column, power in enumerate(row)], -1).prod(-1) for row in powers]
    return torch.stack(columns, -1)


def fit_joint(
    parameters: Sequence[str], theta: Tensor, wanted: Tensor, degree: int, centre: Tensor, width: Tensor
) -> JointPolynomial | None:
    """Least squares through values (m,) at theta (m, q); None if there would be too many coefficients for the points."""
    powers = powers_up_to(degree, len(parameters))
    if len(powers) > min(MAX_COEFFICIENTS, len(theta) // 2):
        return None
    design = terms((theta - centre) / width, powers)
    coefficients = torch.linalg.lstsq(design, wanted[:, None]).solution[:, 0]
    names, ends = tuple(parameters), (tuple(centre.tolist()), tuple(width.tolist()))
    return JointPolynomial(names, *ends, powers, tuple(coefficients.tolist()))
