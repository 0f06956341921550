"""The command that repeats a run."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from touchneedle.reports.repeat import literal, repeat_command


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (None, "null"),
        (3, "3"),
        (1e-4, "0.0001"),
        ([64, 64], "[64,64]"),
        ({"a": 1}, "{a:1}"),
        ("relu", "relu"),
        ("results/local", "results/local"),
        ("true", '"true"'),
        ("1e3", '"1e3"'),
        ("two words", '"two words"'),
    ],
)
def test_values_in_hydra_grammar(value: Any, text: str) -> None:
    assert literal(value) == text


def test_defaults_are_left_out_and_changes_are_written(make: Any) -> None:
    record = make.record("zuko_nsf", 3, params={"hidden_features": [64, 64]})
    record.config["trainer"]["max_epochs"] = 7
    assert repeat_command(record) == (
        "touchneedle run toy=mass_bump estimator=zuko_nsf 'estimator.hidden_features=[64,64]' budget=small budget.n_train=10000 "
        "evaluation=quick trainer=default trainer.max_epochs=7 optimizer=adamw ensemble=none tuning=none design=prior seed=3 "
        "results=results/local"
    )


def test_other_presets_are_written_in_full(make: Any) -> None:
    record = make.record()
    record.config["evaluation"] = {"name": "standard", "n_experiments": 500, "n_events": [100, 1000]}
    words = shlex.split(repeat_command(record))
    assert [word for word in words if word.startswith("evaluation")] == [
        "evaluation=standard",
        "evaluation.n_experiments=500",
        "evaluation.n_events=[100,1000]",
    ]


def test_plugins_and_hostile_values_are_quoted(make: Any) -> None:
    record = make.record(params={"note": "$(rm -rf x); 'y'"})
    record.config["plugins"] = ["my plugin.py"]
    words = shlex.split(repeat_command(record))
    assert words[2:4] == ["--plugin", "my plugin.py"]
    assert "estimator.note=\"$(rm -rf x); 'y'\"" in words
