"""The linear ensemble: Newton against scipy, its covariance against closed forms, bootstraps and retrainings."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.train import train
from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.bootstrap import partition, poisson_copies
from touchneedle.estimators.linear_weights import Features, LossName, fit_weights, sandwich
from touchneedle.estimators.ratio_wifi import RatioWifi
from touchneedle.inference.fit import fit
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.network_error import network_error
from touchneedle.toys.base import Events, ExactToy, Feature, Normal, Parameter, ParameterSpace, ToySpec

LOSSES: tuple[LossName, ...] = ("likelihood", "cross_entropy")
# Mean of the two classes of the paper, N(-0.1, 1) and N(0.1, 1): log r = 0.2 x.
MEAN = 0.1


def classes(n: int, seed: int, mean: float = MEAN, powers: int = 1) -> Features:
    """Two independent samples with features 1, x, ..., x^powers, and weights that fluctuate."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, generator=generator, dtype=torch.float64)
    x = x + mean * torch.tensor([[1.0], [-1.0]])
    weight = 0.5 + torch.rand(2, n, generator=generator, dtype=torch.float64)
    weight = weight / weight.mean(1, keepdim=True)
    f = x[..., None] ** torch.arange(powers + 1)
    return Features(f[0], f[1:], weight[0], weight[1:])


@pytest.mark.parametrize("name", LOSSES)
def test_newton_finds_the_minimum_that_scipy_finds(name: LossName) -> None:
    features = classes(500, 0, mean=0.7, powers=4)

    def value_and_slope(w: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(w, requires_grad=True)
        value = features.loss(point, name)
        return float(value.detach()), torch.autograd.grad(value, point)[0].numpy()

    found = fit_weights(features, torch.zeros(5, dtype=torch.float64), name)
    expected = scipy.optimize.minimize(value_and_slope, np.zeros(5), jac=True, method="BFGS", options={"gtol": 1e-9})
    torch.testing.assert_close(found, torch.tensor(expected.x), rtol=1e-5, atol=1e-6)
    numerator, denominator = features.slopes(found, name)
    assert ((numerator.mean(0) + denominator.sum(0).mean(0)).abs() < 1e-10).all()
    point = found.clone().requires_grad_()
    bend = torch.autograd.functional.hessian(lambda w: features.loss(w, name), point)
    torch.testing.assert_close(features.hessian(found, name), bend)


@pytest.mark.parametrize("name", LOSSES)
def test_features_that_agree_share_their_weight(name: LossName) -> None:
    features = classes(500, 1)
    twice = Features(
        *(torch.cat([f, f[..., 1:]], -1) for f in (features.numerator, features.denominator)),
        features.numerator_weight,
        features.denominator_weight,
    )
    once = fit_weights(features, torch.zeros(2, dtype=torch.float64), name)
    both = fit_weights(twice, torch.zeros(3, dtype=torch.float64), name)
    torch.testing.assert_close(both, torch.stack([once[0], once[1] / 2, once[1] / 2]), rtol=1e-6, atol=1e-8)


def exact_covariance(name: LossName) -> Tensor:
    """n times the covariance of w for the unweighted classes of the paper, by Gauss quadrature."""
    nodes, share = np.polynomial.hermite_e.hermegauss(60)
    x = torch.tensor(nodes)
    parts = [(x + side * MEAN, side) for side in (1, -1)]
    hessian, outer = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    weight = torch.tensor(share / share.sum())
    for value, side in parts:
        f = torch.stack([torch.ones_like(value), value], 1)
        t = -side * 2 * MEAN * value
        sigmoid = 1 / (1 + (-t).exp())
        slope, bend = (1 + t.exp(), t.exp()) if name == "likelihood" else (sigmoid, sigmoid * (1 - sigmoid))
        hessian += f.T @ ((weight * bend)[:, None] * f)
        mean = (weight * slope) @ f
        outer += f.T @ ((weight * slope**2)[:, None] * f) - torch.outer(mean, mean)
    return torch.linalg.inv(hessian) @ outer @ torch.linalg.inv(hessian)


def unweighted(features: Features) -> Features:
    ones = torch.ones_like(features.numerator_weight)
    return Features(features.numerator, features.denominator, ones, ones[None])


def fitted(features: Features, name: LossName) -> tuple[Tensor, Tensor]:
    w = fit_weights(features, torch.zeros(features.numerator.shape[1], dtype=torch.float64), name)
    numerator, denominator = features.slopes(w, name)
    return w, sandwich(features.hessian(w, name), numerator + denominator.sum(0))


@pytest.mark.parametrize("name", LOSSES)
def test_the_sandwich_is_that_of_the_two_gaussians(name: LossName) -> None:
    """Against the closed form, and against the spread of weights around the exact (0, 0.2)."""
    n, repeats = 2_000, 250
    exact = exact_covariance(name) / n
    w, covariance = zip(*(fitted(unweighted(classes(n, seed)), name) for seed in range(repeats)), strict=True)
    mean, error = torch.stack(covariance).mean(0), torch.stack(covariance).std(0) / repeats**0.5
    # Of order 1 / n beside the leading term.
    assert ((mean - exact).abs() < 4 * error + 5 / n * exact.diagonal().max()).all()
    pull = (torch.stack(w) - torch.tensor([0.0, 2 * MEAN])) / exact.diagonal().sqrt()
    assert (pull.mean(0).abs() < 4 / repeats**0.5).all()
    assert ((pull.std(0) - 1).abs() < 4 / (2 * repeats) ** 0.5).all()


def test_the_sandwich_of_weighted_events_is_that_of_a_bootstrap() -> None:
    features, n, copies = classes(2_000, 2, mean=0.5, powers=2), 2_000, 300
    _, covariance = fitted(features, "likelihood")
    generator = torch.Generator().manual_seed(3)
    draws = []
    for _ in range(copies):
        chosen = torch.randint(n, (n,), generator=generator)
        draws.append(
            fitted(
                Features(
                    features.numerator[chosen],
                    features.denominator[:, chosen],
                    features.numerator_weight[chosen],
                    features.denominator_weight[:, chosen],
                ),
                "likelihood",
            )[0]
        )
    spread = torch.stack(draws).std(0)
    assert ((spread / covariance.diagonal().sqrt() - 1).abs() < 4 / (2 * copies) ** 0.5).all()


def test_the_error_of_a_fraction_is_that_of_the_paper() -> None:
    """A fraction kappa of N(0.1, 1) in N(-0.1, 1), fitted to one large sample by log(1 + kappa (r - 1)) with retrained weights.

    sigma^2 = A^t C A / I^2 (the part of the training): at r exact, A and I are sums over the sample.
    """
    kappa, n, n_train, repeats = 0.2, 30_000, 20_000, 150
    generator = torch.Generator().manual_seed(4)
    sign = torch.where(torch.rand(n, generator=generator) < kappa, 1.0, -1.0)
    x = MEAN * sign.double() + torch.randn(n, generator=generator, dtype=torch.float64)
    f = torch.stack([torch.ones_like(x), x], 1)
    shifts, predicted = [], []
    for seed in range(repeats):
        w, covariance = fitted(unweighted(classes(n_train, 1_000 + seed)), "likelihood")
        r = (f @ w).exp()
        found = torch.tensor(kappa, dtype=torch.float64)
        for _ in range(6):
            score = (r - 1) / (1 + found * (r - 1))
            found = found + score.sum() / score.square().sum()
        denominator = 1 + found * (r - 1)
        slope = f.T @ (r / denominator**2)
        information = ((r - 1) / denominator).square().sum()
        shifts.append(found)
        predicted.append((slope @ covariance @ slope).sqrt() / information)
    spread, expected = torch.stack(shifts).std(), torch.stack(predicted).square().mean().sqrt()
    assert abs(spread / expected - 1) < 4 / (2 * repeats) ** 0.5


def test_copies_are_poisson_independent_and_the_same_in_any_order() -> None:
    n, members = 40_000, 3
    generator = torch.Generator().manual_seed(5)
    x, theta = torch.randn(n, 2, generator=generator), torch.randn(n, 1, generator=generator, dtype=torch.float64)
    copies = poisson_copies(x, theta, members)
    for count in range(5):
        chance = math.exp(-1) / math.factorial(count)
        share = (copies == count).double().mean(0)
        assert ((share - chance).abs() < 4 * (chance * (1 - chance) / n) ** 0.5).all()
    columns = torch.cat([copies.double(), x.double(), theta], 1)
    correlation = torch.corrcoef(columns.T)[:members].fill_diagonal_(0)
    assert (correlation.abs() < 4.5 / n**0.5).all()
    order = torch.randperm(n, generator=generator)
    assert torch.equal(poisson_copies(x[order], theta[order], members), copies[order])
    parts = partition(x, theta, members)
    assert torch.equal(parts.sum(1), torch.full((n,), float(members)))
    assert ((parts.mean(0) - 1).abs() < 4 * ((members - 1) / n) ** 0.5).all()


def draw(toy: ExactToy, n: int, seed: int) -> Events:
    generator = torch.Generator().manual_seed(seed)
    return toy.sample(toy.spec.parameters.sample_prior(n, generator), generator=generator)


def built(toy: ExactToy, seed: int = 0, **params: object) -> RatioWifi:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        estimator = build_estimator("ratio_wifi", toy.spec, **params)
    assert isinstance(estimator, RatioWifi)
    return estimator


def test_modes_are_changes_along_the_weights(location: ExactToy) -> None:
    """Of log_ratio and of its normalisation, against finite changes of the weights."""
    estimator = built(location, members=3, hidden=(8,))
    events = draw(location, 500, 6)
    estimator.prepare(events)
    estimator.double().finish(draw(location, 400, 7))
    theta = events.theta[:4]
    modes = estimator.log_ratio_modes(events.x, events.theta), estimator.log_normalisation_modes(theta)
    torch.testing.assert_close(estimator.log_ratio_variance(events.x, events.theta), modes[0].square().sum(1))
    torch.testing.assert_close(estimator.log_ratio_covariance(events.x, events.theta).diagonal(), modes[0].square().sum(1))
    for k in range(4):
        changed = [copy.deepcopy(estimator) for _ in range(2)]
        for side, other in zip((1e-4, -1e-4), changed, strict=True):
            other.weights += side * other.weight_factor[:, k]
        for name, arguments, mode in (
            ("log_ratio", (events.x, events.theta), modes[0][:, k]),
            ("log_normalisation", (theta,), modes[1][:, k]),
        ):
            up, down = (getattr(other, name)(*arguments).detach() for other in changed)
            torch.testing.assert_close((up - down) / 2e-4, mode.detach(), rtol=1e-4, atol=1e-7)


def test_the_error_of_the_normalisation_is_that_of_a_mean(location: ExactToy) -> None:
    """Of log E[r] at theta less that at nominal, over 5,000 reference events."""
    estimator = built(location, members=2, hidden=(8,)).double()
    events = draw(location, 5_000, 10)
    estimator.prepare(events)
    point = torch.tensor([[0.6, 1.0]], dtype=torch.float64)
    modes = estimator.log_normalisation_modes(point)
    grid = estimator._log_evidence_ratio_grid(events.x.double(), torch.cat([point, torch.zeros(1, 2, dtype=torch.float64)])).exp()
    relative = (grid / grid.mean(0)).detach()
    expected = (relative[:, 0] - relative[:, 1]).std() / len(events) ** 0.5
    assert abs(modes.norm() / expected - 1) < 4 / (2 * 50) ** 0.5


def test_negative_weights_are_refused(location: ExactToy) -> None:
    events = draw(location, 100, 8)
    with pytest.raises(SkipCell, match="positive weight"):
        built(location).prepare(events.with_weight(torch.linspace(-0.1, 1, 100)))


class Centre(ExactToy):
    """x ~ N(mu, 1), without nuisances: nothing but the training is uncertain."""

    def __init__(self) -> None:
        mu = Parameter("mu", "interest", 0.0, (-3.0, 3.0), Normal(0.0, 0.5))
        self.spec = ToySpec("centre", "1", ParameterSpace((mu,)), (Feature("x"),), ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        return torch.full((len(theta), 1), 100.0, dtype=torch.float64)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        x = theta + torch.randn(len(theta), 1, generator=generator, dtype=torch.float64)
        return Events(x.float(), theta, torch.ones(len(theta)))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return -0.5 * (x - theta).square().sum(1) - 0.5 * math.log(2 * math.pi)


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["none", "local"])
def test_fits_of_retrained_ensembles_spread_as_predicted(normalise: str) -> None:
    """One data set of 2,000 events, fitted with ensembles that were trained on events of their own."""
    toy, networks = Centre(), 16
    data = toy.sample(torch.full((2_000, 1), 0.2, dtype=torch.float64), generator=torch.Generator().manual_seed(9))
    trainer = TrainerConfig(max_epochs=8, batch_size=256, validation_fraction=0.5, threads=1, progress=False, accelerator="cpu")
    results = []
    for seed in range(networks):
        estimator = built(toy, seed, members=8, hidden=(32, 32), normalise=normalise)
        train(estimator, draw(toy, 8_000, 100 + seed), trainer, OptimizerConfig(learning_rate=5e-3), seed)
        likelihood = Likelihood(estimator.double())
        result = fit(likelihood, data)
        results.append((result.theta[0], network_error(likelihood, data, result).sigma[0]))
    found, sigma = (torch.stack(column).detach() for column in zip(*results, strict=True))
    expected = sigma.square().mean().sqrt()
    print(f"{normalise}: spread {found.std():.4f}, predicted {expected:.4f}, mean {found.mean():.4f}, mean of x {data.x.mean():.4f}")
    assert abs((found.std() / expected).log()) < 4 / (2 * networks) ** 0.5
    assert abs(found.mean() - data.x.mean()) < 4 * found.std() / networks**0.5
