"""Training events in parquet files: what is written comes back to the bit, in the order of events in memory, once an epoch."""

from __future__ import annotations

import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.toys.base import Events, Feature, Normal, Parameter, ParameterSpace, ToySpec, collect, evenly_spaced
from touchneedle.toys.event_layout import write_events
from touchneedle.toys.event_stream import PARTS, EventStream
from touchneedle.toys.events import take

SPEC = ToySpec(
    name="two_parameters",
    version="1",
    parameters=ParameterSpace(tuple(Parameter(name, "interest", 0.0, (-9.0, 9.0), Normal(0.0, 1.0)) for name in ("mu", "nu"))),
    features=(Feature("mu"), Feature("pt", missing=-25.0), Feature("eta")),
    processes=("signal", "background"),
)
PROPERTY = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def events(n: int, seed: int = 0) -> Events:
    """Events with all columns; each is told apart by its first feature."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    x[:, 0] = torch.arange(n)
    theta = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return Events(
        x, theta, torch.rand(n, generator=generator) - 0.1, torch.arange(n) % 2, theta + 1,
        torch.full((n,), -torch.inf, dtype=torch.float64), theta.float(),
    )  # fmt: skip


def identical(one: Events, other: Events) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Events)]
    return all(a is b is None or (a.dtype == b.dtype and torch.equal(a, b)) for a, b in pairs)


def numbers(batches: object) -> list[int]:
    return [int(value) for batch in batches for value in batch.x[:, 0]]  # type: ignore[attr-defined]


def stream(tmp_path: Path, n: int = 100, row_group: int = 7, window: int | None = None, workers: int = 2, files: int = 1) -> EventStream:
    """A stream of ``n`` events; ``window`` makes the limit that leaves so much."""
    whole = events(n)
    paths = [write_events(tmp_path / f"{k}.parquet", whole[k * n // files : (k + 1) * n // files], SPEC, row_group) for k in range(files)]
    limit = None if window is None else window * PARTS * EventStream(paths, SPEC).event_bytes
    return EventStream(paths, SPEC, limit, workers)


# Order.


@given(n=st.integers(2, 80), row_group=st.integers(1, 30), size=st.integers(1, 90), files=st.integers(1, 2), shuffled=st.booleans())
@PROPERTY
def test_a_stream_that_fits_has_the_batches_of_events_in_memory(tmp_path, n, row_group, size, files, shuffled):
    def generator():
        return torch.Generator().manual_seed(3) if shuffled else None

    streamed = list(stream(tmp_path, n, row_group, files=files).batches(size, generator()))
    known = list(events(n).batches(size, generator()))
    assert len(streamed) == len(known)
    assert all(identical(one, other) for one, other in zip(streamed, known, strict=True))


@given(n=st.integers(30, 90), row_group=st.integers(1, 10), size=st.integers(1, 40), left_out=st.integers(0, 9))
@PROPERTY
def test_every_event_comes_once_an_epoch_in_batches_of_one_size(tmp_path, n, row_group, size, left_out):
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(n))[:left_out]
    source = stream(tmp_path, n, row_group, window=10).without(rows)
    shuffle = torch.Generator().manual_seed(0)
    first, second = list(source.batches(size, shuffle)), list(source.batches(size, shuffle))
    assert {len(batch) for batch in first[:-1]} <= {size}
    assert len(first) == -(-len(source) // size)
    assert sorted(numbers(first)) == sorted(numbers(second)) == sorted(set(range(n)) - set(rows.tolist()))
    assert numbers(source.batches(size)) == sorted(numbers(first))


def test_an_epoch_mixes_row_groups_from_all_over_the_file(tmp_path):
    source = stream(tmp_path, 400, 5, window=100)
    shuffle = torch.Generator().manual_seed(0)
    first, second = numbers(source.batches(100, shuffle)), numbers(source.batches(100, shuffle))
    assert first != second
    assert np.ptp(np.array(first[:100]) // 5) > 50
    assert len(set(np.array(first[:100]) // 5)) == 20


def test_the_number_of_workers_changes_nothing(tmp_path):
    batches = [list(stream(tmp_path, 150, 5, 50, workers).batches(16, torch.Generator().manual_seed(1))) for workers in (1, 5)]
    for other in batches[1:]:
        assert all(identical(a, b) for a, b in zip(batches[0], other, strict=True))


def test_a_window_is_never_larger_than_its_part_of_the_limit(tmp_path):
    source = stream(tmp_path, 1_000, 7, window=50)
    assert not source.fits
    sizes = [sum(group.rows for group in window) for window in source._windows(source._groups)]
    assert sum(sizes) == 1_000
    assert 40 < max(sizes) <= source.window == 50


def test_threads_end_when_nobody_reads_on(tmp_path):
    batches = stream(tmp_path, 300, 5, 50).batches(16, torch.Generator().manual_seed(1))
    next(batches)
    assert any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
    del batches
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


# Rows.


def test_rows_of_a_stream_are_those_of_the_events(tmp_path):
    source, whole = stream(tmp_path, 200, 9), events(200)
    rows = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:50]
    assert identical(take(source, rows), whole[rows])
    assert identical(evenly_spaced(source, 33), evenly_spaced(whole, 33))
    assert identical(collect(source), whole)
    assert identical(collect(source, 16), whole[:16])


def test_what_does_not_fit_is_not_collected(tmp_path):
    source = stream(tmp_path, 200, 9, window=20)
    assert len(collect(source, 10)) == 10
    with pytest.raises(SkipCell, match=r"200 of \d+ bytes are more than 20% of data.memory_limit .*choose one that streams"):
        collect(source)


# Files.


def test_parts_are_written_one_after_the_other_in_row_groups(tmp_path):
    whole = events(100)
    write_events(tmp_path / "a.parquet", (whole[start : start + 30] for start in range(0, 100, 30)), SPEC, 40)
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        assert [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)] == [40, 40, 20]
    assert identical(collect(EventStream(tmp_path / "a.parquet", SPEC)), whole)


def test_optional_columns_stay_away(tmp_path):
    plain = replace(events(20), label=None, generated_at=None, joint_log_ratio=None, joint_score=None)
    path = write_events(tmp_path / "a.parquet", plain, SPEC)
    assert identical(collect(EventStream(path, SPEC)), plain)


def test_a_pattern_is_its_files_in_the_order_of_their_names(tmp_path):
    for name, start in (("b", 50), ("a", 0)):
        write_events(tmp_path / f"{name}.parquet", events(100)[start : start + 50], SPEC)
    assert numbers(EventStream(str(tmp_path / "*.parquet"), SPEC).batches(30)) == list(range(100))


def test_a_null_is_a_missing_entry_where_a_feature_can_be_missing(tmp_path):
    path = write_events(tmp_path / "a.parquet", events(5), SPEC)
    table = pq.read_table(path)
    table = table.set_column(1, "pt", pa.array([1.0, None, 2.0, None, 3.0], pa.float32()))
    pq.write_table(table, path)
    assert collect(EventStream(path, SPEC)).x[:, 1].tolist() == [1.0, -25.0, 2.0, -25.0, 3.0]


def test_a_killed_or_failed_writer_leaves_no_file(tmp_path):
    def broken():
        yield events(10)
        raise RuntimeError("the simulator stopped")

    with pytest.raises(RuntimeError, match="the simulator stopped"):
        write_events(tmp_path / "a.parquet", broken(), SPEC, 5)
    with pytest.raises(InputError, match="expected training events; there are none"):
        write_events(tmp_path / "a.parquet", [], SPEC)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*choose a writable folder"):
        write_events(tmp_path / "file" / "a.parquet", events(3), SPEC)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Bad input.


def with_column(name, values):
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.names.index(name), name, values(table.column(name)))

    return change


def at_row_12(value):
    def change(column: pa.ChunkedArray) -> pa.Array:
        numbers = column.to_numpy().copy()
        numbers[12] = value
        return pa.array(numbers)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["eta"]), r"no column 'eta'; its columns are mu, pt, theta_mu"),
        (lambda t: t.drop_columns(["theta_nu"]), r"no column 'theta_nu'"),
        (lambda t: t.drop_columns(["weight"]), r"no column 'weight'"),
        (lambda t: t.drop_columns(["joint_score_nu"]), r"no column 'joint_score_nu'"),
        (lambda t: t.append_column("pt", t.column("pt")), r"expected one column 'pt'; it has 2"),
        (with_column("pt", lambda c: c.cast(pa.string())), r"column 'pt': expected numbers; it holds string"),
        (with_column("label", lambda c: c.cast(pa.float64())), r"column 'label': expected whole numbers; it holds double"),
        (lambda t: t.slice(0, 0), r"expected events; it has 0 rows"),
    ],
)  # fmt: skip
def test_bad_columns_are_one_line_before_anything_is_read(tmp_path, change, message):
    path = write_events(tmp_path / "a.parquet", events(20), SPEC)
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(InputError, match=rf"event file .*a\.parquet: {message}") as caught:
        EventStream(path, SPEC)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("eta", np.nan, r"column 'eta': expected finite numbers; 1 of rows 10 to 19 are missing, NaN or infinite, the first in row 12"),
        ("theta_nu", np.inf, r"column 'theta_nu': expected finite numbers"),
        ("weight", -np.inf, r"column 'weight': expected finite numbers"),
        ("theta_mu", 10.0, r"rows 10 to 19: parameter mu: expected a value in \[-9, 9\]; got 10"),
        ("label", 2, r"column 'label': expected an index below 2, of a process; 1 of rows 10 to 19"),
    ],
)
def test_bad_values_are_one_line_with_file_column_and_row(tmp_path, column, value, message):
    path = write_events(tmp_path / "a.parquet", events(20), SPEC)
    pq.write_table(with_column(column, at_row_12(value))(pq.read_table(path)), path, row_group_size=10)
    source = EventStream(path, SPEC)
    for generator in (None, torch.Generator().manual_seed(0), None):
        with pytest.raises(InputError, match=rf"event file .*a\.parquet: {message}") as caught:
            list(source.batches(5, generator))
        assert "\n" not in str(caught.value)


def test_values_beyond_float32_and_nulls_are_refused(tmp_path):
    path = write_events(tmp_path / "a.parquet", events(3), SPEC)
    table = pq.read_table(path)
    for values, message in (([1.0, 1e300, 2.0], "NaN or infinite, the first in row 1"), ([1.0, 2.0, None], "missing, the first in row 2")):
        pq.write_table(table.set_column(2, "eta", pa.array(values)), path)
        with pytest.raises(InputError, match=f"column 'eta': expected finite numbers; .*{message}"):
            collect(EventStream(path, SPEC))


def test_broken_files_are_one_line(tmp_path):
    path = write_events(tmp_path / "a.parquet", events(2_000), SPEC, 500)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.parquet: expected a complete parquet file; it is truncated"):
        EventStream(path, SPEC)
    middle = bytearray(content)
    middle[100:4_000] = bytes(3_900)
    path.write_bytes(middle)
    with pytest.raises(InputError, match=r"a\.parquet: expected a complete parquet file"):
        collect(EventStream(path, SPEC))
    with pytest.raises(InputError, match=r"b\.parquet: expected a parquet or ROOT file, or a pattern"):
        EventStream(tmp_path / "b.parquet", SPEC)


def test_files_must_be_alike_and_different(tmp_path):
    one, other = write_events(tmp_path / "a.parquet", events(5), SPEC), tmp_path / "b.parquet"
    write_events(other, replace(events(5), weight=torch.ones(5, dtype=torch.float64)), SPEC)
    with pytest.raises(InputError, match=r"b\.parquet: column 'weight' is double; expected float, as in .*a\.parquet"):
        EventStream([one, other], SPEC)
    write_events(other, replace(events(5), label=None), SPEC)
    with pytest.raises(InputError, match=r"b\.parquet: column 'label' is missing; expected int64, as in"):
        EventStream([one, other], SPEC)
    with pytest.raises(InputError, match="expected each file once"):
        EventStream([one, tmp_path / ".." / tmp_path.name / "a.parquet"], SPEC)


def test_a_row_group_beyond_its_part_of_the_limit_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"row group 0 has 60 events of \d+ bytes; data.memory_limit .* leaves room for 50: write row groups"
    ):
        stream(tmp_path, 200, 60, window=50)


def test_features_that_are_called_like_other_columns_are_refused(tmp_path):
    spec = replace(SPEC, features=(Feature("weight"),))
    with pytest.raises(InputError, match="expected features of other names than the columns of training events; got 'weight'"):
        write_events(tmp_path / "a.parquet", replace(events(3), x=torch.ones(3, 1)), spec)
