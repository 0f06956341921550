"""The sweep behind the published board: complete, on seeds of its own, and affordable."""

from collections import Counter

import pytest

from touchneedle.benchmark.overrides import from_hydra, key_of
from touchneedle.benchmark.plan import make_plan
from touchneedle.benchmark.records import BOARD_SEEDS
from touchneedle.benchmark.sweep import expand
from touchneedle.conf import registry

# Seconds of one core, at most: two cores for ninety minutes.
AFFORDABLE = 2 * 90 * 60
# Estimated seconds of one core: for 2,100 training steps of 256 events, and for this evaluation. From the costs in
# `results/reference` (`train_seconds` of 3,520 steps of 512 events on an idle core, scaled by steps and 0.7 for the smaller batch),
# those of `contestants/` with the load that they had divided out, and single cells with this evaluation. Early stopping costs less.
TRAIN = {
    "ratio_bce": 12, "ratio_balanced": 12, "ratio_regression": 12, "ratio_parametric": 15, "ratio_quadratic": 28, "ratio_nre_c": 25,
    "ratio_wifi": 60, "ratio_morphed": 25, "ratio_gp": 60, "event_embedding": 25, "flow_times_ratio": 40, "ratio_signed_mixture": 30,
    "ratio_signed_pare": 20, "ratio_signed_revert": 22, "mined_alices": 25, "mined_alice": 15, "mined_rascal": 25, "mined_rolr": 15,
    "mined_scandal": 40, "score_sally": 6, "spline_flow": 16, "zuko_nsf": 30, "zuko_maf": 12, "affine_flow": 12, "zuko_realnvp": 15,
    "zuko_gf": 30, "zuko_cnf": 60, "nflows_nsf": 35, "nflows_maf": 20, "nflows_coupling_nsf": 45, "normflows_nsf": 40,
    "normflows_realnvp": 20, "mixture_density": 10, "factorizable_flow": 40, "flow_matching": 40, "diffusion_likelihood": 40,
    "posterior_flow": 12, "posterior_mixture": 12, "posterior_flow_matching": 45, "posterior_score": 35, "template_histogram": 3,
    "kernel_density": 2,
}  # fmt: skip
EVALUATE = {
    "oracle": 5, "oracle_narrow": 6, "oracle_shifted": 6, "best_gaussian": 5, "counting": 4, "mixture_density": 7, "posterior_flow": 10,
    "posterior_mixture": 8, "ratio_bce": 9, "spline_flow": 30, "zuko_nsf": 45, "zuko_gf": 45, "nflows_nsf": 45, "nflows_coupling_nsf": 50,
    "normflows_nsf": 50, "factorizable_flow": 100, "ratio_gp": 40, "kernel_density": 40, "flow_times_ratio": 45, "mined_scandal": 45,
    "template_histogram": 10, "diffusion_likelihood": 60, "flow_matching": 40, "posterior_flow_matching": 60, "posterior_score": 60,
    "zuko_cnf": 60, "mined_alices": 27,
}  # fmt: skip
EVALUATE_OTHERS = 14
# Steps over these 2,100, without early stopping: epochs times batches of an epoch.
STEPS = {"tiny": 150 * 7 / 2_100, "small": 40 * 35 / 2_100, "medium": 10 * 352 / 2_100}
CONTROLS = ("oracle", "oracle_narrow", "oracle_shifted", "best_gaussian", "counting")
CORE_TOYS = {"mass_bump", "fnf_two_class", "gaussian_shift", "many_nuisances", "eft_quadratic"}
CORE = {
    *((name, "prior") for name in ("ratio_bce", "ratio_parametric", "spline_flow", "mixture_density", "posterior_flow")),
    *((name, "templates") for name in ("template_histogram", "ratio_morphed")),
    ("mined_alices", "pairs"),
}
FEWER = {(name, "templates"): 2 for name in ("ratio_bce", "mixture_density", "factorizable_flow")}


def cells(preset: str) -> list[dict[str, str]]:
    """Key -> value of every cell."""
    found = expand([f"sweep={preset}"], multirun=True).cells
    return [{key_of(word): word.partition("=")[2] for word in map(from_hydra, words)} for words in found]


@pytest.fixture(scope="module")
def board() -> list[dict[str, str]]:
    return cells("reference")


def design(cell: dict[str, str]) -> str:
    return cell.get("design", "prior")


def test_the_core_stands_on_five_toys_with_five_seeds(board: list[dict[str, str]]) -> None:
    seeds: dict[tuple[str, str, str], set[str]] = {}
    for cell in board:
        if cell["budget"] == "small":
            seeds.setdefault((cell["estimator"], design(cell), cell["toy"]), set()).add(cell["seed"])
    several = {key: len(found) for key, found in seeds.items() if len(found) > 1}
    expected = dict.fromkeys(CORE, 5) | FEWER
    assert several == {(*method, toy): count for method, count in expected.items() for toy in CORE_TOYS}


def test_every_estimator_is_there_and_on_two_toys_at_least(board: list[dict[str, str]]) -> None:
    toys: dict[str, set[str]] = {}
    for cell in board:
        toys.setdefault(cell["estimator"], set()).add(cell["toy"])
    assert set(toys) == set(registry.ESTIMATOR_TABLE)
    assert min(len(found) for found in toys.values()) >= 2


def test_learning_curves_run_over_three_budgets(board: list[dict[str, str]]) -> None:
    budgets: dict[tuple[str, str], set[str]] = {}
    for cell in board:
        budgets.setdefault((cell["estimator"], cell["toy"]), set()).add(cell["budget"])
    curves = {name for (name, _), found in budgets.items() if found == {"tiny", "small", "medium"}}
    assert curves == {"ratio_bce", "spline_flow", "mixture_density", "posterior_flow"}


def test_the_board_takes_ninety_minutes_of_two_cores_at_most(board: list[dict[str, str]]) -> None:
    unknown = {cell["estimator"] for cell in board} - set(TRAIN) - set(CONTROLS)
    assert not unknown
    seconds = [STEPS[cell["budget"]] * TRAIN.get(cell["estimator"], 0) + EVALUATE.get(cell["estimator"], EVALUATE_OTHERS) for cell in board]
    assert sum(seconds) < AFFORDABLE, f"{sum(seconds) / 120:.0f} minutes of two cores"


@pytest.mark.parametrize("preset", ["reference", "full"])
def test_the_board_has_seeds_of_its_own(preset: str) -> None:
    assert {int(cell["seed"]) in BOARD_SEEDS for cell in cells(preset)} == {True}


@pytest.mark.parametrize("preset", ["reference", "full"])
def test_no_cell_stands_twice_and_every_estimator_gets_a_design_that_it_can_use(preset: str) -> None:
    found = cells(preset)
    assert max(Counter(tuple(sorted(cell.items())) for cell in found).values()) == 1
    for name, how in {(cell["estimator"], design(cell)) for cell in found}:
        assert how in registry.estimators.load(name).designs, (name, how)
    assert {cell["estimator"] for cell in found} == set(registry.ESTIMATOR_TABLE)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["sweep=reference"], ["sweep=full", "seed=1000"]])
def test_every_cell_composes(overrides: list[str], tmp_path) -> None:
    planned = make_plan([*overrides, f"results={tmp_path}"], multirun=True)
    assert planned.problems == []
    assert planned.left == planned.cells
