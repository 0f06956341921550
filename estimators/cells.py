"""Equal-mass cells: a recursive partition of x by weighted quantiles, one feature after the other.

In one dimension they are plain equal-mass bins. Cuts lie on values of the data, so that cells are the
same in float32 and float64; marks of missing entries are values like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EqualMassCells(nn.Module):
    """A binary tree over x (n, d); leaves are the cells 0 ... n_cells - 1.

    Attributes:
        n_cells: number of cells; all hold about the same weight of the events they were learned from.
        feature: feature that each inner node cuts (nodes,).
        cut: events with x > cut go right (nodes,).
        child: (left, right) of each node (nodes, 2); the cell c is written as -1 - c.
    """

    feature: Tensor
    cut: Tensor
    child: Tensor

    def __init__(self, n_cells: int) -> None:
        super().__init__()
        self.n_cells = n_cells
        nodes = max(1, n_cells - 1)
        self.register_buffer("feature", torch.zeros(nodes, dtype=torch.long))
        self.register_buffer("cut", torch.zeros(nodes))
        self.register_buffer("child", torch.full((nodes, 2), -1))

    def learn(self, x: Tensor, weight: Tensor, order: Sequence[int]) -> None:
        """Cut x (n, d) with weights (n,) along the features in ``order``, again from its start when all are used."""
        tree: list[tuple[int, float, list[int]]] = []
        cells = iter(range(self.n_cells))

        def grow(x: Tensor, weight: Tensor, leaves: int, depth: int) -> int:
            if leaves == 1:
                return -1 - next(cells)
            column, cut = _cut(x, weight, order, depth, (leaves // 2) / leaves)
            children: list[int] = []
            tree.append((column, cut, children))
            node = len(tree) - 1
            right = x[:, column] > cut
            children.append(grow(x[~right], weight[~right], leaves // 2, depth + 1))
            children.append(grow(x[right], weight[right], leaves - leaves // 2, depth + 1))
            return node

        grow(x, weight, self.n_cells, 0)
        if tree:
            self.feature = torch.tensor([node[0] for node in tree]).to(self.feature)
            self.cut = torch.tensor([node[1] for node in tree], dtype=torch.float64).to(self.cut)
            self.child = torch.tensor([node[2] for node in tree]).to(self.child)

    def forward(self, x: Tensor) -> Tensor:
        """Cell of each event, shape (n,)."""
        node = torch.zeros(len(x), dtype=torch.long, device=x.device)
        rows = torch.arange(len(x), device=x.device)
        while bool((node >= 0).any()):
            inner = node.clamp_min(0)
            right = (x[rows, self.feature[inner]] > self.cut[inner]).long()
            node = torch.where(node >= 0, self.child[inner, right], node)
        return -1 - node


def _cut(x: Tensor, weight: Tensor, order: Sequence[int], depth: int, share: float) -> tuple[int, float]:
    """The first feature (from ``depth`` on) whose weighted quantile leaves events on both sides, and that quantile."""
    turns = [order[(depth + k) % len(order)] for k in range(len(order))]
    for column in turns:
        cut = _quantile(x[:, column], weight, share)
        if cut is not None and bool((x[:, column] > cut).any()):
            return column, cut
    return turns[0], 0.0


def _quantile(value: Tensor, weight: Tensor, share: float) -> float | None:
    if not len(value):
        return None
    order = value.argsort()
    mass = weight[order].cumsum(0)
    position = int(torch.searchsorted(mass, share * mass[-1]))
    return float(value[order][min(position, len(value) - 1)])
