"""Tables behind one face: parquet by row group, ROOT by ranges of entries, and one line for what is wrong with either."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from touchneedle.conf.errors import InputError
from touchneedle.toys import root_files
from touchneedle.toys.open_table import open_table
from touchneedle.toys.table_files import require_same_columns

N = 1_000
RNG = np.random.default_rng(0)
COLUMNS = {
    "pt": RNG.exponential(20, N).astype(np.float32),
    "mass": RNG.normal(90, 10, N),
    "n_jets": RNG.integers(0, 5, N).astype(np.int32),
    "is_tight": RNG.random(N) < 0.5,
}


def refuse(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.fixture
def parquet(tmp_path):
    path = tmp_path / "events.parquet"
    pq.write_table(pa.table(COLUMNS), path, row_group_size=300)
    return path


def write_root(path, trees=("events",), rntuple=False, **more):
    uproot = pytest.importorskip("uproot", reason="uproot (extra hep) is not installed")
    with uproot.recreate(path) as file:
        for name in trees:
            columns = COLUMNS | more
            tree = (file.mkrntuple if rntuple else file.mktree)(name, {key: value.dtype for key, value in columns.items()})
            tree.extend({key: value[:600] for key, value in columns.items()})
            tree.extend({key: value[600:] for key, value in columns.items()})
    return path


@pytest.fixture(params=["parquet", "tree", "rntuple"])
def table(request, parquet, tmp_path, monkeypatch):
    monkeypatch.setattr(root_files, "CHUNK_ROWS", 300)
    return open_table(parquet if request.param == "parquet" else write_root(tmp_path / "events.root", rntuple=request.param == "rntuple"))


def test_chunks_are_the_rows_in_their_order(table):
    assert (len(table), table.chunk_rows) == (N, (300, 300, 300, 100))
    assert {name: str(table.schema.field(name).type) for name in COLUMNS} == {
        "pt": "float",
        "mass": "double",
        "n_jets": "int32",
        "is_tight": "bool",
    }
    parts = list(table.read(list(COLUMNS)))
    assert [len(part) for part in parts] == [300, 300, 300, 100]
    whole = pa.concat_tables(parts)
    for name, values in COLUMNS.items():
        np.testing.assert_array_equal(whole.column(name).to_numpy(), values)


def test_some_columns_of_some_chunks(table):
    (last, second) = table.read(["mass", "pt"], [3, 1])
    assert last.column_names == ["mass", "pt"]
    np.testing.assert_array_equal(last.column("mass").to_numpy(), COLUMNS["mass"][900:])
    np.testing.assert_array_equal(second.column("pt").to_numpy(), COLUMNS["pt"][300:600])


def test_a_column_that_is_not_there(table):
    refuse(lambda: list(table.read(["energy"])), table.path.name, "no column 'energy'", "pt", "is_tight")


def test_a_column_that_is_there_twice(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["pt", "pt"]), tmp_path / "twice.parquet")
    refuse(lambda: list(open_table(tmp_path / "twice.parquet").read(["pt"])), "twice.parquet", "expected one column 'pt'; it has 2")


def test_files_that_are_not_there(tmp_path):
    refuse(lambda: open_table(tmp_path / "a.parquet"), "a.parquet", "expected a parquet file; there is none")
    refuse(lambda: open_table(tmp_path / "a.root"), "a.root", "expected a ROOT file; there is none")


def test_the_first_difference_between_two_schemas_is_named(tmp_path, parquet):
    table = pa.table(COLUMNS)
    for name, other in (
        ("typed", table.set_column(1, "mass", table.column("mass").cast(pa.float32()))),
        ("shorter", table.drop_columns(["mass"])),
    ):
        pq.write_table(other, tmp_path / f"{name}.parquet")
    first, typed, shorter = (open_table(tmp_path / f"{name}.parquet") for name in ("events", "typed", "shorter"))
    require_same_columns(first, first, COLUMNS)
    require_same_columns(first, shorter, ["pt"])
    refuse(
        lambda: require_same_columns(first, typed, COLUMNS), "events.parquet", "typed.parquet", "'mass' is double in the first and float"
    )
    refuse(lambda: require_same_columns(shorter, first, COLUMNS), "'mass' is missing in the first and double in the second")


def test_the_tree_of_a_root_file(tmp_path):
    two = write_root(tmp_path / "two.root", trees=("events", "extra/other"))
    refuse(lambda: open_table(two), "two.root", "expected one tree", "events, extra/other")
    refuse(lambda: open_table(two, "signal"), "two.root", "no tree 'signal'", "events, extra/other")
    assert len(open_table(two, "extra/other")) == N


def test_a_root_file_without_a_tree(tmp_path):
    uproot = pytest.importorskip("uproot", reason="uproot (extra hep) is not installed")
    with uproot.recreate(tmp_path / "histogram.root") as file:
        file["h"] = np.histogram(COLUMNS["mass"])
    refuse(lambda: open_table(tmp_path / "histogram.root"), "histogram.root", "its trees are none")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("rntuple", [False, True])
def test_truncated_root_files(tmp_path, share, rntuple):
    path = write_root(tmp_path / "events.root", rntuple=rntuple)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refuse(lambda: list(open_table(path).read(list(COLUMNS))), "events.root", "expected a complete ROOT file")


def test_another_kind_of_file_with_the_name_of_root(tmp_path, parquet):
    pytest.importorskip("uproot", reason="uproot (extra hep) is not installed")
    parquet.rename(tmp_path / "wrong.root")
    refuse(lambda: open_table(tmp_path / "wrong.root"), "wrong.root", "expected a complete ROOT file")


def test_damaged_baskets(tmp_path):
    path = write_root(tmp_path / "events.root")
    content = bytearray(path.read_bytes())
    # In the first basket of mass.
    damaged = slice(int(0.74 * len(content)), int(0.8 * len(content)))
    content[damaged] = b"\xff" * len(content[damaged])
    path.write_bytes(bytes(content))
    refuse(lambda: list(open_table(path).read(list(COLUMNS))), "events.root", "expected a complete ROOT file")


def test_columns_that_are_no_numbers(tmp_path):
    uproot = pytest.importorskip("uproot", reason="uproot (extra hep) is not installed")
    awkward = pytest.importorskip("awkward", reason="awkward (extra hep) is not installed")
    with uproot.recreate(tmp_path / "mixed.root") as file:
        tree = {"pt": np.ones(3), "jets": awkward.Array([[1.0], [], [2.0, 3.0]]), "point": np.ones((3, 2))}
        file.mktree("events", {"pt": "float64", "jets": "var * float64", "point": np.dtype((np.float64, (2,)))}).extend(tree)
    schema = open_table(tmp_path / "mixed.root").schema
    assert str(schema.field("pt").type) == "double"
    assert pa.types.is_nested(schema.field("jets").type)
    assert pa.types.is_nested(schema.field("point").type)


def test_without_uproot_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "events.root").write_bytes(b"root")
    monkeypatch.setitem(sys.modules, "uproot", None)
    refuse(lambda: open_table(tmp_path / "events.root"), "events.root", "pip install 'touchneedle[hep]'")
