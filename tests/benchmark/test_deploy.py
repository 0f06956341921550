"""From a run to a bundle to a measurement, by the commands that a user types."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from touchneedle.benchmark.deploy import best_run
from touchneedle.benchmark.export_rows import Export, read_exports, write_exports
from touchneedle.benchmark.exports import survey_exports
from touchneedle.benchmark.records import Budget, EstimatorInfo, Metric, Record, ToyInfo, read_records, write_record
from touchneedle.conf.errors import InputError
from touchneedle.inference import fit, load_bundle, measure, read_events
from touchneedle.toys.base import build_toy

TINY = (
    *("toy=gaussian_shift", "estimator=best_gaussian", "budget.n_train=400", "trainer.max_epochs=1", "evaluation.families=[fit]"),
    *("evaluation.n_experiments=10", "evaluation.n_test=500", "evaluation.n_pool=1000", "evaluation.n_events=[50]"),
)


def one_line(result, says, code=2):
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert says in line


@pytest.fixture
def bundle(cli, tmp_path):
    """A bundle of a closed-form estimator, by the commands."""
    assert cli("run", *TINY, "results=results").exit_code == 0
    (record,) = read_records(tmp_path / "results")
    result = cli("deploy", f"results/{record.run_id}.json", "-o", "bundle")
    assert result.exit_code == 0, result.output
    return tmp_path / "bundle"


def write_events(path, n=400, **changes):
    """Events of gaussian_shift at nominal, with columns in the wrong order and one too many."""
    toy = build_toy("gaussian_shift")
    events = toy.sample(toy.spec.parameters.nominal.expand(n, -1), generator=torch.Generator().manual_seed(3))
    columns = {"run_number": ["a"] * n, **{f.name: events.x[:, k].numpy() for k, f in enumerate(toy.spec.features)}}
    columns |= changes
    pq.write_table(pa.table({name: column for name, column in columns.items() if column is not None}), path)
    return events


def test_a_run_becomes_a_bundle_with_its_scores(bundle, tmp_path):
    loaded = load_bundle(bundle, graph=True)
    (record,) = read_records(tmp_path / "results")
    source = loaded.manifest.source
    assert (source.run_id, source.design, source.n_train) == (record.run_id, "prior", 400)
    assert {(s.name, s.value, s.stderr) for s in source.scores} == {
        (m.name, m.value, m.stderr) for m in record.metrics if m.value is not None
    }
    assert loaded.manifest.training.events == 400
    assert loaded.manifest.rates.worst_deviation == 0
    assert loaded.manifest.exports == {"pt2": "log_ratio.pt2"}
    assert set(loaded.manifest.files) == {path.name for path in bundle.iterdir()} - {"manifest.json"}


def test_a_file_of_events_becomes_a_measurement(cli, bundle, tmp_path):
    events = write_events(tmp_path / "events.parquet")
    result = cli("fit", "bundle", "events.parquet", "--scan", "shift", "-o", "out")
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out/measurement.json").read_text())
    expected = fit(load_bundle(bundle).likelihood, events)
    np.testing.assert_allclose(told["fit"]["theta"], expected.theta.tolist(), rtol=0, atol=1e-12)
    scan, (interval, _) = told["scan_shift"], told["intervals"]["intervals"]
    # The scan crosses 2 Delta ln L = 1 where the interval of one sigma ends.
    assert abs(np.interp(interval["high"], scan["values"], scan["t"]) - 1) < 0.05
    assert {one["parameter"] for one in told["impacts_on_shift"]["impacts"]} == {"offset", "log_scale"}
    pytest.importorskip("matplotlib")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        *("fit.png", "intervals.png", "scan_shift.png", "impacts_on_shift.png")
    }
    text = (tmp_path / "out/measurement.md").read_text()
    assert "400 events fitted with best_gaussian" in text
    assert "impacts on shift" in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x": None, "xx": np.zeros(400)}, "no column 'x'"),
        ({"x": np.r_[np.zeros(399), np.nan]}, "1 of rows 0 to 399 are missing, NaN or infinite, the first in row 399"),
        ({"x": ["a"] * 400}, "expected numbers; it holds string"),
        ({"weight": -np.ones(400)}, "expected weights with a positive sum; got -400"),
        ({"weight": np.r_[np.ones(399), np.inf]}, "column 'weight': expected finite numbers"),
    ],
)
def test_wrong_events_end_in_one_line(cli, bundle, tmp_path, changes, says):
    write_events(tmp_path / "events.parquet", **changes)
    one_line(cli("fit", "bundle", "events.parquet", "-o", "out"), says)
    assert not (tmp_path / "out").exists()


def test_wrong_words_end_in_one_line(cli, bundle, tmp_path):
    write_events(tmp_path / "events.parquet")
    one_line(cli("fit", "bundle", "events.parquet", "--scan", "mu"), "unknown parameter 'mu'")
    one_line(cli("fit", "bundle", "nothing.parquet"), "there is none")
    one_line(cli("fit", "nothing", "events.parquet"), "there is none")
    one_line(cli("fit", "bundle", "events.parquet", "--weight", "w"), "no column 'w'")
    one_line(cli("fit", "bundle", "events.parquet", "-o", "bundle"), "does not exist yet")
    (tmp_path / "text.parquet").write_text("no parquet")
    one_line(cli("fit", "bundle", "text.parquet"), "truncated or of another kind")
    write_events(tmp_path / "none.parquet", n=0)
    one_line(cli("fit", "bundle", "none.parquet"), "expected events; it has 0 rows")
    one_line(cli("deploy", "results/nothing.json", "-o", "other"), "No such file")


def test_a_fit_that_is_not_valid_says_so_and_exits_with_1(cli, bundle, tmp_path):
    # So far away that ln L has no digits left for the parameters.
    write_events(tmp_path / "events.parquet", x=np.full(400, 1e38))
    result = cli("fit", "bundle", "events.parquet", "-o", "out")
    assert result.exit_code == 1, result.output
    assert "NOT VALID" in result.output
    told = json.loads((tmp_path / "out/measurement.json").read_text())
    assert told["fit"]["valid"] is False
    assert "400 of 400 events lie outside the simulated range of some feature, most of them of x (400, simulated in" in " ".join(
        told["notes"]
    )


def test_gates_that_failed_are_told_with_every_measurement(bundle, tmp_path):
    loaded = load_bundle(bundle)
    source = loaded.manifest.source.model_copy(update={"gates": {"gate_bias": "fail", "gate_coverage": "pass"}})
    worse = replace(loaded, manifest=loaded.manifest.model_copy(update={"source": source}))
    events = write_events(tmp_path / "events.parquet")
    assert measure(worse, events, scan=[]).notes == ("the benchmark found that this estimator fails gate_bias",)


def test_weights_count(bundle, tmp_path):
    spec = load_bundle(bundle).manifest.toy
    write_events(tmp_path / "events.parquet", weight=np.full(400, 2.0))
    assert float(read_events(tmp_path / "events.parquet", spec).weight.sum()) == 800


def test_changed_components_are_not_deployed(cli, bundle, tmp_path, monkeypatch):
    from touchneedle.estimators.best_gaussian import BestGaussian

    monkeypatch.setattr(BestGaussian, "version", "next")
    (record,) = read_records(tmp_path / "results")
    one_line(cli("deploy", f"results/{record.run_id}.json", "-o", "other"), "has changed since")
    one_line(cli("fit", "bundle", "events.parquet"), "version next is installed")
    assert not (tmp_path / "other").exists()


# The best of several runs.


def write_run(results, run_id, n_star, gate="pass", estimator="best_gaussian", fit_id="", point=0):
    metrics = [
        Metric(family="fit", name="n_star", at={"point": point, "parameter": "shift"}, value=n_star, stderr=1.0, direction="higher"),
        Metric(family="gates", name="gate_bias", at={"state": gate}, value=0.1, stderr=0.1, direction="lower"),
    ]
    record = Record(
        run_id=run_id,
        fit_id=fit_id or run_id,
        status="ok",
        toy=ToyInfo(name="gaussian_shift"),
        estimator=EstimatorInfo(name=estimator),
        budget=Budget(name="tiny", n_train=400),
        design="prior",
        seed=0,
        metrics=metrics,
    )
    write_record(results, record)


def test_the_best_run_is_the_highest_n_star_without_a_failed_gate(tmp_path):
    write_run(tmp_path, "a", 100.0)
    write_run(tmp_path, "b", 300.0, gate="undecided")
    write_run(tmp_path, "c", 900.0, gate="fail")
    write_run(tmp_path, "d", 1e6, estimator="oracle")
    write_run(tmp_path, "e", None)
    # Another evaluation of the same fit found it wanting.
    write_run(tmp_path, "f", 500.0, fit_id="c")
    assert best_run("gaussian_shift", tmp_path).name == "b.json"


def test_where_no_run_is_good_enough_it_says_how_many_there_were(tmp_path):
    write_run(tmp_path, "a", 100.0, gate="fail")
    with pytest.raises(InputError, match="of 1 good runs 0 fail none"):
        best_run("gaussian_shift", tmp_path)


def test_loading_leaves_random_numbers_alone(bundle):
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_bundle(bundle)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_survey_of_exports_says_what_works_and_why_not():
    good, bad = survey_exports(["best_gaussian", "template_histogram"])
    assert (good.estimator, good.format, good.cells[3]) == ("best_gaussian", "pt2", "yes")
    assert (bad.size, bad.cells[3]) == (0, "no")
    assert bad.reason


def test_a_survey_is_kept_and_reported(cli, tmp_path):
    result = cli("exports", "best_gaussian", "--results", "results")
    assert result.exit_code == 0, result.output
    write_exports(tmp_path / "results", [Export(estimator="counting", toy="mass_bump", format="onnx", size=0, seconds=1.0, reason="no")])
    cli("exports", "best_gaussian", "--results", "results")
    kept = read_exports(tmp_path / "results")
    assert [(row.estimator, row.format, row.size > 0) for row in kept] == [("best_gaussian", "pt2", True), ("counting", "onnx", False)]
    (tmp_path / "results/exports/survey.json").write_text("[{}]")
    with pytest.raises(InputError, match="touchneedle exports"):
        read_exports(tmp_path / "results")
