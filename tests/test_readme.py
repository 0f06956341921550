"""The README as a user types it: the plugin's code works, every command line composes, the table of components is current."""

import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.main import get_command

from touchneedle.benchmark.compose import compose_cell
from touchneedle.benchmark.listing import with_components
from touchneedle.benchmark.main import app
from touchneedle.benchmark.sweep import expand
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.reports.headline import headline_markdown, with_headline
from touchneedle.reports.rows import Results, read_results
from touchneedle.reports.speed_headline import reference_speeds, with_speeds

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TINY_EVALUATION = ("evaluation.n_experiments=10", "evaluation.n_test=500", "evaluation.n_pool=1000", "evaluation.n_events=[50]")


def blocks(language: str, after: str = "# ") -> list[str]:
    """Fenced blocks of a language, below a heading."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", README[README.index(after) :], flags=re.DOTALL | re.MULTILINE)
    return [text for kind, text in found if kind == language]


def command_lines() -> Iterator[list[str]]:
    """The words after ``touchneedle`` of every line shown."""
    for line in "\n".join(blocks("")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["touchneedle"]:
            yield words[1:]


# The table of components.


def test_the_table_of_components_is_current() -> None:
    assert with_components(README) == README, "run: python -m touchneedle.benchmark.listing"


def test_the_headline_is_current() -> None:
    assert with_headline(README, read_results(ROOT / "results" / "reference")) == README, "run: python -m touchneedle.reports.headline"


def test_the_speeds_are_current() -> None:
    speeds = reference_speeds(ROOT / "results" / "reference")
    assert with_speeds(README, speeds) == README, "run: python -m touchneedle.reports.speed_headline"


def test_the_headline_changes_with_the_records() -> None:
    """On other records, of the sweep `house`, the same code tells something else: every ranked method, its seeds and its limit."""
    found = headline_markdown(read_results(ROOT / "results" / "reference" / "house"))
    lines = [line.strip("| ").split(" | ") for line in found.splitlines() if line.startswith("| prior")]
    assert {(name, seeds) for _, name, seeds, *_ in lines} == {("ratio_bce", "3"), ("zuko_nsf", "3"), ("posterior_flow", "3")}
    assert "&gt; 3,160" in {line[1]: line for line in lines}["zuko_nsf"]
    assert "seeds 0 to 2" in found


@pytest.mark.parametrize("change", [with_components, partial(with_headline, results=Results()), partial(with_speeds, rows=())])
def test_a_readme_without_the_comments_is_refused(change: Callable[[str], str]) -> None:
    with pytest.raises(InputError, match="expected the comments"):
        change("# Nothing here\n")


def test_a_headline_needs_ranked_fits() -> None:
    with pytest.raises(InputError, match="make reference"):
        headline_markdown(Results())


@pytest.mark.parametrize("name", [*registry.TOY_TABLE, *registry.ESTIMATOR_TABLE])
def test_every_component_stands_in_the_table(name: str) -> None:
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{name}` | ")]
    cells = re.split(r"(?<!\\) \| ", row.strip("| "))
    assert len(cells) == 3
    assert all(cells)


# The estimator of one file.


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    code, *_ = blocks("python", "## Your own estimator")
    path = tmp_path / "ratio_small.py"
    path.write_text(code, encoding="utf-8")
    return path


def test_the_estimator_is_short() -> None:
    (code,) = blocks("python", "## Your own estimator")
    assert len(code.splitlines()) <= 60


def test_the_estimator_passes_its_check(plugin, shell):
    done = shell("check", "ratio_small", "--plugin", plugin.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ratio_small" in done.stdout


def test_the_estimator_is_ranked(plugin, shell, cli, tmp_path):
    sweep = ("toy=gaussian_shift", "estimator=ratio_small,best_gaussian", "budget=tiny", "trainer=fast", *TINY_EVALUATION)
    ran = shell("run", "-m", "--plugin", plugin.name, *sweep)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert cli("report", "results/local", "-o", "reports/local").exit_code == 0
    for ending in ("html", "md", "csv"):
        assert "ratio_small" in (tmp_path / f"reports/local/leaderboard.{ending}").read_text(encoding="utf-8"), ending


# The commands.


def test_commands_are_found() -> None:
    assert len(list(command_lines())) >= 12


@pytest.mark.parametrize("words", list(command_lines()), ids=" ".join)
def test_every_command_line_parses(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, *rest = words
    command = get_command(app)
    chosen = command.commands[name]  # type: ignore[attr-defined]
    context = chosen.make_context(name, rest, parent=command.make_context("touchneedle", [name]))
    if name not in ("run", "plan") or context.params["plugin"]:
        return
    request = expand(context.params["overrides"] or [], context.params["multirun"])
    for cell in (request.cells[0], request.cells[-1]):
        compose_cell(cell, request.launch)
