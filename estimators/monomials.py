"""Monomials: all products of columns up to a degree, the terms of a polynomial in several parameters."""

from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor


def monomials(z: Tensor, degree: int) -> Tensor:
    """All products of at most ``degree`` columns of z (n, q), the constant first: shape (n, terms)."""
    # Not len(z), which would fix the number of events in an exported graph.
    terms = [z.new_ones(z.shape[0], 1)]
    for order in range(1, degree + 1):
        # One gather for each factor, not one operation for each product: with 50 columns there are thousands.
        first, *others = _columns(z.shape[1], order).to(z.device)
        product = z[:, first]
        for column in others:
            product = product * z[:, column]
        terms.append(product)
    return torch.cat(terms, -1)


def count_monomials(columns: int, degree: int) -> int:
    """Number of terms of `monomials`."""
    return math.comb(columns + degree, degree)


@functools.cache
def _columns(count: int, order: int) -> Tensor:
    """Columns of every product of ``order`` of them, shape (order, products)."""
    products = list(itertools.combinations_with_replacement(range(count), order))
    return torch.tensor(products, dtype=torch.long).reshape(len(products), order).T.contiguous()
