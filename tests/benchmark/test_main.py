"""The command line: exit codes, one-line errors, lists, completion, and sweeps that go on."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import joblib
import pytest

from touchneedle.benchmark import listing
from touchneedle.benchmark.compose import compose_cell
from touchneedle.benchmark.doctor import ESSENTIAL, EXTRAS, examine
from touchneedle.benchmark.evaluate import METRICS
from touchneedle.benchmark.overrides import complete
from touchneedle.benchmark.sweep import expand
from touchneedle.conf import registry

STAND_IN = Path(__file__).parent / "stand_in.py"
ROOT = STAND_IN.parents[2]
HEAVY = ("torch", "hydra", "lightning", "pydantic", "numpy")


def one_error_line(result):
    """The only line on stderr, without a traceback."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("touchneedle: error: ")
    return lines[0]


# Start-up and help.


def test_help_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from touchneedle.benchmark.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".typing")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "touchneedle run -m sweep=smoke" in done.stdout


@pytest.mark.parametrize(
    "command", ["run", "run-line", "plan", "evaluate", "report", "compare", "show", "list", "check", "new-plugin", "doctor"]
)
def test_every_command_has_help(cli, command):
    result = cli(command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 5


def test_examples_of_run_compose(cli):
    text = cli("run", "--help").stdout
    examples = [line.split()[2:] for line in text.splitlines() if line.startswith("    touchneedle run ")]
    assert len(examples) >= 4
    for words in examples:
        request = expand([word for word in words if word != "-m"], multirun="-m" in words)
        compose_cell(request.cells[-1], request.launch)


# Completion.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("to", ["toy="]),
        ("toy=mas", ["toy=mass_bump"]),
        ("toy=mass_bump,two", ["toy=mass_bump,two_moons"]),
        ("toy=mass_bump,mas", []),
        ("sweep=smo", ["sweep=smoke"]),
        ("seed=", []),
        ("nope=", []),
    ],
)
def test_completion_of_overrides(text, found):
    assert complete(text) == found


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("touchneedle ru", ["run", "run-line"]),
        ("touchneedle run to", ["toy="]),
        ("touchneedle run toy=mas", ["toy=mass_bump"]),
        ("touchneedle run toy = mas", ["mass_bump"]),
        ("touchneedle run -m estimator = ratio_bce toy = two", ["two_moons"]),
    ],
)
def test_completion_in_bash(words, found, monkeypatch, capsys):
    from touchneedle.benchmark.main import app

    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    monkeypatch.setenv("_TOUCHNEEDLE_COMPLETE", "complete_bash")
    with pytest.raises(SystemExit):
        app(prog_name="touchneedle")
    assert capsys.readouterr().out.split() == found


# Running.


def test_run_writes_a_record_and_repeating_does_nothing(stand_in, cli, tmp_path):
    first = cli("run", "toy=mass_bump", "estimator=ratio_bce")
    assert first.exit_code == 0, first.output
    assert first.stdout.splitlines()[-1] == "1 cell: 1 ok, 0 skipped, 0 failed, 0 already done; records in results/local"
    (record,) = (tmp_path / "results/local").glob("*.json")
    before = record.stat().st_mtime_ns
    again = cli("run", "toy=mass_bump", "estimator=ratio_bce")
    assert again.exit_code == 0
    assert "1 already done" in again.stdout
    assert record.stat().st_mtime_ns == before
    assert "1 ok" in cli("run", "toy=mass_bump", "estimator=ratio_bce", "--force").stdout
    assert record.stat().st_mtime_ns > before


def test_sweep_goes_on_after_invalid_and_failed_cells(stand_in, cli):
    result = cli("run", "-m", "estimator=nope,ratio_bce", "estimator.fail=true,false")
    assert result.exit_code == 1
    *invalid, failed = result.stderr.splitlines()
    assert [line.split(":")[0] for line in invalid] == [
        "[1/4] invalid estimator=nope estimator.fail=True",
        "[2/4] invalid estimator=nope estimator.fail=False",
    ]
    assert failed.startswith("[3/4] failed  ")
    assert result.stdout.splitlines()[-1].startswith("4 cells: 1 ok, 0 skipped, 1 failed, 0 already done, 2 invalid")
    again = cli("run", "-m", "estimator=ratio_bce", "estimator.fail=true,false")
    assert again.stdout.splitlines()[-1].startswith("2 cells: 0 ok, 0 skipped, 1 failed, 1 already done")


def test_options_of_a_component_are_checked_before_any_job(stand_in, cli, tmp_path):
    result = cli("run", "-m", "estimator.transforms=2", "estimator.bins=3", "seed=0,1")
    assert result.exit_code == 1
    assert result.stderr.count("unknown option 'bins'") == 2
    assert not (tmp_path / "results").exists()


def test_a_corrupt_record_is_told_and_the_others_go_on(stand_in, cli, tmp_path):
    cli("run", "-m", "seed=0")
    (record,) = (tmp_path / "results/local").glob("*.json")
    record.write_text("{")
    result = cli("run", "-m", "seed=0,1")
    assert result.exit_code == 1
    assert "is corrupt" in result.stderr
    assert "1 ok" in result.stdout


def test_dry_run_runs_nothing(stand_in, cli, tmp_path):
    cli("run", "seed=0")
    result = cli("run", "-m", "seed=0,1", "--dry-run")
    assert result.stdout.splitlines() == [
        "[1/2] ok      gaussian_shift zuko_nsf tiny prior seed 0",
        "[2/2] to do   gaussian_shift zuko_nsf tiny prior seed 1",
    ]
    assert len(list((tmp_path / "results/local").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "toy=nope"], "unknown toy 'nope'"),
        (["run", "estimator=zuko_nfs"], "did you mean 'zuko_nsf'"),
        (["run", "estimator.nope=1"], "unknown option 'nope'"),
        (["run", "seed=zero"], "option seed"),
        (["run", "seed=1,2"], "several need a sweep"),
        (["run", "--plugin", "nope.py"], "no such file"),
        (["plan", "-m", "budget"], "cannot read 'budget'"),
        (["list", "toy"], "expected one of toys, estimators"),
        (["check", "nope"], "unknown toy or estimator 'nope'"),
        (["evaluate", "results", "seed=1"], "expected evaluation=NAME"),
        (["evaluate", "results", "evaluation=nope"], "unknown evaluation 'nope'"),
        (["new-plugin", "9lives"], "expected a name of lower-case letters"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(stand_in, cli, words, says):
    result = cli(*words)
    assert result.exit_code == 2
    assert says in one_error_line(result)


def test_debug_shows_the_traceback_wherever_it_stands(stand_in, cli):
    for words in (["--debug", "run", "toy=nope"], ["run", "toy=nope", "--debug"]):
        result = cli(*words)
        assert type(result.exception).__name__ == "InputError"


def test_plugin_that_raises_is_one_line(cli, tmp_path):
    (tmp_path / "bad.py").write_text("raise ValueError('first\\nsecond')\n")
    result = cli("run", "--plugin", "bad.py")
    assert result.exit_code == 2
    assert "failed to import: ValueError: first" in one_error_line(result)


def test_unwritable_results_folder(stand_in, cli, tmp_path):
    (tmp_path / "results").write_text("a file, not a folder")
    result = cli("run", "results=results/local")
    assert result.exit_code == 2
    assert "choose a writable folder" in one_error_line(result)


def test_full_disk_is_one_line(stand_in, cli, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "jobs.txt")

    monkeypatch.setattr("touchneedle.benchmark.plan.write_jobs", full)
    result = cli("plan", "seed=0")
    assert result.exit_code == 2
    assert one_error_line(result).endswith("No space left on device: jobs.txt")


@pytest.mark.parametrize("name", ["hydra", "lightning.pytorch", "zuko"])
def test_missing_extra_says_what_to_install(cli, monkeypatch, name):
    def absent(*_, **__):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("touchneedle.benchmark.plan.make_plan", absent)
    result = cli("run")
    assert result.exit_code == 2
    assert "pip install 'touchneedle[bench]'" in one_error_line(result)


def test_interrupt_is_one_line_and_130(cli, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("touchneedle.benchmark.plan.make_plan", interrupted)
    result = cli("run")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; repeat the command to go on\n"


def test_evaluate_says_what_it_did(stand_in, cli):
    cli("run")
    result = cli("evaluate", "results/local", "evaluation=standard", "evaluation.n_points=2")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "1 records with evaluation standard in results/local"


def test_check_prints_a_row_per_check_and_fails(stand_in, cli, monkeypatch):
    results = [
        SimpleNamespace(name="shapes", passed=True, message="", seconds=0.1),
        SimpleNamespace(name="samples", passed=False, message="off", seconds=2),
    ]
    monkeypatch.setattr("touchneedle.benchmark.conformance._results", lambda name, toy, options: results)
    result = cli("check", "mass_bump")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["mass_bump\tshapes\tok\t0.10\t", "mass_bump\tsamples\tFAILED\t2.00\toff"]


# In processes of their own.


def test_plugin_reaches_joblib_workers_that_share_the_cores(shell, tmp_path):
    words = ("run", "-m", "seed=0,1,2", "launcher=joblib", "launcher.n_jobs=2", "--plugin", STAND_IN)
    result = shell(*words, OMP_NUM_THREADS=None)
    assert result.returncode == 0, result.stdout + result.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "results/local").glob("*.json")]
    assert sorted(record["seed"] for record in records) == [0, 1, 2]
    assert all(record["environment"]["plugins"] == [str(STAND_IN)] for record in records)
    assert len({record["environment"]["pid"] for record in records}) == 2
    assert {record["environment"]["threads"] for record in records} == {str(max(1, joblib.cpu_count() // 2))}
    assert result.stdout.count("ok      gaussian_shift") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_command_runs_as_a_module(shell, tmp_path):
    result = shell("run", "toy=nope", "--plugin", STAND_IN)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "unknown toy 'nope'" in one_error_line(result)


def test_ctrl_c_ends_with_130(tmp_path):
    plugin = tmp_path / "slow.py"
    plugin.write_text("import time\nprint('loaded', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "touchneedle.benchmark.main", "run", "--plugin", str(plugin)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".typing")}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "loaded\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors == "interrupted; repeat the command to go on\n"


# Lists and the doctor.


def test_list_knows_the_registry(cli):
    names = [line.split("\t")[1] for line in cli("list", "estimators").stdout.splitlines()]
    assert names == registry.estimators.names()
    sweeps = {line.split("\t")[1]: line.split("\t")[3] for line in cli("list", "sweeps").stdout.splitlines()}
    assert sweeps["smoke"].startswith("Every built-in method")


def test_list_shows_broken_plugins_and_the_rest(cli, monkeypatch):
    group = "touchneedle.estimators"
    bad = EntryPoint("broken_one", "no_such_module:Nope", group)
    monkeypatch.setattr(registry, "entry_points", lambda group: [bad] if group == "touchneedle.estimators" else [])
    rows = {row["name"]: row for row in json.loads(cli("list", "estimators", "--json").stdout)}
    assert "No module named 'no_such_module'" in rows["broken_one"]["broken"]
    assert rows["ratio_bce"]["broken"] == ""
    found = {finding.topic: finding for finding in examine("results")}
    assert found["estimator broken_one"].state == "missing"
    assert "no_such_module" in found["estimator broken_one"].detail


def test_descriptions_are_read_without_importing():
    entry = registry.Entry("x", "touchneedle.conf.registry:Entry", "touchneedle")
    assert listing.describe(entry) == registry.Entry.__doc__.partition("\n")[0]
    assert listing.describe(registry.Entry("x", "no_such_module.at_all:X", "")) == ""
    assert listing.describe(registry.Entry("x", "json.decoder:JSONDecoder", "")).startswith("Simple JSON")


def test_listed_metrics_are_those_that_are_computed():
    listed = {(row.name, row.description) for row in listing.list_rows("metrics")}
    assert listed == {(f"{metric.family}/{metric.name}", metric.description) for metric in METRICS}


def test_listing_imports_no_torch():
    program = "import sys; from touchneedle.benchmark.listing import list_rows; list_rows('all'); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".typing")}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0


def test_doctor_is_well_here(cli):
    result = cli("doctor")
    assert result.exit_code == 0, result.output
    assert "CPU threads for torch" in result.stdout
    assert not Path("results").exists()


def test_doctor_finds_what_is_wrong(cli, tmp_path, monkeypatch):
    (tmp_path / "results").write_text("a file")
    monkeypatch.setattr("touchneedle.benchmark.doctor.EXTRAS", {"bench": ("no-such-package",)})
    result = cli("doctor")
    assert result.exit_code == 1
    assert "without no-such-package: pip install 'touchneedle[bench]'" in result.stdout


def test_doctor_knows_the_dependencies():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def bare(requirements):
        return {requirement.split(">")[0].split("=")[0] for requirement in requirements}

    assert set(ESSENTIAL) == bare(project["dependencies"])
    for extra, names in EXTRAS.items():
        assert set(names) == bare(project["optional-dependencies"][extra])
