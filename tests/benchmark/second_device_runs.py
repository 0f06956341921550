"""Methods trained and asked on the second device and on the CPU: ``python -m tests.benchmark.second_device_runs METHOD ...``.

Prints a line of JSON for each: what is wrong, "" for nothing. "stacked METHOD" trains an ensemble in one pass.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tests.benchmark.second_device import DEVICE, computing, new_parameters
from tests.benchmark.trainable import prepared
from touchneedle.benchmark import training_loop
from touchneedle.benchmark.config import EnsembleConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.train import train, train_ensemble
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.estimators.ensemble import Ensemble
from touchneedle.estimators.ratio_bce import RatioBce
from touchneedle.toys.base import Events

CPU = torch.device("cpu")
BRIEF = TrainerConfig(max_epochs=1, batch_size=512, progress=False, accelerator="cpu")
# Of some steps in float32, whose order of operations may differ.
ROUNDING = 1e-4


class FactorOnTheCpu(RatioBce):
    """Makes a tensor without saying where, which works on a CPU alone."""

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return super()._loss(events, generator) * torch.ones(len(events))


class NoiseOfTheCpu(RatioBce):
    """Draws where the events are, by a generator that is not there."""

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return super()._loss(events, generator) + torch.rand(len(events), generator=generator, device=events.x.device)


class AnswersFromAfar(RatioBce):
    """Leaves its answers where the network is."""

    def log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return super().log_ratio(x, theta).to(self.device)


# Mistakes that nothing shows on a CPU.
PLANTED = {"planted_factor": FactorOnTheCpu, "planted_noise": NoiseOfTheCpu, "planted_answers": AnswersFromAfar}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, planted in PLANTED.items():
        registry.estimators.register(name)(planted)
    for name in names:
        print(json.dumps({"name": name, "wrong": wrong_with(name)}), flush=True)


def wrong_with(name: str) -> str:
    try:
        with computing():
            compare_ensembles(name.removeprefix("stacked ")) if name.startswith("stacked ") else compare(name)
    except (RuntimeError, NotImplementedError, TypeError, AssertionError, InputError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def compare(name: str) -> None:
    """A method learns the same on both devices, and one that has learned answers the same there, where its events lie."""
    (estimator, losses, events), (_, expected_losses, _) = trained(name, DEVICE), trained(name, CPU)
    torch.testing.assert_close(losses, expected_losses, rtol=ROUNDING, atol=ROUNDING)
    with new_parameters():
        estimator.double()
        some = events[:40]
        expected = answers(estimator, some)
        estimator.to(DEVICE)
        for device in (CPU, DEVICE):
            found = answers(estimator, some.to(device))
            assert {tensor.device for tensor in found.values()} == {device}, {name: tensor.device for name, tensor in found.items()}
            for what, values in found.items():
                torch.testing.assert_close(
                    values.cpu(), expected[what], rtol=1e-8, atol=1e-8, equal_nan=True, msg=lambda m, w=what: f"{w}: {m}"
                )


def compare_ensembles(name: str) -> None:
    """Members that are trained in one pass learn the same on both devices."""
    both = []
    for device in (DEVICE, CPU):
        with on(device):
            members = [fresh(name, seed)[0] for seed in range(2)]
            events = fresh(name, 0)[1]
            train_ensemble(Ensemble(members), events, BRIEF, OptimizerConfig(), EnsembleConfig(members=2, stacked="yes"), 0)
            both.append(torch.stack([member.log_ratio(events.x[:40], events.theta[:40]) for member in members]))
    torch.testing.assert_close(*both, rtol=10 * ROUNDING, atol=10 * ROUNDING)


def trained(name: str, device: torch.device) -> tuple[Estimator, Tensor, Events]:
    """A method after a brief training on a device, its losses, and the events."""
    estimator, events = fresh(name, 0)
    with on(device):
        log = train(estimator, events, BRIEF, OptimizerConfig(), 0)
    return estimator, torch.tensor([log.train_loss, log.validation_loss]), events


def fresh(name: str, seed: int) -> tuple[Estimator, Events]:
    torch.manual_seed(seed)
    return prepared(name, 2_000)[:2]


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Trainings run there."""
    before = training_loop.device_of
    training_loop.device_of = lambda _: device
    try:
        yield
    finally:
        training_loop.device_of = before


def answers(estimator: Estimator, events: Events) -> dict[str, Tensor]:
    """All that a method says of events, and what it draws."""
    x, theta, able = events.x, events.theta, estimator.capabilities
    found = {"log_ratio": estimator.log_ratio(x, theta), "log_ratio_grid": estimator.log_ratio_grid(x, theta[:3])}
    found["log_normalisation"] = estimator.log_normalisation(theta[:3])
    for name in {"log_prob", "score"} & able:
        found[name] = getattr(estimator, name)(x, theta)
    if "sample" in able:
        found["sample"] = estimator.sample(theta, torch.Generator().manual_seed(1))
    if estimator.linear:
        found |= {"linear_terms": estimator.linear_terms(x), "linear_coefficients": estimator.linear_coefficients(theta)}
    if "posterior_log_prob" in able:
        found["posterior_log_prob"] = estimator.posterior_log_prob(theta, x[:, None])
    if "posterior_sample" in able:
        found["posterior_sample"] = estimator.posterior_sample(x[:3, None], 5, torch.Generator().manual_seed(1))
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
