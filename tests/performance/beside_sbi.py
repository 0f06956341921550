"""Likelihood, ratio and posterior learned from the same events by Touchneedle and by sbi: networks of one shape, and how good they are.

Flows are five autoregressive layers of rational-quadratic splines (8 bins, conditioners of 2x64; sbi takes those of zuko), the ratio is a
perceptron of 2x64. Numbers of events, epochs, batches and learning rates are those of a `Way`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sbi.inference import NLE, NPE, NRE_A
from sbi.neural_nets import classifier_nn, likelihood_nn, posterior_nn
from torch import Tensor
from torch.nn.functional import softplus

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import Events, build_toy, collect

TOY, N_TRAIN, N_HELD_OUT, CHUNK = "gaussian_mixture", 10_000, 100_000, 10_000
HIDDEN, TRANSFORMS, BINS = (64, 64), 5, 8
_SPLINES = {"model": "zuko_nsf", "hidden_features": HIDDEN, "num_transforms": TRANSFORMS, "bins": BINS}
LogQ = Callable[[Tensor, Tensor], Tensor]
"""x (n, d) and theta (n, p) -> log p(x|theta), log p(x|theta) / p(x) or log p(theta|x), shape (n,)."""


@dataclass(frozen=True)
class Problem:
    """What is learned, by which method of ours and with which options, and by which inference of sbi on a device."""

    method: str
    options: dict[str, Any]
    inference: Callable[[str], Any]


PROBLEMS = {
    "NLE": Problem(
        "spline_flow",
        {"transforms": TRANSFORMS, "hidden_features": HIDDEN, "bins": BINS},
        lambda device: NLE(density_estimator=likelihood_nn(**_SPLINES), device=device, show_progress_bars=False),
    ),
    "NRE": Problem(
        "ratio_bce",
        {"hidden": HIDDEN},
        lambda device: NRE_A(classifier=classifier_nn("mlp", hidden_features=HIDDEN[0]), device=device, show_progress_bars=False),
    ),
    "NPE": Problem(
        "posterior_flow",
        {"flow": "spline_flow", "transforms": TRANSFORMS, "hidden": HIDDEN, "bins": BINS},
        lambda device: NPE(density_estimator=posterior_nn(**_SPLINES), device=device, show_progress_bars=False),
    ),
}


@dataclass(frozen=True)
class Way:
    """How ours is trained, and how sbi's: nothing means its defaults (batches of 200, 5e-4, until 20 epochs brought nothing)."""

    trainer: TrainerConfig
    optimizer: OptimizerConfig
    sbi: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """Seconds of the training, from events in memory, and of log q of the held-out events; the score of each of these, higher is better."""

    training: float
    evaluation: float
    score: Tensor


def draw_events(seed: int) -> tuple[Events, Events]:
    """Events to learn from, and others."""
    toy = build_toy(TOY)
    return collect(make_events(toy, N_TRAIN, "prior", seed)), collect(make_events(toy, N_HELD_OUT, "prior", 1_000 + seed))


def ours(kind: str, way: Way, events: Events, held_out: Events, seed: int) -> Trained:
    """Touchneedle's."""

    def learn() -> LogQ:
        if way.trainer.compile:
            # Code of the training before would serve this one.
            torch.compiler.reset()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            estimator = build_estimator(PROBLEMS[kind].method, build_toy(TOY).spec, **PROBLEMS[kind].options)
        train(estimator, events, way.trainer, way.optimizer, seed)
        if kind == "NPE":
            return lambda x, theta: estimator.posterior_log_prob(theta, x[:, None])
        return estimator.log_prob if kind == "NLE" else estimator.relative_log_prob

    return _timed(kind, way, learn, held_out)


def theirs(kind: str, way: Way, events: Events, held_out: Events, seed: int) -> Trained:
    """Those of sbi."""
    device = "cuda" if way.trainer.accelerator == "gpu" else "cpu"

    def learn() -> LogQ:
        torch.manual_seed(seed)
        inference = PROBLEMS[kind].inference(device).append_simulations(events.theta.float(), events.x)
        network = inference.train(**way.sbi)

        def log_q(x: Tensor, theta: Tensor) -> Tensor:
            x, theta = x.to(device), theta.float().to(device)
            if kind == "NRE":
                return network(theta, x).squeeze(-1).cpu()
            value, condition = (x, theta) if kind == "NLE" else (theta, x)
            return network.log_prob(value[None], condition=condition)[0].cpu()

        return log_q

    return _timed(kind, way, learn, held_out)


def _timed(kind: str, way: Way, learn: Callable[[], LogQ], held_out: Events) -> Trained:
    # Answers come back to the CPU, so that a GPU is always waited for.
    clock = time.perf_counter if way.trainer.accelerator == "gpu" else time.process_time
    start = clock()
    log_q = learn()
    learned = clock()
    with torch.no_grad():
        value = _log_q(log_q, held_out.x, held_out.theta)
    evaluated = clock()
    with torch.no_grad():
        score = -softplus(-value) - softplus(_log_q(log_q, held_out.x, held_out.theta.roll(1, 0))) if kind == "NRE" else value
    return Trained(learned - start, evaluated - learned, score.double())


def _log_q(log_q: LogQ, x: Tensor, theta: Tensor) -> Tensor:
    return torch.cat([log_q(*part) for part in zip(x.split(CHUNK), theta.split(CHUNK), strict=True)])
