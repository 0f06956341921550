"""The README that travels in a bundle: what it is, how to use it, what to trust."""

from __future__ import annotations

import math
from dataclasses import asdict

from touchneedle.inference.manifest import GRAPH, ONNX, Manifest
from touchneedle.toys.base import Feature, Parameter

_TEXT = """\
# {estimator} for {toy}

A {family} estimator trained on {events:,} simulated events. It answers

    log_ratio(x, theta) = log p(x|theta) - log p(x|theta_0)

for these features, in this order:

{features}

and these parameters, in this order (theta_0 is their nominal values):

{parameters}

## Use

    touchneedle fit THIS_FOLDER events.parquet --scan {interest} -o measurement/

reads the features by name (columns in any order; a column `weight` counts if there is one), fits, scans, and writes
numbers, text and figures. In Python:

    from touchneedle.inference import fit, load_bundle, read_events

    bundle = load_bundle("THIS_FOLDER")
    events = read_events("events.parquet", bundle.manifest.toy)
    print(fit(bundle.likelihood, events))

`manifest.json` says what was trained on what, what the benchmark found, and how many events to expect; `parity.json`
holds answers that must come out again, and is checked whenever the bundle is loaded.
{graphs}
## Trust

Loading executes nothing from this folder: weights are safetensors, all else is JSON, and the estimator comes from the
installed Touchneedle (or plugin). Digests show damage and careless edits; they do not say who made the bundle. A `.pt2`
file is different: torch unpickles parts of it and evaluates expressions in it, so opening one is as safe as running a program
from its author. `load_bundle` leaves it alone unless called with `graph=True`.
"""
_PT2 = f"""
`{GRAPH}` is the same answer as a graph, in float64, for use with torch alone (gradients in theta pass through it; read
"Trust" first):

    graph = torch.export.load("{GRAPH}").module()
    graph(x, theta)                     # x (n, d), theta (n, p), float64 -> (n,)
"""
_ONNX = f"""
`{ONNX}` (x, theta -> log_ratio) and `log_ratio_gradient.onnx` (x, theta -> log_ratio, gradient in theta) are for
ONNX Runtime; all inputs and outputs are float64.
"""


def describe_bundle(manifest: Manifest) -> str:
    """The README of a bundle."""
    parameters = manifest.toy.parameters
    graphs = [text for name, text in (("pt2", _PT2), ("onnx", _ONNX)) if manifest.exports.get(name, "not").startswith("log_ratio")]
    return _TEXT.format(
        estimator=manifest.estimator.name,
        toy=manifest.toy.name,
        family=manifest.family,
        events=manifest.training.events,
        features=_table(("feature", "unit", "kind"), [_feature(feature) for feature in manifest.toy.features]),
        parameters=_table(
            ("parameter", "nominal", "bounds", "constraint", "trained in"),
            [_parameter(parameter, manifest.training.range[parameter.name]) for parameter in parameters.parameters],
        ),
        interest=parameters.names[(parameters.interest or (0,))[0]],
        graphs="".join(graphs),
    )


def _feature(feature: Feature) -> tuple[str, ...]:
    return feature.name, feature.unit or "1", feature.kind


def _parameter(parameter: Parameter, trained: tuple[float, float]) -> tuple[str, ...]:
    known = asdict(parameter.constraint) if parameter.constraint else {}
    constraint = " ".join([str(known.pop("kind", "none")), *(f"{name} {value:g}" for name, value in known.items())])
    return parameter.name, f"{parameter.nominal:g}", _span(parameter.bounds), constraint, _span(trained)


def _span(ends: tuple[float, float]) -> str:
    return " to ".join(f"{end:.4g}" if math.isfinite(end) else "no limit" for end in ends)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
