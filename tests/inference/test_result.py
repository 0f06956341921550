"""Results as JSON: plain, complete, atomic."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.inference.result import Result


@dataclass(frozen=True)
class Inner:
    limits: tuple[float, float]


@dataclass(frozen=True)
class Some(Result):
    theta: torch.Tensor
    inner: Inner
    names: tuple[str, ...]

    def summary(self) -> str:
        return f"{self.names[0]} = {float(self.theta[0]):.2f}"


SOME = Some(torch.tensor([1.5, torch.nan], dtype=torch.float64), Inner((0.0, float("inf"))), ("mu", "nu"))


def test_a_result_is_written_as_plain_numbers(tmp_path: Path) -> None:
    written = json.loads(SOME.write_json(tmp_path / "some.json").read_text())
    assert written == {"result": "Some", "theta": [1.5, None], "inner": {"limits": [0.0, None]}, "names": ["mu", "nu"]}
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]


def test_a_result_prints_its_summary() -> None:
    assert str(SOME) == "mu = 1.50"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        SOME.write_json(tmp_path / "nowhere" / "some.json")


def test_a_result_without_figure_says_so() -> None:
    with pytest.raises(InputError, match="no figure"):
        SOME.draw()
