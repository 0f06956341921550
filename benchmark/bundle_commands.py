"""The commands of bundles: a run leaves the benchmark, and fits events. `touchneedle.benchmark.main` registers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from touchneedle.benchmark.command import FAILED, Plugins


def deploy(
    source: Annotated[Path, typer.Argument(help="Record of a run; with --best, its results folder.", metavar="RESULTS/RUN_ID.json")] = Path(
        "results/local"
    ),
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; it must not exist yet.")] = Path("bundle"),
    best: Annotated[str, typer.Option("--best", metavar="TOY", help="Take the run of highest n* on this toy that fails no gate.")] = "",
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write ONNX graphs, for C++.")] = False,
) -> None:
    """Write a trained run as a bundle, to load anywhere. With its weights, its graph, its rates and its scores.

    For example:

      touchneedle deploy results/local/0123456789abcdef.json -o bundle
      touchneedle deploy --best mass_bump results/local -o bundle --onnx
    """
    from touchneedle.benchmark.deploy import best_run, deploy, summary

    record = best_run(best, source) if best else source
    typer.echo(summary(deploy(record, output, ("pt2", "onnx") if onnx else ("pt2",))))


def exports(
    names: Annotated[list[str] | None, typer.Argument(help="Estimators; all by default.", metavar="[NAME]...")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Try ONNX, too.")] = False,
    results: Annotated[Path, typer.Option("--results", help="Folder that keeps exports/survey.json.")] = Path("results/local"),
    plugin: Plugins = None,
) -> None:
    """Try which estimators export as a graph. Each is trained briefly, exported, loaded and compared; some take a minute.

    For example:

      touchneedle exports ratio_bce zuko_nsf --onnx
    """
    from touchneedle.benchmark.export_rows import write_exports
    from touchneedle.benchmark.exports import HEAD, survey_exports
    from touchneedle.benchmark.plan import load_plugins
    from touchneedle.benchmark.tables import show

    load_plugins(plugin or [])
    rows = []
    for row in survey_exports(names or [], ("pt2", "onnx") if onnx else ("pt2",)):
        typer.echo(f"{row.estimator} {row.format}: {'yes' if row.size else f'no ({row.reason})'}", err=True)
        rows.append(row)
        write_exports(results, [row])
    show(HEAD, [row.cells for row in rows])


def fit(
    bundle: Annotated[Path, typer.Argument(help="Folder written by: touchneedle deploy", metavar="BUNDLE")],
    events: Annotated[Path, typer.Argument(help="Parquet file of events, one column for each feature.", metavar="EVENTS.parquet")],
    scan: Annotated[list[str] | None, typer.Option("--scan", metavar="PARAMETER", help="Scan its profile likelihood; repeatable.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; it must not exist yet.")] = Path("measurement"),
    weight: Annotated[str, typer.Option("--weight", metavar="COLUMN", help="Column of weights; by default: weight, if there is one.")] = "",
    plugin: Plugins = None,
) -> None:
    """Fit events with a bundle, from file to figures. The parameters of interest are scanned unless others are named.

    For example:

      touchneedle fit bundle events.parquet --scan mu -o measurement
    """
    from touchneedle.conf.registry import load_plugin_file
    from touchneedle.inference.measurement import measure_file, show_progress

    for file in plugin or []:
        load_plugin_file(file)
    with show_progress() as progress:
        measurement = measure_file(bundle, events, output, scan, weight, progress)
    typer.echo(f"{measurement.summary()}\n{output}")
    raise typer.Exit(0 if measurement.fit.valid else FAILED)
