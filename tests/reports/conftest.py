"""A small factory of synthetic results folders, built with the record models themselves."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from chromium import CHROMIUM, Chromium

from touchneedle.benchmark.config import BudgetConfig, ComponentConfig, EvaluationConfig, ExperimentConfig, config_to_dict
from touchneedle.benchmark.records import Budget, EstimatorInfo, Metric, Null, Record, ToyInfo, write_record

POI = "signal_fraction"


def metric(name: str, value: float | None, stderr: float | None = None, *, null: Null | None = None, **at: Any) -> Metric:
    family, _, short = name.partition("/")
    return Metric(family=family, name=short, value=value, stderr=stderr, at=at, n=100, null=null)


def fit_metrics(n_star: float | None, bias: float, *, censored: str | None = None, reason: str | None = None) -> list[Metric]:
    marks = {key: mark for key, mark in (("censored", censored), ("reason", reason)) if mark}
    fits = []
    for n in (100, 1000):
        here = {"parameter": POI, "point": 0, "n_events": n}
        fits += [
            metric("fit/bias_vs_oracle", bias * math.sqrt(n / 1000), 0.04, **here),
            metric("fit/pull_width", 1.02, 0.03, **here),
            metric("fit/width_vs_oracle", 0.98, 0.01, **here),
            metric("fit/coverage_68", 0.68, 0.02, **here, target=0.683),
            metric("fit/coverage_95", 0.95, 0.01, **here, target=0.95),
        ]
    star_error = None if n_star is None else 0.1 * n_star
    return [metric("fit/n_star", n_star, star_error, parameter=POI, point=0, **marks), *fits]


def density_metrics(kl: float) -> list[Metric]:
    return [
        metric("density/kl", kl, 0.0004),
        metric("density/log_ratio_rmse", math.sqrt(kl), 0.001),
        metric("density/log_ratio_median", 0.4 * math.sqrt(kl), 0.001),
        metric("closure/mean_ratio", 1 + kl, 0.002, target=1.0),
    ]


def record(
    estimator: str = "ratio_bce",
    seed: int = 0,
    metrics: list[Metric] | None = None,
    *,
    toy: str = "mass_bump",
    version: str = "1",
    params: dict[str, Any] | None = None,
    n_train: int = 10_000,
    **changes: Any,
) -> Record:
    config = ExperimentConfig(
        toy=ComponentConfig(toy),
        estimator=ComponentConfig(estimator, dict(params or {})),
        budget=BudgetConfig("small", n_train),
        evaluation=EvaluationConfig(),
        seed=seed,
    )
    fields: dict[str, Any] = {
        "run_id": f"{toy}-{version}-{estimator}-{len(params or {})}-{n_train}-{seed}",
        "fit_id": f"fit-{seed}",
        "status": "ok",
        "toy": ToyInfo(name=toy, version=version),
        "estimator": EstimatorInfo(name=estimator, version="1", distribution="touchneedle", params=dict(params or {})),
        "budget": Budget(name="small", n_train=n_train),
        "design": "prior",
        "seed": seed,
        "metrics": metrics if metrics is not None else [*fit_metrics(300.0, 0.3), *density_metrics(0.004)],
        "cost": {"train_seconds": 12.3, "log_ratio_microseconds": 1.7},
        "environment": {"python": "3.12", "torch": "2.13.0"},
        "config": config_to_dict(config),
    }
    return Record(**{**fields, **changes})


def many_records(toys: int, estimators: int, seeds: int) -> Iterator[Record]:
    """A campaign: every estimator on every toy, with every seed, and gates; one run in fifty failed."""
    gate = {"state": "pass", "decided_by": "fit/bias point=0"}
    gates = [Metric(family="gates", name=f"gate_{name}", value=0.1, stderr=0.01, at=gate) for name in ("bias", "coverage", "closure")]
    numbers = [[*fit_metrics(100.0 + 7 * k, 0.1 + 0.01 * k), *density_metrics(0.001 * (1 + k)), *gates] for k in range(estimators)]
    for number in range(toys * estimators * seeds):
        toy, rest = divmod(number, estimators * seeds)
        k, seed = divmod(rest, seeds)
        failed = (
            {"status": "failed", "reason": "loss is not finite", "traceback": f"run {number}: {'deep ' * 200}"} if number % 50 == 49 else {}
        )
        yield record(f"net_{k}", seed, [] if failed else numbers[k], toy=f"toy_{toy}", **failed)


def write_curves(folder: Path, run_id: str, shift: float = 0.0, *, broken: bool = False) -> Path:
    path = folder / run_id / "curves.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    if broken:
        path.write_bytes(b"PAR1 this is no parquet file")
        return path
    grid = [k / 20 for k in range(21)]
    lines: list[tuple[str, str, float, float, float | None, float | None]] = []
    lines += [("scan", "exact", x, 40 * (x - 0.5) ** 2, None, None) for x in grid]
    lines += [("scan", "estimator", x, 40 * (x - 0.5 - shift) ** 2, None, None) for x in grid]
    lines += [("ratio", "estimator", x, shift * x, shift * x - 0.1, shift * x + 0.1) for x in grid]
    lines += [("loss", name, float(epoch), 1 / (epoch + 1), None, None) for name in ("train", "validation") for epoch in range(5)]
    columns = dict(zip(("curve", "series", "x", "y", "low", "high"), map(list, zip(*lines, strict=True)), strict=True))
    schema = pyarrow.schema([(n, pyarrow.string() if n in ("curve", "series") else pyarrow.float64()) for n in columns])
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), path)
    return path


class Factory:
    """Functions that build metrics, records and folders."""

    poi = POI
    metric = staticmethod(metric)
    fit_metrics = staticmethod(fit_metrics)
    density_metrics = staticmethod(density_metrics)
    record = staticmethod(record)
    many_records = staticmethod(many_records)
    write_curves = staticmethod(write_curves)

    @staticmethod
    def write(folder: Path, *records: Record) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for one in records:
            write_record(folder, one)
        return folder


@pytest.fixture(scope="session")
def make() -> type[Factory]:
    return Factory


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A headless browser for pages on disk."""
    required = "BROWSER_REQUIRED" in os.environ
    if CHROMIUM is None and not required:
        pytest.skip("needs chromium on PATH (Debian: apt-get install chromium)")
    opened = Chromium(tmp_path_factory.mktemp("chromium"))
    try:
        opened.call("Browser.getVersion")
    except OSError as error:
        opened.close()
        if required:
            raise
        pytest.skip(f"{CHROMIUM} does not start here: {error}")
    yield opened
    opened.close()


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Path]:
    """Writes records into a fresh results folder and returns it."""
    return lambda *records: Factory.write(tmp_path / "results", *records)


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A sweep with everything in it: two seeds, controls, a baseline, a failure, skips, curves."""
    return write_demo(tmp_path / "demo")


def write_demo(folder: Path) -> Path:
    def numbers(n_star: float | None, bias: float, kl: float, **marks: Any) -> list[Metric]:
        return [*fit_metrics(n_star, bias, **marks), *density_metrics(kl)]

    cells = {
        "oracle": numbers(1e6, 0.0, 0.0, censored="above"),
        "oracle_shifted": numbers(160, 0.5, 0.12),
        "best_gaussian": numbers(24, 1.3, 0.4),
        "template_histogram": numbers(420, 0.25, 0.02),
        "zuko_nsf": numbers(290, 0.4, 0.003),
        "ratio_bce": numbers(310, -0.38, 0.004),
        "posterior_flow": numbers(61, 0.81, 0.03),
    }
    for k, (name, metrics) in enumerate(cells.items()):
        for seed in range(2):
            run = record(name, seed, [m.model_copy(update={"value": m.value and m.value * (1 + 0.1 * seed)}) for m in metrics])
            Factory.write(folder, run)
            write_curves(folder, run.run_id, 0.02 * k)
    trace = 'Traceback (most recent call last):\n  File "train.py", line 3\nFloatingPointError: loss is not finite'
    Factory.write(
        folder,
        record("zuko_nsf", 2, [], status="failed", reason="loss is not finite at epoch 3", traceback=trace),
        record("ratio_bce", 0, [], toy="two_moons", run_id="moons-skip", status="skipped", reason="ratio_bce cannot use design templates"),
        record("oracle", 0, density_metrics(0.0), toy="two_moons", run_id="moons-oracle"),
        record("zuko_nsf", 0, density_metrics(0.02), toy="two_moons", run_id="moons-nsf", params={"transforms": 5, "bins": 16}),
    )
    return folder
