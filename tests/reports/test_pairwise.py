"""Differences of mean scores: against regression, closed testing and brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, rankdata
from scipy.stats import t as student

from touchneedle.reports.pairwise import differences, holm, letter, letters, random_variance


def test_holm_is_the_closure_of_bonferroni() -> None:
    p = np.array([0.011, 0.02, 0.04, 0.011, 0.3])
    closed = [
        max(min(1.0, len(s) * p[list(s)].min()) for size in range(1, 6) for s in combinations(range(5), size) if k in s) for k in range(5)
    ]
    assert holm(p) == pytest.approx(closed, rel=1e-12)


def test_errors_are_those_of_a_two_way_regression_with_one_random_toy() -> None:
    scores = np.random.default_rng(3).normal(size=(5, 4))
    toy, contestant = np.divmod(np.arange(20), 4)
    design = np.column_stack([toy[:, None] == np.arange(5), (contestant[:, None] == np.arange(1, 4))]).astype(float)
    _, (residual,), rank, _ = np.linalg.lstsq(design, scores.ravel(), rcond=None)
    random_toy = sum(np.sum((toy - toy.mean()) ** 2) for toy in scores) / 5
    expected = 2 / 5 * (residual + random_toy) / (20 - rank + 3)
    found = differences(scores)
    assert [pair.stderr**2 for pair in found] == pytest.approx([expected] * 6, rel=1e-12)
    raw = [2 * student.sf(pair.value / pair.stderr, 12) for pair in found]
    assert [pair.p_value for pair in found] == pytest.approx(list(holm(np.array(raw))), rel=1e-12)
    assert all(scores.mean(0)[pair.worse] - scores.mean(0)[pair.better] == pytest.approx(pair.value) for pair in found)


def test_a_random_toy_of_plain_ranks_has_the_variance_of_a_rank() -> None:
    ranks = rankdata(np.random.default_rng(2).normal(size=(4, 7)), axis=1)
    assert random_variance(ranks) == pytest.approx(7 * 8 / 12)


def test_mean_ranks_give_friedmans_statistic() -> None:
    values = np.random.default_rng(5).normal(size=(7, 4))
    mean = rankdata(values, axis=1).mean(axis=0)
    gaps = {(pair.better, pair.worse): pair.value for pair in differences(rankdata(values, axis=1))}
    assert all(abs(mean[i] - mean[j]) == pytest.approx(gap) for (i, j), gap in gaps.items())
    statistic = 12 * 7 / (4 * 5) * sum(gap**2 for gap in gaps.values()) / 4  # sum of squares about the mean, from the gaps
    assert statistic == pytest.approx(friedmanchisquare(*values.T).statistic, rel=1e-12)


def test_a_few_toys_that_agree_are_not_certain() -> None:
    agreeing = np.tile([1.0, 2.0], (3, 1))
    assert not differences(agreeing)[0].told_apart
    assert differences(np.tile([1.0, 2.0], (12, 1)))[0].told_apart


@pytest.mark.parametrize("cut", [0.0, 0.7, 1.5, 9.0])
def test_two_share_a_letter_exactly_if_they_cannot_be_told_apart(cut: float) -> None:
    scores = sorted(np.random.default_rng(1).uniform(0, 5, size=9))
    apart = {frozenset(pair) for pair in combinations(range(9), 2) if scores[pair[1]] - scores[pair[0]] > cut}
    found = letters(range(9), apart)
    assert all(found.values())
    for one, other in combinations(range(9), 2):
        assert bool(set(found[one]) & set(found[other])) == (frozenset((one, other)) not in apart)


def test_letters_go_on_after_z() -> None:
    assert [letter(k) for k in (0, 25, 26, 27, 52)] == ["a", "z", "aa", "ab", "ba"]
