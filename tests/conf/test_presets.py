"""Every preset of the configuration composes, with the numbers that the documentation promises."""

import pytest

from touchneedle.benchmark import overrides as words
from touchneedle.benchmark.sweep import compose_cell, expand


def compose_one(*overrides):
    request = expand(overrides, multirun=False)
    return compose_cell(request.cells[0], request.launch)


@pytest.mark.parametrize("group", ["budget", "design", "evaluation", "trainer", "optimizer", "ensemble", "launcher"])
def test_every_preset_composes(group):
    for name in words.members(group):
        config = compose_one(f"{group}={name}")
        chosen = getattr(config, group, None)
        assert chosen is None or name in (chosen, getattr(chosen, "name", None))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("quick", (100, 1, 20_000, 50_000)), ("standard", (500, 3, 100_000, 100_000)), ("full", (2_000, 5, 1_000_000, 200_000))],
)
def test_evaluation_numbers(name, numbers):
    evaluation = compose_one(f"evaluation={name}").evaluation
    assert (evaluation.n_experiments, evaluation.n_points, evaluation.n_test, evaluation.n_pool) == numbers
    assert evaluation.n_events == (100, 1_000)


@pytest.mark.parametrize(("name", "n_train"), [("tiny", 2_000), ("small", 10_000), ("medium", 100_000), ("large", 1_000_000)])
def test_budget_numbers(name, n_train):
    assert compose_one(f"budget={name}").budget.n_train == n_train


@pytest.mark.parametrize("preset", [name for name in words.members("sweep") if name != "none"])
def test_sweep_presets_compose(preset):
    cells = expand([f"sweep={preset}"], multirun=True).cells
    assert len(cells) > 1
    assert all(words.key_of(word) != "sweep" for cell in cells for word in cell)
    first, last = compose_cell(cells[0]), compose_cell(cells[-1])
    assert first != last


def test_smoke_gives_template_histogram_its_design():
    cells = [compose_cell(cell) for cell in expand(["sweep=smoke"], multirun=True).cells[-4:]]
    assert {(config.estimator.name, config.design) for config in cells} == {("template_histogram", "templates")}
