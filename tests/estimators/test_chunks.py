"""Parts of an answer put together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from touchneedle.estimators.chunks import joined


@pytest.mark.parametrize("sizes", [(5,), (0,), (3, 3, 1), (2, 0, 4)])
@pytest.mark.parametrize("shape", [(), (2,)])
@pytest.mark.parametrize("wants_gradient", [False, True])
def test_parts_stand_one_after_the_other(sizes: tuple[int, ...], shape: tuple[int, ...], wants_gradient: bool) -> None:
    factor = torch.tensor(2.0, dtype=torch.float64, requires_grad=wants_gradient)
    parts = [torch.randn(size, *shape, dtype=torch.float64) for size in sizes]
    found = joined((factor * part for part in parts), sum(sizes))
    whole = torch.cat(parts)
    assert torch.equal(found, 2 * whole)
    assert found.dtype == torch.float64
    if wants_gradient:
        (gradient,) = torch.autograd.grad(found.sum(), factor)
        torch.testing.assert_close(gradient, whole.sum())


def test_a_part_is_gone_when_the_next_one_comes() -> None:
    """No list of small parts is kept: what is written into the whole is freed."""
    alive: list[int] = []
    live = 0

    class Part(torch.Tensor):
        def __del__(self) -> None:
            nonlocal live
            live -= 1

    def parts() -> Iterator[Tensor]:
        nonlocal live
        for _ in range(5):
            live += 1
            yield torch.ones(2).as_subclass(Part)
            alive.append(live)

    joined(parts(), 10)
    # The first part, of whose kind the whole is, may stay; beside it only the one in hand.
    assert max(alive[1:]) <= 3
