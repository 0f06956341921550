"""Small event files for the tests of their readers, and the features of one event in plain Python."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

N = 400


@pytest.fixture
def table(n=N):
    rng = np.random.default_rng(0)
    return {
        "mass": rng.normal(90, 10, n).astype(np.float32),
        "jets": rng.integers(0, 4, n),
        "eta": np.where(rng.random(n) < 0.3, -25.0, rng.normal(0, 1, n)),
        "weights": rng.uniform(0.5, 2.0, n),
        "detailed_labels": rng.choice(["ztautau", "htautau", "ttbar"], n),
        "labels": rng.integers(0, 2, n).astype(np.float32),
        "comment": ["text"] * n,
    }


@pytest.fixture
def write():
    """Writes a table to a path and returns the path."""

    def write_table(path, table):
        pq.write_table(pa.table(table), path)
        return str(path)

    return write_table


@pytest.fixture
def path(tmp_path, table, write):
    return write(tmp_path / "events.parquet", table)


def jet_columns(rng, n):
    """Columns 6 to 13 of the primary features: up to five jets, of which the first two are described."""
    count = rng.integers(0, 6, n)
    pt = -np.sort(-(22 + rng.exponential(25, (n, 5))), axis=1)
    eta, phi = rng.uniform(-4.5, 4.5, (n, 2)), rng.uniform(-np.pi, np.pi, (n, 2))
    jets = [np.where(count > k, value[:, k], -25.0) for k in (0, 1) for value in (pt, eta, phi)]
    return [*jets, count, np.where(np.arange(5) < count[:, None], pt, 0).sum(1)]


@pytest.fixture
def primary(n=1_500):
    """Primary features (n, 16) as the challenge has them, from its thresholds on."""
    rng = np.random.default_rng(7)
    columns = [
        *(20 + rng.exponential(20, n), rng.uniform(-2.5, 2.5, n), rng.uniform(-np.pi, np.pi, n)),
        *(23 + rng.exponential(20, n), rng.uniform(-2.5, 2.5, n), rng.uniform(-np.pi, np.pi, n)),
        *jet_columns(rng, n),
        *(rng.exponential(25, n), rng.uniform(-np.pi, np.pi, n)),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


@pytest.fixture
def four_vector_features():
    """The features of one event of named primary ones: four-vectors in plain Python, sums of energy and momentum."""
    return from_four_vectors


def from_four_vectors(event):
    def vector(name):
        pt, eta, phi = (event[f"PRI_{name}_{part}"] for part in ("pt", "eta", "phi"))
        return np.array([pt * math.cosh(eta), pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(eta)])

    def mass(p):
        return math.sqrt(max(p[0] ** 2 - p[1] ** 2 - p[2] ** 2 - p[3] ** 2, 0.0))

    none = np.zeros(4)
    jets = event["PRI_n_jets"]
    lep, had = vector("lep"), vector("had")
    met = event["PRI_met"] * np.array([1.0, math.cos(event["PRI_met_phi"]), math.sin(event["PRI_met_phi"]), 0.0])
    first, second = (vector("jet_leading") if jets > 0 else none), (vector("jet_subleading") if jets > 1 else none)
    flat = np.array([event["PRI_lep_pt"], lep[1], lep[2], 0.0])
    angle = {name: event[f"PRI_{name}_phi"] for name in ("lep", "had", "met")}
    turn = math.acos(max(-1.0, min(1.0, math.cos(angle["lep"] - angle["had"]))))
    sign = math.copysign(1.0, math.sin(angle["had"] - angle["lep"]))
    a, b = sign * math.sin(angle["met"] - angle["lep"]), sign * math.sin(angle["had"] - angle["met"])
    found = event | {
        "DER_mass_transverse_met_lep": mass(met + flat),
        "DER_mass_vis": mass(lep + had),
        "DER_pt_h": math.hypot(*(lep + had + met)[1:3]),
        "DER_deltar_had_lep": math.hypot(event["PRI_lep_eta"] - event["PRI_had_eta"], turn),
        "DER_pt_tot": math.hypot(*(lep + had + met + first + second)[1:3]),
        "DER_sum_pt": event["PRI_lep_pt"] + event["PRI_had_pt"] + event["PRI_jet_all_pt"],
        "DER_pt_ratio_lep_had": event["PRI_lep_pt"] / event["PRI_had_pt"],
        "DER_met_phi_centrality": (a + b) / math.hypot(a, b),
    }
    names = ("DER_deltaeta_jet_jet", "DER_mass_jet_jet", "DER_prodeta_jet_jet", "DER_lep_eta_centrality")
    if jets < 2:
        return found | dict.fromkeys(names, -25.0)
    eta = (event["PRI_jet_leading_eta"], event["PRI_jet_subleading_eta"])
    off = event["PRI_lep_eta"] - sum(eta) / 2
    values = (abs(eta[0] - eta[1]), mass(first + second), eta[0] * eta[1], math.exp(-4 * off**2 / (eta[0] - eta[1]) ** 2))
    return found | dict(zip(names, values, strict=True))


@pytest.fixture
def shifted_event():
    """One event of named primary features at other energy scales, with thresholds; None if it is not selected."""
    return at_scales


def at_scales(event, tes, jes):
    event = dict(event)
    momenta = [("had", tes), *(("jet_leading", jes), ("jet_subleading", jes))[: min(2, int(event["PRI_n_jets"]))]]
    met = [event["PRI_met"] * f(event["PRI_met_phi"]) for f in (math.cos, math.sin)]
    for name, scale in momenta:
        event[f"PRI_{name}_pt"] *= scale
        # As the challenge has it: minus the shift, from the scaled momentum.
        shift = event[f"PRI_{name}_pt"] * (1 - scale) / scale
        met[0] += shift * math.cos(event[f"PRI_{name}_phi"])
        met[1] += shift * math.sin(event[f"PRI_{name}_phi"])
    event |= {"PRI_met": math.hypot(*met), "PRI_met_phi": math.atan2(met[1], met[0])}
    event["PRI_jet_all_pt"] *= jes
    return without_soft_jets(event) if event["PRI_had_pt"] > 26 and event["PRI_lep_pt"] > 20 else None


def without_soft_jets(event):
    count, leading, subleading = (event[f"PRI_{name}"] for name in ("n_jets", "jet_leading_pt", "jet_subleading_pt"))
    third = event["PRI_jet_all_pt"] - leading - subleading
    if count == 3 and third <= 26:
        event |= {"PRI_n_jets": 2, "PRI_jet_all_pt": leading + subleading}
    if count >= 2 and subleading <= 26:
        event |= {"PRI_n_jets": 1, "PRI_jet_all_pt": leading}
    if count >= 1 and leading <= 26:
        event |= {"PRI_n_jets": 0, "PRI_jet_all_pt": 0.0}
    for k, name in enumerate(("jet_leading", "jet_subleading")):
        if event["PRI_n_jets"] <= k:
            event |= {f"PRI_{name}_{part}": -25.0 for part in ("pt", "eta", "phi")}
    return event
