"""The FAIR Universe HiggsML challenge from its public file: a Higgs signal strength and six nuisances that move and reweight events."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import (
    Events,
    FiniteToy,
    GaussianConstraint,
    LogNormalConstraint,
    Normal,
    Parameter,
    ParameterSpace,
    Split,
    ToySpec,
    Uniform,
    check_matrix,
    expand_theta,
)
from touchneedle.toys.event_file import EventColumns, read_event_file
from touchneedle.toys.event_table import hash_fraction
from touchneedle.toys.tau_pair_features import FEATURES, PRIMARY, tau_pair_features, tau_pair_objects
from touchneedle.toys.tau_pair_shifts import HADRON_CUT, LEPTON_CUT, frozen_normals, is_selected, shifted, with_hard_jets

__all__ = ["FairUniverse", "FairUniverseConfig"]

SIGNAL, BACKGROUNDS = "htautau", ("diboson", "ttbar", "ztautau")
LEPTON_PT, HADRON_PT, N_PRIMARY = 0, 3, len(PRIMARY)
# The file rounds pt to 0.001 GeV, and the sum of the jets' on its own.
ROUNDING = 0.01
TES_RANGE = (0.9, 1.1)


@dataclass
class FairUniverseConfig:
    """Options.

    Attributes:
        path: parquet file of the challenge (doi:10.5281/zenodo.15131565): its 16 primary features, ``weights`` and
            ``detailed_labels``; derived features are not read but computed.
        test_fraction: expected share of the events in the test split.
        mu_prior: range of the training proposal for mu, which are its bounds as well; by default those of the challenge, within
            which its million events measure mu. One event in a thousand is signal: fits to few events need a wider range.
    """

    path: str
    test_fraction: float = 0.5
    mu_prior: tuple[float, float] = (0.1, 3.0)


class FairUniverse(FiniteToy):
    """H -> tau tau over Z -> tau tau, top pairs and dibosons, known through weighted events at every theta (arXiv:2410.02867).

    x = features(g(objects, latents; tes, jes, soft_met)) of those whose shifted tau has pt > 26 GeV and lepton pt > 20 GeV,
    jets from 26 GeV on. Weights: mu for the signal; bkg_scale for every background, times ttbar_scale for top pairs and
    diboson_scale for dibosons. The file holds taus from 23 GeV on, so that events enter and leave as tes moves; the rates are
    the sums of its weights at that selection, smoothed in tes to have a derivative.

    Constraints are the challenge's distributions: tes and jes 1 % each, ttbar_scale 2 %, diboson_scale 25 %, bkg_scale 0.1 %;
    log soft_met ~ N(0, 1), so that its nominal value is the median of 1 GeV. The file itself is at soft_met = 0.

    The latents of soft_met are frozen by a hash of the event. Splits are decided by another hash of it. Within a split the
    weights of each process are scaled to its whole nominal yield.

    Exposes: nuisances that move events across cuts, missing values that come and go with one, yields that move with shapes.
    """

    Config = FairUniverseConfig

    def __init__(self, config: FairUniverseConfig) -> None:
        _check(config)
        columns = read_event_file(config.path, [feature.name for feature in PRIMARY], "weights", "detailed_labels", [])
        _check_processes(config, columns)
        _check_objects(config, columns)
        self.config = config
        self.spec = _spec(config, columns)
        self._yields = _yields(config, columns)
        in_test = hash_fraction(columns.x) < config.test_fraction
        self._pools = {"train": self._pool(columns, ~in_test, "train"), "test": self._pool(columns, in_test, "test")}
        self.fit_events = max(1, round(self.expected_events(self.spec.parameters.nominal.unsqueeze(0)).item()))

    def rates(self, theta: Tensor) -> Tensor:
        """Selected yields of the whole file at theta (m, 7): shape (m, k); quadratic in tes, see `_Yield`."""
        theta = theta.double()
        tes = theta[:, self.spec.parameters.index("tes")]
        return torch.stack([expected(tes) for expected in self._yields], -1) * self._factors(theta)

    def pool(self, split: Split) -> Events:
        """The events of one split at nominal; those that another tes would select have weight 0."""
        return self._pools[split]

    def reweight(self, events: Events, theta: Tensor) -> Tensor:
        """Weights (n,) at theta (7,) or (n, 7) of events from a pool: 0 where the shifted event is not selected."""
        base, label = _origin(events)
        theta = check_matrix("theta", expand_theta(theta, len(events)), self.spec.theta_dim)
        self.spec.parameters.check(theta)
        factor = self._factors(theta).gather(-1, label.unsqueeze(-1)).squeeze(-1)
        selected = is_selected(base[:, LEPTON_PT], base[:, HADRON_PT] * theta[:, self.spec.parameters.index("tes")])
        return torch.where(selected, base[:, -1] * factor, 0.0)

    def _move(self, events: Events, theta: Tensor) -> Tensor:
        base, _ = _origin(events)
        tes, jes, soft_met = (theta[:, self.spec.parameters.index(name)] for name in ("tes", "jes", "soft_met"))
        moved = shifted(tau_pair_objects(base[:, :N_PRIMARY]), base[:, N_PRIMARY:-1], tes, jes, soft_met)
        return tau_pair_features(with_hard_jets(moved)).float()

    def _factors(self, theta: Tensor) -> Tensor:
        """What the weights of each process are multiplied by at theta (m, 7), shape (m, k)."""
        of = dict(zip(self.spec.parameters.names, theta.unbind(-1), strict=True))
        factors = {
            SIGNAL: of["mu"],
            "diboson": of["diboson_scale"] * of["bkg_scale"],
            "ttbar": of["ttbar_scale"] * of["bkg_scale"],
            "ztautau": of["bkg_scale"],
        }
        return torch.stack([factors[name] for name in self.spec.processes], -1)

    def _pool(self, columns: EventColumns, chosen: NDArray[np.bool_], split: Split) -> Events:
        x, label, weight = columns.x[chosen], torch.from_numpy(columns.label[chosen]), torch.from_numpy(columns.weight[chosen])
        base = torch.cat([torch.from_numpy(x).double(), frozen_normals(x, "soft_met"), weight.unsqueeze(-1)], -1)
        nominal = self.spec.parameters.nominal.expand(len(x), -1).clone()
        blank = Events(torch.zeros(len(x), len(FEATURES)), nominal, weight, label, base=base)
        base[:, -1] *= self._scale(self.reweight(blank, nominal), label, split)[label]
        return self.at(blank, nominal)

    def _scale(self, weight: Tensor, label: Tensor, split: Split) -> Tensor:
        """Whole nominal yield over that of the split's weights, per process (k,)."""
        whole = self.rates(self.spec.parameters.nominal.unsqueeze(0))[0]
        part = torch.bincount(label, weight, minlength=len(whole))
        for name, total, found in zip(self.spec.processes, whole.tolist(), part.tolist(), strict=True):
            if not total * found > 0:
                raise InputError(
                    f"event file {self.config.path}: process {name!r} has a selected yield of {found:g} in the {split} split and {total:g} "
                    f"in all; expected the same sign: give more events or change test_fraction ({self.config.test_fraction:g})"
                )
        return whole / part


@dataclass(frozen=True)
class _Yield:
    """Selected yield of one process as a function of tes: nominal [1 + a (tes - 1) + b (tes - 1)^2], a smooth sum of weights."""

    nominal: float
    slope: float
    bend: float

    @classmethod
    def fit(cls, pt: NDArray[np.float64], weight: NDArray[np.float64]) -> _Yield:
        """Least squares of the sums of ``weight`` (n,) above threshold, which are exact at nominal, across the range of tes."""
        order, tes = pt.argsort(), np.linspace(*TES_RANGE, 41)
        nominal = float(weight[pt > HADRON_CUT].sum())
        if nominal == 0:
            return cls(0.0, 0.0, 0.0)
        below = np.concatenate([[0.0], weight[order].cumsum()])[np.searchsorted(pt[order], HADRON_CUT / tes, side="right")]
        columns = np.stack([tes - 1, (tes - 1) ** 2], axis=1)
        slope, bend = np.linalg.lstsq(columns, (weight.sum() - below) / nominal - 1)[0].tolist()
        return cls(nominal, slope, bend)

    def __call__(self, tes: Tensor) -> Tensor:
        """The yield at values of tes (m,)."""
        return self.nominal * (1 + self.slope * (tes - 1) + self.bend * (tes - 1) ** 2)


def _origin(events: Events) -> tuple[Tensor, Tensor]:
    """Base columns (primary features, latents, weight) and process labels."""
    if events.base is None or events.label is None:
        raise InputError("fair_universe: expected events of its pools, with base and label; these have none")
    return events.base, events.label


def _check(config: FairUniverseConfig) -> None:
    low, high = config.mu_prior
    if not 0 < config.test_fraction < 1:
        raise InputError(f"toy fair_universe: option test_fraction: expected a value between 0 and 1; got {config.test_fraction:g}")
    if not 0 <= low <= 1 <= high or low == high:
        raise InputError(f"toy fair_universe: option mu_prior: expected a range from 0 on that holds 1; got {low:g}, {high:g}")


def _yields(config: FairUniverseConfig, columns: EventColumns) -> list[_Yield]:
    """Yields per process as functions of tes; raises `InputError` where too few events make one that is not positive."""
    x, ends = columns.x.astype(np.float64), torch.tensor(TES_RANGE, dtype=torch.float64)
    found = []
    for k, name in enumerate(columns.processes):
        chosen = (columns.label == k) & (x[:, LEPTON_PT] > LEPTON_CUT)
        found.append(_Yield.fit(x[chosen, HADRON_PT], columns.weight[chosen]))
        if not bool((found[-1](ends) > 0).all()):
            low, high = found[-1](ends).tolist()
            raise InputError(
                f"event file {config.path}: process {name!r}: expected selected events at every tes in {TES_RANGE}; "
                f"got yields of {low:g}, {found[-1].nominal:g}, {high:g}: give more events"
            )
    return found


def _check_processes(config: FairUniverseConfig, columns: EventColumns) -> None:
    unknown = set(columns.processes) - {SIGNAL, *BACKGROUNDS}
    if unknown or SIGNAL not in columns.processes or len(columns.processes) < 2:
        raise InputError(
            f"event file {config.path}: column 'detailed_labels': expected {SIGNAL} and backgrounds of {', '.join(BACKGROUNDS)}; "
            f"got {', '.join(columns.processes)}"
        )


def _check_objects(config: FairUniverseConfig, columns: EventColumns) -> None:
    """Momenta are positive, jets are there as they are counted, and their sum holds them."""
    of = {feature.name: columns.x[:, i] for i, feature in enumerate(PRIMARY)}
    count, first, second = of["PRI_n_jets"], of["PRI_jet_leading_pt"], of["PRI_jet_subleading_pt"]
    described = np.where(count > 0, first, 0) + np.where(count > 1, second, 0)
    wrong = {
        "PRI_lep_pt": of["PRI_lep_pt"] <= 0,
        "PRI_had_pt": of["PRI_had_pt"] <= 0,
        "PRI_met": of["PRI_met"] < 0,
        "PRI_n_jets": (count < 0) | (count != np.round(count)),
        "PRI_jet_leading_pt": (first > 0) != (count > 0),
        "PRI_jet_subleading_pt": ((second > 0) != (count > 1)) | (second > first) & (count > 1),
        "PRI_jet_all_pt": of["PRI_jet_all_pt"] < described - ROUNDING,
    }
    for name, rows in wrong.items():
        if rows.any():
            raise InputError(
                f"event file {config.path}: column {name!r}: expected positive momenta, and jets by falling pt as PRI_n_jets counts them; "
                f"{rows.sum()} of {len(rows)} rows differ, the first is row {rows.argmax()}"
            )


def _spec(config: FairUniverseConfig, columns: EventColumns) -> ToySpec:
    return ToySpec("fair_universe", f"1+sha256:{columns.digest}", _parameters(config.mu_prior), FEATURES, columns.processes)


def _parameters(mu_prior: tuple[float, float]) -> ParameterSpace:
    """Nuisances with the distributions and ranges of the white paper; six widths of Gaussian proposals are within the ranges.

    Templates of soft_met stand at equal distances from its nominal value, the lower one at the file itself.
    """
    soft_met = Parameter("soft_met", "nuisance", 1.0, (0.0, 5.0), Uniform(0.0, 5.0), LogNormalConstraint(math.e), (0.0, 2.0), "GeV")
    return ParameterSpace(
        (
            Parameter("mu", "interest", 1.0, mu_prior, Uniform(*mu_prior), latex=r"\mu"),
            Parameter("tes", "nuisance", 1.0, TES_RANGE, Normal(1.0, 0.016), GaussianConstraint(0.01)),
            Parameter("jes", "nuisance", 1.0, (0.9, 1.1), Normal(1.0, 0.016), GaussianConstraint(0.01)),
            soft_met,
            Parameter("ttbar_scale", "nuisance", 1.0, (0.8, 1.2), Normal(1.0, 0.033), GaussianConstraint(0.02)),
            Parameter("diboson_scale", "nuisance", 1.0, (0.0, 2.0), Uniform(0.0, 2.0), GaussianConstraint(0.25)),
            Parameter("bkg_scale", "nuisance", 1.0, (0.99, 1.01), Normal(1.0, 0.0016), GaussianConstraint(0.001)),
        )
    )
