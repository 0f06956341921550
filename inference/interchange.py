"""Interchange with the IRIS-HEP toolkit: per-event ratios of processes as ``.npy``, with its YAML and its JSON workspace.

nsbi_common_utils (github.com/iris-hep/NSBI-workflow-tutorial) sums over processes

    sum_k nu_k c_k(mu) w_k(alpha) r_k(x) v_k(x|alpha)

with nominal ratios r_k to a common reference, here p(x|theta_0), and ratios v_k of the up and down variation of each nuisance to
nominal, interpolated per event by HistFactory's code 4.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.plain_folder import write_folder
from touchneedle.inference.process_ratios import ProcessRatios, process_ratios
from touchneedle.inference.terms import Rates
from touchneedle.toys.base import Events, Parameter

CHANNEL = "SR"


def write_iris_hep(folder: str | Path, estimator: Estimator, rates: Rates, events: Events) -> Path:
    """Write the events' ratios, weights, ``config.yml`` and ``workspace.json`` to a new folder.

    The reference density is p(x|theta_0). Parameters of interest multiply processes (``normfactor``) or enter as polynomials
    (``vandermonde``) as their rates do; nuisances need anchors on both sides of nominal.

    Raises `InputError` for rates that do not tell processes apart, or do not factorise into polynomials of single parameters of interest.
    """
    folder = Path(folder)
    home = folder.resolve()
    nominal = process_ratios(estimator, rates, events.x)
    files = {"weights.npy": _npy(events.weight)}
    spec = estimator.spec
    samples, models = [], []
    moved = {parameter: variations(estimator, rates, events.x, parameter) for parameter in constrained(estimator)}
    for k, process in enumerate(spec.processes):
        files[f"ratio_{process}.npy"] = _npy(nominal.ratio[:, k])
        modifiers: list[dict[str, Any]] = poi_modifiers(estimator, rates, k)
        systematics = []
        for parameter, ends in moved.items():
            names = {direction: f"ratio_{process}_{parameter.name}_{direction}.npy" for direction in ("Up", "Dn")}
            for direction, end in zip(("Up", "Dn"), ends, strict=True):
                files[names[direction]] = _npy(end.ratio[:, k] / nominal.ratio[:, k])
            up, down = (float(end.rates[k] / nominal.rates[k]) for end in ends)
            data = {"hi_data": [up], "hi_ratio": str(home / names["Up"]), "lo_data": [down], "lo_ratio": str(home / names["Dn"])}
            modifiers.append({"name": parameter.name, "type": "normplusshape", "data": data})
            systematics.append({"SystName": parameter.name, "RatiosUp": str(home / names["Up"]), "RatiosDn": str(home / names["Dn"])})
        path = str(home / f"ratio_{process}.npy")
        samples.append({"name": process, "data": [float(nominal.rates[k])], "ratios": path, "modifiers": modifiers})
        models.append({"Name": process, "Nominal": {"Ratios": path}, "Systematics": systematics})
    trained = {CHANNEL: {"RegionName": CHANNEL, "Weights": str(home / "weights.npy"), "Models": models}}
    channel = {"name": CHANNEL, "type": "unbinned", "weights": str(home / "weights.npy"), "samples": samples}
    workspace = {
        "measurements": [_measurement(estimator)],
        "channels": [channel],
        "observations": [{"name": CHANNEL, "data": [float(events.weight.sum())]}],
        "version": "1.0.0",
    }
    files["config.yml"] = json_bytes({**_general(estimator), "TrainedModels": trained})
    files["workspace.json"] = json_bytes(workspace)
    write_folder(folder, files)
    return folder


def constrained(estimator: Estimator) -> list[Parameter]:
    """Parameters with an auxiliary measurement."""
    return [parameter for parameter in estimator.spec.parameters.parameters if parameter.constraint is not None]


def variations(estimator: Estimator, rates: Rates, x: Tensor, parameter: Parameter) -> tuple[ProcessRatios, ProcessRatios]:
    """Ratios with one nuisance one sigma of its constraint above and below nominal, whatever anchors it was trained at."""
    parameters = estimator.spec.parameters
    column, anchors = parameters.index(parameter.name), replace(parameter, anchors=None).template_anchors
    ends = []
    for value in (anchors[-1], anchors[0]):
        point = parameters.nominal.clone()
        point[column] = value
        ends.append(process_ratios(estimator, rates, x, point))
    return ends[0], ends[1]


def poi_modifiers(estimator: Estimator, rates: Rates, k: int) -> list[dict[str, Any]]:
    """How the parameters of interest (and free nuisances) scale the rate of process k."""
    modifiers: list[dict[str, Any]] = []
    for parameter in estimator.spec.parameters.parameters:
        if parameter.constraint is None:
            coefficients = _polynomial(estimator, rates, parameter, k)
            if np.allclose(coefficients, [0, 0, 1]):
                continue
            if np.allclose(coefficients, [0, 1, 0]):
                modifiers.append({"name": parameter.name, "type": "normfactor", "data": None})
            else:
                modifiers.append({"name": parameter.name, "type": "vandermonde", "coeff": coefficients.tolist()})
    return modifiers


def _polynomial(estimator: Estimator, rates: Rates, parameter: Parameter, k: int) -> np.ndarray:
    """rate_k along one parameter over its nominal rate, as a quadratic, highest power first; raises `InputError` if it is none."""
    parameters = estimator.spec.parameters
    column = parameters.index(parameter.name)
    values = parameter.prior.from_normal(torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)).clamp(*parameter.bounds)
    points = parameters.nominal.repeat(len(values), 1)
    points[:, column] = values
    relative = (rates(points)[:, k] / rates(parameters.nominal[None])[0, k]).double()
    coefficients = np.polyfit(values.numpy(), relative.numpy(), 2)
    if not np.allclose(np.polyval(coefficients, values.numpy()), relative.numpy(), rtol=1e-6, atol=1e-9):
        raise InputError(f"interchange: expected a rate of {estimator.spec.processes[k]} quadratic in {parameter.name}; it is not")
    return np.round(coefficients, 12)


def _general(estimator: Estimator) -> dict[str, Any]:
    """The head of ``config.yml``: parameters and samples."""
    parameters = estimator.spec.parameters
    free = [parameter for parameter in parameters.parameters if parameter.constraint is None]
    poi = parameters.names[parameters.interest[0]]
    return {
        "General": {"Measurement": {"Name": estimator.spec.name, "POI": poi, "ParametersToFit": list(parameters.names)}},
        "Samples": [{"Name": process, "UseAsBasis": True} for process in estimator.spec.processes],
        "NormFactors": [{"Name": parameter.name, "Nominal": parameter.nominal, "Bounds": list(parameter.bounds)} for parameter in free],
        "Systematics": [
            {"Name": parameter.name, "Type": "NormPlusShape", "Nominal": 0, "Samples": list(estimator.spec.processes)}
            for parameter in constrained(estimator)
        ],
        "TrainingFeatures": [feature.name for feature in estimator.spec.features],
        "Regions": [{"Name": CHANNEL, "Type": "unbinned"}],
    }


def _measurement(estimator: Estimator) -> dict[str, Any]:
    """Start values: free parameters at nominal, constrained ones at 0, in units of their constraint's sigma."""
    parameters = estimator.spec.parameters
    starts = {parameter.name: 0.0 if parameter.constraint else parameter.nominal for parameter in parameters.parameters}
    entries = [{"name": name, "inits": [start]} for name, start in starts.items()]
    poi = parameters.names[parameters.interest[0]]
    return {"name": estimator.spec.name, "config": {"poi": poi, "parameters": entries, "errordef": 1}}


def _npy(values: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.double().numpy(), allow_pickle=False)
    return buffer.getvalue()


def json_bytes(content: dict[str, Any]) -> bytes:
    """JSON, which is YAML as well."""
    return (json.dumps(content, indent=1) + "\n").encode()
