"""Job lists: what is left to run, one shell-safe line each, and the line that runs."""

import shlex

import pytest

from touchneedle.benchmark.plan import job_line, make_plan, read_job, write_jobs
from touchneedle.conf.errors import InputError


def test_jobs_are_the_unfinished_cells(stand_in, cli):
    first = cli("plan", "-m", "seed=0,1,2", "estimator.transforms=2", "results=my results")
    assert first.exit_code == 0, first.output
    assert first.stdout == "0 done, 3 left: jobs.txt\n"
    ran = cli("run-line", "jobs.txt", 1)
    assert ran.exit_code == 0, ran.output
    assert "ok      gaussian_shift zuko_nsf(transforms=2) tiny prior seed 1" in ran.stdout
    assert cli("plan", "-m", "seed=0,1,2", "estimator.transforms=2", "results=my results").stdout == "1 done, 2 left: jobs.txt\n"


def test_lines_survive_a_shell(stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(["toy.path=/a b/c.parquet,'/d,e=f/g.parquet'", "seed=3"], multirun=True)
    write_jobs(tmp_path / "jobs.txt", plan.left)
    lines = (tmp_path / "jobs.txt").read_text().splitlines()
    assert [shlex.join(read_job(tmp_path / "jobs.txt", str(i))[0]) for i in range(2)] == lines
    again = [make_plan(read_job(tmp_path / "jobs.txt", str(i))[0], multirun=False).cells[0].config for i in range(2)]
    assert [config.toy.params["path"] for config in again] == ["/a b/c.parquet", "/d,e=f/g.parquet"]
    assert again == [cell.config for cell in plan.cells]


def test_plugins_are_part_of_a_line(stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin = tmp_path / "it's a plugin.py"
    plugin.write_text("VALUE = 1\n")
    plan = make_plan(["seed=0,1"], multirun=True, plugins=[plugin])
    assert plan.cells[0].config.plugins == [str(plugin)]
    write_jobs(tmp_path / "jobs.txt", plan.left)
    assert read_job(tmp_path / "jobs.txt", "1") == (["seed=1"], [plugin])
    assert "plugins=" not in job_line(plan.cells[0])


def test_bad_index_is_one_line(cli, tmp_path):
    (tmp_path / "jobs.txt").write_text("seed=0\nseed=1\n")
    for index in ("2", "-1", "x", "1.0"):
        result = cli("run-line", "jobs.txt", index)
        assert result.exit_code == 2
        assert result.stderr == f"touchneedle: error: job list jobs.txt: expected an index from 0 to 1; got {index!r}\n"


def test_missing_and_empty_lists(cli, tmp_path):
    assert "no such file" in cli("run-line", "nope.txt", 0).stderr
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match="nothing was left to run"):
        read_job(tmp_path / "empty.txt", "0")


def test_invalid_cells_are_told_and_left_out(stand_in, cli):
    result = cli("plan", "-m", "estimator=ratio_bce,nope")
    assert result.exit_code == 1
    assert result.stdout == "0 done, 1 left: jobs.txt\n"
    assert result.stderr.startswith("[2/2] invalid estimator=nope: unknown estimator 'nope'")


def test_skipped_cells_are_done(stand_in, cli):
    cli("run", "-m", "design=pairs,prior")
    assert cli("plan", "-m", "design=pairs,prior").stdout == "2 done, 0 left: jobs.txt\n"
