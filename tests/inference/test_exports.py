"""Graphs of estimators: the same answers under torch alone and under ONNX Runtime, or a stated reason why there are none."""

import json
import subprocess
import sys

import pytest
import torch

from touchneedle.estimators.base import build_estimator
from touchneedle.inference import load_bundle, save_bundle
from touchneedle.inference.exported import ExportFailed, export_pt2
from touchneedle.inference.onnx import export_onnx, run_onnx
from touchneedle.inference.parity import make_parity
from touchneedle.toys.base import build_toy


@pytest.fixture(scope="module")
def events():
    toy = build_toy("gaussian_shift")
    generator = torch.Generator().manual_seed(0)
    theta = toy.spec.parameters.sample_prior(200, generator).clamp(toy.spec.parameters.low, toy.spec.parameters.high)
    return toy.sample(theta, generator=generator)


def prepared(name, events, **options):
    """An untrained estimator: what is exported does not depend on how good the weights are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, build_toy("gaussian_shift").spec, **options)
    estimator.prepare(events)
    return estimator.double().eval()


def test_the_graph_needs_torch_alone(events, tmp_path):
    estimator = prepared("ratio_bce", events, hidden=(8, 8))
    folder = save_bundle(tmp_path / "bundle", estimator, events, formats=("pt2",))
    parity = json.loads((folder / "parity.json").read_text())
    program = f"""
import json, sys, torch
graph = torch.export.load({str(folder / "log_ratio.pt2")!r}).module()
parity = json.load(open({str(folder / "parity.json")!r}))
x, theta = (torch.tensor(parity[name], dtype=torch.float64) for name in ("x", "theta"))
theta.requires_grad_()
value = graph(x, theta)
value.sum().backward()
assert not any(name.startswith("touchneedle") for name in sys.modules)
print(json.dumps([value.tolist(), theta.grad.tolist()]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    value, score = (torch.tensor(column, dtype=torch.float64) for column in json.loads(done.stdout))
    torch.testing.assert_close(value, torch.tensor(parity["log_ratio"], dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(score, torch.tensor(parity["score"], dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mixture_density", "ratio_parametric"])
def test_the_graph_takes_any_number_of_events(events, tmp_path, name):
    estimator = prepared(name, events)
    graph = load_bundle(save_bundle(tmp_path / "bundle", estimator, events, formats=("pt2",)), graph=True).graph
    for n in (1, 2, 200):
        x, theta = events.x[:n].double(), events.theta[:n].double()
        torch.testing.assert_close(graph(x, theta), estimator.log_ratio(x, theta), rtol=1e-12, atol=1e-12)


def test_what_does_not_export_says_why_and_leaves_a_bundle_without_graph(events, tmp_path, monkeypatch):
    estimator = prepared("best_gaussian", events)
    # The way taken depends on the data, so no graph describes it.
    monkeypatch.setattr(type(estimator), "_log_ratio", lambda self, x, theta: theta[:, 0] if float(x.sum()) > 0 else theta[:, 1])
    with pytest.raises(ExportFailed):
        export_pt2(estimator, make_parity(estimator, events))
    folder = save_bundle(tmp_path / "bundle", estimator, events, formats=("pt2",))
    bundle = load_bundle(folder)
    assert bundle.manifest.exports["pt2"].startswith("not exported: ")
    assert not (folder / "log_ratio.pt2").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ratio_bce", "mixture_density", "ratio_parametric"])
def test_onnx_runtime_gives_value_and_gradient(events, tmp_path, name):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    estimator = prepared(name, events)
    parity = make_parity(estimator, events)
    files = export_onnx(estimator, parity)
    value, nothing = run_onnx(files["log_ratio.onnx"], parity)
    both, gradient = run_onnx(files["log_ratio_gradient.onnx"], parity)
    assert nothing is None
    for answer in (value, both):
        torch.testing.assert_close(answer, torch.tensor(parity.log_ratio, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, torch.tensor(parity.score, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    single = parity.model_copy(update={"x": parity.x[:1], "theta": parity.theta[:1]})
    assert float(run_onnx(files["log_ratio.onnx"], single)[0]) == pytest.approx(parity.log_ratio[0], abs=1e-5)


def test_without_the_extra_onnx_names_it(events, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    estimator = prepared("best_gaussian", events)
    with pytest.raises(Exception, match=r"pip install 'touchneedle\[onnx\]'"):
        export_onnx(estimator, make_parity(estimator, events))
