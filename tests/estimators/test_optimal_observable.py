"""Optimal observables: the learned score, and templates in it against templates in x."""

from __future__ import annotations

import pytest
import torch

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.template_histogram import TemplateHistogram
from touchneedle.inference.fit import fit
from touchneedle.inference.likelihood import Likelihood
from touchneedle.toys.base import Events, ExactToy, build_toy

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


@pytest.mark.slow
def test_templates_in_the_observable_measure_more_than_templates_in_x() -> None:
    """The error of the fraction of a fit at nominal of 1,000 events, on four features that 40 cells cannot resolve."""
    toy = build_toy("fnf_two_class")
    assert isinstance(toy, ExactToy)
    pool = toy.sample(toy.spec.parameters.nominal.repeat(20_000, 1), generator=torch.Generator().manual_seed(1))
    data = Events(pool.x, pool.theta, pool.weight * 1_000 / len(pool))
    oracle = fit(Likelihood(build_estimator("oracle", toy.spec, truth=toy)), data)
    for seed in (0, 1):
        results = [fit(Likelihood(trained(toy, 10_000, seed, binning=name).double()), data) for name in ("quantile", "optimal_observable")]
        quantile, observable = (result.sigma[0] / oracle.sigma[0] for result in results)
        shifts = [float((result.theta[0] - oracle.theta[0]) / oracle.sigma[0]) for result in results]
        print(f"seed {seed}: width over oracle {quantile:.3f} in x, {observable:.3f} in the observable; shifts {shifts} sigma")
        assert all(result.valid for result in results)
        assert observable < 0.9 * quantile
