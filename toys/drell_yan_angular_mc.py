"""Muon pairs from Pythia: the weak mixing angle from angles and masses, with exact joint ratios and scores of showered events."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import (
    Events,
    Feature,
    GaussianConstraint,
    MinedToy,
    Parameter,
    ParameterSpace,
    Split,
    ToySpec,
    Uniform,
    check_matrix,
    expand_theta,
)
from touchneedle.toys.drell_yan_matrix_element import angular_density
from touchneedle.toys.event_table import hash_fraction
from touchneedle.toys.generated import Columns, Manifest, read_generated
from touchneedle.toys.mixture import check_positive
from touchneedle.toys.polynomial_mean import PolynomialMean
from touchneedle.toys.pythia import shower_log_weight

__all__ = ["DrellYanAngularMc", "DrellYanAngularMcConfig"]

SAMPLE = Path(__file__).parent / "samples" / "drell_yan_angular_mc"
NOMINAL = 0.2315
SINES = (0.13, 0.33)
REACH = 4.0
SINE, SCALE, RESOLUTION, ISR = range(4)
HARD = ("flavour", "hard_mass", "hard_cosine")
LATENT = (*HARD, "isr_down", "isr_up", "pt_minus", "pt_plus", "eta_minus", "eta_plus", "delta_phi", "normal_minus", "normal_plus")


@dataclass
class DrellYanAngularMcConfig:
    """Options.

    Attributes:
        path: folder written by ``touchneedle data make drell_yan_angular_mc``; by default the sample that comes with Touchneedle.
        resolution: relative resolution of a muon's momentum at nominal.
        a: change of the log momentum per sigma of ``muon_scale``.
        b: change of the log resolution per sigma of ``muon_resolution``.
        test_fraction: expected share of the events in the test split.
        fit_events: expected events at nominal.
    """

    path: str | None = None
    resolution: float = 0.02
    a: float = 0.001
    b: float = 0.05
    test_fraction: float = 0.5
    fit_events: int = 10_000


class DrellYanAngularMc(MinedToy):
    """pp -> gamma*/Z -> mu mu by Pythia at 13 TeV: x = (mass, abs rapidity, pt, Collins-Soper cosine) of the measured pair.

    Events are generated at nominal and carry their history z: hard process, shower weights, true muons. At theta
    an event has the weight w = d(z; sin2theta_eff) / d(z; nominal) exp(q(z; isr)) with the matrix element d in closed form
    (`angular_density`), and muon i the momentum pt_i exp(u_i), u_i = a muon_scale + resolution exp(b muon_resolution) eps_i
    with frozen standard normals eps_i. q is the parabola through the log weights that Pythia gives for the scale of the
    initial-state shower times 1/2 and 2, at isr = -3 and 3. So with sigma(theta) / sigma(nominal) = E[w], the mean over
    the sample,

        p(x, z, u|theta) = w p(z|nominal) / E[w] prod_i N(u_i; a muon_scale, resolution exp(b muon_resolution)),

    which gives joint ratio and score. Muons are selected by their true momenta: scale and resolution leave the yield alone.

    Exposes: a few-percent asymmetry that changes sign with the mass, behind a direction of the quark that is only guessed;
    joint scores far wider than the score; a finite sample that is shifted and reweighted.
    Source: Collins and Soper 1977, Phys. Rev. D 16, 2219; CMS 2018, arXiv:1806.00863 (the measurement);
    Brehmer et al. 2018, arXiv:1805.00020 (mined gold).
    """

    Config = DrellYanAngularMcConfig

    def __init__(self, config: DrellYanAngularMcConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        folder = config.path or SAMPLE
        columns, manifest = read_generated(folder, "drell_yan_angular_mc")
        _check_sample(folder, columns, manifest)
        rows = np.stack([columns[name].astype(np.float32) for name in LATENT], axis=1)
        in_test = torch.from_numpy(hash_fraction(rows) < config.test_fraction)
        self.spec = ToySpec("drell_yan_angular_mc", f"1+sha256:{manifest.key[:12]}", _PARAMETERS, _FEATURES, ("all",))
        self._latent = torch.from_numpy(rows)
        self._pools: dict[Split, Events] = {"train": self._pool(~in_test, "train"), "test": self._pool(in_test, "test")}

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` times sigma(theta) / sigma(nominal) at theta (m, 4): shape (m, 1)."""
        return self.fit_events * self._mean_weight(theta.double()[:, SINE], theta.double()[:, ISR])

    def pool(self, split: Split) -> Events:
        """The events of one split, of equal weights that sum to the nominal yield."""
        return self._pools[split]

    def reweight(self, events: Events, theta: Tensor) -> Tensor:
        """Weights (n,) at theta (4,) or (n, 4) of events with nominal weights: those times w."""
        theta = check_matrix("theta", expand_theta(theta, len(events)), len(_PARAMETERS))
        self.spec.parameters.check(theta)
        return events.weight * log_weight(_history(events), theta[:, SINE], theta[:, ISR]).exp()

    def _move(self, events: Events, theta: Tensor) -> Tensor:
        return measured(_history(events), self._smearing(events, theta)).float()

    def _log_joint(self, events: Events, theta: Tensor) -> Tensor:
        u, resolution = self._smearing(events, events.theta), self._resolution(theta)
        pull = (u - self.config.a * theta[:, SCALE, None]) / resolution
        smearing = -0.5 * pull.square().sum(-1) - 2 * resolution[:, 0].log()
        rate = self.expected_events(theta) / self.fit_events
        return log_weight(_history(events), theta[:, SINE], theta[:, ISR]) + smearing - rate.log()

    def _smearing(self, events: Events, theta: Tensor) -> Tensor:
        """log(measured / true) momentum of mu- and mu+ at theta (n, 4): shape (n, 2)."""
        normals = torch.stack([_history(events)["normal_minus"], _history(events)["normal_plus"]], -1)
        return self.config.a * theta[:, SCALE, None] + self._resolution(theta) * normals

    def _resolution(self, theta: Tensor) -> Tensor:
        """Relative resolution of the momentum, shape (n, 1)."""
        return self.config.resolution * torch.exp(self.config.b * theta[:, RESOLUTION, None])

    @cached_property
    def _mean_weight(self) -> PolynomialMean:
        """E[w] in sin2theta_eff and isr over both splits: the weight is a product of a factor for each."""
        history, zero = _named(self._latent), torch.zeros(1, dtype=torch.float64)
        nominal, label = torch.full_like(zero, NOMINAL), torch.zeros(len(self._latent), dtype=torch.long)

        def hard(sine: Tensor) -> Tensor:
            return log_weight(history, sine[None], zero).exp()

        def shower(isr: Tensor) -> Tensor:
            return log_weight(history, nominal, isr[None]).exp()

        return PolynomialMean.fit((SINES, (-REACH, REACH)), hard, shower, label, 1)

    def _pool(self, chosen: Tensor, split: Split) -> Events:
        latent = self._latent[chosen]
        if not len(latent):
            raise InputError(
                f"toy drell_yan_angular_mc: expected events in the {split} split; all {len(chosen)} fall into the other; "
                f"change test_fraction ({self.config.test_fraction:g})"
            )
        n = len(latent)
        theta, weight = _PARAMETERS.nominal.repeat(n, 1), torch.full((n,), self.fit_events / n, dtype=torch.float64)
        events = Events(torch.empty(n, len(_FEATURES)), theta, weight, label=torch.zeros(n, dtype=torch.long), base=latent)
        return self.at(events, theta)


def log_weight(history: Mapping[str, Tensor], sine: Tensor, isr: Tensor) -> Tensor:
    """log w (n,) of events with their history at sin2theta_eff and isr, which broadcast."""
    hard = [history[name] for name in HARD]
    nominal = torch.full_like(sine, NOMINAL)
    shower = shower_log_weight(history["isr_down"], history["isr_up"], isr)
    return angular_density(sine, *hard).log() - angular_density(nominal, *hard).log() + shower


def measured(history: Mapping[str, Tensor], smearing: Tensor) -> Tensor:
    """x (n, 4) in GeV, of muons without mass whose true momenta are multiplied by the exponential of ``smearing`` (n, 2).

    The Collins-Soper cosine takes the direction of the quark to be that of the pair along the beam.
    """
    minus, plus = history["pt_minus"] * smearing[:, 0].exp(), history["pt_plus"] * smearing[:, 1].exp()
    eta_minus, eta_plus = history["eta_minus"], history["eta_plus"]
    turn = torch.cos(history["delta_phi"])
    mass_squared = 2 * minus * plus * (torch.cosh(eta_minus - eta_plus) - turn)
    pt_squared = minus.square() + plus.square() + 2 * minus * plus * turn
    along = minus * torch.sinh(eta_minus) + plus * torch.sinh(eta_plus)
    mass_transverse = torch.sqrt(mass_squared + pt_squared)
    cosine = 2 * minus * plus * torch.sinh(eta_minus - eta_plus) / (mass_squared.sqrt() * mass_transverse) * along.sign()
    x = [mass_squared.sqrt(), torch.asinh(along / mass_transverse).abs(), pt_squared.clamp(min=0).sqrt(), cosine.clamp(-1, 1)]
    return torch.stack(x, -1)


def _history(events: Events) -> dict[str, Tensor]:
    """The columns of ``base``, float64 (n,) each; raises `InputError` for events without."""
    if events.base is None:
        raise InputError("drell_yan_angular_mc: expected events of a pool, with their history; these have none")
    return _named(events.base)


def _named(latent: Tensor) -> dict[str, Tensor]:
    names: tuple[str, ...] = LATENT
    return dict(zip(names, latent.double().unbind(-1), strict=True))


def _check(config: DrellYanAngularMcConfig) -> None:
    check_positive("drell_yan_angular_mc", resolution=config.resolution, fit_events=config.fit_events)
    for name, value in (("a", config.a), ("b", config.b)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"toy drell_yan_angular_mc: option {name}: expected a number of at least 0; got {value:g}")
    if not 0 < config.test_fraction < 1:
        raise InputError(f"toy drell_yan_angular_mc: option test_fraction: expected a value between 0 and 1; got {config.test_fraction:g}")


def _check_sample(folder: str | Path, columns: Columns, manifest: Manifest) -> None:
    """Weights are relative to the point at which events were generated."""
    generated_at = manifest.config.get("sin2theta_eff")
    if generated_at != NOMINAL:
        raise InputError(f"data set {folder}: expected events generated at sin2theta_eff = {NOMINAL}; got {generated_at}")
    missing = [name for name in LATENT if name not in columns]
    if missing:
        raise InputError(f"data set {folder}: no column {missing[0]!r}; its columns are {', '.join(columns)}")


_FEATURES = (
    Feature("mass", "GeV", r"m_{\mu\mu}", support=(0.0, math.inf)),
    Feature("abs_rapidity", latex=r"|y|", support=(0.0, math.inf)),
    Feature("pt", "GeV", r"p_T^{\mu\mu}", support=(0.0, math.inf)),
    Feature("cosine", latex=r"\cos\theta_{CS}", support=(-1.0, 1.0)),
)


_EDGES = (-REACH, REACH)
_PARAMETERS = ParameterSpace(
    (
        Parameter("sin2theta_eff", "interest", NOMINAL, SINES, Uniform(*SINES), latex=r"\sin^2\theta_{eff}"),
        Parameter("muon_scale", "nuisance", 0.0, _EDGES, Uniform(*_EDGES), GaussianConstraint(1.0)),
        Parameter("muon_resolution", "nuisance", 0.0, _EDGES, Uniform(*_EDGES), GaussianConstraint(1.0)),
        Parameter("isr", "nuisance", 0.0, _EDGES, Uniform(*_EDGES), GaussianConstraint(1.0)),
    )
)
