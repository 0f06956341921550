"""Bootstrap copies and partitions of training events that come in batches, in any order.

Which copies of an event a member of an ensemble sees is a hash of the event's own numbers: the same in every epoch, without a
list of events. Events that agree in x and theta to the last bit share their copies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOW_BITS = 0xFFFFFFFF
# Odd constants of the finaliser of MurmurHash3 (Appleby 2008), as signed numbers of 64 bits.
_FACTORS = (0xFF51AFD7ED558CCD - 2**64, 0xC4CEB9FE1A85EC53 - 2**64)
_MOST_COPIES = 12


def poisson_copies(x: Tensor, theta: Tensor, members: int) -> Tensor:
    """Numbers of copies (n, members), independent and Poisson distributed with mean 1, of events x (n, d) at theta (n, p)."""
    code = _hash(x, theta)
    every = torch.stack([_mixed(code + member) for member in range(1, members + 1)], 1)
    chances = torch.tensor([math.exp(-1) / math.factorial(k) for k in range(_MOST_COPIES)], dtype=torch.float64, device=x.device)
    return torch.searchsorted(chances.cumsum(0), _uniform(every)).to(x.dtype)


def partition(x: Tensor, theta: Tensor, members: int) -> Tensor:
    """``members`` in the column of the one member that owns the event, else 0: shape (n, members)."""
    owner = (_uniform(_hash(x, theta)) * members).long()
    return members * torch.nn.functional.one_hot(owner, members).to(x.dtype)


def _hash(x: Tensor, theta: Tensor) -> Tensor:
    """64 well-mixed bits of each event (n,), from its columns as float32."""
    columns = torch.cat([x.float(), theta.float()], 1).contiguous().view(torch.int32).long()
    code = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for column in columns.T:
        code = _mixed(code ^ column)
    return code


def _mixed(code: Tensor) -> Tensor:
    for factor in _FACTORS:
        code = (code ^ ((code >> 32) & _LOW_BITS)) * factor
    return code ^ ((code >> 32) & _LOW_BITS)


def _uniform(code: Tensor) -> Tensor:
    """In [0, 1), from the upper 53 bits."""
    return ((code >> 11) & (2**53 - 1)).double() / 2**53
