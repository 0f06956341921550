"""The declared space of a search: ranges, what is read from a configuration, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchneedle.benchmark.config import TuningConfig
from touchneedle.benchmark.search_space import Range, holds, read_span, samples_of
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError


@given(st.integers(1, 50), st.integers(1, 50), st.booleans(), st.floats(0, 1))
def test_a_range_of_whole_numbers_gives_whole_numbers_inside_it(low: int, width: int, log: bool, quantile: float) -> None:
    span = Range(low, low + width, log)
    value = span.at(quantile)
    assert isinstance(value, int)
    assert value in span


def test_whole_numbers_are_equally_likely() -> None:
    drawn = [Range(3, 6).at((k + 0.5) / 400) for k in range(400)]
    assert [drawn.count(value) for value in (3, 4, 5, 6)] == [100] * 4


def test_a_range_is_even_in_the_number_or_in_its_logarithm() -> None:
    assert Range(1.0, 3.0).at(0.25) == 1.5
    assert Range(1e-4, 1e-2, log=True).at(0.25) == pytest.approx(10**-3.5)
    assert [Range(0.5, 2.0).at(end) for end in (0, 1)] == [0.5, 2.0]


def test_a_number_lies_in_a_range_with_its_ends() -> None:
    assert 4 in Range(4, 16)
    assert 4.5 not in Range(4, 16)
    assert 17 not in Range(4, 16)
    assert holds(Range(0.0, 1.0), 1.0)
    assert holds([[64, 64], [128]], (64, 64))
    assert not holds([1, 2], 3)


def test_the_samples_of_a_range_of_fractions_are_no_whole_numbers() -> None:
    low, high, between = samples_of(Range(16.0, 64.0))
    assert (low, high) == (16.0, 64.0)
    assert between != round(between)
    assert samples_of([1, "a"]) == [1, "a"]


def test_spans_are_read_from_a_configuration() -> None:
    space = {"a.b": {"low": 1, "high": 8}, "a.c": {"low": "1e-4", "high": 1, "log": True}, "a.d": [[1, 2]]}
    found = registry.build_options(TuningConfig, {"space": space}, "tuning").space
    assert found == {"a.b": Range(1, 8), "a.c": Range(1e-4, 1, log=True), "a.d": [[1, 2]]}
    assert [span.whole for span in found.values() if isinstance(span, Range)] == [True, False]


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ([], "at least 1 value"),
        (3, "expected a list of at least 1 value, or a range"),
        ({"low": 1}, "Field required"),
        ({"low": 1, "hihg": 2}, "did you mean 'high'"),
        ({"low": 2, "high": 1}, "low < high"),
        ({"low": 1, "high": float("inf")}, "finite"),
        ({"low": float("nan"), "high": 1.0}, "finite"),
        ({"low": 0, "high": 1, "log": True}, "expected low > 0"),
        ({"low": "many", "high": 1}, "range: option low"),
    ],
)
def test_a_wrong_span_is_one_line_with_its_option(span: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        registry.build_options(TuningConfig, {"space": {"optimizer.learning_rate": span}}, "tuning")
    assert "option space.optimizer.learning_rate" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_span_that_was_read_is_read_again() -> None:
    assert read_span(Range(1, 2)) == Range(1, 2)
