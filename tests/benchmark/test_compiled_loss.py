"""A compiled loss trains to the same weights, serves full batches only, and is given up with one warning where it cannot be had."""

from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import os
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from touchneedle.benchmark.compiled_loss import CompiledLoss
from touchneedle.benchmark.config import ComponentConfig, ExperimentConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.identity import LEFT_OUT_AT, identify
from touchneedle.benchmark.train import train
from touchneedle.conf import registry
from touchneedle.estimators import compilation
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.compilation import NotCompiled
from touchneedle.toys.base import Events, build_toy

# The graphs without code from inductor, which takes a compiler and seconds for each method.
GRAPHS_ALONE = {"backend": "aot_eager"}
TRAINER = TrainerConfig(max_epochs=2, batch_size=128, progress=False, accelerator="cpu")
# Toys and designs until one fits a method.
CASES = (("fnf_two_class", "prior"), ("fnf_two_class", "templates"), ("eft_quadratic", "pairs"), ("eft_quadratic", "nominal"))
# These want the events of templates, whatever else they can use.
TEMPLATES_ALONE = ("ratio_morphed", "template_histogram")
SMALL: dict[str, dict[str, Any]] = {
    "spline_flow": {"transforms": 2, "hidden_features": (16,), "bins": 4},
    "affine_flow": {"transforms": 2, "hidden_features": (16,)},
    "ratio_bce": {"hidden": (16,)},
}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    torch.compiler.reset()


def prepared(name: str, toy_name: str, design: Any, params: dict[str, Any]) -> tuple[Estimator, Events]:
    toy = build_toy(toy_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, toy.spec, **params)
    return estimator, make_events(toy, 600, design, 0)


def weights(estimator: Estimator) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in estimator.parameters()])


def trained(estimator: Estimator, events: Events, **changes: Any) -> Estimator:
    train(estimator, events, dataclasses.replace(TRAINER, **changes), OptimizerConfig(), 0)
    return estimator


def both(name: str, toy: str = "fnf_two_class", design: str = "prior", params: dict[str, Any] | None = None) -> tuple[Estimator, Estimator]:
    """An estimator that was trained by its plain loss, and one by its compiled loss."""
    estimator, events = prepared(name, toy, design, SMALL.get(name, {}) if params is None else params)
    return trained(copy.deepcopy(estimator), events), trained(estimator, events, compile=True)


@pytest.mark.parametrize("name", ["spline_flow", "affine_flow", "ratio_bce"])
def test_a_compiled_training_has_the_result_of_a_plain_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(compilation, "BACKEND", GRAPHS_ALONE)
    torch._dynamo.utils.counters.clear()
    plain, fast = both(name)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(weights(fast), weights(plain), rtol=1e-5, atol=1e-6)
    assert list(fast.state_dict()) == list(plain.state_dict())
    copy.deepcopy(fast).load_state_dict(plain.state_dict())


def loss_of(estimator: Estimator, events: Events) -> tuple[CompiledLoss, Callable[[int], torch.Tensor]]:
    estimator.prepare(events)
    loss = CompiledLoss(estimator.loss, list(estimator.parameters()))
    return loss, lambda n: loss(events[:n], torch.Generator().manual_seed(5))


def test_other_numbers_of_events_are_left_to_the_plain_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "BACKEND", GRAPHS_ALONE)
    estimator, events = prepared("ratio_bce", "fnf_two_class", "prior", SMALL["ratio_bce"])
    loss, of = loss_of(estimator, events)
    of(64)
    assert loss.fast is not loss.plain
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    expected = estimator.loss(events[:33], torch.Generator().manual_seed(5))
    torch.testing.assert_close(of(33), expected, rtol=0, atol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


def test_nothing_is_compiled_after_the_trial_and_compiled_code_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, runs = [], []

    def counted(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return lambda *arguments: runs.append(graph) or graph(*arguments)

    monkeypatch.setattr(compilation, "BACKEND", {"backend": counted})

    def branching(x: torch.Tensor) -> torch.Tensor:
        return x.cos() if bool((x > 0).all()) else x.sin()

    up, down = torch.ones(4), -torch.ones(4)
    fast = compilation.compiled(branching, lambda tried: tried(up), "a branch")
    compiled_then, run_then = len(graphs), len(runs)
    assert torch.equal(fast(up), up.cos())
    assert len(runs) == 2 * run_then > 0
    assert torch.equal(fast(down), down.sin())
    assert len(graphs) == compiled_then


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("name", ["spline_flow", "affine_flow", "ratio_bce"])
def test_a_second_network_is_served_by_the_code_of_the_first(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(compilation, "BACKEND", GRAPHS_ALONE)
    first, events = prepared(name, "fnf_two_class", "prior", SMALL[name])
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(1.1)
    alone = trained(copy.deepcopy(second), events, compile=True)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    trained(first, events, compile=True)
    compiled_then, gone = graphs(), weakref.ref(first)
    del first
    trained(second, events, compile=True)
    assert graphs() == compiled_then > 0
    assert torch.equal(weights(second), weights(alone))
    gc.collect()
    assert gone() is None


def test_any_number_of_versions_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "BACKEND", GRAPHS_ALONE)
    monkeypatch.setattr(compilation, "VERSIONS", 3)
    monkeypatch.setattr(compilation, "_compilations", itertools.count(1))

    def power(x: torch.Tensor, n: int) -> torch.Tensor:
        return x.sin() ** n

    for n in range(2, 10):
        before = graphs()
        fast = compilation.compiled(power, lambda tried, n=n: tried(torch.ones(n), n), "a power")  # type: ignore[misc]
        assert graphs() == before + 1
        assert torch.equal(fast(torch.ones(n), n), power(torch.ones(n), n))


def test_a_wrong_compiled_loss_is_given_up_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *arguments: 1.2 * function(*arguments))
    estimator, events = prepared("ratio_bce", "fnf_two_class", "prior", SMALL["ratio_bce"])
    _, of = loss_of(estimator, events)
    with pytest.warns(NotCompiled, match="expected the plain loss within 5%; got a difference of") as told:
        of(64), of(64)
    assert len(told) == 1
    torch.testing.assert_close(of(64), estimator.loss(events[:64], torch.Generator().manual_seed(5)), rtol=0, atol=0)


def test_a_loss_that_cannot_be_compiled_is_trained_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "BACKEND", GRAPHS_ALONE)
    estimator, events = prepared("mined_alices", "eft_quadratic", "pairs", {})
    plain = trained(copy.deepcopy(estimator), events)
    with pytest.warns(NotCompiled, match="double backward") as told:
        fast = trained(estimator, events, compile=True)
    assert len(told) == 1
    # The optimiser's step is one kernel all the same.
    torch.testing.assert_close(weights(fast), weights(plain), rtol=1e-5, atol=1e-6)


WITHOUT_COMPILER = """
import warnings, torch
from touchneedle.estimators.compilation import NotCompiled, compiled
x = torch.ones(8)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always", NotCompiled)
    answer = compiled(torch.sin, lambda fast: fast(x), "the sine")(x)
assert torch.equal(answer, x.sin())
print(*(str(each.message) for each in told))
"""


def test_without_a_compiler_the_plain_function_is_used(tmp_path: Any) -> None:
    environment = os.environ | {"PATH": "", "CXX": "nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the sine is not compiled, and slower for it") == 1
    assert "nonexistent" in done.stdout


def fitting_case(name: str) -> tuple[str, str] | None:
    designs = registry.estimators.load(name).designs  # type: ignore[attr-defined]
    cases = CASES[1:] if name in TEMPLATES_ALONE else CASES
    return next(((toy, design) for toy, design in cases if design in designs), None)


TRAINABLE = [name for name in registry.ESTIMATOR_TABLE if not registry.estimators.load(name).needs_truth]  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINABLE)
def test_every_method_trains_compiled_or_says_that_it_does_not(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(compilation, "BACKEND", GRAPHS_ALONE)
    case = fitting_case(name)
    assert case is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotCompiled)
        plain, fast = both(name, *case, params={})
    if list(plain.parameters()):
        # In the norm: Adam divides by the gradient, so that a weight whose gradient is rounding alone goes its own way.
        expected = weights(plain)
        assert float((weights(fast) - expected).norm()) < 1e-5 * float(expected.norm())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spline_flow", "affine_flow", "ratio_bce", "ratio_nre_c", "mixture_density", "posterior_flow"])
def test_code_of_inductor_trains_to_the_same_within_rounding(name: str) -> None:
    torch._dynamo.utils.counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiled)
        plain, fast = both(name)
    torch.testing.assert_close(weights(fast), weights(plain), rtol=1e-3, atol=1e-4)
    # Traced graphs are kept for the next process, too, unless one of their functions (such as entering autocast) forbids it.
    assert not torch._dynamo.utils.counters["aot_autograd"]["autograd_cache_bypass"]


@pytest.mark.parametrize(("option", "default", "other"), [("compile", False, True), ("precision", "32", "bf16-mixed")])
def test_how_a_training_computes_is_part_of_its_identity_unless_by_default(option: str, default: object, other: object) -> None:
    def identity(**changes: Any) -> str:
        trainer = TrainerConfig(**changes)
        return identify(ExperimentConfig(ComponentConfig("mass_bump"), ComponentConfig("ratio_bce"), trainer=trainer))[0]

    assert identity() == identity(**{option: default}) != identity(**{option: other})
    assert LEFT_OUT_AT[option] == default


@pytest.mark.parametrize("name", ["spline_flow", "ratio_bce"])
def test_mixed_precision_trains_weights_of_single_precision(name: str) -> None:
    estimator, events = prepared(name, "fnf_two_class", "prior", SMALL[name])
    logs = [
        train(copy.deepcopy(estimator), events, dataclasses.replace(TRAINER, precision=precision), OptimizerConfig(), 0)
        for precision in ("32", "bf16-mixed")
    ]
    single, mixed = (log.validation_loss[-1] for log in logs)
    assert single != mixed
    assert mixed == pytest.approx(single, rel=1e-2)
    assert all(parameter.dtype == torch.float32 for parameter in trained(estimator, events, precision="bf16-mixed").parameters())
