"""Profiles of tasks whose shares are known."""

from __future__ import annotations

import torch

from tests.performance.profiles import function_shares, needed_note, needed_shares


def test_products_of_large_matrices_take_nearly_all_of_the_time_and_sums_none() -> None:
    matrix = torch.randn(512, 512)
    products, sums = needed_shares(lambda: matrix @ matrix), needed_shares(lambda: matrix.sum())
    assert products["products of matrices"] > 0.5 > 0.1 > products["SiLU"] + products["the optimiser"]
    assert sum(products.values()) <= 1
    assert sum(sums.values()) == 0


def test_operations_of_the_optimiser_are_its_own() -> None:
    weight = torch.nn.Parameter(torch.randn(512, 512))
    optimiser = torch.optim.AdamW([weight])
    weight.grad = torch.ones_like(weight)
    assert 0.9 < needed_shares(optimiser.step)["the optimiser"] < 1.001
    assert "the optimiser" not in needed_shares(optimiser.step, closure=True)


def test_the_note_tells_what_would_be_left() -> None:
    """Products take nearly all of the time: little would be gained."""
    matrix = torch.randn(512, 512)
    *_, floor, unit = needed_note(lambda: matrix @ matrix, 2.0).split()
    assert unit == "times"
    assert 2.0 <= float(floor) < 4.0


def test_a_function_that_does_all_the_work() -> None:
    def works() -> float:
        return sum(number**0.5 for number in range(50_000))

    def idles() -> None: ...

    def task() -> None:
        works()
        idles()

    shares = function_shares(task, {"works": works, "idles": idles, "never called": needed_note})
    assert shares["works"] > 0.8 > 0.1 > shares["idles"]
    assert shares["never called"] == 0
