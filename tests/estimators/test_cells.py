"""Equal-mass cells."""

from __future__ import annotations

import torch

from touchneedle.estimators.cells import EqualMassCells


def learned(x: torch.Tensor, weight: torch.Tensor, n_cells: int) -> EqualMassCells:
    cells = EqualMassCells(n_cells)
    cells.learn(x, weight.double(), list(range(x.shape[1])))
    return cells


def test_cells_hold_equal_weight_in_one_and_more_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    for dim, n_cells in ((1, 40), (3, 12), (4, 7)):
        x, weight = torch.randn(20_000, dim, generator=generator), torch.rand(20_000, generator=generator)
        mass = torch.bincount(learned(x, weight, n_cells)(x), weight, minlength=n_cells) / weight.sum()
        assert len(mass) == n_cells
        assert (mass - 1 / n_cells).abs().max() < 2e-3 / n_cells * 10


def test_one_dimension_is_cut_at_quantiles() -> None:
    x = torch.arange(100.0)[:, None]
    cell = learned(x, torch.ones(100), 4)(x)
    assert torch.equal(cell, torch.arange(100) // 25)


def test_float32_and_float64_agree_on_the_data() -> None:
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(1))
    cells = learned(x, torch.ones(1000), 20)
    assert torch.equal(cells(x), cells.double()(x.double()))


def test_ties_and_single_cells_and_far_events() -> None:
    x = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 2])[:, None]
    cells = learned(x, torch.ones(8), 4)
    assert cells(torch.tensor([[-1e9], [1e9], [0.0]])).max() < 4
    assert learned(x, torch.ones(8), 1)(x).tolist() == [0] * 8
    constant = torch.ones(10, 1)
    assert learned(constant, torch.ones(10), 3)(constant).unique().numel() == 1
