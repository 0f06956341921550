"""The commands of contributed records: pack them, and merge them. `touchneedle.benchmark.main` registers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def submit(
    runs: Annotated[list[Path], typer.Argument(help="Records, or folders of them.", metavar="RUN...")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Archive to write; it must not exist yet.")] = Path("records.zip"),
    open_track: Annotated[bool, typer.Option("--open", help="Track open: options chosen with the scores in view, or pre-trained.")] = False,
) -> None:
    """Pack records for the published board. With their curves and a hash of each file; no weights.

    For example:

      touchneedle run -m toy=mass_bump estimator=my_method seed=1000,1001,1002 results=results/mine
      touchneedle submit results/mine -o mine.zip
    """
    from touchneedle.benchmark.submission import submit

    manifest = submit(runs, output, open_track=open_track)
    records = sum(name.endswith(".json") for name in manifest.files)
    typer.echo(f"{records} record{'s' * (records != 1)}, toys {', '.join(manifest.toys)}: {output}")


def merge(
    archive: Annotated[Path, typer.Argument(help="Archive written by: touchneedle submit", metavar="ARCHIVE")],
    into: Annotated[Path, typer.Option("--into", help="Folder of records to add to.", metavar="RESULTS")],
) -> None:
    """Add submitted records to a folder. Every file is checked first; nothing that is there changes.

    For example:

      touchneedle merge mine.zip --into results/reference
    """
    from touchneedle.benchmark.submission import merge

    merged = merge(archive, into)
    typer.echo(f"{len(merged.added)} added, {len(merged.known)} there already: {into}")
