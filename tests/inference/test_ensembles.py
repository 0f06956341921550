"""Ensembles in fits: the average of likelihoods is that of the estimators, the spread is carried as a nuisance."""

from dataclasses import dataclass, replace

import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.ensemble import AveragedEnsemble, Ensemble
from touchneedle.inference import AveragedLikelihood, Likelihood, fit, spread_as_nuisance
from touchneedle.inference.fittable import ROW
from touchneedle.inference.network_error import network_error
from touchneedle.toys.base import build_toy

SLOPES = torch.tensor([-0.06, 0.01, 0.02, 0.05], dtype=torch.float64)


@dataclass
class NoOptions:
    """No options."""


class Sloped(Estimator):
    """The exact ratio of a toy whose response to its first parameter is off by a slope: a rank of one over members."""

    Config = NoOptions

    def __init__(self, toy, slope):
        super().__init__(toy.spec, NoOptions())
        self.toy, self.slope, self.normalise = toy, slope, "none"
        self.double()

    def _log_ratio(self, x, theta):
        return self.toy.log_ratio(x, theta) + self.slope * theta[:, 0] * x.sum(-1)

    def _log_evidence_ratio(self, x, theta):
        return self._log_ratio(x, theta)

    def _relative_log_prob(self, x, theta):
        """Up to another function of x for every member, as trained networks are."""
        return self._log_ratio(x, theta) + 10 * self.slope * x[:, 0] ** 2


@pytest.fixture
def toy():
    return build_toy("linear_gaussian", interest=1, nuisances=1, dim=2)


@pytest.fixture
def members(toy):
    return [Sloped(toy, float(slope)) for slope in SLOPES]


@pytest.fixture
def events(toy):
    theta = torch.tensor([0.05, 0.2], dtype=torch.float64)
    return toy.sample(theta.expand(1_000, -1), generator=torch.Generator().manual_seed(1))


def test_averaged_likelihoods_are_those_of_the_averaged_ensemble(toy, members, events):
    """Constants of the members do not weigh them; gradient and Hessian are those of the value."""
    averaged = AveragedLikelihood(tuple(Likelihood(member, toy.rates) for member in members))
    objective = averaged.objective(events)
    points = torch.tensor([[0.0, 0.0], [0.1, 0.5], [-0.2, 1.0]], dtype=torch.float64)
    sets = AveragedEnsemble(members).log_likelihood_ratio(events, points) - 0.5 * points[:, 1] ** 2
    values = torch.cat([objective(point[None], ROW)[0] for point in points])
    assert torch.allclose(values, sets, atol=1e-9)
    step = 1e-4 * torch.eye(2, dtype=torch.float64)
    for point in points:
        gradient = averaged.value_and_gradient(point, events)[1]
        up, down = (torch.stack([torch.cat([objective(p[None], ROW)[0]]) for p in point + s * step])[:, 0] for s in (1, -1))
        assert torch.allclose((up - down) / 2e-4, gradient, rtol=1e-5, atol=1e-4)
        slopes = [[objective((point + s * move)[None], ROW)[1][0] for move in step] for s in (1, -1)]
        hessian = torch.stack([(a - b) / 2e-4 for a, b in zip(*slopes, strict=True)])
        assert torch.allclose(-objective.curvature(point[None], ROW)[0], hessian, rtol=1e-4, atol=1e-2)


def test_an_averaged_fit_is_wider_where_members_disagree(toy, members, events):
    averaged = fit(AveragedLikelihood(tuple(Likelihood(member, toy.rates) for member in members)), events)
    single = [fit(Likelihood(member, toy.rates), events) for member in members]
    assert averaged.valid
    assert min(r.theta[0] for r in single) < averaged.theta[0] < max(r.theta[0] for r in single)
    one = fit(AveragedLikelihood((Likelihood(members[0], toy.rates),)), events)
    assert torch.allclose(one.theta, single[0].theta, atol=1e-6)
    assert torch.allclose(one.sigma, single[0].sigma, rtol=1e-5)


def test_the_spread_is_the_first_principal_direction(toy, members, events):
    """Members off by s_k g(x, theta): z = 1 is one standard deviation of s."""
    ensemble = Ensemble(members)
    points = torch.tensor([[0.3, 0.0], [-0.5, 1.0]], dtype=torch.float64)
    spread = spread_as_nuisance(ensemble, events.x, points)
    assert spread.share == pytest.approx(1, abs=1e-9)
    assert spread.spec.parameters.names == ("theta_1", "nu_1", "network_spread")
    theta = torch.tensor([0.4, -0.2, 1.0], dtype=torch.float64)
    moved = spread.log_ratio(events.x, theta) - ensemble.log_ratio(events.x, theta[:2])
    exact = SLOPES.std() * 0.4 * events.x.double().sum(-1)
    # The sign of a principal direction is arbitrary.
    sign = (moved @ exact).sign()
    assert torch.allclose(moved, sign * exact, atol=1e-9)


def test_the_profiled_spread_is_the_error_of_the_network(toy, events):
    """Covariance of the fit with the nuisance, and the first-order one beside a fit without it."""
    ensemble = Ensemble([Sloped(toy, 0.2 * float(slope)) for slope in SLOPES])
    points = torch.tensor([[0.3, 0.0], [-0.5, 1.0]], dtype=torch.float64)
    plain = fit(Likelihood(ensemble), events)
    error = network_error(Likelihood(ensemble), events, plain)
    profiled = fit(Likelihood(spread_as_nuisance(ensemble, events.x, points)), events)
    assert profiled.valid
    added = (profiled.sigma[0] ** 2 - plain.sigma[0] ** 2).sqrt()
    assert error.sigma[0] > 0.05 * plain.sigma[0]
    assert added == pytest.approx(float(error.sigma[0]), rel=0.1)


def test_the_normalisation_follows_the_spread(toy, events):
    """Of a real ensemble of networks: log_normalisation at z is the first order of the reference mean."""
    trained = [build_estimator("ratio_bce", toy.spec, hidden=(8,)) for _ in range(3)]
    theta = toy.spec.parameters.sample_prior(len(events), torch.Generator().manual_seed(0))
    for seed, member in enumerate(trained):
        member.prepare(replace(events, theta=theta))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in member.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    spread = spread_as_nuisance(Ensemble(trained), events.x, theta[:5])
    assert 0 < spread.share < 1
    share = spread.ensemble.reference_weight
    point = torch.tensor([[0.2, 0.5, 0.0]], dtype=torch.float64)

    def log_mean(z):
        at = point[0].clone()
        at[2] = z
        ratio = spread.relative_log_prob(spread.ensemble.reference_x, at)
        zero = torch.tensor([0.0, 0.0, z], dtype=torch.float64)
        return (share.log() + ratio).logsumexp(0) - (share.log() + spread.relative_log_prob(spread.ensemble.reference_x, zero)).logsumexp(0)

    slope = (log_mean(1e-3) - log_mean(-1e-3)) / 2e-3
    moved = point + torch.tensor([[0.0, 0.0, 1e-3]], dtype=torch.float64)
    assert torch.allclose(spread.log_normalisation(point), log_mean(0.0)[None], atol=1e-6)
    assert torch.allclose((spread.log_normalisation(moved) - spread.log_normalisation(point)) / 1e-3, slope, rtol=1e-3)


def test_wrong_ensembles_are_refused(toy, members, events):
    other = build_toy("mass_bump")
    points = toy.spec.parameters.nominal[None] + 0.1
    with pytest.raises(InputError, match="at least one member"):
        AveragedLikelihood(())
    with pytest.raises(InputError, match="same parameters"):
        AveragedLikelihood((Likelihood(members[0]), Likelihood(build_estimator("oracle", other.spec, truth=other))))
    with pytest.raises(InputError, match="Sloped has none: use an ensemble"):
        spread_as_nuisance(members[0], events.x, points)
    with pytest.raises(InputError, match="a parameter 'nu_1' already"):
        spread_as_nuisance(Ensemble(members), events.x, points, "nu_1")
    with pytest.raises(InputError, match="they all answer the same"):
        spread_as_nuisance(Ensemble([members[0], Sloped(toy, float(SLOPES[0]))]), events.x, points)
