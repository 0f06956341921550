"""The command line ``touchneedle``. Thin: each command says what it does and calls one room.

Nothing heavy is imported before a command needs it, so that ``--help`` and shell completion answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from touchneedle.benchmark.bundle_commands import deploy, exports, fit
from touchneedle.benchmark.command import FAILED, Plugins, Results, app, command, keep_blocks
from touchneedle.benchmark.data_commands import data
from touchneedle.benchmark.report_commands import compare, report, show
from touchneedle.benchmark.submission_commands import merge, submit


def _complete_override(ctx: typer.Context, incomplete: str) -> list[str]:
    from touchneedle.benchmark.overrides import complete_words

    return complete_words([*(ctx.params.get("overrides") or []), *ctx.args], incomplete)


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="What to run: toy=mass_bump estimator=zuko_nsf ...", autocompletion=_complete_override),
]
Multirun = Annotated[bool, typer.Option("--multirun", "-m", help="Sweep: every combination of values given with commas.")]


def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; works after the command, too.")] = False,
) -> None:
    """Touchneedle measures how true neural density estimators are before an experiment trusts them.

    First steps:

      touchneedle list                                     what there is
      touchneedle run -m sweep=smoke                       a first sweep, in minutes
      touchneedle report results/local -o reports/local    its leaderboard
    """


app.callback(help=keep_blocks(_root.__doc__ or ""))(_root)


@command()
def run(
    ctx: typer.Context,
    overrides: Overrides = None,
    multirun: Multirun = False,
    plugin: Plugins = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which cells there are and which are done.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Score again what is done already.")] = False,
) -> None:
    """Train and judge: one cell, or a sweep of them. Repeating the command goes on where it stopped.

    For example:

      touchneedle run toy=mass_bump estimator=zuko_nsf budget=small seed=0
      touchneedle run toy=event_table toy.path=events.parquet estimator=ratio_bce
      touchneedle run -m toy=mass_bump,two_moons estimator=zuko_nsf,ratio_bce seed=0,1,2
      touchneedle run -m estimator=zuko_nsf estimator.transforms=2,4 trainer=fast
      touchneedle run estimator=ratio_bce tuning=small ensemble=bootstrap
      touchneedle run estimator=ratio_bce budget=small tuning=optuna tuning.trials=40
      touchneedle run -m sweep=smoke launcher=joblib launcher.n_jobs=2

    Groups: toy, estimator, budget (tiny, small, medium, large), design, evaluation (quick, standard, full),
    trainer, optimizer, ensemble, tuning (small, optuna), launcher, sweep. Plain keys: seed, results, data.memory_limit,
    data.workers, data.training (files of training events), data.tree (theirs, if ROOT files have several).
    """
    from touchneedle.benchmark.plan import make_plan

    _execute(make_plan(overrides or [], multirun=multirun, plugins=plugin or []), dry_run, force, ctx.obj["debug"])


@command("run-line", context_settings={"ignore_unknown_options": True})
def run_line(
    jobs: Annotated[Path, typer.Argument(help="Job list written by: touchneedle plan", metavar="JOBS")],
    index: Annotated[str, typer.Argument(help="Line to run, counted from 0.", metavar="INDEX")],
    ctx: typer.Context,
) -> None:
    """Run one line of a job list (in a batch job).

    For example:

      touchneedle run-line jobs.txt $SLURM_ARRAY_TASK_ID
    """
    from touchneedle.benchmark.plan import make_plan, read_job

    overrides, plugins = read_job(jobs, index)
    _execute(make_plan(overrides, multirun=False, plugins=plugins), dry_run=False, force=False, debug=ctx.obj["debug"])


@command()
def plan(
    overrides: Overrides = None,
    multirun: Multirun = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Job list to write.")] = Path("jobs.txt"),
    templates: Annotated[
        Path | None, typer.Option("--templates", metavar="DIR", help="Also write job.sub, job.slurm, Snakefile, law_tasks.py here.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Write the unfinished cells as a job list. One line each, for a batch system.

    For example:

      touchneedle plan -m sweep=house -o jobs.txt --templates .
      sbatch job.slurm          (Slurm)          condor_submit job.sub          (HTCondor)
      snakemake --cores 4       (Snakemake)      law run law_tasks.Sweep        (law)
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


@command()
def evaluate(results: Results, overrides: Overrides = None, plugin: Plugins = None) -> None:
    """Score existing fits anew, without training.

    For example:

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


for _of_reports in (report, compare, show):
    command()(_of_reports)

for _of_bundles in (deploy, exports, fit):
    command()(_of_bundles)


@command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="toys, estimators, metrics, sweeps or all.", metavar="[KIND]")] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list, for programs.")] = False,
    plugin: Plugins = None,
) -> None:
    """List what can be chosen, and where it comes from. Broken plugins are shown with the reason.

    For example:

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


@command()
def check(
    names: Annotated[list[str], typer.Argument(help="Toys or estimators; also their options, KEY=VALUE.", metavar="NAME...")],
    toy: Annotated[str, typer.Option("--toy", help="Toy on which estimators are checked.")] = "gaussian_shift",
    plugin: Plugins = None,
) -> None:
    """Check that toys and estimators keep their contract. One row for each named check.

    For example:

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


@command()
def audit(
    defects: Annotated[list[str] | None, typer.Argument(help="Defects to plant; all by default.", metavar="[DEFECT]...")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Repetitions with other test events, for the rate of false alarms.")] = 1,
    results: Annotated[Path, typer.Option("--results", help="Folder that keeps audit/verdicts.json.")] = Path("results/local"),
) -> None:
    """Plant known defects and see which gates notice. The exact answer must pass, every defect must be flagged.

    For example:

      touchneedle audit sign_flipped leak
      touchneedle audit --seeds 5
    """
    from touchneedle.benchmark.audit import audit_table, run_audit
    from touchneedle.benchmark.tables import show
    from touchneedle.benchmark.verdicts import missed, summary, write_verdicts

    verdicts = run_audit(defects or [], seeds, lambda line: typer.echo(line, err=True))
    show(*audit_table(verdicts))
    typer.echo("\n".join([*summary(verdicts), str(write_verdicts(results, verdicts))]))
    raise typer.Exit(FAILED if missed(verdicts) else 0)


@command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(help="Name of the estimator, such as my_ratio.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder in which the package is made.")] = Path(),
) -> None:
    """Make a package with one estimator, ready to change. With its test and its entry point.

    For example:

      touchneedle new-plugin my_ratio && pip install ./my_ratio && touchneedle check my_ratio
    """
    from touchneedle.benchmark.new_plugin import write_plugin

    folder = write_plugin(name, output)
    typer.echo(f"{folder}\nnext: pip install -e {folder} && touchneedle check {folder.name} && pytest {folder}")


@command()
def doctor(results: Annotated[str, typer.Option("--results", help="Results folder to try.")] = "results/local") -> None:
    """Look at the installation and say what is missing. Versions, devices, plugins, extras, results folder."""
    from touchneedle.benchmark.doctor import examine
    from touchneedle.benchmark.tables import show

    findings = examine(results)
    show(["topic", "state", "detail"], [(finding.topic, finding.state, finding.detail) for finding in findings])
    raise typer.Exit(FAILED if any(finding.state == "wrong" for finding in findings) else 0)


for _of_submissions in (submit, merge):
    command()(_of_submissions)

app.add_typer(data, name="data")


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
    app(prog_name="touchneedle")


if __name__ == "__main__":
    main()
