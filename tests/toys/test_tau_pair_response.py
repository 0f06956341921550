"""The detector of true tau pairs: its density against scipy's, and the momenta that it conserves."""

import numpy as np
import pytest
import scipy.stats
import torch

from touchneedle.toys.tau_pair_features import Momentum, TauPair
from touchneedle.toys.tau_pair_response import Resolution, Response, Scales, TruePair

RESOLUTION = Resolution(tau=0.1, jet=0.2, met=0.5)
N, JETS = 300, 4


def scales(tes=1.0, jes=1.0, soft_met=1.0):
    return Scales(*(torch.full((N,), value, dtype=torch.float64) for value in (tes, jes, soft_met)))


@pytest.fixture
def true():
    rng = np.random.default_rng(0)

    def momentum(*shape):
        parts = (20 + rng.exponential(20, shape), rng.normal(size=shape), rng.uniform(-np.pi, np.pi, shape))
        return Momentum(*map(torch.from_numpy, parts))

    jets = momentum(N, JETS)
    there = torch.arange(JETS) < torch.from_numpy(rng.integers(0, JETS + 1, N))[:, None]
    jets = jets._replace(pt=jets.pt.where(there, 0.0))
    met, zero = torch.from_numpy(rng.normal(0, 20, (2, N))), torch.zeros(N).double()
    objects = TauPair(momentum(N), momentum(N), jets, met[0], met[1], zero, zero)
    return TruePair(objects, torch.from_numpy(rng.exponential(40, N)), torch.from_numpy(rng.normal(size=(N, 3 + JETS))))


@pytest.mark.parametrize(("here", "there"), [((1.0, 1.0, 1.0), (1.03, 0.96, 2.0)), ((0.95, 1.1, 0.0), (1.0, 1.0, 4.0))])
def test_the_density_is_a_product_of_normal_ones(true, here, there):
    response = true.respond(scales(*here), RESOLUTION)
    u_tau, u_jets, u_soft = (part.numpy() for part in response)

    def expected(tes, jes, soft_met):
        width = np.sqrt(0.25 * np.maximum(true.soft_et.numpy(), 1) + soft_met**2)[:, None]
        jets = scipy.stats.norm.logpdf(u_jets, np.log(jes), 0.2) * (true.objects.jets.pt > 0).numpy()
        soft = scipy.stats.norm.logpdf(u_soft, 0, width)
        return scipy.stats.norm.logpdf(u_tau, np.log(tes), 0.1) + jets.sum(1) + soft.sum(1)

    found = [true.log_density(response, scales(*point), RESOLUTION) for point in (here, there)]
    np.testing.assert_allclose((found[1] - found[0]).numpy(), expected(*there) - expected(*here), atol=1e-10)


def test_the_score_has_mean_zero_where_the_response_is(true):
    """Over new latents of the same events, in units of its error."""
    generator, at = torch.Generator().manual_seed(2), scales(1.04, 0.97, 2.5)
    parts = []
    for _ in range(100):
        drawn = TruePair(true.objects, true.soft_et, torch.randn(N, 3 + JETS, generator=generator, dtype=torch.float64))
        free = Scales(*(value.clone().requires_grad_() for value in at))
        parts.append(torch.stack(torch.autograd.grad(drawn.log_density(drawn.respond(at, RESOLUTION), free, RESOLUTION).sum(), free), -1))
    score = torch.cat(parts)
    assert ((score.mean(0) / (score.std(0) / len(score) ** 0.5)).abs() < 4.5).all()
    assert (score.std(0) > 0.1).all()


def test_the_measured_event_depends_on_the_response_alone(true):
    response = Response(torch.zeros(N).double(), torch.zeros(N, JETS).double(), torch.zeros(N, 2).double())
    measured = true.measured(response)
    assert torch.equal(measured.hadron.pt, true.objects.hadron.pt)
    assert torch.equal(measured.jets.pt, true.objects.jets.pt)
    assert torch.equal(measured.met_x, true.objects.met_x)


def test_momentum_is_conserved_but_for_the_soft_part(true):
    response = true.respond(scales(1.05, 0.93, 3.0), RESOLUTION)

    def total(objects):
        parts = [objects.lepton, objects.hadron]
        jets = torch.stack([objects.jets.x.sum(-1), objects.jets.y.sum(-1)], -1)
        return torch.stack([sum(p.x for p in parts) + objects.met_x, sum(p.y for p in parts) + objects.met_y], -1) + jets

    np.testing.assert_allclose(total(true.measured(response)) - total(true.objects), response.soft, atol=1e-9)
    np.testing.assert_allclose(true.measured(response).hadron.pt, true.hadron_pt(response), rtol=1e-12)
