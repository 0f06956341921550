"""Monomials: all products of columns up to a degree, the terms of a polynomial in several parameters."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def monomials(z: Tensor, degree: int) -> Tensor:
    """All products of at most ``degree`` columns of z (n, q), the constant first: shape (n, terms)."""
    terms = [torch.ones_like(z[:, 0]) if z.shape[1] else z.new_ones(len(z))]
    for order in range(1, degree + 1):
        for columns in itertools.combinations_with_replacement(range(z.shape[1]), order):
            terms.append(torch.stack([z[:, column] for column in columns]).prod(0))
    return torch.stack(terms, -1)


def count_monomials(columns: int, degree: int) -> int:
    """Number of terms of `monomials`."""
    return monomials(torch.zeros(1, columns), degree).shape[1]
