"""Every registered estimator passes the conformance kit, and survives a fresh process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from touchneedle.benchmark.check_estimator import check_estimator
from touchneedle.benchmark.check_subject import Subject
from touchneedle.benchmark.config import ComponentConfig
from touchneedle.benchmark.reload import reload_check, save_probe
from touchneedle.conf.registry import ESTIMATOR_TABLE
from touchneedle.toys.base import ExactToy, SimulatedToy, build_toy

COUPLINGS = ["nflows_coupling_nsf", "normflows_realnvp", "zuko_realnvp"]
TRAINED = [
    "factorizable_flow", "flow_matching", "mined_alices", "nflows_nsf", "normflows_nsf", "posterior_flow", "posterior_score", "ratio_bce",
    "ratio_gp", "ratio_morphed", "ratio_nre_c", "ratio_parametric", "ratio_wifi", "score_sally", "template_histogram", "zuko_cnf",
    "zuko_gf", "zuko_nsf", *COUPLINGS,
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(ESTIMATOR_TABLE))
def test_conformance_in_one_dimension(name: str, location: ExactToy) -> None:
    failed = [result for result in check_estimator(name, location) if not result.passed]
    assert not failed


@pytest.mark.parametrize("name", COUPLINGS)
def test_a_pair_that_cannot_work_is_skipped_with_its_reason(name: str, location: ExactToy) -> None:
    (result,) = check_estimator(name, location)
    assert (result.name, result.passed) == ("skipped", True)
    assert "at least 2 columns" in result.message


@pytest.mark.parametrize("name", TRAINED)
def test_conformance_in_four_dimensions(name: str) -> None:
    failed = [result for result in check_estimator(name, build_toy("fnf_two_class")) if not result.passed]
    assert not failed


HARD_SUPPORT: list[tuple[str, dict[str, Any]]] = [
    ("flow_matching", {"hidden": (16, 16)}),
    ("zuko_nsf", {"transforms": 1, "hidden_features": (16,)}),
]


@pytest.mark.parametrize(("name", "params"), HARD_SUPPORT)
def test_conformance_with_a_hard_support(name: str, params: dict[str, Any]) -> None:
    failed = [result for result in check_estimator(name, build_toy("mass_bump"), **params) if not result.passed]
    assert not failed


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("event_embedding", {"kind": "softmax", "dimensions": 3}),
    ("factorizable_flow", {"layers": 1, "transforms": 1, "damping": 1.0, "residual_features": (16,)}),
    ("flow_matching", {"steps": 1, "noises": 1, "hidden": (16, 8)}),
    ("flow_times_ratio", {"transforms": 1, "normalise": "none", "candidates": 16}),
    ("kernel_density", {"bandwidth": "scott", "adaptive": True, "kernels": 200}),
    ("nflows_nsf", {"transforms": 1, "hidden_features": (16,), "bins": 3}),
    ("posterior_flow", {"flow": "zuko_maf", "hidden": (16,)}),
    ("posterior_flow", {"transforms": 1, "components": 1, "hidden": (16,)}),
    ("posterior_score", {"network": "potential", "sde": "vp", "sampler": "sde", "normalise": "none"}),
    ("ratio_balanced", {"square": "batch"}),
    ("ratio_bce", {"calibration": "histogram"}),
    ("ratio_bce", {"calibration": "isotonic"}),
    ("ratio_bce", {"normalise": "none", "hidden": ()}),
    ("ratio_gp", {"normalise": "none", "hidden": (16,)}),
    ("ratio_nre_c", {"contrastive": 1, "gamma": 3.0}),
    ("ratio_parametric", {"degree": 1, "hidden": (16,)}),
    ("ratio_quadratic", {"positive": False}),
    ("ratio_wifi", {"split": "partition", "weight_loss": "likelihood", "members": 3}),
    ("template_histogram", {"binning": "optimal_observable", "hidden": (16,)}),
    ("template_histogram", {"bins": 7, "degree": 0}),
]


@pytest.mark.parametrize(("name", "params"), OPTIONS)
def test_conformance_with_other_options(name: str, params: dict[str, Any], location: ExactToy) -> None:
    failed = [result for result in check_estimator(name, location, **params) if not result.passed]
    assert not failed


def test_fresh_process_gives_the_same_numbers_and_notices_others(tmp_path: Path) -> None:
    for name in ESTIMATOR_TABLE:
        toy = build_toy("fnf_two_class" if name in COUPLINGS else "gaussian_shift")
        assert isinstance(toy, SimulatedToy)
        subject = Subject(name, toy)
        truth = ComponentConfig(toy.spec.name) if subject.trained.needs_truth else None
        save_probe(tmp_path, subject.trained, ComponentConfig(name), subject.probe, truth)
    tampered = shutil.copytree(tmp_path / "best_gaussian", tmp_path / "tampered") / "weights.safetensors"
    tensors = load_file(tampered)
    save_file({**tensors, "slope": tensors["slope"] * 1.1}, tampered)
    results = reload_check(tmp_path)
    assert [result.name for result in results] == [f"reload {name}" for name in sorted([*ESTIMATOR_TABLE, "tampered"])]
    failed = [result for result in results if not result.passed]
    assert [result.name for result in failed] == ["reload tampered"]
    assert "best_gaussian changed" in failed[0].message
