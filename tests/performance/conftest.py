"""The table of measured speeds: ``pytest tests/performance --benchmark-only --speed FILE`` puts what it measures into FILE."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.performance.ratios import MEASURED, merge_speeds


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--speed", default="", help="JSON table of measured speeds; rows of the same name are replaced.")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """After each test, so that a session that is broken off keeps what it has measured."""
    file = item.config.getoption("--speed")
    if file and MEASURED:
        merge_speeds(Path(file), MEASURED)
        MEASURED.clear()
