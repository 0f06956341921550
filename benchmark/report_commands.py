"""The commands that tell: ``report``, ``compare`` and ``show``. They call the last room, by name.

Rooms import from their left only; the command line alone ties the last room to the first.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from touchneedle.benchmark.command import FAILED, Results


def report(
    results: Results,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the leaderboard.")] = Path("reports/local"),
    against: Annotated[
        Path | None, typer.Option("--against", metavar="OLD", help="Older records: mark what changed beyond its errors.")
    ] = None,
) -> None:
    """Write the leaderboard of a folder of records. As HTML, Markdown, CSV and parquet, and summary.json.

    For example:

      touchneedle report results/local -o reports/local
      touchneedle report results/new -o reports/new --against results/old
    """
    reports = importlib.import_module("touchneedle.reports.leaderboard")
    with _without_collection():
        written = reports.write_report(results, output, against)
    for path in written.paths:
        typer.echo(path)
    for problem in written.problems:
        typer.echo(f"touchneedle: {problem}", err=True)
    raise typer.Exit(FAILED if written.problems else 0)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Thousands of records are hundreds of thousands of objects without cycles: looking for some takes a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def compare(
    names: Annotated[list[str], typer.Argument(help="Estimators, with options as the leaderboard writes them.", metavar="A B [C]...")],
    results: Annotated[Path, typer.Option("--results", help="Folder of records.")] = Path("results/local"),
    every: Annotated[bool, typer.Option("--all", help="Every number that both have, not the headline ones alone.")] = False,
) -> None:
    """Compare methods toy by toy. Differences to the first one, paired by seed, with their errors.

    For example:

      touchneedle compare ratio_bce zuko_nsf
      touchneedle compare ratio_bce "zuko_nsf transforms=5" --results results/reference --all
    """
    from touchneedle.benchmark.tables import show as print_table

    comparison = importlib.import_module("touchneedle.reports.compare")
    print_table(comparison.COLUMNS, comparison.compare(results, names, every=every))


def show(
    run: Annotated[str, typer.Argument(help="Id of a run, the beginning of one, or the path of its record.", metavar="RUN")],
    results: Annotated[Path, typer.Option("--results", help="Folder of records.")] = Path("results/local"),
) -> None:
    """Show one run: its numbers, cost, configuration, how to repeat it, and why it failed.

    For example:

      touchneedle show 0019a9ee --results results/reference/house
    """
    from touchneedle.benchmark.tables import show as print_table

    for block in importlib.import_module("touchneedle.reports.show").show_run(results, run):
        typer.echo(f"\n{block.title}")
        if block.text:
            typer.echo(block.text)
        else:
            print_table(block.columns, block.rows)
