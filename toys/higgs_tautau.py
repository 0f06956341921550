"""Higgs bosons to tau pairs from Pythia: a signal strength among seven nuisances that move and reweight events, with exact joint ratios."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import (
    Events,
    GaussianConstraint,
    LogNormalConstraint,
    MinedToy,
    Normal,
    Parameter,
    ParameterSpace,
    Split,
    ToySpec,
    Uniform,
    check_matrix,
    expand_theta,
)
from touchneedle.toys.event_table import hash_fraction
from touchneedle.toys.mixture import check_positive
from touchneedle.toys.polynomial_mean import PolynomialMean
from touchneedle.toys.pythia import shower_log_weight
from touchneedle.toys.tau_pair_features import FEATURES, tau_pair_features
from touchneedle.toys.tau_pair_history import NAMES, History, read_sample, with_weight
from touchneedle.toys.tau_pair_response import Resolution, Scales
from touchneedle.toys.tau_pair_shifts import HADRON_CUT, LEPTON_CUT, is_selected, with_hard_jets

__all__ = ["HiggsTautau", "HiggsTautauConfig"]

SAMPLE = Path(__file__).parent / "samples" / "higgs_tautau"
TES_RANGE, ISR_RANGE = (0.9, 1.1), (-4.0, 4.0)


@dataclass
class HiggsTautauConfig:
    """Options. Yields are expected events at nominal after the selection: a region rich in signal, not cross-sections of Pythia.

    Attributes:
        path: folder written by ``touchneedle data make higgs_tautau``; by default the sample that comes with Touchneedle.
        ggh: yield of gg -> H -> tau tau.
        vbf: yield of H -> tau tau from vector-boson fusion.
        ztautau: yield of Z/gamma* -> tau tau.
        ttbar: yield of top pairs.
        diboson: yield of W pairs.
        tau_resolution: of the log momentum of the hadronic tau.
        jet_resolution: of the log momentum of a jet.
        met_resolution: of the soft missing momentum along x and y, over the root of its scalar sum, in sqrt(GeV).
        test_fraction: expected share of the events in the test split.
    """

    path: str | None = None
    ggh: float = 800.0
    vbf: float = 200.0
    ztautau: float = 3_000.0
    ttbar: float = 700.0
    diboson: float = 300.0
    tau_resolution: float = 0.08
    jet_resolution: float = 0.12
    met_resolution: float = 0.5
    test_fraction: float = 0.5


class HiggsTautau(MinedToy):
    """H -> tau tau (gluon and vector-boson fusion) over Z -> tau tau, top and W pairs by Pythia, with a lepton and a hadronic tau.

    x = the 28 features of the FAIR Universe challenge (arXiv:2410.02867), of a measured event. Events carry their history z:
    process, true objects, shower weights. The tau's log response is normal around log tes, every jet's around log jes, with the
    frozen latents of the event; the soft missing momentum is normal along x and y with variance resolution^2 soft_et + soft_met^2;
    what tau and jets gain, the missing momentum loses. Selected are events of measured tau pt > 26 GeV and lepton pt > 20 GeV,
    with jets from 26 GeV on: they enter and leave as tes moves. Weights: mu for the signal; bkg_scale for every background, times
    ttbar_scale for top pairs and diboson_scale for W pairs; exp(q(z; isr)), with q the parabola through the log weights that Pythia
    gives for the scale of the initial-state shower times 1/2 and 2, at isr = -3 and 3, which have mean 1 over each process
    before the threshold on the tau. With the response u, and s_k what multiplies process k,

        p(x, z, u|theta) = s_k exp(q) p(z|k) p(u|z; tes, jes, soft_met) / sum of rates,   for selected x,

    which gives the exact joint ratio and score in all eight parameters: x is a function of z and u alone. Rates are s_k times the
    nominal yield and the mean of exp(q) Phi(log(tes pt / 26 GeV) / resolution) over the process, relative to nominal.

    Constraints are the challenge's for tes, jes (1 % each), soft_met (log-normal, median 1 GeV, a factor e) and diboson_scale (25 %).
    Those of ttbar_scale (5 %) and bkg_scale (2 %) are wider, so that some thousand events can feel them.

    Exposes: nuisances that move events across thresholds and in 28 dimensions, missing values, a signal that looks like its background.
    Source: Brehmer et al. 2018, arXiv:1805.00020 (mined gold).
    """

    Config = HiggsTautauConfig

    def __init__(self, config: HiggsTautauConfig) -> None:
        _check(config)
        self.config = config
        rows, label, manifest = read_sample(config.path or SAMPLE)
        self.spec = ToySpec("higgs_tautau", f"1+sha256:{manifest.key[:12]}", _PARAMETERS, FEATURES, NAMES)
        self._yields = torch.tensor([getattr(config, name) for name in NAMES], dtype=torch.float64)
        self.fit_events = max(1, round(self._yields.sum().item()))
        self._resolution = Resolution(config.tau_resolution, config.jet_resolution, config.met_resolution)
        base = with_weight(rows, label)
        self._acceptance = self._fit_acceptance(History.of(base, label))
        in_test = torch.from_numpy(hash_fraction(rows) < config.test_fraction)
        self._pools: dict[Split, Events] = {
            "train": self._pool(base[~in_test], label[~in_test], "train"),
            "test": self._pool(base[in_test], label[in_test], "test"),
        }

    def rates(self, theta: Tensor) -> Tensor:
        """Selected yields at theta (m, 8): shape (m, 5)."""
        theta = theta.double()
        found, nominal = (self._acceptance(t[:, _TES], t[:, _ISR]) for t in (theta, _PARAMETERS.nominal.to(theta.device).unsqueeze(0)))
        return self._yields.to(theta.device) * _factors(theta) * found / nominal

    def pool(self, split: Split) -> Events:
        """The events of one split at nominal; those that another tes would select have weight 0."""
        return self._pools[split]

    def reweight(self, events: Events, theta: Tensor) -> Tensor:
        """Weights (n,) at theta (8,) or (n, 8) of events from a pool: 0 where the measured event is not selected."""
        history = _history(events)
        theta = check_matrix("theta", expand_theta(theta, len(events)), len(_PARAMETERS))
        self.spec.parameters.check(theta)
        response = history.true.respond(_scales(theta), self._resolution)
        selected = is_selected(history.true.objects.lepton.pt, history.true.hadron_pt(response))
        return torch.where(selected, history.weight * _log_factor(history, theta).exp(), 0.0)

    def _move(self, events: Events, theta: Tensor) -> Tensor:
        true = _history(events).true
        return tau_pair_features(with_hard_jets(true.measured(true.respond(_scales(theta), self._resolution)))).float()

    def _log_joint(self, events: Events, theta: Tensor) -> Tensor:
        history = _history(events)
        response = history.true.respond(_scales(events.theta), self._resolution)
        measurement = history.true.log_density(response, _scales(theta), self._resolution)
        return measurement + _log_factor(history, theta) - self.expected_events(theta).log()

    def _fit_acceptance(self, history: History) -> PolynomialMean:
        """Mean weight of the selected events of each process in tes and isr: no frozen latents, no steps."""
        objects = history.true.objects

        def selected(tes: Tensor) -> Tensor:
            passed = torch.special.ndtr(torch.log(tes * objects.hadron.pt / HADRON_CUT) / self.config.tau_resolution)
            return passed * (objects.lepton.pt > LEPTON_CUT)

        def shower(isr: Tensor) -> Tensor:
            return shower_log_weight(history.isr_down, history.isr_up, isr).exp()

        return PolynomialMean.fit((TES_RANGE, ISR_RANGE), selected, shower, history.label, len(NAMES))

    def _pool(self, base: Tensor, label: Tensor, split: Split) -> Events:
        """Events that some tes selects, with weights that sum to the nominal yields."""
        nominal, widest = _PARAMETERS.nominal, _PARAMETERS.nominal.clone()
        widest[_TES] = TES_RANGE[1]
        n = len(base)
        every = Events(torch.zeros(n, len(FEATURES)), nominal.repeat(n, 1), base[:, -1], label, base=base)
        kept = self.reweight(every, widest) > 0
        base, label = base[kept], label[kept]
        count = torch.bincount(label, self.reweight(every[kept], nominal), minlength=len(NAMES))
        for name, found in zip(NAMES, count.tolist(), strict=True):
            if not found:
                raise InputError(
                    f"toy higgs_tautau: expected selected events of {name} in the {split} split; there are none: "
                    f"give more events or change test_fraction ({self.config.test_fraction:g})"
                )
        base[:, -1] = (self._yields / count)[label]
        return self.at(replace(every[kept], base=base), nominal)


def _factors(theta: Tensor) -> Tensor:
    """What the yield of each process is multiplied by at theta (m, 8), shape (m, 5)."""
    of = dict(zip(_PARAMETERS.names, theta.unbind(-1), strict=True))
    factors = {
        "ggh": of["mu"],
        "vbf": of["mu"],
        "ztautau": of["bkg_scale"],
        "ttbar": of["ttbar_scale"] * of["bkg_scale"],
        "diboson": of["diboson_scale"] * of["bkg_scale"],
    }
    return torch.stack([factors[name] for name in NAMES], -1)


def _scales(theta: Tensor) -> Scales:
    return Scales(*(theta[:, _PARAMETERS.index(name)] for name in Scales._fields))


def _log_factor(history: History, theta: Tensor) -> Tensor:
    """Log of what the weight of each event is multiplied by at theta (n, 8), shape (n,)."""
    factor = _factors(theta).gather(-1, history.label.unsqueeze(-1)).squeeze(-1)
    return factor.log() + shower_log_weight(history.isr_down, history.isr_up, theta[:, _ISR])


def _history(events: Events) -> History:
    """From ``base`` and ``label``; raises `InputError` for events without."""
    if events.base is None or events.label is None:
        raise InputError("higgs_tautau: expected events of its pools, with base and label; these have none")
    return History.of(events.base, events.label)


def _check(config: HiggsTautauConfig) -> None:
    numbers = asdict(config)
    check_positive("higgs_tautau", **{name: value for name, value in numbers.items() if name not in ("path", "test_fraction")})
    if not 0 < config.test_fraction < 1:
        raise InputError(f"toy higgs_tautau: option test_fraction: expected a value between 0 and 1; got {config.test_fraction:g}")


_PARAMETERS = ParameterSpace(
    (
        Parameter("mu", "interest", 1.0, (0.0, 3.0), Uniform(0.0, 3.0), latex=r"\mu"),
        Parameter("tes", "nuisance", 1.0, TES_RANGE, Normal(1.0, 0.016), GaussianConstraint(0.01)),
        Parameter("jes", "nuisance", 1.0, (0.9, 1.1), Normal(1.0, 0.016), GaussianConstraint(0.01)),
        Parameter("soft_met", "nuisance", 1.0, (0.0, 5.0), Uniform(0.0, 5.0), LogNormalConstraint(math.e), (0.0, 2.0), "GeV"),
        Parameter("ttbar_scale", "nuisance", 1.0, (0.5, 1.5), Normal(1.0, 0.08), GaussianConstraint(0.05)),
        Parameter("diboson_scale", "nuisance", 1.0, (0.0, 2.0), Uniform(0.0, 2.0), GaussianConstraint(0.25)),
        Parameter("bkg_scale", "nuisance", 1.0, (0.8, 1.2), Normal(1.0, 0.032), GaussianConstraint(0.02)),
        Parameter("isr", "nuisance", 0.0, ISR_RANGE, Uniform(*ISR_RANGE), GaussianConstraint(1.0)),
    )
)
_TES, _ISR = _PARAMETERS.index("tes"), _PARAMETERS.index("isr")
