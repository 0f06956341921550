"""Submitted records: what is packed comes back, and nothing else gets in."""

import hashlib
import io
import json
import zipfile

import pytest
from typer.testing import CliRunner

from touchneedle.benchmark.config import config_to_dict, parse_config
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.main import app
from touchneedle.benchmark.metrics.curves import curve_row
from touchneedle.benchmark.records import BOARD_SEEDS, Budget, EstimatorInfo, Record, ToyInfo, Trial, read_record, write_record
from touchneedle.benchmark.store import CURVE_COLUMNS, write_table
from touchneedle.benchmark.submission import MAX_RECORD, merge, submit
from touchneedle.conf.errors import InputError

SEED = BOARD_SEEDS.start


def record(seed=SEED, estimator="ratio_bce", version="1", trials=0, **changes):
    values = {"toy": {"name": "mass_bump"}, "estimator": {"name": estimator}, "seed": seed}
    if trials:
        values["tuning"] = {"trials": trials, "space": {"trainer.patience": [5, 6]}}
    config = parse_config(values)
    fit_id, run_id = identify(config)
    fields = {
        "run_id": run_id,
        "fit_id": fit_id,
        "status": "ok",
        "toy": ToyInfo(name="mass_bump", version=version),
        "estimator": EstimatorInfo(name=estimator, version="1"),
        "budget": Budget(name=config.budget.name, n_train=config.budget.n_train),
        "design": config.design,
        "seed": seed,
        "config": config_to_dict(config),
    }
    return Record(**fields | changes)


def folder(path, *records):
    for one in records:
        write_record(path, one)
        write_table(path / one.run_id / "curves.parquet", [curve_row("scan", "exact", 0.0, 1.0)], CURVE_COLUMNS)
        (path / one.run_id / "fits.parquet").write_bytes(b"large")
    return path


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def mine(tmp_path):
    return folder(tmp_path / "mine", record(), record(SEED + 1))


@pytest.fixture
def packed(mine, tmp_path):
    submit([mine], tmp_path / "mine.zip")
    return tmp_path / "mine.zip"


def repacked(packed, change, *, honest=True):
    """The archive with its files changed by ``change`` (a dictionary in, the same out); ``honest`` updates the manifest."""
    with zipfile.ZipFile(packed) as old:
        files = {name: old.read(name) for name in old.namelist()}
    manifest = json.loads(files.pop("manifest.json"))
    change(files, manifest)
    if honest:
        manifest["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    out = packed.with_name("changed.zip")
    with zipfile.ZipFile(out, "w") as new:
        for name, content in {"manifest.json": json.dumps(manifest).encode(), **files}.items():
            new.writestr(name, content)
    return out


def test_records_and_curves_come_back_and_a_second_merge_changes_nothing(mine, packed, tmp_path):
    merged = merge(packed, tmp_path / "board")
    assert len(merged.added) == 2
    assert contents(tmp_path / "board") == {name: data for name, data in contents(mine).items() if "fits" not in name}
    before = contents(tmp_path / "board")
    assert merge(packed, tmp_path / "board").known == tuple(sorted(merged.added))
    assert contents(tmp_path / "board") == before


def test_equal_records_give_equal_archives(mine, packed, tmp_path):
    manifest = submit(sorted(mine.glob("*.json"), reverse=True), tmp_path / "again.zip")
    assert sorted(manifest.files) == sorted(name for name in contents(mine) if "fits" not in name)
    assert manifest.toys == {"mass_bump": "1"}
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def alter(files, _):
    name = next(name for name in files if name.endswith(".json"))
    files[name] = files[name].replace(b'"ok"', b'"failed"')


def other_budget(files, _):
    name = next(name for name in files if name.endswith(".json"))
    files[name] = files[name].replace(b'"n_train": 2000', b'"n_train": 1000', 1)


def other_budget_everywhere(files, _):
    name = next(name for name in files if name.endswith(".json"))
    values = json.loads(files[name])
    values["budget"]["n_train"] = values["config"]["budget"]["n_train"] = 1000
    files[name] = json.dumps(values).encode()


def rename(new):
    def change(files, _):
        name = next(name for name in files if name.endswith(".json"))
        files[new] = files.pop(name)
        files.pop(name.replace(".json", "/curves.parquet"))

    return change


def set_manifest(**values):
    return lambda _, manifest: manifest.update(values)


def too_large(files, _):
    files["0123456789abcdef.json"] = b" " * (MAX_RECORD + 1)


def broken_curves(files, _):
    name = next(name for name in files if name.endswith(".parquet"))
    files[name] = b"PAR1 no parquet"


def curves_alone(files, _):
    files["0123456789abcdef/curves.parquet"] = b"PAR1"


def other_schema(files, _):
    name = next(name for name in files if name.endswith(".json"))
    files[name] = files[name].replace(b'"schema_version": 1', b'"schema_version": 7')


@pytest.mark.parametrize(
    ("change", "honest", "message"),
    [
        (alter, False, "was altered after it was packed"),
        (other_budget, True, "budget 1000 is not that of its configuration, 2000"),
        (other_budget_everywhere, True, "its configuration belongs to run"),
        (rename("0123456789abcdef.json"), True, "expected run_id 0123456789abcdef"),
        (rename("../escaped.json"), True, "got '../escaped.json'"),
        (rename("/tmp/escaped.json"), True, "got '/tmp/escaped.json'"),
        (rename("fits/weights.safetensors"), True, "got 'fits/weights.safetensors'"),
        (lambda files, _: files.popitem(), False, "is in one of them only"),
        (set_manifest(schema_version=99), True, "got 1 and 99"),
        (set_manifest(surprise=1), True, "expected a manifest.json"),
        (other_schema, True, "expected schema version 1; got 7"),
        (too_large, True, "at most 2,000,000 bytes"),
        (curves_alone, True, "expected the record of every run"),
        (broken_curves, True, "expected curves as parquet"),
    ],
)
def test_what_is_wrong_is_refused_and_leaves_nothing_behind(packed, tmp_path, change, honest, message):
    board = folder(tmp_path / "board", record(SEED + 2))
    before = contents(board)
    with pytest.raises(InputError, match=message):
        merge(repacked(packed, change, honest=honest), board)
    assert contents(board) == before
    assert not (tmp_path / "escaped.json").exists()


def test_links_doubles_and_files_that_are_no_archive_are_refused(packed, tmp_path):
    with zipfile.ZipFile(packed) as old:
        entries = [(info, old.read(info)) for info in old.infolist()]
    for kind in ("link", "double"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as new:
            for info, content in entries:
                if kind == "link" and info.filename.endswith(".json"):
                    info.external_attr = 0o120777 << 16
                new.writestr(info, content)
            if kind == "double":
                with pytest.warns(UserWarning, match="Duplicate name"):
                    new.writestr(entries[-1][0].filename, b"other")
        (tmp_path / f"{kind}.zip").write_bytes(buffer.getvalue())
        with pytest.raises(InputError, match="once each, no links"):
            merge(tmp_path / f"{kind}.zip", tmp_path / "board")
    whole = packed.read_bytes()
    damaged = [b"hello", whole[: len(whole) // 2], *(whole[:k] + b"\xff\xff" + whole[k + 2 :] for k in (100, 300, 700))]
    for content in damaged:
        (tmp_path / "damaged.zip").write_bytes(content)
        with pytest.raises(InputError, match="expected a zip of touchneedle submit"):
            merge(tmp_path / "damaged.zip", tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_a_run_that_is_there_with_other_content_is_never_overwritten(packed, tmp_path):
    board = folder(tmp_path / "board", record(reason="measured here"))
    before = contents(board)
    with pytest.raises(InputError, match="is there with another"):
        merge(packed, board)
    assert contents(board) == before


def test_curves_without_a_record_are_not_overwritten_either(packed, tmp_path):
    stray = tmp_path / "board" / record().run_id / "curves.parquet"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"mine")
    with pytest.raises(InputError, match="is there with another curves.parquet"):
        merge(packed, tmp_path / "board")
    assert contents(tmp_path / "board") == {f"{record().run_id}/curves.parquet": b"mine"}


def test_toy_versions_never_mix(packed, tmp_path):
    board = folder(tmp_path / "board", record(SEED + 2, version="2"))
    with pytest.raises(InputError, match="expected version 2 of toy mass_bump"):
        merge(packed, board)
    with pytest.raises(InputError, match="keep them in separate folders"):
        submit([folder(tmp_path / "both", record(), record(SEED + 1, version="2"))], tmp_path / "both.zip")
    assert not (tmp_path / "both.zip").exists()


def test_a_failed_write_takes_back_what_was_written(packed, tmp_path, monkeypatch):
    from touchneedle.benchmark import submission

    calls = []

    def full_disk(path, content):
        calls.append(path)
        if len(calls) == 4:
            raise InputError("no space left")
        write(path, content)

    write = submission.write_atomically
    monkeypatch.setattr(submission, "write_atomically", full_disk)
    with pytest.raises(InputError, match="no space"):
        merge(packed, tmp_path / "board")
    assert contents(tmp_path / "board") == {}


def test_development_seeds_stay_off_the_board(tmp_path):
    development = folder(tmp_path / "development", record(0))
    with pytest.raises(InputError, match="expected a seed of the board, 1000 to 1999; got 0"):
        submit([development], tmp_path / "x.zip")


def test_tracks_are_kept_and_must_be_earned(tmp_path):
    trials = [Trial(options={}, fit_id="a", validation_loss=1.0, seconds=1.0, chosen=k == 0) for k in range(2)]
    tuned = record(trials=2, track="tuned").model_copy(update={"trials": trials})
    board = tmp_path / "board"
    submit([folder(tmp_path / "tuned", tuned)], tmp_path / "tuned.zip")
    merge(tmp_path / "tuned.zip", board)
    plain = record(SEED + 3)
    submit([folder(tmp_path / "open", plain)], tmp_path / "open.zip", open_track=True)
    merge(tmp_path / "open.zip", board)
    assert [read_record(board / f"{one.run_id}.json").track for one in (tuned, plain)] == ["tuned", "open"]
    for wrong, message in (
        (record(track="tuned"), "expected track default"),
        (record(trials=2), "expected track tuned"),
        (record(trials=2, track="tuned"), "expected all of its 2 trials; got 0"),
    ):
        with pytest.raises(InputError, match=message):
            submit([folder(tmp_path / f"wrong-{message[-5:]}", wrong)], tmp_path / "wrong.zip")


def test_the_commands(mine, tmp_path):
    runner = CliRunner()
    packed = runner.invoke(app, ["submit", str(mine), "-o", str(tmp_path / "a.zip")])
    assert (packed.exit_code, packed.output.strip()) == (0, f"2 records, toys mass_bump: {tmp_path / 'a.zip'}")
    merged = runner.invoke(app, ["merge", str(tmp_path / "a.zip"), "--into", str(tmp_path / "board")])
    assert (merged.exit_code, merged.output.strip()) == (0, f"2 added, 0 there already: {tmp_path / 'board'}")
    again = runner.invoke(app, ["submit", str(mine), "-o", str(tmp_path / "a.zip")])
    assert again.exit_code == 2
    assert "it exists already" in again.output
