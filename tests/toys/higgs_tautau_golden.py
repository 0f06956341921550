"""Yields and means of the committed higgs_tautau sample, one event at a time in plain Python, committed beside this file.

python tests/toys/higgs_tautau_golden.py     counts them anew
"""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np

from touchneedle.toys.event_table import hash_fraction
from touchneedle.toys.generated import read_generated
from touchneedle.toys.higgs_tautau import SAMPLE
from touchneedle.toys.higgs_tautau_pythia import PROCESSES
from touchneedle.toys.tau_pair_features import FEATURES
from touchneedle.toys.tau_pair_history import LATENT

GOLDEN = Path(__file__).with_suffix(".json")
POINTS = {
    "nominal": {},
    "tes_up": {"tes": 1.03},
    "tes_down": {"tes": 0.97},
    "jes_up": {"jes": 1.03},
    "jes_down": {"jes": 0.97},
    "soft_met": {"soft_met": 3.0},
    "isr": {"isr": 1.5},
    "all": {"tes": 0.98, "jes": 1.05, "soft_met": 0.5, "isr": -2.0},
}
NOMINAL = {"tes": 1.0, "jes": 1.0, "soft_met": 1.0, "isr": 0.0}


def vector(pt, phi):
    return np.array([pt * math.cos(phi), pt * math.sin(phi)])


def primary(event, tes=1.0, jes=1.0, soft_met=1.0):
    """The primary features of one event, a dictionary of its latent columns; None if it is not selected."""
    jets = [{part: event[f"jet{k}_{part}"] for part in ("pt", "eta", "phi")} | {"z": event[f"normal_jet{k}"]} for k in range(6)]
    jets = [jet | {"measured": jet["pt"] * jes * math.exp(0.12 * jet["z"])} for jet in jets if jet["pt"] > 0]
    tau = event["hadron_pt"] * tes * math.exp(0.08 * event["normal_hadron"])
    width = math.sqrt(0.25 * max(event["soft_et"], 1.0) + soft_met**2)
    met = np.array([event[f"met_{axis}"] + width * event[f"normal_met_{axis}"] for axis in "xy"])
    met -= vector(tau - event["hadron_pt"], event["hadron_phi"])
    for jet in jets:
        met -= vector(jet["measured"] - jet["pt"], jet["phi"])
    if not (tau > 26 and event["lepton_pt"] > 20):
        return None
    hard = sorted((jet for jet in jets if jet["measured"] > 26), key=lambda jet: -jet["measured"])
    found = {f"PRI_lep_{part}": event[f"lepton_{part}"] for part in ("pt", "eta", "phi")}
    found |= {"PRI_had_pt": tau, "PRI_had_eta": event["hadron_eta"], "PRI_had_phi": event["hadron_phi"]}
    for k, name in enumerate(("leading", "subleading")):
        jet = hard[k] if len(hard) > k else {"measured": -25.0, "eta": -25.0, "phi": -25.0}
        found |= {f"PRI_jet_{name}_{part}": jet[key] for part, key in (("pt", "measured"), ("eta", "eta"), ("phi", "phi"))}
    found |= {"PRI_n_jets": len(hard), "PRI_jet_all_pt": sum(jet["measured"] for jet in hard)}
    return found | {"PRI_met": math.hypot(*met), "PRI_met_phi": math.atan2(met[1], met[0])}


def shower_weight(event, isr):
    """The parabola of the log weight through its values at isr = -3, 0 and 3, by Lagrange's formula."""
    at = {-3: event["isr_down"], 0: 0.0, 3: event["isr_up"]}
    terms = [value * math.prod((isr - other) / (node - other) for other in at if other != node) for node, value in at.items()]
    return math.exp(sum(terms))


def events_of(split):
    """Dictionaries of the events of one split, with the shower's weights of mean one, and their process."""
    columns, _ = read_generated(SAMPLE, "higgs_tautau")
    rows = np.stack([columns[name] for name in LATENT], axis=1).astype(np.float32)
    process = columns["process"].astype(int)
    chosen = (hash_fraction(rows) < 0.5) == (split == "test")
    rows = rows.astype(np.float64)
    for name in ("isr_down", "isr_up"):
        column = rows[:, LATENT.index(name)]
        for k in range(len(PROCESSES)):
            column[process == k] -= np.log(np.exp(column[process == k]).mean())
    return [
        (dict(zip(LATENT, row, strict=True)), list(PROCESSES)[k]) for row, k in zip(rows[chosen].tolist(), process[chosen], strict=True)
    ]


def features(event, four_vector_features, **scales):
    """All features of one event, or None."""
    objects = primary(event, **scales)
    return None if objects is None else four_vector_features(objects)


def count(four_vector_features):
    """Sum of weights and means of the features, for the test split, by point and process."""
    events, names, found = events_of("test"), [feature.name for feature in FEATURES], {}
    for point, values in POINTS.items():
        theta = NOMINAL | values
        isr = theta.pop("isr")
        sums = {process: np.zeros(1 + len(names)) for process in PROCESSES}
        for event, process in events:
            x = features(event, four_vector_features, **theta)
            if x is not None:
                sums[process] += shower_weight(event, isr) * np.array([1.0, *(x[name] for name in names)])
        found[point] = {process: [total[0], *(total[1:] / total[0])] for process, total in sums.items()}
    return found


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("conftest", Path(__file__).with_name("conftest.py"))
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    key = json.loads((SAMPLE / "manifest.json").read_text())["key"]
    lines = [f'"{point}": {json.dumps(values)}' for point, values in count(conftest.from_four_vectors).items()]
    GOLDEN.write_text(f'{{"key": "{key}", "points": {{\n' + ",\n".join(lines) + "\n}}\n")
