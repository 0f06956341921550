"""The files that `touchneedle plan` writes for batch systems, run by stand-ins of those systems, or by the real ones where they are."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from touchneedle.benchmark.plan import TEMPLATES, make_plan, write_jobs, write_templates
from touchneedle.benchmark.records import read_records

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "stand_in.py"
LINES = ["seed=0", "'toy.path=/a b/it'\"'\"'s.parquet' seed=1", "seed=2"]

Environment = dict[str, str]
System = Callable[[Path, Environment], None]


def call(words: list[str], folder: Path, environment: Environment) -> None:
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def slurm(folder: Path, environment: Environment) -> None:
    """Each task of the array, as Slurm starts it."""
    (first, last) = re.findall(r"^#SBATCH --array=(\d+)-(\d+)$", (folder / "job.slurm").read_text(), re.MULTILINE)[0]
    for task in range(int(first), int(last) + 1):
        call(["bash", "job.slurm"], folder, environment | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_CPUS_PER_TASK": "1"})


def condor(folder: Path, environment: Environment) -> None:
    """Each process of the cluster: arguments in HTCondor's quotes, which single quotes group and double."""
    lines = [line for line in (folder / "job.sub").read_text().splitlines() if not line.startswith("#")]
    said = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    (count,) = [int(line.split()[1]) for line in lines if line.startswith("queue")]
    for process in range(count):
        arguments = said["arguments"].removeprefix('"').removesuffix('"').replace("$(Process)", str(process))
        call([said["executable"], *shlex.split(arguments)], folder, environment)


def snakemake(folder: Path, environment: Environment) -> None:
    call(["snakemake", "--cores", "1"], folder, environment)


def law(folder: Path, environment: Environment) -> None:
    call(
        ["law", "run", "law_tasks.Sweep", "--local-scheduler"],
        folder,
        environment | {"PYTHONPATH": f".:{environment.get('PYTHONPATH', '')}"},
    )


SYSTEMS = [
    pytest.param(slurm, id="slurm"),
    pytest.param(condor, id="condor"),
    *(
        pytest.param(system, id=system.__name__, marks=pytest.mark.skipif(not shutil.which(system.__name__), reason="not installed"))
        for system in (snakemake, law)
    ),
]


def command(folder: Path, program: str) -> Environment:
    """An environment whose ``touchneedle`` is this program."""
    script = folder / "bin" / "touchneedle"
    script.parent.mkdir()
    script.write_text(program)
    script.chmod(0o755)
    return {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_line_is_run_once(system: System, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    jobs = folder / "jobs.txt"
    jobs.write_text("".join(f"{line}\n" for line in LINES))
    assert [path.name for path in write_templates(folder, jobs, len(LINES))] == list(TEMPLATES)
    system(folder, command(tmp_path, f'#!/bin/sh\necho "$1|$2|$3" >> {shlex.quote(str(tmp_path / "calls"))}\n'))
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sorted(calls) == [f"run-line|{jobs}|{index}" for index in range(len(LINES))]


@pytest.mark.skipif(not shutil.which("snakemake"), reason="not installed")
def test_snakemake_goes_on_after_a_failure_and_a_new_plan(tmp_path: Path) -> None:
    jobs, calls = tmp_path / "jobs.txt", tmp_path / "calls"
    jobs.write_text("seed=0\nseed=1\n")
    write_templates(tmp_path, jobs, 2)
    fails_at_first = f'#!/bin/sh\necho "$3" >> {calls}\n[ "$3" = 0 ] || [ -e {tmp_path}/mended ]\n'
    environment = command(tmp_path, fails_at_first)
    broken = subprocess.run(["snakemake", "--cores", "1", "-k"], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert broken.returncode != 0
    (tmp_path / "mended").touch()
    jobs.write_text("seed=1\nseed=2\n")
    snakemake(tmp_path, environment)
    assert calls.read_text().split() == ["0", "1", "0", "1"] or calls.read_text().split() == ["1", "0", "0", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_sweep_is_complete_after_its_jobs(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["seed=0,1", "toy=gaussian_shift", "estimator=best_gaussian", "budget=tiny", "evaluation.families=[density]"]
    planned = make_plan(words, multirun=True)
    write_jobs(tmp_path / "jobs.txt", planned.left)
    write_templates(tmp_path, tmp_path / "jobs.txt", len(planned.left))
    program = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m touchneedle.benchmark.main "$@"\n'
    system(tmp_path, command(tmp_path, program) | {"PYTHONPATH": str(ROOT / ".typing")})
    assert sorted(record.seed for record in read_records(tmp_path / "results" / "local")) == [0, 1]
    assert not make_plan(words, multirun=True).left


def test_submitit_on_this_machine(shell: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """More cells than cores, each in a process of its own with one thread, whose logs lie beside the records."""
    pytest.importorskip("submitit")
    cells = (os.cpu_count() or 1) + 1
    seeds = ",".join(map(str, range(cells)))
    result = shell("run", "-m", f"seed={seeds}", "launcher=submitit_local", "--plugin", STAND_IN, OMP_NUM_THREADS=None)
    assert result.returncode == 0, result.stdout + result.stderr
    records = read_records(tmp_path / "results" / "local")
    assert sorted(record.seed for record in records) == list(range(cells))
    assert len({record.environment["pid"] for record in records}) == cells
    assert {record.environment["threads"] for record in records} == {"1"}
    assert len(list((tmp_path / "results" / "local" / "jobs").glob("*/*.out"))) == cells


@pytest.mark.slow
def test_ray_on_this_machine(shell: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """Cells in workers of a local Ray, each told in a line of its own; a failed one fails the command and no other cell."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs the extra ray")
    seeds = ",".join(map(str, range(9)))
    words = (f"seed={seeds}", "estimator.fail=false,true", "launcher=ray", "launcher.ray.init.num_cpus=2", "--plugin", STAND_IN)
    # Ray keeps a token in the home folder.
    result = shell("run", "-m", *words, HOME=str(tmp_path))
    assert result.returncode == 1, result.stdout + result.stderr
    records = read_records(tmp_path / "results" / "local")
    assert sorted((record.seed, record.status) for record in records) == [
        (seed, status) for seed in range(9) for status in ("failed", "ok")
    ]
    told = result.stdout + result.stderr
    assert all(f"[{number:2}/18]" in told for number in range(1, 19)), told
