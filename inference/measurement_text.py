"""A measurement as Markdown: what was fitted with what, the numbers with their errors, and what is doubtful."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from touchneedle.inference.result import Result

if TYPE_CHECKING:
    from touchneedle.inference.measurement import Measurement


def write_markdown(measurement: Measurement, figures: tuple[str, ...] = ()) -> str:
    """The text of a measurement, with links to its figures."""
    manifest = measurement.manifest
    source = manifest.source
    events = f"{measurement.n_events:,} events"
    if measurement.sum_of_weights != measurement.n_events:
        events += f" (sum of weights {measurement.sum_of_weights:,.6g})"
    lines = [
        f"# {manifest.toy.name}: {events} fitted with {manifest.estimator.name}",
        "",
        f"Bundle {manifest.digest[:12]}, trained on {manifest.training.events:,} simulated events"
        + (f" (run {source.run_id})." if source else "."),
        "",
        *_fit_table(measurement),
    ]
    for name, result in measurement.further.items():
        if isinstance(result, Result):
            lines += ["", f"## {name}", "", "```", result.summary(), "```"]
    if measurement.notes:
        lines += ["", "## Note", "", *(f"- {note}" for note in measurement.notes)]
    lines += [line for figure in figures for line in ("", f"![{figure}]({figure})")]
    return "\n".join(lines) + "\n"


def _fit_table(measurement: Measurement) -> list[str]:
    best, parameters = measurement.fit, measurement.manifest.toy.parameters.parameters
    rows = ["| parameter | value | error | unit | kind |", "| --- | --- | --- | --- | --- |"]
    for parameter, value, sigma in zip(parameters, best.theta.tolist(), best.sigma.tolist(), strict=True):
        kind = "of interest" if parameter.kind == "interest" else "nuisance"
        rows.append(f"| {parameter.name} | {_rounded(value, sigma)} | {_rounded(sigma, sigma)} | {parameter.unit or '1'} | {kind} |")
    state = "valid" if best.valid else f"NOT VALID ({best.reason})"
    return [*rows, "", f"The fit is {state} after {best.calls} evaluations; errors are from the Hessian of ln L."]


def _rounded(value: float, sigma: float) -> str:
    """A number to the second digit of its error."""
    if not (math.isfinite(sigma) and sigma > 0 and math.isfinite(value)):
        return f"{value:.6g}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(sigma)))}f}"
