"""Training events in ROOT files: to the bit those of parquet, by clusters, and one line for what is wrong."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.toys.root_writing import as_root
from tests.toys.test_event_stream import PROPERTY, SPEC, events, identical, numbers
from touchneedle.conf.errors import InputError
from touchneedle.toys import root_files
from touchneedle.toys.base import collect
from touchneedle.toys.event_layout import write_events
from touchneedle.toys.event_stream import PARTS, EventStream
from touchneedle.toys.open_table import open_table

uproot = pytest.importorskip("uproot", reason="uproot (extra hep) is not installed")
KINDS = st.sampled_from(["tree", "rntuple"])


def window_of(path: Path, events: int, **options: str) -> EventStream:
    """A stream under the limit that leaves a window of so many events."""
    return EventStream(path, SPEC, events * PARTS * EventStream(path, SPEC, **options).event_bytes, **options)


@given(kind=KINDS, n=st.integers(2, 80), cluster=st.integers(1, 30), size=st.integers(1, 90), shuffled=st.booleans())
@PROPERTY
def test_a_stream_of_root_is_that_of_parquet_and_of_events_in_memory(tmp_path, kind, n, cluster, size, shuffled):
    parquet = write_events(tmp_path / "a.parquet", events(n), SPEC)
    sources = EventStream(as_root(parquet, kind, cluster), SPEC), EventStream(parquet, SPEC), events(n)
    found = [list(source.batches(size, torch.Generator().manual_seed(3) if shuffled else None)) for source in sources]
    assert len(found[0]) == len(found[1]) == len(found[2])
    assert all(identical(a, b) and identical(a, c) for a, b, c in zip(*found, strict=True))


@pytest.mark.parametrize("kind", ["tree", "rntuple"])
def test_beyond_the_limit_the_same_clusters_make_the_same_epoch(tmp_path, monkeypatch, kind):
    parquet = write_events(tmp_path / "a.parquet", events(95), SPEC, row_group=10)
    monkeypatch.setattr(root_files, "CHUNK_ROWS", 10)
    found = []
    for path in (as_root(parquet, kind, cluster=10), parquet):
        stream = window_of(path, 30).without(torch.tensor([3, 50, 94]))
        assert not stream.fits
        found.append(list(stream.batches(16, torch.Generator().manual_seed(1))))
    assert all(identical(a, b) for a, b in zip(*found, strict=True))
    assert sorted(value for batch in found[0] for value in numbers([batch])) == sorted(set(range(95)) - {3, 50, 94})


@given(kind=KINDS, n=st.integers(1, 90), cluster=st.integers(1, 40), limit=st.integers(1, 50))
@PROPERTY
def test_chunks_are_clusters_together_or_in_parts(tmp_path, kind, n, cluster, limit):
    path = as_root(write_events(tmp_path / "a.parquet", events(n), SPEC), kind, cluster)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root_files, "CHUNK_ROWS", limit)
        rows = open_table(path).chunk_rows
    assert sum(rows) == n
    assert max(rows) <= limit
    edges = np.cumsum(rows)[:-1]
    if cluster <= limit:
        assert not (edges % cluster).any()
        # As few as may be: no neighbours that would fit into one.
        assert all(one + other > limit for one, other in pairwise(rows))


def test_a_limit_holds_for_chunks_of_root(tmp_path):
    path = as_root(write_events(tmp_path / "a.parquet", events(200), SPEC), cluster=60)
    with pytest.raises(InputError, match=r"a\.root: row group 0 has 200 events .* leaves room for 50"):
        window_of(path, 50)


def test_only_the_columns_of_events_are_read(tmp_path, monkeypatch):
    table = open_table(as_root(write_events(tmp_path / "a.parquet", events(9), SPEC)))
    asked = []
    monkeypatch.setattr(type(table), "_read", lambda self, columns, chunks: asked.append(columns) or iter([]))
    list(table.read(["pt", "eta"], [0]))
    assert asked == [["pt", "eta"]]


def test_one_of_several_trees(tmp_path):
    parquet = write_events(tmp_path / "a.parquet", events(30), SPEC)
    path = as_root(parquet, tree="nominal")
    with uproot.update(path) as file:
        file.mktree("other", {"pt": "f4"}).extend({"pt": np.ones(3, np.float32)})
    assert identical(collect(EventStream(path, SPEC, tree="nominal")), events(30))
    for tree, message in (("", r"expected one tree, or the option tree"), ("up", r"no tree 'up'; its trees are nominal, other")):
        with pytest.raises(InputError, match=rf"event file .*a\.root: {message}"):
            EventStream(path, SPEC, tree=tree)
    with pytest.raises(InputError, match=r"a\.root: no column 'mu'; its columns are pt"):
        EventStream(path, SPEC, tree="other")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.99])
@pytest.mark.parametrize("kind", ["tree", "rntuple"])
def test_truncated_files_are_one_line(tmp_path, kind, share):
    path = as_root(write_events(tmp_path / "a.parquet", events(3_000), SPEC), kind, cluster=500)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"a\.root: expected a complete ROOT file; it is truncated") as caught:
        collect(EventStream(path, SPEC))
    assert "\n" not in str(caught.value)


def test_root_and_parquet_may_stand_side_by_side(tmp_path):
    root = as_root(write_events(tmp_path / "a.parquet", events(60)[:25], SPEC))
    parquet = write_events(tmp_path / "b.parquet", events(60)[25:], SPEC)
    assert identical(collect(EventStream([root, parquet], SPEC)), events(60))
