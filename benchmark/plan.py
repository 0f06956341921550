"""Plans: which cells of a sweep are left to run, run here or written as a job list for a batch system.

A job list has one line for each cell that is not finished: the words that follow ``touchneedle run``,
quoted for a shell. It holds no state; planning again after a failure lists what is still missing.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from touchneedle.benchmark.cells import Cell, Outcome, Problem, check, check_results, label, recorded_status
from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.overrides import from_hydra, key_of
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError

TEMPLATES = ("job.sub", "job.slurm", "Snakefile", "law_tasks.py")


@dataclass(frozen=True)
class Plan:
    """The cells of a command line: valid ones, invalid ones, and the overrides of the launcher."""

    cells: list[Cell]
    problems: list[Problem]
    launch: list[str]

    @property
    def total(self) -> int:
        """Number of cells, invalid ones included."""
        return len(self.cells) + len(self.problems)

    @property
    def left(self) -> list[Cell]:
        """Valid cells without a good record."""
        return [cell for cell in self.cells if not cell.finished]


def make_plan(overrides: Sequence[str], *, multirun: bool, plugins: Iterable[Path] = ()) -> Plan:
    """Compose and check every cell, and look up its record.

    Raises `InputError` for a command line that cannot be read; without ``multirun`` also for an invalid cell.
    """
    from touchneedle.benchmark.sweep import expand

    paths = load_plugins(plugins)
    request = expand(overrides, multirun)
    cells: list[Cell] = []
    problems: list[Problem] = []
    for number, words in enumerate(request.cells, start=1):
        try:
            cells.append(_make_cell(number, words + _plugin_override(paths), request.launch))
        except InputError as error:
            if not multirun:
                raise
            problems.append(Problem(number, words, str(error)))
    return Plan(cells, problems, request.launch)


def load_plugins(plugins: Iterable[Path]) -> list[str]:
    """Import plugin files; their absolute paths."""
    paths = [str(Path(plugin).resolve()) for plugin in plugins]
    for path in paths:
        registry.load_plugin_file(path)
    return paths


def compose_evaluation(overrides: Sequence[str]) -> EvaluationConfig:
    """The evaluation that ``evaluation=standard evaluation.n_points=2`` describes."""
    from touchneedle.benchmark.compose import compose_cell
    from touchneedle.benchmark.sweep import expand

    for word in overrides:
        if key_of(word).partition(".")[0] != "evaluation":
            raise InputError(f"evaluate: expected evaluation=NAME or evaluation.OPTION=VALUE; got {word!r}")
    request = expand(overrides, multirun=False)
    return compose_cell(request.cells[0]).evaluation


def run_plan(plan: Plan, *, force: bool = False, debug: bool = False) -> list[Outcome]:
    """Run the cells without a good record (all of them with ``force``); raises `InputError` if a worker process is killed."""
    from touchneedle.benchmark.sweep import run_sweep

    cells = plan.cells if force else plan.left
    for results in {cell.config.results for cell in cells}:
        check_results(results)
    try:
        return run_sweep(cells, plan.launch, plan.total, force=force, debug=debug) if cells else []
    except BrokenProcessPool as error:
        raise InputError("a worker was killed, by want of memory perhaps; repeat the command to go on") from error


def summary(plan: Plan, outcomes: Sequence[Outcome]) -> str:
    """``12 cells: 9 ok, 1 skipped, 0 failed, 2 already done, 0 invalid; records in results/local``."""
    counts = Counter(outcome.status for outcome in outcomes)
    done = len(plan.cells) - len(outcomes)
    parts = [f"{counts[status]} {status}" for status in ("ok", "skipped", "failed")]
    parts += [f"{done} already done"] + ([f"{len(plan.problems)} invalid"] if plan.problems else [])
    folders = ", ".join(sorted({cell.config.results for cell in plan.cells}))
    return f"{plan.total} cell{'s' * (plan.total != 1)}: {', '.join(parts)}" + (f"; records in {folders}" if folders else "")


def describe_cells(plan: Plan) -> list[str]:
    """One line for each valid cell: position, status of its record, label."""
    width = len(str(plan.total))
    return [f"[{cell.number:{width}}/{plan.total}] {cell.recorded or 'to do':7s} {label(cell.config)}" for cell in plan.cells]


def describe_problem(problem: Problem, total: int) -> str:
    """One line for an invalid cell: position, overrides, reason."""
    words = " ".join(from_hydra(word) for word in problem.overrides)
    return f"[{problem.number:{len(str(total))}}/{total}] invalid {words}: {problem.reason}"


def job_line(cell: Cell) -> str:
    """The words after ``touchneedle run`` that repeat a cell, quoted for a shell."""
    words = [from_hydra(word) for word in cell.overrides if key_of(word) != "plugins"]
    words += [part for plugin in cell.config.plugins for part in ("--plugin", plugin)]
    return shlex.join(words)


def write_jobs(path: Path, cells: Iterable[Cell]) -> None:
    """Write one line per cell."""
    from touchneedle.benchmark.records import write_atomically

    write_atomically(path, "".join(f"{job_line(cell)}\n" for cell in cells))


def read_job(path: Path, index: str) -> tuple[list[str], list[Path]]:
    """Overrides and plugin files of line ``index`` (from 0); raises `InputError` if there is no such line."""
    if not path.is_file():
        raise InputError(f"job list {path}: no such file; write one with: touchneedle plan ... -m -o {path}")
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise InputError(f"job list {path} is empty: nothing was left to run when it was written")
    if not index.isdecimal() or int(index) >= len(lines):
        raise InputError(f"job list {path}: expected an index from 0 to {len(lines) - 1}; got {index!r}")
    return _split_job(lines[int(index)])


def write_templates(folder: Path, jobs: Path, n_jobs: int) -> list[Path]:
    """Files that run a job list elsewhere: by HTCondor, as a Slurm array, by Snakemake, and as tasks of law."""
    from touchneedle.benchmark.records import write_atomically

    path = str(jobs.resolve())
    values = {"jobs": path, "quoted_jobs": shlex.quote(path), "python_jobs": repr(path), "n_jobs": n_jobs, "last": max(n_jobs - 1, 0)}
    paths = []
    for name in TEMPLATES:
        text = files("touchneedle.benchmark.templates").joinpath(f"{name}.tmpl").read_text(encoding="utf-8")
        write_atomically(folder / name, Template(text).substitute(values))
        paths.append(folder / name)
    return paths


def _make_cell(number: int, words: list[str], launch: Sequence[str]) -> Cell:
    from touchneedle.benchmark.compose import compose_cell

    config = compose_cell(words, launch)
    check(config)
    return Cell(number, words, config, recorded_status(config))


def _plugin_override(paths: Sequence[str]) -> list[str]:
    quoted = ",".join("'" + path.replace("'", "\\'") + "'" for path in paths)
    return [f"plugins=[{quoted}]"] if paths else []


def _split_job(line: str) -> tuple[list[str], list[Path]]:
    words = shlex.split(line)
    flags = [i for i, word in enumerate(words[:-1]) if word == "--plugin"]
    plugins = [Path(words[i + 1]) for i in flags]
    used = {j for i in flags for j in (i, i + 1)}
    return [word for i, word in enumerate(words) if i not in used], plugins
