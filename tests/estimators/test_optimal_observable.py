"""Optimal observables: the learned score, and templates in it against templates in x."""

from __future__ import annotations

import pytest
import torch

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.template_histogram import TemplateHistogram
from touchneedle.toys.base import ExactToy, build_toy

TRAINER = TrainerConfig(accelerator="cpu", progress=False, threads=1)


def trained(toy: ExactToy, n: int, seed: int, **params: object) -> TemplateHistogram:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        estimator = build_estimator("template_histogram", toy.spec, **params)
    train(estimator, make_events(toy, n, "templates", seed), TRAINER, OptimizerConfig(), seed)
    assert isinstance(estimator, TemplateHistogram)
    return estimator


def test_the_observable_is_the_score(location: ExactToy) -> None:
    """Of x ~ N(mu + 0.3 nu, 1) that is x: cells are cut along it, and the templates are those in x."""
    params = {"bins": 8, "hidden": (16,)}
    estimator, plain = (trained(location, 6_000, 0, binning=name, **params) for name in ("optimal_observable", "quantile"))
    x = torch.linspace(-2, 2, 200)[:, None]
    assert estimator.observable is not None
    with torch.no_grad():
        score = estimator.observable(x)[:, 0]
    assert torch.corrcoef(torch.stack([score, x[:, 0]]))[0, 1] > 0.99
    theta = torch.tensor([0.5, 0.0], dtype=torch.float64)
    difference = estimator.double().log_ratio(x, theta) - plain.double().log_ratio(x, theta)
    assert difference.abs().mean() < 0.1


def test_templates_are_filled_after_the_training_and_with_all_events(location: ExactToy) -> None:
    estimator = build_estimator("template_histogram", location.spec, binning="optimal_observable")
    assert isinstance(estimator, TemplateHistogram)
    events = make_events(location, 600, "templates", 0)
    estimator.prepare(events[:400])
    assert not estimator.coefficients.any()
    assert len(estimator.stages()) == 1
    estimator.finish(events[400:])
    assert estimator.coefficients.any()
    assert build_estimator("template_histogram", location.spec).stages() == ()


def test_templates_in_x_have_no_loss(location: ExactToy) -> None:
    events = make_events(location, 10, "templates", 0)
    estimator = build_estimator("template_histogram", location.spec)
    with pytest.raises(NotImplementedError, match="no loss"):
        estimator.loss(events, torch.Generator())


def relative_width(estimator: TemplateHistogram, toy: ExactToy, n_events: int) -> float:
    """Error of the parameter of interest that its cells allow at nominal, over that of the events themselves.

    With exact cell probabilities: their score is the mean of the exact score over the cell. Nuisances are profiled.
    """
    nominal = toy.spec.parameters.nominal
    x = toy.sample(nominal.repeat(100_000, 1), generator=torch.Generator().manual_seed(1)).x
    score = toy.score(x, nominal)
    cell = torch.nn.functional.one_hot(estimator.cells(estimator._binned_columns(x)), estimator.config.bins).double()
    mean = (cell.T @ score) / cell.sum(0).clamp_min(1)[:, None]
    constraint = torch.diag(torch.tensor([0.0 if p.constraint is None else p.constraint.sigma**-2 for p in toy.spec.parameters.parameters]))
    errors = []
    for information in (mean.T @ (cell.mean(0)[:, None] * mean), score.T @ score / len(x)):
        errors.append(torch.linalg.inv(n_events * information + constraint.double())[0, 0].sqrt())
    return float(errors[0] / errors[1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_cells_in_the_observable_lose_less_than_cells_in_x(seed: int) -> None:
    """On four features, which 40 cells cannot resolve; in fits of 1,000 events."""
    toy = build_toy("fnf_two_class")
    assert isinstance(toy, ExactToy)
    quantile, observable = (
        relative_width(trained(toy, 10_000, seed, binning=name), toy, 1_000) for name in ("quantile", "optimal_observable")
    )
    print(f"seed {seed}: width over that of the events {quantile:.3f} in x, {observable:.3f} in the observable")
    assert 1 < observable < 1 + 0.8 * (quantile - 1)
