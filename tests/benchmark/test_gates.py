"""Gates on made-up rows: states, false alarms, power, and what decided."""

import math

import numpy as np
import pytest
from scipy import stats

from touchneedle.benchmark.gates import CHANCE, CLEARED, GATES, Facts, corrected_significance, gate_rows
from touchneedle.benchmark.records import Metric
from touchneedle.benchmark.verdicts import FLAGGED

FACTS = Facts(("mu",), 1_000)
REPEATS = 300


def row(name, value, stderr=0.01, family="fit", **at):
    return Metric(family=family, name=name, at={"n_events": 1_000, **at}, value=value, stderr=stderr, n=500)


def bias(value, stderr=0.01, **at):
    return row("bias_vs_oracle", value, stderr, **{"parameter": "mu", "point": 0, "target": 0.0, **at})


def fit_test(p_value, name="sbc", family="calibration", **at):
    return row(name, 1.0, 0.1, family, p_value=p_value, **at)


def judge(name, *rows):
    (found,) = [gate for gate in gate_rows(rows, FACTS) if gate.name == name]
    return found


def states(name, many):
    """Shares of pass, fail and undecided, with the largest binomial error of any of them."""
    found = [judge(name, *rows).at["state"] for rows in many]
    return {state: found.count(state) / len(found) for state in ("pass", "fail", "undecided")}


def at_most(share, level):
    """Within four binomial errors of a level that may not be exceeded."""
    return share < level + 4 * math.sqrt(level * (1 - level) / REPEATS)


@pytest.mark.parametrize(
    ("value", "stderr", "state"),
    [
        (0.1, 0.04, "pass"),
        (-0.1, 0.06, "undecided"),
        (0.2, 0.001, "undecided"),
        (-0.3, 0.06, "undecided"),
        (0.3, 0.04, "fail"),
        (0, 0, "pass"),
    ],
)
def test_the_threshold_has_to_be_cleared_by_two_standard_errors(value, stderr, state):
    found = judge("gate_bias", bias(value, stderr))
    assert (found.at["state"], found.value, found.stderr, found.at["threshold"]) == (state, abs(value), stderr, 0.2)
    assert found.family == "gates"


def test_every_gate_says_what_decided():
    rows = [bias(0.01, point=0), bias(-0.5, point=1), bias(0.3, point=2)]
    found = judge("gate_bias", *rows)
    assert found.at["state"] == "fail"
    assert found.at["decided_by"] == "fit/bias_vs_oracle point=1 parameter=mu n_events=1000"
    assert found.at["rows"] == 3
    # The least reserve decides where nothing fails: the noisy row, not the larger one.
    found = judge("gate_bias", bias(0.1, 0.01, point=0), bias(0.08, 0.07, point=1))
    assert found.at["state"] == "undecided"
    assert "point=1" in found.at["decided_by"]


def test_only_frozen_fits_of_the_right_size_and_parameters_of_interest_are_judged():
    others = [bias(9.0, n_events=100), bias(9.0, parameter="nuisance"), bias(9.0, network="retrained"), row("bias", 9.0, parameter="mu")]
    found = judge("gate_bias", bias(0.0), *others)
    assert (found.at["state"], found.at["rows"]) == ("pass", 1)
    missing = judge("gate_bias", bias(0.0, n_events=100))
    assert missing.value is None
    assert "at 1000 events" in missing.at["reason"]
    assert "state" not in missing.at


def test_without_an_oracle_the_bias_against_truth_is_judged():
    na = bias(None, None, reason="the toy has no exact density to compare with")
    assert judge("gate_bias", na).at["reason"] == "the toy has no exact density to compare with"
    found = judge("gate_bias", na, row("bias", 0.5, 0.05, parameter="mu", point=0, target=0.0))
    assert (found.at["state"], found.value) == ("fail", 0.5)


def test_what_is_missing_in_places_prevents_a_pass_and_hides_no_failure():
    na = Metric(family="fit", name="bias_vs_oracle", at={"point": 1, "reason": "no fits"}, value=None)
    found = judge("gate_bias", bias(0.0), na)
    assert (found.at["state"], found.value) == ("undecided", None)
    assert "point=1" in found.at["reason"]
    assert judge("gate_bias", bias(0.5), na).at["state"] == "fail"
    for value, stderr in ((math.nan, 0.1), (math.inf, 0.1), (0.0, None), (0.0, math.nan)):
        assert judge("gate_bias", bias(0.0), bias(value, stderr, point=1)).at["state"] == "undecided"
    # A metric that does not apply at all is no obstacle.
    na = Metric(family="calibration", name="tarp", at={"reason": "no posterior"}, value=None)
    assert judge("gate_calibration", fit_test(0.5), na).at["state"] == "pass"


def test_failed_fits_are_shares():
    for failed, n, state in ((0, 100, "pass"), (0, 20, "undecided"), (20, 100, "fail"), (8, 100, "undecided")):
        found = judge("gate_convergence", row("failed_fits", failed / n).model_copy(update={"n": n}))
        assert (failed, found.at["state"]) == (failed, state)


def test_p_values_fail_beyond_two_sigma_after_correction_and_pass_below_one():
    assert judge("gate_calibration", fit_test(0.02)).at["state"] == "fail"
    assert judge("gate_calibration", fit_test(0.1)).at["state"] == "undecided"
    assert judge("gate_calibration", fit_test(0.2)).at["state"] == "pass"
    ten = [fit_test(0.5, n_set=k) for k in range(9)]
    assert judge("gate_calibration", fit_test(0.02), *ten).at["state"] == "pass"
    assert judge("gate_calibration", fit_test(0.002), *ten).at["state"] == "fail"
    found = judge("gate_calibration", fit_test(0.0, name="pit", n_set=7), *ten)
    assert (found.at["state"], found.stderr) == ("fail", 1.0)
    assert found.at["decided_by"].startswith("calibration/pit")
    assert math.isfinite(found.value)


def test_closure_takes_both_kinds_of_rows():
    chi2 = fit_test(0.5, "reweighting_chi2", "closure")
    ratio = row("mean_ratio", 1.001, 0.001, "closure", target=1.0, point=0, to_point=1)
    assert judge("gate_closure", chi2, ratio).at["state"] == "pass"
    wide = row("mean_ratio", 0.9, 0.2, "closure", target=1.0, point=0, to_point=2)
    assert judge("gate_closure", chi2, ratio, wide).at["state"] == "undecided"
    wrong = row("mean_ratio", 0.9, 0.01, "closure", target=1.0, point=0, to_point=2)
    found = judge("gate_closure", chi2, ratio, wrong)
    assert (found.at["state"], found.value) == ("fail", pytest.approx(0.1))
    assert "to_point=2" in found.at["decided_by"]


def test_rows_that_are_not_conclusive_are_not_judged():
    sound, heavy = (row("mean_ratio", value, 0.001, "closure", target=1.0, conclusive=value < 1.1) for value in (1.0, 1.5))
    assert judge("gate_closure", sound, heavy).at["state"] == judge("gate_closure", sound).at["state"] == "pass"
    assert judge("gate_closure", heavy).value is None


@pytest.mark.parametrize(("p_value", "state"), [(1e-4, "fail"), (0.5, "pass")])
def test_samples_are_judged_by_their_p_values(p_value, state):
    rows = [fit_test(0.5, name, "density") for name in ("sliced_w1", "c2st")]
    assert judge("gate_samples", *rows, fit_test(p_value, "mean_ks", "density")).at["state"] == state


def test_events_that_were_trained_on_fail():
    assert judge("gate_separation", row("reused_share", 0.0, 0.001, "closure")).at["state"] == "pass"
    assert judge("gate_separation", row("reused_share", 0.05, 0.001, "closure")).at["state"] == "fail"


def test_gates_are_listed_and_answer_without_any_rows():
    found = gate_rows([], FACTS)
    assert [one.name for one in found] == [gate.name for gate in GATES]
    assert all(one.value is None and one.at["reason"] for one in found)


@pytest.mark.parametrize("m", [1, 12])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_false_failures_stay_at_the_stated_level_for_any_number_of_rows(m, correlation):
    # All rows exactly at the threshold: the hardest case that is not a failure.
    draw = np.random.default_rng(m).standard_normal
    noise = math.sqrt(1 - correlation) * draw((REPEATS, m)) + math.sqrt(correlation) * draw((REPEATS, 1))
    shares = states("gate_bias", ([bias(0.2 + 0.02 * z, 0.02, point=k) for k, z in enumerate(zs)] for zs in noise))
    assert at_most(shares["fail"], CHANCE)
    if correlation == 0:
        assert abs(shares["fail"] - (1 - (1 - CHANCE / m) ** m)) < 4 * math.sqrt(CHANCE / REPEATS)


def test_false_passes_stay_at_the_stated_level_and_more_rows_make_them_rarer():
    draw = np.random.default_rng(3).standard_normal((REPEATS, 5))
    one_bad = states("gate_bias", ([bias(0.2 + 0.02 * zs[0], 0.02), *(bias(0.0, 0.02, point=k) for k in range(1, 5))] for zs in draw))
    all_bad = states("gate_bias", ([bias(0.2 + 0.02 * z, 0.02, point=k) for k, z in enumerate(zs)] for zs in draw))
    assert at_most(one_bad["pass"], CHANCE)
    assert all_bad["pass"] < 0.005


def test_power_is_that_of_the_normal_law():
    draw = np.random.default_rng(4).standard_normal((REPEATS, 5))
    rows = ([bias((0.3 if k == 0 else 0.0) + 0.025 * z, 0.025, point=k) for k, z in enumerate(zs)] for zs in draw)
    # One of five rows is 4 standard errors beyond the threshold, Bonferroni asks for 2.6 of it.
    expected = stats.norm.sf(stats.norm.isf(CHANCE / 5) - 4)
    assert abs(states("gate_bias", rows)["fail"] - expected) < 4 * math.sqrt(expected * (1 - expected) / REPEATS)
    rows = ([bias(0.025 * z, 0.025, point=k) for k, z in enumerate(zs)] for zs in draw)
    assert states("gate_bias", rows)["pass"] == 1


@pytest.mark.parametrize(("name", "level", "band"), [("coverage_68", 0.6827, 0.05), ("coverage_95", 0.9545, 0.03)])
@pytest.mark.parametrize("n", [500, 2_000])
def test_coverage_with_binomial_rows(name, level, band, n):
    def rows(true, seed):
        for shares in np.random.default_rng(seed).binomial(n, true, (REPEATS, 5)) / n:
            at = {"parameter": "mu", "level": level, "target": level}
            yield [row(name, float(c), point=k, **at).model_copy(update={"n": n}) for k, c in enumerate(shares)]

    for edge in (level - band, level + band):
        found = states("gate_coverage", rows(edge, n))
        assert at_most(found["fail"], CHANCE)
        assert found["pass"] < 0.005
    if n == 2_000:
        assert states("gate_coverage", rows(level, 5))["pass"] > 0.9
    assert states("gate_coverage", rows(level - 2.5 * band, 6))["fail"] > 0.9


def test_an_oracle_passes_calibration_as_often_as_stated_and_fails_at_the_stated_level():
    p_values = np.random.default_rng(7).random((REPEATS, 8))
    shares = states("gate_calibration", ([fit_test(float(p), n_set=k) for k, p in enumerate(ps)] for ps in p_values))
    assert at_most(shares["fail"], CHANCE)
    assert abs(shares["pass"] - (1 - stats.norm.sf(1) / 8) ** 8) < 4 * math.sqrt(0.13 / REPEATS)


@pytest.mark.parametrize("p_value", [1e-8, 3e-3, 2e-2, 0.5])
def test_a_gate_fails_where_one_of_its_metrics_is_significant(p_value):
    rows = [fit_test(p_value, "sbc"), fit_test(0.4, "sbc"), fit_test(0.7, "tarp"), fit_test(0.2, "pit")]
    found = corrected_significance(rows, FACTS)
    assert found["calibration/sbc"] == pytest.approx(stats.norm.isf(min(1 - 1e-15, 4 * p_value)), rel=1e-6)
    assert list(found) == ["calibration/sbc", "calibration/tarp", "calibration/pit"]
    fails = judge("gate_calibration", *rows).at["state"] == "fail"
    assert fails == (max(found.values()) > CLEARED)


def test_a_metric_without_a_number_has_no_significance():
    nothing = Metric(family="calibration", name="sbc", value=None, at={"reason": "none"})
    assert corrected_significance([nothing, fit_test(0.5, "pit")], FACTS).keys() == {"calibration/pit"}


def test_verdicts_flag_what_gates_fail():
    assert FLAGGED == CLEARED
