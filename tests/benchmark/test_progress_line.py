"""What a cell's progress line says of its scores."""

from __future__ import annotations

import pytest

from touchneedle.benchmark.cells import key_metric
from touchneedle.benchmark.records import Metric


@pytest.mark.parametrize(
    ("censored", "stderr", "line"),
    [
        (None, 1.234, "n_star 11.46 +- 1.2"),
        (None, None, "n_star 11.46"),
        ("above", 0.0, "n_star > 11.46"),
        ("below", 0.0, "n_star < 11.46"),
    ],
)
def test_a_limit_has_no_error(censored: str | None, stderr: float | None, line: str) -> None:
    at: dict[str, str | float | int | bool | None] = {} if censored is None else {"censored": censored}
    metric = Metric(family="fit", name="n_star", at=at, value=11.4602, stderr=stderr, n=10, direction="higher")
    assert key_metric([metric]) == line


def test_nothing_is_said_of_other_scores() -> None:
    assert key_metric([]) == ""
