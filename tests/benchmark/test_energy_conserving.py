"""The energy-conserving optimiser: its stationary density, its speed, and that it learns."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch import nn

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.energy_conserving import EnergyConserving
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy


def radii(eta: float, d: int, steps: int, step: float) -> torch.Tensor:
    """|Theta| along a run on F = |Theta|^2 / 2 in d dimensions."""
    weight = nn.Parameter(torch.ones(d, dtype=torch.float64))
    optimizer = EnergyConserving([weight], lr=step, eta=eta, noise=0.3)
    # F_0 = -1 from the start: the lowest loss is zero.
    optimizer._lowest = 0.0
    found = []

    def closure() -> float:
        weight.grad = weight.detach().clone()
        return 0.5 * float(weight.detach().square().sum())

    for _ in range(steps):
        optimizer.step(closure)
        found.append(float(weight.detach().norm()))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(("eta", "d"), [(3.0, 4), (2.0, 8)])
def test_time_averages_are_those_of_its_density(eta: float, d: int) -> None:
    found = radii(eta, d, 20_000, 0.1)

    def density(r: float) -> float:
        return r ** (d - 1) * (0.5 * r**2 + 1) ** (-eta * d / 2)

    norm = quad(density, 0, math.inf)[0]
    for moment in (lambda r: r, lambda r: 1 / (1 + r**2)):
        expected = quad(lambda r, moment=moment: moment(r) * density(r), 0, math.inf)[0] / norm
        values = moment(found)
        blocks = values.reshape(50, -1).mean(1)
        # Ergodic to the accuracy of 50 blocks; the finite step adds up to one percent.
        assert abs(blocks.mean() - expected) < 4 * blocks.std() / math.sqrt(50) + 0.01 * expected


def test_every_step_has_the_same_length() -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(5))]
    optimizer = EnergyConserving(weights, lr=0.05, weight_decay=0.1)
    for _ in range(5):
        before = [weight.detach().clone() for weight in weights]

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = sum(((weight - 3) ** 4).sum() for weight in weights)
            loss.backward()
            return loss

        optimizer.step(closure)
        moved = math.sqrt(sum(float((w.detach() - b).square().sum()) for w, b in zip(weights, before, strict=True)))
        assert moved == pytest.approx(0.05, rel=1e-4)


def test_it_trains_a_ratio_nearly_as_well_as_adamw() -> None:
    toy = build_toy("gaussian_shift")
    events = make_events(toy, 4_000, "prior", 0)
    losses = {}
    for config in (OptimizerConfig(), OptimizerConfig(name="energy_conserving", learning_rate=0.4, weight_decay=0.0)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            estimator = build_estimator("ratio_bce", toy.spec, hidden=(16, 16))
        log = train(estimator, events, TrainerConfig(max_epochs=15, batch_size=128, progress=False, accelerator="cpu"), config, 0)
        losses[config.name] = (log.validation_loss[0], min(log.validation_loss))
    # ln 4 is the loss of knowing nothing.
    learned = {name: math.log(4) - best for name, (_, best) in losses.items()}
    assert learned["energy_conserving"] > 0.8 * learned["adamw"] > 0
