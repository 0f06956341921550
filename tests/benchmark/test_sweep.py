"""Overrides, presets and sweeps: what the command line composes, and how cells are launched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from touchneedle.benchmark import overrides as words
from touchneedle.benchmark.cells import Cell
from touchneedle.benchmark.compose import compose_cell
from touchneedle.benchmark.config import ExperimentConfig, parse_config
from touchneedle.benchmark.sweep import expand, run_sweep
from touchneedle.conf.errors import InputError

STAND_IN = Path(__file__).parent / "stand_in.py"


def compose_one(*overrides):
    request = expand(overrides, multirun=False)
    return compose_cell(request.cells[0], request.launch)


def test_defaults_are_plain_dataclasses():
    config = compose_cell([])
    assert isinstance(config, ExperimentConfig)
    assert type(config.toy.params) is dict
    assert config == parse_config({"toy": {"name": "gaussian_shift"}, "estimator": {"name": "zuko_nsf"}})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("toy.path=/data/x.parquet", "++toy.params.path=/data/x.parquet"),
        ("+estimator.bins=3", "++estimator.params.bins=3"),
        ("++estimator.bins=3", "++estimator.params.bins=3"),
        ("estimator.params.bins=3", "++estimator.params.bins=3"),
        ("estimator.name=3", "++estimator.params.name=3"),
        ("estimator.net.bins=a.b=c", "++estimator.params.net.bins=a.b=c"),
        ("launcher.n_jobs=2", "hydra.launcher.n_jobs=2"),
        ("toy=mass_bump", "toy=mass_bump"),
        ("trainer.max_epochs=3", "trainer.max_epochs=3"),
    ],
)
def test_options_of_components_are_rewritten(override, expected):
    assert words.to_hydra(override) == expected


@pytest.mark.parametrize("override", ["toy.path=/data/x.parquet", "estimator.bins=1,2", "launcher.n_jobs=2", "seed=3"])
def test_rewriting_is_undone_for_people(override):
    assert words.from_hydra(words.to_hydra(override)) == override


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/a b/c.parquet", "/a b/c.parquet"),
        ("'/a=b/c,d.parquet'", "/a=b/c,d.parquet"),
        ("'/tmp/é.parquet'", "/tmp/é.parquet"),
        ("[a,b]", ["a", "b"]),
        ("2", 2),
        ("null", None),
    ],
)
def test_values_reach_the_component(text, value):
    single, several = (expand([f"toy.path={text}"], multirun).cells for multirun in (False, True))
    assert single == several
    assert compose_cell(single[0]).toy.params == {"path": value}


def test_interpolation_survives_a_sweep():
    cells = expand(["budget.n_train=100,200", "seed=${budget.n_train}"], multirun=True).cells
    assert [compose_cell(cell).seed for cell in cells] == [100, 200]


def test_sweep_is_the_product_in_order():
    cells = expand(["toy=mass_bump,two_moons", "estimator.transforms=2,4", "results=a/b c"], multirun=True).cells
    assert cells == [
        [f"toy={toy}", f"++estimator.params.transforms={n}", "results=a/b c"] for toy in ("mass_bump", "two_moons") for n in (2, 4)
    ]
    last = compose_cell(cells[-1])
    assert (last.toy.name, last.estimator.params, last.results) == ("two_moons", {"transforms": 4}, "a/b c")


def test_command_line_wins_over_preset():
    cells = expand(["sweep=smoke", "estimator=ratio_bce", "seed=1,2"], multirun=True).cells
    assert len(cells) == 8
    assert {word for cell in cells for word in cell if words.key_of(word) in ("estimator", "design")} == {"estimator=ratio_bce"}
    last = compose_cell(cells[-1])
    assert (last.toy.name, last.estimator.name, last.trainer.name, last.seed) == ("fnf_two_class", "ratio_bce", "fast", 2)


def test_launcher_is_kept_apart():
    request = expand(["launcher=joblib", "launcher.n_jobs=3", "seed=1,2"], multirun=True)
    assert request.cells == [["seed=1"], ["seed=2"]]
    assert request.launch == ["launcher=joblib", "hydra.launcher.n_jobs=3"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("toy=mas_bump", "did you mean 'mass_bump'"),
        ("estimator=nope", "unknown estimator 'nope'"),
        ("budget=huge", "unknown budget 'huge'; known: large, medium, small, tiny"),
        ("launcher=nope", "unknown launcher 'nope'; known: basic, joblib, ray, submitit_local"),
        ("trainer.epochs=1", "unknown option 'trainer.epochs'; known: trainer.name, trainer.max_epochs"),
        ("+trainer.epochs=1", "unknown option 'epochs'"),
        ("epochs=1", "unknown option 'epochs'; known: toy, estimator"),
        ("+epochs=1", "unknown option 'epochs'"),
        ("launcher.jobs=1", "unknown option 'launcher.jobs' of the launcher"),
        ("trainer.max_epochs=two", "option trainer.max_epochs: Input should be a valid integer"),
        ("seed=1.5", "option seed"),
        ("toy=null", "expected the name of a member"),
        ("budget=[1,2]", "expected the name of a member"),
        ("seed", "cannot read 'seed'"),
        ("=3", "got no key"),
        ("results=a=b", "quotes"),
        ("results=a(b)", "cannot read"),
        ("budget.n_train=${nope}", "'nope' not found"),
    ],
)
def test_wrong_overrides_are_one_line(override, says):
    with pytest.raises(InputError) as caught:
        compose_one(override)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "multirun", "says"),
    [
        (["seed=1,2"], False, "several need a sweep"),
        (["sweep=smoke"], False, "run it with -m"),
        (["sweep=smoke,house"], True, "expected one value"),
        (["launcher=basic,joblib"], True, "expected one value"),
        (["sweep=nope"], True, "unknown sweep 'nope'"),
        (["seed=interval(0,1)"], True, "does not support"),
    ],
)
def test_wrong_sweeps_are_one_line(overrides, multirun, says):
    with pytest.raises(InputError, match=says):
        expand(overrides, multirun)


def test_preset_may_only_say_what_to_sweep(tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "odd.yaml").write_text("# @package _global_\nseed: 7\n")
    with pytest.raises(InputError, match=r"write every value under hydra\.sweeper\.params"):
        expand(["sweep=odd", f"hydra.searchpath=['file://{tmp_path}']"], multirun=True)


def test_own_presets_are_found_on_the_search_path(tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\nhydra: {sweeper: {params: {seed: '4,5'}}}\n")
    request = expand(["sweep=mine", f"hydra.searchpath=['file://{tmp_path}']"], multirun=True)
    assert request.cells == [["seed=4"], ["seed=5"]]


def cells_of(tmp_path, *overrides):
    split = expand([*overrides, f"results={tmp_path}/results"], multirun=True).cells
    return [Cell(number, cell, compose_cell(cell)) for number, cell in enumerate(split, start=1)]


def test_one_line_per_cell(stand_in, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = cells_of(tmp_path, "toy=mass_bump", "estimator=ratio_bce", "estimator.fail=false,true", "design=prior,pairs")
    outcomes = run_sweep(cells, [], 4)
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert [outcome.status for outcome in outcomes] == ["ok", "skipped", "failed", "skipped"]
    assert lines[0].startswith("[1/4] ok      mass_bump ratio_bce(fail=False) tiny prior seed 0  ")
    assert lines[0].endswith("s  kl 0.0123 +- 0.001")
    assert lines[1].startswith("[2/4] skipped mass_bump")
    assert lines[1].endswith("s  design pairs is not possible")
    assert lines[2].startswith("[4/4] skipped mass_bump")
    (failed,) = told.err.splitlines()
    assert failed.startswith("[3/4] failed  mass_bump")
    assert failed.endswith("s  loss became NaN")
    assert len(lines) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"results"}
    assert all(path.suffix == ".json" for path in (tmp_path / "results").iterdir())


def test_a_bug_in_one_cell_does_not_end_the_others(stand_in, tmp_path, capsys):
    outcomes = run_sweep(cells_of(tmp_path, "estimator.raises=true,false"), [], 2)
    assert [outcome.status for outcome in outcomes] == ["failed", "ok"]
    assert "s  RuntimeError: a bug (see --debug)" in capsys.readouterr().err


def test_debug_raises_what_went_wrong(stand_in, tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):
        run_sweep(cells_of(tmp_path, "estimator.raises=true"), [], 1, debug=True)


def test_held_cells_are_run_last_and_waited_for(stand_in, tmp_path, capsys):
    results = tmp_path / "results"
    results.mkdir()
    (results / "held-1").touch()
    outcomes = run_sweep(cells_of(tmp_path, "seed=0,1,2"), [], 3)
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3
    assert [line[:5] for line in capsys.readouterr().out.splitlines()] == ["[1/3]", "[3/3]", "[2/3]"]


def test_progress_bars_are_off_in_a_sweep(stand_in, tmp_path):
    run_sweep(cells_of(tmp_path, "seed=0,1"), [], 2)
    records = [json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")]
    assert [record["environment"]["progress"] for record in records] == [False, False]


def test_composing_needs_no_torch():
    program = "import sys; from touchneedle.benchmark.compose import compose_cell; compose_cell([]); sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(STAND_IN.parents[2] / ".typing")}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
