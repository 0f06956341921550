"""The commands of event data: ``touchneedle data make`` and ``data derive``. `touchneedle.benchmark.main` registers them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from touchneedle.benchmark.command import keep_blocks

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Event data: from a generator, or derived from files.")


def make(
    name: Annotated[str, typer.Argument(help="Data set, such as drell_yan_angular_mc.", metavar="NAME")],
    options: Annotated[list[str] | None, typer.Argument(help="Options of the generator.", metavar="[KEY=VALUE]...")] = None,
    n: Annotated[int, typer.Option("--n", help="Events to generate; those that pass the selection are kept.")] = 100_000,
    seed: Annotated[int, typer.Option("--seed", help="Base seed; every chunk derives its own.")] = 0,
    workers: Annotated[int, typer.Option("--workers", help="Processes; the events do not depend on it.")] = 1,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder in which the data set gets a folder of its own.")] = Path("data"),
) -> None:
    """Generate events, in chunks. Repeating the command goes on where it stopped; what is there is not made again.

    For example:

      touchneedle data make drell_yan_angular_mc --n 100000 --seed 1
      touchneedle data make drell_yan_angular_mc sin2theta_eff=0.25 --n 50000 -o data
      touchneedle run toy=drell_yan_angular_mc toy.path=data/drell_yan_angular_mc-<key> estimator=mined_alices
    """
    from rich.console import Console
    from rich.progress import Progress

    from touchneedle.benchmark.generate import fill_order, place_order
    from touchneedle.toys.generated import read_manifest

    order = place_order(name, n, seed, params=_options(options or [], "data make"), output=output)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=len(order.sizes))
        folder = fill_order(order, workers, lambda done, chunks: bar.update(task, completed=done, total=chunks))
    manifest = read_manifest(folder)
    for process, section in manifest.cross_sections.items():
        typer.echo(f"{process}: {section.pb:.5g} +- {section.stderr:.2g} pb")
    typer.echo(f"{manifest.n_selected} of {manifest.n_generated} events selected: {folder}")


def _options(words: list[str], where: str) -> dict[str, str]:
    """KEY=VALUE as a dictionary; raises `InputError` for other words."""
    from touchneedle.conf.errors import InputError

    for word in words:
        if "=" not in word:
            raise InputError(f"{where}: expected options as KEY=VALUE; got {word!r}")
    return {key.strip(): value for key, _, value in (word.partition("=") for word in words)}


def derive(
    files: Annotated[list[Path], typer.Argument(help="Parquet or ROOT files with the same columns.", metavar="FILES...")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results, one parquet file for each partition.")],
    feature: Annotated[
        list[str] | None, typer.Option("--feature", metavar="NAME=FORMULA", help="Derived feature; may be repeated.")
    ] = None,
    select: Annotated[str, typer.Option("--select", metavar="FORMULA", help="Condition that events must meet.")] = "",
    tree: Annotated[str, typer.Option("--tree", help="Tree of ROOT files; by default the only one.")] = "",
    scheduler: Annotated[str, typer.Option("--scheduler", help="Address of a dask scheduler; a local cluster by default.")] = "",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes of the local cluster; the result does not depend on it.")] = 1,
    memory_limit: Annotated[str, typer.Option("--memory-limit", help="Memory of each local worker.")] = "1GB",
) -> None:
    """Derive features of the events of many files, and select some. Repeating the command goes on where it stopped.

    For example:

      touchneedle data derive run*.parquet -o derived --feature 'px=pt*cos(phi)' --select '(pt > 20) & (n_jets >= 2)' --workers 4
      touchneedle data derive ntuple.root -o derived --tree events --feature 'ht=pt1+pt2' --scheduler tcp://host:8786
    """
    from rich.console import Console
    from rich.progress import Progress

    from touchneedle.benchmark.derive import derive_tables

    formulas = _options(feature or [], "data derive: --feature")
    bar = Progress(console=Console(stderr=True))
    task = bar.add_task("partitions", total=None)

    def show(done: int, total: int) -> None:
        # Only now, so that errors before stand alone.
        bar.start()
        bar.update(task, completed=done, total=total)

    options: dict[str, Any] = {"tree": tree, "scheduler": scheduler, "workers": workers, "memory_limit": memory_limit}
    try:
        manifest = derive_tables(files, output, formulas, select, **options, progress=show)
    finally:
        if bar.live.is_started:
            bar.stop()
    left_out = json.loads(manifest.read_text())["left_out"]
    if left_out:
        typer.echo(f"data derive: left out columns of lists and structs: {', '.join(left_out)}", err=True)
    typer.echo(str(manifest))


data.command("make", help=keep_blocks(make.__doc__ or ""))(make)
data.command("derive", help=keep_blocks(derive.__doc__ or ""))(derive)
