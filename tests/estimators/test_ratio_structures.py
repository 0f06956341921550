"""Ratios with a structure in theta: quadratic in the parameters of interest, bilinear in event and theta."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train
from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.event_embedding import EventEmbedding
from touchneedle.estimators.monomials import monomials
from touchneedle.estimators.ratio_quadratic import RatioQuadratic, continued_log
from touchneedle.toys.base import Events, ExactToy, build_toy

# A few events of a test lie beyond those of the training.
pytestmark = pytest.mark.filterwarnings("ignore::touchneedle.estimators.trained_range.OutsideTrainedRange")

# The forms are scaled up, so that the smallest ratio that the estimator allows is far below.
SCALE = 1e4


def exact_toy(name: str) -> ExactToy:
    toy = build_toy(name)
    assert isinstance(toy, ExactToy)
    return toy


def draw(toy: ExactToy, n: int, seed: int) -> Events:
    generator = torch.Generator().manual_seed(seed)
    return toy.sample(toy.spec.parameters.sample_prior(n, generator), generator=generator)


def built(name: str, toy: ExactToy, **params: object) -> Estimator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, toy.spec, **params)
    estimator.prepare(draw(toy, 500, 1))
    return estimator.double()


class ExactTerms(nn.Module):
    """The outputs of `RatioQuadratic` that make its ratio exact, from the differential yield at a few points of theta."""

    def __init__(self, estimator: RatioQuadratic, toy: ExactToy, *, integral: bool) -> None:
        super().__init__()
        self.estimator, self.toy, self.integral = [estimator], toy, integral

    def forward(self, inputs: Tensor) -> Tensor:
        (estimator,) = self.estimator
        d = 1 if self.integral else self.toy.spec.x_dim
        theta = self.toy.spec.parameters.nominal.repeat(len(inputs), 1)
        standard = estimator.standardise_theta
        theta[:, estimator.nuisance] = (inputs[:, d:] * standard.std[estimator.nuisance] + standard.mean[estimator.nuisance]).double()
        x = None if self.integral else estimator.standardise_x.inverse(inputs[:, :d])
        polynomial = self.polynomial(x, theta)
        return self.form(polynomial) if estimator.config.positive else self.terms(polynomial)

    def polynomial(self, x: Tensor | None, theta: Tensor) -> Tensor:
        """Coefficients (n, terms) of the yield, differential over that at nominal, in the coordinates of the estimator."""
        (estimator,) = self.estimator
        k = len(estimator.interest)
        grid = torch.tensor(list(itertools.product((0.3, 0.5, 0.8), repeat=k)), dtype=torch.float64)
        values = []
        for point in grid:
            moved = theta.clone()
            moved[:, estimator.interest] = point
            rate = self.toy.expected_events(moved) / self.toy.fit_events
            values.append(rate if x is None else rate * self.toy.log_ratio(x, moved).exp())
        moved = theta[:1].repeat(len(grid), 1)
        moved[:, estimator.interest] = grid
        terms = monomials(estimator._coordinates(moved), 2)
        return SCALE * torch.linalg.lstsq(terms, torch.stack(values)).solution.T

    def form(self, polynomial: Tensor) -> Tensor:
        (estimator,) = self.estimator
        size = 1 + len(estimator.interest)
        matrix = polynomial.new_zeros(len(polynomial), size, size)
        pairs = [(0, k) for k in range(size)] + list(itertools.combinations_with_replacement(range(1, size), 2))
        for value, (a, b) in zip(polynomial.T, pairs, strict=True):
            matrix[:, a, b] += value / 2
            matrix[:, b, a] += value / 2
        values, vectors = torch.linalg.eigh(matrix)
        assert (values > -1e-6 * SCALE).all()
        factor = values.clamp_min(0).sqrt()[..., None] * vectors.transpose(1, 2)
        factor[:, 0, 0] -= 1
        return factor.flatten(1)

    def terms(self, polynomial: Tensor) -> Tensor:
        (estimator,) = self.estimator
        if estimator.config.basis == "interference":
            background, mixed, signal = polynomial.T
            return torch.stack([signal, signal + mixed + background, background], 1).log()
        return polynomial - torch.eye(1, polynomial.shape[1])


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(("name", "basis"), [("eft_quadratic", "quadratic"), ("amplitude_interference", "interference")])
def test_the_exact_ratio_is_of_the_form(name: str, basis: str, positive: bool) -> None:
    toy = exact_toy(name)
    estimator = built("ratio_quadratic", toy, basis=basis, positive=positive)
    assert isinstance(estimator, RatioQuadratic)
    estimator.network = ExactTerms(estimator, toy, integral=False)
    estimator.integral = ExactTerms(estimator, toy, integral=True)
    events = draw(toy, 50, 2)
    value = estimator.log_ratio(events.x, events.theta)
    torch.testing.assert_close(value, toy.log_ratio(events.x, events.theta), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "basis"), [("eft_quadratic", "quadratic"), ("amplitude_interference", "interference")])
def test_untrained_ratios_are_near_one_and_signed_ones_leave_the_negative(name: str, basis: str) -> None:
    toy = exact_toy(name)
    events = draw(toy, 100, 3)
    for positive in (True, False):
        estimator = built("ratio_quadratic", toy, basis=basis, positive=positive)
        assert estimator.log_ratio(events.x, events.theta).abs().max() < 2.5
    value = torch.tensor([-2.0, 0.0, 1e-4, 3.0], dtype=torch.float64, requires_grad=True)
    log = continued_log(value)
    (slope,) = torch.autograd.grad(log.sum(), value)
    torch.testing.assert_close(log[2:].detach(), value.detach()[2:].log())
    torch.testing.assert_close(slope, torch.tensor([1e4, 1e4, 1e4, 1 / 3], dtype=torch.float64))
    assert bool(torch.isfinite(log).all())


def test_interference_needs_one_parameter_that_is_not_negative() -> None:
    for name in ("eft_quadratic", "gaussian_shift"):
        with pytest.raises(SkipCell, match="one parameter of interest >= 0"):
            build_estimator("ratio_quadratic", exact_toy(name).spec, basis="interference")


@pytest.mark.parametrize("kind", ["linear", "softmax"])
def test_the_embedding_is_bilinear_and_blind_to_the_shuffling_of_its_parts(kind: str) -> None:
    toy = exact_toy("mixture_weights")
    estimator = built("event_embedding", toy, dimensions=5, kind=kind)
    assert isinstance(estimator, EventEmbedding)
    events = draw(toy, 30, 4)
    summary, embedding = estimator.summary(events.x), estimator.embedding(events.theta)
    torch.testing.assert_close((summary * embedding).sum(1), estimator.log_ratio(events.x, events.theta))
    torch.testing.assert_close(summary @ embedding.T, estimator.log_ratio_grid(events.x, events.theta))
    assert (summary[:, -1] == 1).all()
    if kind == "softmax":
        assert (summary > 0).all()
        torch.testing.assert_close(summary[:, :-1].sum(1), torch.ones(30, dtype=torch.float64))


def squared_error(name: str, toy: ExactToy, seed: int, **params: object) -> Tensor:
    """(log_ratio - exact)^2 of test events with theta from the prior, trained on 10,000 events as the product trains."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        estimator = build_estimator(name, toy.spec, **params)
    trainer = TrainerConfig(accelerator="cpu", progress=False, threads=1)
    train(estimator, make_events(toy, 10_000, "prior", seed), trainer, OptimizerConfig(), seed)
    test = draw(toy, 20_000, 5)
    with torch.no_grad():
        learned = estimator.double().log_ratio(test.x, test.theta)
    return (learned - toy.log_ratio(test.x, test.theta)).square()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("toy_name", "name", "params"),
    [
        ("eft_quadratic", "ratio_quadratic", {}),
        ("amplitude_interference", "ratio_quadratic", {"basis": "interference"}),
        ("mixture_weights", "event_embedding", {"kind": "softmax"}),
    ],
)
def test_structure_beats_a_classifier_at_equal_events(toy_name: str, name: str, params: dict[str, object]) -> None:
    toy = exact_toy(toy_name)
    for seed in (0, 1):
        plain, structured = squared_error("ratio_bce", toy, seed), squared_error(name, toy, seed, **params)
        gain = plain - structured
        print(f"{toy_name} seed {seed}: ratio_bce {plain.mean().sqrt():.4f}, {name} {structured.mean().sqrt():.4f}")
        assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5
