"""Every preset of the configuration composes, with the numbers that the documentation promises."""

from dataclasses import fields
from importlib.resources import files
from importlib.util import find_spec

import pytest
import yaml

from touchneedle.benchmark import overrides as words
from touchneedle.benchmark.compose import compose_cell
from touchneedle.benchmark.config import BudgetConfig, EnsembleConfig, EvaluationConfig, OptimizerConfig, TrainerConfig, TuningConfig
from touchneedle.benchmark.sweep import expand
from touchneedle.conf.errors import InputError


def compose_one(*overrides):
    request = expand(overrides, multirun=False)
    return compose_cell(request.cells[0], request.launch)


GROUPS = ("budget", "design", "evaluation", "trainer", "optimizer", "ensemble", "tuning", "launcher")


RAY = find_spec("hydra_plugins.hydra_ray_launcher") is not None


@pytest.mark.skipif(RAY, reason="the plugin is installed")
def test_a_launcher_without_its_plugin_is_one_line():
    with pytest.raises(InputError, match=r"launcher=ray: expected its Hydra plugin; .* \(pip install touchneedle\[ray\]\)"):
        compose_one("launcher=ray")


@pytest.mark.parametrize("turn", range(max(len(words.members(group)) for group in GROUPS)))
def test_every_preset_composes(turn):
    """All groups take their next member at once, so that each member of each group is composed."""
    chosen = {group: words.members(group)[turn % len(words.members(group))] for group in GROUPS}
    if chosen["launcher"] == "ray" and not RAY:
        chosen["launcher"] = "basic"
    config = compose_one(*(f"{group}={name}" for group, name in chosen.items()))
    for group, name in chosen.items():
        found = getattr(config, group, name)
        assert getattr(found, "name", found) == name


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("quick", (100, 1, 20_000, 50_000)), ("standard", (500, 3, 100_000, 50_000)), ("full", (2_000, 5, 1_000_000, 200_000))],
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
    cells = expand(["sweep=smoke"], multirun=True).cells
    assert len(cells) == 30
    assert [cell for cell in cells if "design=templates" in cell] == [cell for cell in cells if "estimator=template_histogram" in cell]
    assert len([cell for cell in cells if "design=templates" in cell]) == 2


SECTIONS = {
    "budget": BudgetConfig,
    "evaluation": EvaluationConfig,
    "trainer": TrainerConfig,
    "optimizer": OptimizerConfig,
    "ensemble": EnsembleConfig,
    "tuning": TuningConfig,
}


@pytest.mark.parametrize("group", SECTIONS)
def test_every_option_can_be_set_under_every_preset(group):
    """Hydra refuses an option that the preset's file does not name, whatever the messages say is known."""
    for preset in words.members(group):
        options = yaml.safe_load((files("touchneedle.conf") / group / f"{preset}.yaml").read_text())
        inherited = {"name"}
        if "defaults" in options:
            inherited |= set(yaml.safe_load((files("touchneedle.conf") / group / f"{options.pop('defaults')[0]}.yaml").read_text()))
        assert inherited | set(options) == {field.name for field in fields(SECTIONS[group])}, preset
