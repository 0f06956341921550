"""Answers that come in chunks, put together in the memory of all."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def joined(parts: Iterator[Tensor], rows: int) -> Tensor:
    """Parts (n_i, ...) of ``rows`` rows in all, one after the other.

    Without gradients each is written to its place at once: small answers that stay, between large intermediate values that go,
    would leave holes in the memory that nothing fits into (gigabytes for a million events).
    """
    first = next(parts)
    if len(first) == rows:
        return first
    if first.requires_grad:
        return torch.cat([first, *parts])
    whole = first.new_empty(rows, *first.shape[1:])
    whole[: len(first)] = first
    start = len(first)
    for part in parts:
        whole[start : start + len(part)] = part
        start += len(part)
    return whole
