"""The study of posteriors beside sbi: its sampler against closed forms, and the committed table against its target."""

import math
from typing import Any

import posterior_study
import pytest
import torch
from scipy import stats

from touchneedle.toys.base import Normal, Parameter, ParameterSpace, Uniform, build_toy

Key = tuple[str, str, int, int]
TARGET = 0.03
# With 9,000 events for five parameters the score overfits after 30 epochs. Its validation loss is 0.786; wider layers (0.796), a quarter of
# the learning rate (0.798) and that with narrower layers (0.811) do not mend it.
MISSED = {("slcp", "posterior_score", 10_000, 1): "0.887 +- 0.021 against 0.840 +- 0.027 + 0.03"}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_annealed_draws_of_two_modes_have_the_right_places_widths_and_shares() -> None:
    space = ParameterSpace((Parameter("t", "interest", 0.0, (-10.0, 10.0), Uniform(-10.0, 10.0)),))

    def log_likelihood(theta: torch.Tensor) -> torch.Tensor:
        t = theta[:, 0]
        return torch.logaddexp(math.log(0.3) - 0.5 * ((t + 4) / 0.1) ** 2, math.log(0.7) - 0.5 * ((t - 5) / 0.1) ** 2)

    draws = posterior_study.anneal(log_likelihood, space, 4_000, generator(1))[:, 0]
    right = draws > 0
    assert float(right.double().mean()) == pytest.approx(0.7, abs=4 * math.sqrt(0.21 / 4_000))
    for chosen, centre in ((draws[right], 5.0), (draws[~right], -4.0)):
        assert stats.kstest(chosen.numpy(), stats.norm(centre, 0.1).cdf).pvalue > 1e-3


def test_annealed_draws_of_two_moons_are_those_of_the_closed_form() -> None:
    toy = build_toy("two_moons")
    space, g = toy.spec.parameters, generator(3)
    x = toy.sample(torch.tensor([[0.3, -0.2]], dtype=torch.float64), generator=g).x
    draws = posterior_study.exact_sampler(toy)(x, 2_000, g)
    # theta -> x - (the two shifts) is the crescent again: radius and angle are independent, N(0.1, 0.01) and uniform.
    crescent = x.double() - torch.stack([0.25 - draws.sum(-1).abs() / math.sqrt(2), (draws[:, 1] - draws[:, 0]) / math.sqrt(2)], -1)
    assert bool(((draws >= space.low) & (draws <= space.high)).all())
    assert stats.kstest(crescent.norm(dim=-1).numpy(), stats.norm(0.1, 0.01).cdf).pvalue > 1e-3
    angle = torch.atan2(crescent[:, 1], crescent[:, 0]).numpy()
    assert stats.kstest(angle, stats.uniform(-math.pi / 2, math.pi).cdf).pvalue > 1e-3
    assert float((draws.sum(-1) > 0).double().mean()) == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 2_000))


def test_a_prior_that_is_not_flat_is_refused() -> None:
    space = ParameterSpace((Parameter("t", "interest", 0.0, (-10.0, 10.0), Normal(0.0, 1.0)),))
    with pytest.raises(ValueError, match="flat"):
        posterior_study.anneal(lambda theta: 0 * theta[:, 0], space, 10, generator(0))


def key_of(row: posterior_study.Row) -> Key:
    return row.toy, row.method, row.n_train, row.n_set


def pairs() -> list[Any]:
    """Our row and that of sbi, for every network and size of sets that both have; a missed target must stay what is said of it."""
    rows = posterior_study.read_table()
    theirs = {key_of(row): row for row in rows if row.by == "sbi"}
    ours = [row for row in rows if row.by == "touchneedle" and key_of(row) in theirs]
    return [
        pytest.param(
            row,
            theirs[key_of(row)],
            id=f"{row.toy} {row.method} {row.n_train} sets of {row.n_set}",
            marks=[pytest.mark.xfail(reason=MISSED[key_of(row)], strict=True)] if key_of(row) in MISSED else [],
        )
        for row in ours
    ]


@pytest.mark.parametrize(("ours", "theirs"), pairs())
def test_no_posterior_is_worse_than_that_of_sbi(ours: posterior_study.Row, theirs: posterior_study.Row) -> None:
    assert ours.c2st <= theirs.c2st + TARGET


def test_the_study_is_complete() -> None:
    """Every cell of both; sets of events where sbi has a posterior of sets as well."""
    rows = {(row.toy, row.method, row.by, row.n_train) for row in posterior_study.read_table()}
    assert rows == set(posterior_study.cells())
    assert {row.n_set for row in posterior_study.read_table() if key_of(row)[:3] == ("two_moons", "zuko_nsf", 100_000)} == {1, 10, 100}


@pytest.mark.slow
def test_a_cell_of_the_study_can_be_repeated() -> None:
    (row,) = posterior_study.study("two_moons", "posterior_flow", "touchneedle", 10_000)
    (committed,) = [
        one
        for one in posterior_study.read_table()
        if (one.toy, one.method, one.by, one.n_train, one.n_set) == ("two_moons", "posterior_flow", "touchneedle", 10_000, 1)
    ]
    assert row.c2st == pytest.approx(committed.c2st, abs=4 * math.hypot(row.c2st_stderr, committed.c2st_stderr))
    assert abs(row.null - 0.5) < 4 * row.null_stderr + 0.01
