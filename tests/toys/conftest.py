"""A small event file for the tests of its reader."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

N = 400


@pytest.fixture
def table(n=N):
    rng = np.random.default_rng(0)
    return {
        "mass": rng.normal(90, 10, n).astype(np.float32),
        "jets": rng.integers(0, 4, n),
        "eta": np.where(rng.random(n) < 0.3, -25.0, rng.normal(0, 1, n)),
        "weights": rng.uniform(0.5, 2.0, n),
        "detailed_labels": rng.choice(["ztautau", "htautau", "ttbar"], n),
        "labels": rng.integers(0, 2, n).astype(np.float32),
        "comment": ["text"] * n,
    }


@pytest.fixture
def write():
    """Writes a table to a path and returns the path."""

    def write_table(path, table):
        pq.write_table(pa.table(table), path)
        return str(path)

    return write_table


@pytest.fixture
def path(tmp_path, table, write):
    return write(tmp_path / "events.parquet", table)
