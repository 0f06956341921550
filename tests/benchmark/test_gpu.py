"""On a CUDA device: train, evaluate, save and load across devices (run with ``-m gpu``)."""

from pathlib import Path

import pytest
import torch

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.store import load_fit, save_fit
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("name", ["posterior_flow", "ratio_bce", "zuko_nsf"])
def test_train_on_gpu_and_agree_everywhere(name: str, tmp_path: Path) -> None:
    toy = build_toy("fnf_two_class")
    estimator = build_estimator(name, toy.spec)
    events = make_events(toy, 4_000, "prior", 0)
    log = train(estimator, events, TrainerConfig(max_epochs=3, progress=False, accelerator="gpu"), OptimizerConfig(), 0)
    assert log.train_loss[-1] < log.train_loss[0]

    x, theta = events.x[:500], events.theta[:500]
    estimator.double()
    on_cpu = estimator.log_ratio(x, theta)
    on_gpu = estimator.cuda().log_ratio(x, theta).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-8, atol=1e-8)

    save_fit(tmp_path, "fit", estimator, log)
    loaded = build_estimator(name, toy.spec).double()
    assert load_fit(tmp_path, "fit", loaded) is not None
    torch.testing.assert_close(loaded.log_ratio(x, theta), on_cpu, rtol=1e-10, atol=1e-10)
