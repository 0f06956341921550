"""The whole measurement, from a bundle and a file of events to numbers, text and figures.

`measure` fits and does every further analysis; `measure_file` is what ``touchneedle fit`` calls.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path

import torch

from touchneedle.conf.errors import InputError
from touchneedle.inference.bundle import Bundle, load_bundle
from touchneedle.inference.event_files import read_events
from touchneedle.inference.fit import FitResult, fit
from touchneedle.inference.fittable import Fittable
from touchneedle.inference.impacts import impacts
from touchneedle.inference.intervals import profile_intervals
from touchneedle.inference.manifest import Manifest
from touchneedle.inference.measurement_result import Measurement
from touchneedle.inference.plain_folder import write_folder
from touchneedle.inference.result import Result
from touchneedle.inference.scan import profile_scan
from touchneedle.toys.base import Events

Progress = Callable[[str], None]
_LEVELS = (math.erf(1 / math.sqrt(2)), math.erf(2 / math.sqrt(2)))
_GOOD_RATES = 1e-3


def measure(bundle: Bundle, events: Events, scan: Sequence[str] | None = None, progress: Progress = lambda step: None) -> Measurement:
    """Fit events and do every further analysis.

    Args:
        bundle: what to fit with.
        events: the data.
        scan: parameters whose profile likelihood is scanned; those of interest by default.
        progress: told the name of each step as it begins.

    Raises `InputError` for unknown parameters and an estimator whose likelihood is neither a sum over events nor an average of such.
    """
    parameters = bundle.estimator.spec.parameters
    interest = [parameters.names[column] for column in parameters.interest]
    scanned = interest if scan is None else list(dict.fromkeys(scan))
    for name in scanned:
        parameters.index(name)
    progress("fit")
    best = fit(bundle.likelihood, events)
    further: dict[str, Result] = {}
    notes = list(_notes(bundle.manifest, events, best))
    for name, analysis in _analyses(bundle.likelihood, events, best, interest, scanned) if best.valid else ():
        progress(name)
        try:
            further[name] = analysis()
        except InputError as error:
            notes.append(str(error))
    return Measurement(best, further, bundle.manifest, len(events), float(events.weight.double().sum()), tuple(notes))


def _analyses(
    likelihood: Fittable, events: Events, best: FitResult, interest: Sequence[str], scanned: Sequence[str]
) -> Iterator[tuple[str, Callable[[], Result]]]:
    """Everything beside the fit, by name. A new kind of result joins the measurement here, and nowhere else."""
    yield "intervals", lambda: profile_intervals(likelihood, events, best, level=_LEVELS)
    for name in scanned:
        yield f"scan_{name}", partial(profile_scan, likelihood, events, name, best=best)
    for name in interest if len(best.names) > 1 else ():
        yield f"impacts_on_{name}", partial(impacts, likelihood, events, best, name)


def measure_file(
    bundle: str | Path,
    events: str | Path,
    output: str | Path,
    scan: Sequence[str] | None = None,
    weight: str = "",
    progress: Progress = lambda step: None,
) -> Measurement:
    """Measure with a bundle and a file of events; write ``measurement.json``, ``measurement.md`` and figures to a new folder.

    Raises `InputError` for whatever is wrong with the bundle, the file, the parameters or the folder.
    """
    folder = Path(output)
    if folder.exists() or folder.is_symlink():
        raise InputError(f"folder {folder}: expected one that does not exist yet; remove it or choose another")
    progress("load")
    loaded = load_bundle(bundle)
    data = read_events(events, loaded.manifest.toy, weight)
    measurement = measure(loaded, data, scan, progress)
    progress("write")
    write_folder(folder, _files(measurement))
    return measurement


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A bar on the terminal that names the step and counts the time; silent elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("start", total=None)
        yield lambda step: bar.update(task, description=step)


def _notes(manifest: Manifest, events: Events, best: FitResult) -> Iterator[str]:
    if not best.valid:
        yield f"the fit is not valid: {best.reason}; nothing further was done"
    if manifest.source is not None and manifest.source.failed:
        yield f"the benchmark found that this estimator fails {', '.join(manifest.source.failed)}"
    if manifest.rates is not None and manifest.rates.worst_deviation > _GOOD_RATES:
        yield f"expected events are described only to {manifest.rates.worst_deviation:.2g} of their total over the training range"
    for text in manifest.outside_training(best.theta):
        yield f"best fit outside the training range: {text}"
    yield from _beyond_simulation(manifest, events)


def _beyond_simulation(manifest: Manifest, events: Events) -> Iterator[str]:
    """One line on events outside the simulated range of some feature, and the feature of most of them."""
    names = [feature.name for feature in manifest.toy.features]
    low, high = torch.tensor([manifest.training.feature_range[name] for name in names], dtype=events.x.dtype).unbind(-1)
    outside = (events.x < low) | (events.x > high)
    count = int(outside.any(-1).sum())
    if count:
        worst = int(outside.sum(0).argmax())
        where = f"{names[worst]} ({int(outside[:, worst].sum())}, simulated in [{low[worst]:.4g}, {high[worst]:.4g}])"
        yield f"{count} of {len(events)} events lie outside the simulated range of some feature, most of them of {where}"


def _files(measurement: Measurement) -> dict[str, bytes]:
    """Content of the folder, by file name."""
    text = json.dumps({"result": "Measurement", **measurement.to_dict()}, indent=1, allow_nan=False) + "\n"
    figures = dict(_figures({"fit": measurement.fit, **measurement.further}))
    markdown = measurement.to_markdown(tuple(figures))
    return {"measurement.json": text.encode(), "measurement.md": markdown.encode(), **figures}


def _figures(results: dict[str, Result]) -> Iterator[tuple[str, bytes]]:
    """A figure of every result that has one, as PNG; none without matplotlib, which the base install does not have."""
    for name, result in results.items():
        try:
            figure = result.draw()
        except (ImportError, InputError):
            continue
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        yield f"{name}.png", buffer.getvalue()
