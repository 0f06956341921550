"""The command line ``touchneedle``. Thin: each command says what it does and calls one room.

Nothing heavy is imported before a command needs it, so that ``--help`` and shell completion answer at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from touchneedle.conf.errors import InputError

BENCH_PACKAGES = frozenset(
    [
        "hydra",
        "omegaconf",
        "hydra_plugins",
        "joblib",
        "lightning",
        "zuko",
        "nflows",
        "normflows",
        "pandas",
        "sklearn",
        "ot",
        "jinja2",
        "matplotlib",
        "seaborn",
    ]
)
INSTALL_BENCH = "pip install 'touchneedle[bench]'"
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class OneLineErrors(TyperGroup):
    """Shows what a user can cause as one line on stderr; ``--debug``, anywhere, shows the traceback instead."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take ``--debug`` out, wherever it stands."""
        ctx.obj = {"debug": "--debug" in args}
        return super().parse_args(ctx, [word for word in args if word != "--debug"])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn expected errors into one line and an exit code."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (InputError, OSError, ImportError, KeyboardInterrupt) as error:
            if ctx.obj["debug"]:
                raise
            message, code = _describe(error)
            typer.echo(message if code == INTERRUPTED else f"touchneedle: error: {message}", err=True)
            raise typer.Exit(code) from error


def _describe(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; repeat the command to go on", INTERRUPTED
    missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    if isinstance(missing, ModuleNotFoundError) and (missing.name or "").partition(".")[0] in BENCH_PACKAGES:
        return f"this needs the package {missing.name}, which is not installed; {INSTALL_BENCH}", BAD_INPUT
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}", BAD_INPUT
    return " ".join(str(error).split("\n")), BAD_INPUT


def _complete_override(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completion of ``toy=mas<TAB>``; bash hands over ``toy``, ``=`` and ``mas`` as three words."""
    from touchneedle.benchmark.overrides import complete

    before = [*(ctx.params.get("overrides") or []), *ctx.args]
    if incomplete == "=" and before:
        return [found.partition("=")[2] for found in complete(f"{before[-1]}=")]
    if before and before[-1] == "=":
        return [found.partition("=")[2] for found in complete(f"{before[-2]}={incomplete}")]
    return complete(incomplete)


app = typer.Typer(
    cls=OneLineErrors,
    name="touchneedle",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="What to run: toy=mass_bump estimator=zuko_nsf ...", autocompletion=_complete_override),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Python file that registers toys or estimators; may be repeated."),
]
Multirun = Annotated[bool, typer.Option("--multirun", "-m", help="Sweep: every combination of values given with commas.")]
Results = Annotated[Path, typer.Argument(help="Folder of records.", metavar="RESULTS")]


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; works after the command, too.")] = False,
) -> None:
    """Touchneedle measures how true neural density estimators are before an experiment trusts them.

    First steps:

      touchneedle list                                     what there is
      touchneedle run -m sweep=smoke                       a first sweep, in minutes
      touchneedle report results/local -o reports/local    its leaderboard
    """


@app.command()
def run(
    ctx: typer.Context,
    overrides: Overrides = None,
    multirun: Multirun = False,
    plugin: Plugins = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which cells there are and which are done.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Score again what is done already.")] = False,
) -> None:
    """Train and judge: one cell, or a sweep of them. Repeating the command goes on where it stopped.

    Examples:
      touchneedle run toy=mass_bump estimator=zuko_nsf budget=small seed=0
      touchneedle run toy=event_table toy.path=events.parquet estimator=ratio_bce
      touchneedle run -m toy=mass_bump,two_moons estimator=zuko_nsf,ratio_bce seed=0,1,2
      touchneedle run -m estimator=zuko_nsf estimator.transforms=2,4 trainer=fast
      touchneedle run -m sweep=smoke launcher=joblib launcher.n_jobs=2

    Groups: toy, estimator, budget (tiny, small, medium, large), design, evaluation (quick, standard, full),
    trainer, optimizer, ensemble, launcher, sweep. Plain keys: seed, results.
    """
    from touchneedle.benchmark.plan import make_plan

    _execute(make_plan(overrides or [], multirun=multirun, plugins=plugin or []), dry_run, force, ctx.obj["debug"])


@app.command("run-line")
def run_line(
    jobs: Annotated[Path, typer.Argument(help="Job list written by: touchneedle plan", metavar="JOBS")],
    index: Annotated[int, typer.Argument(help="Line to run, counted from 0.", metavar="INDEX")],
    ctx: typer.Context,
) -> None:
    """Run one line of a job list (in a batch job).

    Example:
      touchneedle run-line jobs.txt $SLURM_ARRAY_TASK_ID
    """
    from touchneedle.benchmark.plan import make_plan, read_job

    overrides, plugins = read_job(jobs, index)
    _execute(make_plan(overrides, multirun=False, plugins=plugins), dry_run=False, force=False, debug=ctx.obj["debug"])


@app.command()
def plan(
    overrides: Overrides = None,
    multirun: Multirun = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Job list to write.")] = Path("jobs.txt"),
    templates: Annotated[Path | None, typer.Option("--templates", metavar="DIR", help="Also write job.sub and job.slurm here.")] = None,
    plugin: Plugins = None,
) -> None:
    """Write a job list: one line for each cell that is not finished, for a batch system.

    Examples:
      touchneedle plan -m sweep=house -o jobs.txt --templates .
      sbatch job.slurm          (Slurm)          condor_submit job.sub          (HTCondor)
      xargs -a jobs.txt -L1 -P4 touchneedle run  (this machine)
    """
    from touchneedle.benchmark.plan import make_plan, write_jobs, write_templates

    planned = make_plan(overrides or [], multirun=multirun, plugins=plugin or [])
    _show_problems(planned)
    write_jobs(output, planned.left)
    typer.echo(f"{len(planned.cells) - len(planned.left)} done, {len(planned.left)} left: {output}")
    for path in write_templates(templates, output, len(planned.left)) if templates else []:
        typer.echo(path)
    raise typer.Exit(FAILED if planned.problems else 0)


@app.command()
def evaluate(results: Results, overrides: Overrides = None, plugin: Plugins = None) -> None:
    """Score existing fits with another evaluation, without training again.

    Example:
      touchneedle evaluate results/local evaluation=standard
    """
    from touchneedle.benchmark.plan import compose_evaluation, load_plugins
    from touchneedle.benchmark.run import evaluate_fits

    load_plugins(plugin or [])
    evaluation = compose_evaluation(overrides or [])
    records = evaluate_fits(results, evaluation)
    for record in records:
        typer.echo(f"{record.status:7s} {record.toy.name} {record.estimator.name} {record.run_id} {record.reason}".rstrip())
    typer.echo(f"{len(records)} records with evaluation {evaluation.name} in {results}")
    raise typer.Exit(FAILED if any(record.status == "failed" for record in records) else 0)


@app.command()
def report(
    results: Results,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the leaderboard.")] = Path("reports/local"),
) -> None:
    """Write the leaderboard of a folder of records: HTML, Markdown and CSV.

    Example:
      touchneedle report results/local -o reports/local
    """
    from touchneedle.reports.leaderboard import write_report

    written = write_report(results, output)
    for path in written.paths:
        typer.echo(path)
    for problem in written.problems:
        typer.echo(f"touchneedle: {problem}", err=True)
    raise typer.Exit(FAILED if written.problems else 0)


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="toys, estimators, metrics, sweeps or all.", metavar="[KIND]")] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list, for programs.")] = False,
    plugin: Plugins = None,
) -> None:
    """List what can be chosen, where it comes from, and which plugins are broken and why.

    Examples:
      touchneedle list estimators
      touchneedle list --json
    """
    from touchneedle.benchmark.listing import list_rows
    from touchneedle.benchmark.plan import load_plugins

    load_plugins(plugin or [])
    rows = list_rows(kind)
    if as_json:
        import json

        typer.echo(json.dumps([row.to_dict() for row in rows], indent=1))
        return
    from touchneedle.benchmark.tables import show

    show(
        ["kind", "name", "from", "description"],
        [(r.kind, r.name, r.origin, f"BROKEN {r.broken}" if r.broken else r.description) for r in rows],
    )


@app.command()
def check(
    names: Annotated[list[str], typer.Argument(help="Toys or estimators; also their options, KEY=VALUE.", metavar="NAME...")],
    toy: Annotated[str, typer.Option("--toy", help="Toy on which estimators are checked.")] = "gaussian_shift",
    plugin: Plugins = None,
) -> None:
    """Check that a toy or an estimator keeps its contract: one row for each named check.

    Examples:
      touchneedle check ratio_bce
      touchneedle check my_method --plugin my_method.py --toy mass_bump
      touchneedle check event_table toy.path=events.parquet
    """
    from touchneedle.benchmark.conformance import check_names
    from touchneedle.benchmark.plan import load_plugins
    from touchneedle.benchmark.tables import show

    load_plugins(plugin or [])
    found = check_names(names, toy)
    mark = {True: "ok", False: "FAILED"}
    show(["of", "check", "result", "seconds", "message"], [(o, r.name, mark[r.passed], f"{r.seconds:.2f}", r.message) for o, r in found])
    raise typer.Exit(0 if all(result.passed for _, result in found) else FAILED)


@app.command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(help="Name of the estimator, such as my_ratio.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder in which the package is made.")] = Path(),
) -> None:
    """Make a package with one estimator, its test and its entry point, ready to change.

    Example:
      touchneedle new-plugin my_ratio && pip install ./my_ratio && touchneedle check my_ratio
    """
    from touchneedle.benchmark.new_plugin import write_plugin

    folder = write_plugin(name, output)
    typer.echo(f"{folder}\nnext: pip install -e {folder} && touchneedle check {folder.name} && pytest {folder}")


@app.command()
def doctor(results: Annotated[str, typer.Option("--results", help="Results folder to try.")] = "results/local") -> None:
    """Look at the installation: versions, devices, plugins, missing extras, a writable results folder."""
    from touchneedle.benchmark.doctor import examine
    from touchneedle.benchmark.tables import show

    findings = examine(results)
    show(["topic", "state", "detail"], [(finding.topic, finding.state, finding.detail) for finding in findings])
    raise typer.Exit(FAILED if any(finding.state == "wrong" for finding in findings) else 0)


def _execute(planned: Any, dry_run: bool, force: bool, debug: bool) -> None:
    from touchneedle.benchmark.plan import describe_cells, run_plan, summary

    _show_problems(planned)
    if dry_run:
        typer.echo("\n".join(describe_cells(planned)))
        raise typer.Exit(FAILED if planned.problems else 0)
    outcomes = run_plan(planned, force=force, debug=debug)
    typer.echo(summary(planned, outcomes))
    failed = any(outcome.status == "failed" for outcome in outcomes)
    raise typer.Exit(FAILED if failed or planned.problems else 0)


def _show_problems(planned: Any) -> None:
    from touchneedle.benchmark.plan import describe_problem

    for problem in planned.problems:
        typer.echo(describe_problem(problem, planned.total), err=True)


def main() -> None:
    """Entry point of the command ``touchneedle``."""
    app(prog_name="touchneedle" if Path(sys.argv[0]).stem == "main" else os.path.basename(sys.argv[0]))


if __name__ == "__main__":
    main()
