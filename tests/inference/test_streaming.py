"""Streamed events: the numbers of events in memory, bounded memory, and one clear line for every bad file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, fit, open_events
from touchneedle.inference.events_at import CHUNK_ROWS
from touchneedle.inference.linear import LinearObjective
from touchneedle.inference.streaming import StreamedObjective
from touchneedle.toys.base import Feature, build_toy, collect


@pytest.fixture
def toy():
    return build_toy("counting_and_shape")


@pytest.fixture
def table(toy):
    """Columns in another order than the spec's, a column too many, and weights of both signs."""
    n = 3_000
    events = toy.sample(toy.spec.parameters.nominal.expand(n, -1), generator=torch.Generator().manual_seed(3))
    region, mass = events.x.numpy().T
    weight = np.where(np.arange(n) % 10 == 0, -0.2, 1.0)
    return {"run": np.arange(n), "mass": mass.astype(np.float64), "w": weight, "region": region.astype(np.int32)}


def write(path, columns):
    pq.write_table(pa.table(columns), path, row_group_size=700)
    return path


def test_a_file_gives_the_events_by_name(toy, table, tmp_path):
    source = open_events(write(tmp_path / "events.parquet", table), toy.spec.features, "w")
    batches = list(source.batches(500))
    assert max(len(batch) for batch in batches) <= 500
    events = collect(source)
    assert len(source) == len(events) == 3_000
    assert np.array_equal(events.x.numpy(), np.stack([table["region"], table["mass"].astype(np.float32)], 1))
    assert np.array_equal(events.weight.numpy(), table["w"])
    assert collect(open_events(source.path, toy.spec.features)).weight.sum() == 3_000


def test_a_streamed_fit_is_that_of_the_same_events_in_memory(toy, table, tmp_path):
    source = open_events(write(tmp_path / "events.parquet", table), toy.spec.features, "w")
    likelihood = Likelihood(build_estimator("oracle", toy.spec, truth=toy), toy.rates)
    assert isinstance(likelihood.objective(source), StreamedObjective)
    streamed, memory = fit(likelihood, source), fit(likelihood, collect(source))
    assert streamed.valid
    assert torch.allclose(streamed.theta, memory.theta, rtol=1e-7, atol=1e-9)
    assert streamed.value == pytest.approx(memory.value, rel=1e-12)
    assert streamed.sigma == pytest.approx(memory.sigma, rel=1e-4)


def test_linear_estimators_read_a_file_once(toy, table, tmp_path, monkeypatch):
    source = open_events(write(tmp_path / "events.parquet", table), toy.spec.features, "w")
    estimator = build_estimator("event_embedding", toy.spec, hidden=(8,), normalise="none").double()
    objective = Likelihood(estimator).objective(source)
    assert isinstance(objective, LinearObjective)
    events = collect(source)
    assert torch.allclose(objective.sums[0], events.weight @ estimator.linear_terms(events.x), rtol=1e-10)
    monkeypatch.setattr(type(source), "batches", lambda *_: pytest.fail("read again"))
    theta = toy.spec.parameters.nominal[None] + 0.1
    assert objective(theta, torch.zeros(1, dtype=torch.int64))[0].isfinite()


BAD = {
    "missing": (lambda t: t.pop("mass"), "no column 'mass'; its columns are run, w, region"),
    "text": (lambda t: t.update(region=np.array(["SR"] * 3_000)), "column 'region': expected numbers; it holds string"),
    "nan": (lambda t: t["mass"].__setitem__(1_234, np.nan), "column 'mass': expected finite numbers; .* first in row 1234"),
    "infinite": (lambda t: t["w"].__setitem__(9, np.inf), "column 'w': expected finite numbers; .* first in row 9"),
    "swapped": (
        lambda t: t.update(mass=t["region"], region=t["mass"]),
        r"column 'region': expected values in .*1.; .* first in row 0",
    ),
    "outside": (lambda t: t["mass"].__setitem__(2_999, 161.0), r"column 'mass': expected values in \[100, 160\]; .* first in row 2999"),
    "negative": (lambda t: t.update(w=-np.abs(t["w"])), "column 'w': expected weights with a positive sum; got -27"),
    "empty": (lambda t: t.update({name: column[:0] for name, column in t.items()}), "expected events; it has 0 rows"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_files_are_refused_in_one_line(toy, table, tmp_path, fault):
    change, message = BAD[fault]
    change(table)
    path = write(tmp_path / "events.parquet", table)
    with pytest.raises(InputError, match=f"event file {path}: {message}") as error:
        collect(open_events(path, toy.spec.features, "w"))
    assert "\n" not in str(error.value)


def test_files_that_are_none_or_broken_are_refused(tmp_path):
    features = (Feature("x"),)
    with pytest.raises(InputError, match="expected a parquet file; there is none"):
        open_events(tmp_path / "none.parquet", features)
    whole = write(tmp_path / "whole.parquet", {"x": np.arange(5.0)}).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-10])
    with pytest.raises(InputError, match="cut.parquet: expected a complete parquet file"):
        open_events(tmp_path / "cut.parquet", features)
    with pytest.raises(InputError, match="a file is read in its own order"):
        next(open_events(tmp_path / "whole.parquet", features).batches(2, torch.Generator()))


MEASURE = """
import resource, sys
import torch
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, open_events
from touchneedle.toys.base import build_toy

torch.set_num_threads(1)
toy = build_toy("gaussian_shift")
estimator = build_estimator("ratio_bce", toy.spec, hidden=(16,), normalise="none").double()
likelihood = Likelihood(estimator)
peaks = []
for path in sys.argv[1:]:
    likelihood.value_and_gradient(toy.spec.parameters.nominal, open_events(path, toy.spec.features))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(*peaks)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Peak memory of a process that reads a file of 4 batches, then one of 40: events in memory would add 40 MB and more."""
    toy = build_toy("gaussian_shift")
    generator = np.random.default_rng(0)
    paths = []
    for batches in (4, 40):
        columns = {feature.name: generator.normal(size=batches * CHUNK_ROWS) for feature in toy.spec.features}
        columns |= {f"unused_{k}": generator.normal(size=batches * CHUNK_ROWS) for k in range(3)}
        paths.append(tmp_path / f"{batches}.parquet")
        pq.write_table(pa.table(columns), paths[-1], row_group_size=2 * CHUNK_ROWS)
    root = Path(__file__).parents[2] / ".typing"
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, paths)], capture_output=True, text=True, check=True, cwd=root)
    small, large = map(int, done.stdout.split())
    assert large - small < 25, (small, large)
