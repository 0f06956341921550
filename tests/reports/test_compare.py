"""Differences side by side: paired by seed, against scipy; the commands ``compare`` and ``show``."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, ttest_rel
from typer.testing import CliRunner

from touchneedle.benchmark.main import app
from touchneedle.conf.errors import InputError
from touchneedle.reports.aggregate import average
from touchneedle.reports.compare import COLUMNS, compare
from touchneedle.reports.differences import better, difference, worsening
from touchneedle.reports.show import show_run


@pytest.fixture
def cli() -> Callable[..., Any]:
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], prog_name="touchneedle")


def cell(make: Any, name: str, values: list[float], errors: float = 0.1, start: int = 0, **at: Any) -> Any:
    return average([(start + seed, make.metric(name, value, errors, **at)) for seed, value in enumerate(values)])


def test_paired_differences_are_those_of_a_paired_t_test(make: Any) -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 5))
    found = difference(cell(make, "density/kl", list(first)), cell(make, "density/kl", list(second)))
    expected = ttest_rel(second, first)
    assert found is not None
    assert found.value / found.stderr == pytest.approx(expected.statistic, rel=1e-12)
    assert 2 * norm.sf(abs(found.sigma)) == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.how == "5 seeds, paired"


def test_only_common_seeds_are_paired(make: Any) -> None:
    found = difference(cell(make, "density/kl", [9.0, 1.0, 2.0, 4.0]), cell(make, "density/kl", [2.0, 4.0, 5.0], start=1))
    assert found is not None
    assert (found.value, found.pairs) == (pytest.approx((1 + 2 + 1) / 3), 3)


def test_fewer_pairs_combine_both_errors(make: Any) -> None:
    found = difference(cell(make, "density/kl", [1.0], 0.3), cell(make, "density/kl", [2.0], 0.4))
    assert found is not None
    assert (found.value, found.stderr, found.sigma, found.how) == (1.0, 0.5, 2.0, "both errors combined")
    apart = difference(cell(make, "density/kl", [1.0, 1.0], 0.3), cell(make, "density/kl", [2.0], 0.4, start=5))
    assert apart is not None
    assert (apart.pairs, apart.stderr) == (0, pytest.approx(math.hypot(0.3 / math.sqrt(2), 0.4)))


def test_n_star_is_compared_as_a_factor_and_limits_are_not_compared(make: Any) -> None:
    first, second = (cell(make, "fit/n_star", [n], 0.1 * n) for n in (100.0, 300.0))
    found = difference(first, second)
    assert found is not None
    assert found.text == "x 3.0 ± 0.4"
    assert found.sigma == pytest.approx(math.log(3) / math.hypot(0.1, 0.1))
    assert better(("a", "b"), first, second) == "b"
    assert difference(first, cell(make, "fit/n_star", [1e6], 0.0, censored="above")) is None
    assert difference(first, cell(make, "fit/n_star", [math.inf])) is None


def test_better_is_nearer_to_the_target(make: Any) -> None:
    wide, narrow = (cell(make, "fit/pull_width", [value], 0.01, target=1.0) for value in (1.05, 0.7))
    assert better(("wide", "narrow"), wide, narrow) == "wide"
    found = worsening(wide, narrow)
    assert found is not None
    assert found.value == pytest.approx(0.25)
    assert better(("wide", "also"), wide, cell(make, "fit/pull_width", [0.96], 0.01, target=1.0)) == ""


def test_compare_shows_headline_numbers_toy_by_toy(demo: Path) -> None:
    lines = [dict(zip(COLUMNS, line, strict=True)) for line in compare(demo, ["ratio_bce", "zuko_nsf"])]
    assert {line["toy"] for line in lines} == {"mass_bump"}
    (kl,) = (line for line in lines if line["number"] == "KL / nats")
    assert (kl["first"].split()[0], kl["second"].split()[0], kl["second - first"]) == ("ratio_bce", "zuko_nsf", "-0.0011 ± 0.0004")
    everything = compare(demo, ["ratio_bce", "zuko_nsf", "posterior_flow"], every=True)
    assert len(everything) > 2 * len(lines)


def test_an_option_chooses_one_row(demo: Path) -> None:
    (line, *_) = compare(demo, ["oracle", "zuko_nsf bins=16 transforms=5"])
    assert line[0] == "two_moons"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ratio_bce"], "expected two or more"),
        (["ratio_bce", "nope"], "compare nope: no run of it"),
        (["posterior_flow", "zuko_nsf bins=16 transforms=5"], "share no toy"),
    ],
)
def test_what_cannot_be_compared_is_one_line(demo: Path, names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        compare(demo, names)
    assert "\n" not in str(caught.value)


def test_compare_and_show_print_and_fail_in_one_line(demo: Path, cli: Callable[..., Any]) -> None:
    done = cli("compare", "ratio_bce", "zuko_nsf", "--results", demo)
    assert done.exit_code == 0
    assert "KL / nats\tratio_bce" in done.stdout
    bad = cli("compare", "ratio_bce", "nope", "--results", demo)
    assert (bad.exit_code, len(bad.stderr.splitlines())) == (2, 1)
    missing = cli("show", "nope", "--results", demo)
    assert (missing.exit_code, len(missing.stderr.splitlines())) == (2, 1)


def test_show_tells_why_a_run_failed_and_how_to_repeat_it(demo: Path, cli: Callable[..., Any]) -> None:
    done = cli("show", "mass_bump-1-zuko_nsf-0-10000-2", "--results", demo)
    assert done.exit_code == 0
    assert "failed: loss is not finite at epoch 3" in done.stdout
    assert "FloatingPointError: loss is not finite" in done.stdout
    assert "touchneedle run toy=mass_bump estimator=zuko_nsf" in done.stdout


def test_show_holds_every_number_of_a_record(make: Any, results: Callable[..., Path]) -> None:
    folder = results(make.record(run_id="abc123"), make.record(seed=1, run_id="abd456"))
    blocks = {block.title: block for block in show_run(folder, "abc")}
    assert len(blocks["numbers"].rows) == len(make.record().metrics)
    assert ("density/kl", "", "0.0040 ± 0.0004", "100", "", "") in blocks["numbers"].rows
    assert ("seed", "0") in blocks["run"].rows
    assert ("torch", "2.13.0") in blocks["environment"].rows
    assert ("budget.n_train", "10000") in blocks["configuration"].rows
    with pytest.raises(InputError, match="2 runs begin like this"):
        show_run(folder, "ab")
    assert show_run(folder, str(folder / "abd456.json"))[0].rows[0] == ("run", "abd456")
