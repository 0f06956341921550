"""Pairing, weights, local normalisation, posterior densities, ensembles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.ensemble import Ensemble
from touchneedle.estimators.normalisation import EvidenceRatio
from touchneedle.estimators.ratio_network import random_partner
from touchneedle.toys.base import Events, ExactToy

PRIOR_VARIANCE = 0.5**2 + 0.3**2


def prior_events(toy: ExactToy, n: int, seed: int) -> Events:
    generator = torch.Generator().manual_seed(seed)
    return toy.sample(toy.spec.parameters.sample_prior(n, generator), generator=generator)


def built(name: str, toy: ExactToy, seed: int = 0, **params: object) -> Estimator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        estimator = build_estimator(name, toy.spec, **params)
    estimator.prepare(prior_events(toy, 500, 1))
    return estimator


@dataclass
class ExactConfig:
    """No options."""


class ExactEvidence(EvidenceRatio):
    """log N(x; centre, 1) - log N(x; 0, 1 + prior variance) on the location toy."""

    Config = ExactConfig

    def __init__(self, toy: ExactToy) -> None:
        super().__init__(toy.spec, ExactConfig())
        self._register_reference("local")

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        variance = 1 + PRIOR_VARIANCE
        centre = theta[:, 0] + 0.3 * theta[:, 1]
        return -0.5 * (x[:, 0] - centre) ** 2 + 0.5 * x[:, 0] ** 2 / variance + 0.5 * math.log(variance)


def test_partners_are_others_and_each_is_chosen_once() -> None:
    generator = torch.Generator().manual_seed(0)
    for n in (2, 3, 17):
        for _ in range(20):
            partner = random_partner(n, generator)
            assert (partner != torch.arange(n)).all()
            assert torch.equal(partner.sort().values, torch.arange(n))


def test_exact_ratio_needs_no_normalisation(location: ExactToy) -> None:
    n = 20_000
    estimator = ExactEvidence(location).double()
    estimator.keep_reference(prior_events(location, n, 2), n)
    theta = torch.tensor([[0.3, 0.5], [-0.4, 1.0]], dtype=torch.float64)
    ratio = torch.stack([estimator._log_evidence_ratio(estimator.reference_x, point.expand(n, -1)).exp() for point in theta])
    nominal = estimator._log_evidence_ratio(estimator.reference_x, torch.zeros(n, 2)).exp()
    error = (ratio - nominal).std(1) / math.sqrt(n)
    assert (estimator.log_normalisation(theta).abs() < 4 * error).all()
    assert (error < 0.02).all()


def test_normalisation_finds_a_planted_drift(location: ExactToy) -> None:
    class Drifting(ExactEvidence):
        def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
            return super()._log_evidence_ratio(x, theta) + 0.7 * theta[:, 0]

    events = prior_events(location, 2_000, 3)
    exact, drifting = ExactEvidence(location).double(), Drifting(location).double()
    exact.keep_reference(events, 2_000)
    drifting.keep_reference(events, 2_000)
    theta = torch.tensor([[0.5, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(drifting.log_normalisation(theta) - exact.log_normalisation(theta), 0.7 * theta[:, 0])


@pytest.mark.parametrize("lowest", [0.0, -0.4])
def test_normalisation_weights_chunks_and_derivatives(location: ExactToy, monkeypatch: pytest.MonkeyPatch, lowest: float) -> None:
    events = prior_events(location, 300, 4)
    events = events.with_weight(lowest + torch.rand(300, generator=torch.Generator().manual_seed(5)))
    estimator = ExactEvidence(location).double()
    estimator.keep_reference(events, 300)
    theta = torch.tensor([[0.3, 0.5], [0.2, -0.5]], dtype=torch.float64, requires_grad=True)
    share = events.weight.double() / events.weight.double().sum()
    points = torch.cat([torch.zeros(1, 2, dtype=torch.float64), theta.detach()])
    means = torch.stack([share @ estimator._log_evidence_ratio(events.x.double(), p.expand(300, -1)).exp() for p in points])
    value = estimator.log_normalisation(theta)
    torch.testing.assert_close(value.detach(), (means[1:] / means[0]).log(), rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(type(estimator), "rows_per_chunk", 50)
    torch.testing.assert_close(estimator.log_normalisation(theta), value, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(estimator.log_normalisation, (theta,))
    assert torch.autograd.gradgradcheck(estimator.log_normalisation, (theta,))


def test_reference_is_capped_spread_out_and_optional(location: ExactToy) -> None:
    estimator = built("ratio_bce", location, reference_events=100)
    assert isinstance(estimator, EvidenceRatio)
    events = prior_events(location, 500, 1)
    assert estimator.reference_x.shape == (100, 1)
    assert torch.equal(estimator.reference_x[[0, -1]], events.x[[0, -1]])
    without = built("ratio_bce", location, normalise="none")
    assert without.log_normalisation(torch.ones(3, 2)).tolist() == [0, 0, 0]
    fresh = build_estimator("posterior_flow", location.spec)
    with pytest.raises(InputError, match="no reference events yet"):
        fresh.log_normalisation(torch.ones(3, 2))


FLOWS = ["nflows_coupling_nsf", "nflows_maf", "nflows_nsf", "normflows_nsf", "normflows_realnvp", "zuko_gf", "zuko_maf", "zuko_nsf"]
FEW: list[dict[str, object]] = [{"flow": flow, "hidden": (16, 16)} for flow in ("nflows_nsf", "normflows_realnvp", "zuko_gf", "zuko_maf")]


@pytest.mark.parametrize("params", [{}, {"transforms": 1}, *FEW], ids=str)
def test_posterior_is_a_density_of_theta_and_follows_its_samples(location: ExactToy, params: dict[str, object]) -> None:
    estimator = built("posterior_flow", location, **params).double()
    x = torch.tensor([[[0.7]]], dtype=torch.float64)
    n = 20_000
    draws = estimator.posterior_sample(x, n, torch.Generator().manual_seed(6))[0].detach()
    # Importance sampling with a wide Gaussian: the density integrates to one, and its mean is that of the samples.
    centre, width = draws.mean(0), 1.5 * draws.std(0)
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    theta = centre + width * noise
    log_proposal = (-0.5 * noise**2 - 0.5 * math.log(2 * math.pi) - width.log()).sum(1)
    weight = (estimator.posterior_log_prob(theta, x.expand(n, 1, 1)).detach() - log_proposal).exp()
    assert abs(weight.mean() - 1) < 4 * weight.std() / n**0.5
    mean = (weight[:, None] * theta).mean(0)
    error = ((weight[:, None] * (theta - mean)).var(0) / n + draws.var(0) / n).sqrt()
    assert ((draws.mean(0) - mean).abs() < 4 * error).all()


def test_the_plain_mixture_is_the_default_family(location: ExactToy) -> None:
    events = prior_events(location, 20, 8)
    answers = [built(name, location).log_ratio(events.x, events.theta) for name in ("posterior_mixture", "posterior_flow")]
    assert torch.equal(*answers)


@pytest.mark.parametrize("flow", ["mixture", *FLOWS])
def test_which_posteriors_are_smooth_in_theta(location: ExactToy, flow: str) -> None:
    """The derivative of a spline's log density has kinks: its curvature grows without limit as one looks closer."""
    estimator = built("posterior_flow", location, flow=flow, hidden=(16, 16)).double()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        for parameter in estimator.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    curvature = []
    for n in (2_000, 20_000):
        theta = torch.stack([torch.linspace(-1, 1, n), torch.linspace(2, -1, n)], 1).double()
        slope = estimator.score(torch.full((n, 1), 0.4), theta).sum(1).detach()
        curvature.append(float(slope.diff().abs().max()) * n)
    assert curvature[1] / curvature[0] > 4 if flow.endswith("nsf") else curvature[1] / curvature[0] < 1.5


def test_a_flow_without_layers_is_refused(location: ExactToy) -> None:
    with pytest.raises(InputError, match="at least 1 layer of zuko_maf; got 0"):
        built("posterior_flow", location, flow="zuko_maf", transforms=0)


def test_posterior_over_prior_is_the_evidence_ratio(location: ExactToy) -> None:
    estimator = built("posterior_flow", location).double()
    events = prior_events(location, 20, 8)
    space = location.spec.parameters
    posterior = estimator.posterior_log_prob(events.theta, events.x[:, None]) - space.log_prior(events.theta)
    nominal = space.nominal.expand(20, -1)
    at_nominal = estimator.posterior_log_prob(nominal, events.x[:, None]) - space.log_prior(nominal)
    torch.testing.assert_close(estimator.log_ratio(events.x, events.theta), posterior - at_nominal)


def test_posterior_of_a_set_is_refused(location: ExactToy) -> None:
    estimator = built("posterior_flow", location)
    for call in (
        lambda: estimator.posterior_log_prob(torch.zeros(3, 2), torch.zeros(3, 5, 1)),
        lambda: estimator.posterior_sample(torch.zeros(3, 5, 1), 2, torch.Generator()),
    ):
        with pytest.raises(InputError, match="single events"):
            call()


def test_ensemble_averages_log_ratio(location: ExactToy) -> None:
    members = [built("ratio_bce", location, seed=seed, hidden=(8,)) for seed in range(3)]
    ensemble = Ensemble(members).double()
    events = prior_events(location, 10, 9)
    expected = torch.stack([member.log_ratio(events.x, events.theta) for member in members]).mean(0)
    torch.testing.assert_close(ensemble.log_ratio(events.x, events.theta), expected)
    grid = ensemble.log_ratio_grid(events.x, events.theta[:2])
    torch.testing.assert_close(grid[:, 1], ensemble.log_ratio(events.x, events.theta[1]))
    assert ensemble.stages() == ()
    with pytest.raises(InputError, match="one kind"):
        Ensemble([members[0], built("best_gaussian", location)])


def test_ensemble_state_reloads(location: ExactToy) -> None:
    trained = Ensemble([built("ratio_bce", location, seed=seed, hidden=(8,)) for seed in range(2)])
    fresh = Ensemble([build_estimator("ratio_bce", location.spec, hidden=(8,)) for _ in range(2)])
    fresh.load_tensors(trained.state_dict())
    events = prior_events(location, 10, 9)
    assert torch.equal(fresh.log_ratio(events.x, events.theta), trained.log_ratio(events.x, events.theta))
