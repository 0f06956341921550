"""Histograms of directly generated Drell-Yan samples, committed beside this file; run it as a script to count them anew.

python tests/toys/drell_yan_golden.py FOLDER...     folders written by touchneedle data make, at other angles
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from touchneedle.toys.base import build_toy
from touchneedle.toys.drell_yan_angular_mc import LATENT, measured
from touchneedle.toys.generated import read_generated

GOLDEN = Path(__file__).with_suffix(".json")
EDGES = {
    "mass": [0, 70, 76, 80, 84, 86, 88, 89, 90, 91, 92, 93, 94, 96, 98, 102, 108, 1e4],
    "abs_rapidity": np.linspace(0, 2.4, 13).tolist(),
    "pt": [0, 2, 4, 6, 8, 10, 13, 16, 20, 25, 30, 40, 60, 100, 1e5],
    "cosine": np.linspace(-1, 1, 17).tolist(),
}
# What is measured knows little of the angle; what is true, for quarks of either charge, knows ten times as much.
FLAVOURS = {"hard_cosine_up": 0, "hard_cosine_down": 1}
MASSES = {"cosine_below": (0, 84), "cosine_at_peak": (84, 98), "cosine_above": (98, 1e4)}


def latents(columns):
    """The history of generated events as the toy keeps it (n, 12)."""
    return np.stack([columns[name].astype(np.float64) for name in LATENT], axis=1)


def features(latent):
    """x (n, 4) at nominal scale and resolution."""
    history = dict(zip(LATENT, torch.from_numpy(latent).T, strict=True))
    normals = torch.stack([history["normal_minus"], history["normal_plus"]], -1)
    return measured(history, build_toy("drell_yan_angular_mc").config.resolution * normals).numpy()


def histograms(x, latent, weight=None):
    """Sums of weights (or of 1) in bins of every feature, of the cosine in ranges of mass, and of the hard cosine."""
    weight = np.ones(len(x)) if weight is None else weight
    found = {name: np.histogram(x[:, k], edges, weights=weight)[0] for k, (name, edges) in enumerate(EDGES.items())}
    for name, (low, high) in MASSES.items():
        chosen = (x[:, 0] >= low) & (x[:, 0] < high)
        found[name] = np.histogram(x[chosen, 3], EDGES["cosine"], weights=weight[chosen])[0]
    flavour, cosine = latent[:, LATENT.index("flavour")], latent[:, LATENT.index("hard_cosine")]
    for name, parity in FLAVOURS.items():
        chosen = flavour % 2 == parity
        found[name] = np.histogram(cosine[chosen], EDGES["cosine"], weights=weight[chosen])[0]
    return found


def count(folder):
    """Manifest of a data set, and its histograms chunk by chunk."""
    folder = Path(folder)
    columns, manifest = read_generated(folder, "drell_yan_angular_mc")
    sizes = [json.loads((folder / name).with_suffix(".json").read_text())["n_selected"] for name in manifest.files]
    parts = np.split(latents(columns), np.cumsum(sizes)[:-1])
    chunks = [histograms(features(latent), latent) for latent in parts]
    counts = {name: [chunk[name].astype(int).tolist() for chunk in chunks] for name in chunks[0]}
    return {"manifest": manifest.model_dump(), "counts": counts}


if __name__ == "__main__":
    found = [count(folder) for folder in sys.argv[1:]]
    lines = [json.dumps(sample, sort_keys=True) for sample in found]
    GOLDEN.write_text("[\n" + ",\n".join(lines) + "\n]\n")
