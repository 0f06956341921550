"""On a CUDA device: train, evaluate, save and load across devices (run with ``-m gpu``)."""

from pathlib import Path

import pytest
import torch

from tests.benchmark.trainable import TRAINED, prepared
from touchneedle.benchmark.config import EnsembleConfig, EvaluationConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.evaluate import evaluate
from touchneedle.benchmark.store import load_fit, save_fit
from touchneedle.benchmark.train import train, train_ensemble
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.ensemble import Ensemble

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("name", TRAINED)
def test_train_on_gpu_and_agree_everywhere(name: str, tmp_path: Path) -> None:
    estimator, events, toy = prepared(name)
    log = train(estimator, events, TrainerConfig(max_epochs=3, progress=False, accelerator="gpu"), OptimizerConfig(), 0)
    for stage in set(log.stages):
        losses = [loss for loss, where in zip(log.train_loss, log.stages, strict=True) if where == stage]
        assert losses[-1] < losses[0]

    x, theta = events.x[:500], events.theta[:500]
    estimator.double()
    on_cpu = estimator.log_ratio(x, theta)
    on_gpu = estimator.cuda().log_ratio(x, theta).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-6, atol=1e-6, equal_nan=True)

    save_fit(tmp_path, "fit", estimator, log)
    loaded = build_estimator(name, toy.spec).double()
    assert load_fit(tmp_path, "fit", loaded) is not None
    torch.testing.assert_close(loaded.log_ratio(x, theta), on_cpu, rtol=1e-10, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("name", ["posterior_flow", "ratio_bce", "zuko_nsf"])
def test_a_stacked_ensemble_trains_on_gpu_as_it_does_on_a_cpu(name: str) -> None:
    events = prepared(name)[1]
    answers = []
    for accelerator in ("gpu", "cpu"):
        members = []
        for seed in range(2):
            torch.manual_seed(seed)
            members.append(prepared(name)[0])
        trainer = TrainerConfig(max_epochs=1, batch_size=1_024, progress=False, accelerator=accelerator)  # type: ignore[arg-type]
        train_ensemble(Ensemble(members), events, trainer, OptimizerConfig(), EnsembleConfig(members=2, stacked="yes"), 0)
        answers.append(torch.stack([member.log_ratio(events.x[:200], events.theta[:200]) for member in members]))
    # Four steps in float32: the devices' roundings have not grown yet.
    torch.testing.assert_close(*answers, rtol=1e-2, atol=1e-2)


def test_the_energy_conserving_optimiser_runs_on_gpu() -> None:
    estimator, events, _ = prepared("ratio_bce")
    optimizer = OptimizerConfig(name="energy_conserving", learning_rate=0.4, weight_decay=0.0)
    log = train(estimator, events, TrainerConfig(max_epochs=5, progress=False, accelerator="gpu"), optimizer, 0)
    assert log.train_loss[-1] < log.train_loss[0]


@pytest.mark.parametrize("name", ["ratio_bce", "zuko_nsf"])
def test_a_network_on_gpu_is_scored_there(name: str) -> None:
    estimator, events, toy = prepared(name)
    train(estimator, events, TrainerConfig(max_epochs=3, progress=False, accelerator="gpu"), OptimizerConfig(), 0)
    config = EvaluationConfig("tiny", n_experiments=20, n_test=500, n_sample=100, n_events=(100,), n_pool=2_000, n_posterior=40, n_set=(1,))
    rows = evaluate(toy, estimator.cuda(), config, 0).metrics
    again = evaluate(toy, estimator.cpu(), config, 0).metrics
    assert len(rows) == len(again)
    for on_gpu, on_cpu in zip(rows, again, strict=True):
        assert (on_gpu.name, on_gpu.at.get("point")) == (on_cpu.name, on_cpu.at.get("point"))
        assert (on_gpu.value is None) == (on_cpu.value is None)
