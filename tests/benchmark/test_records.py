"""Records: atomic, strict, and honest about corruption; seeds derived by hash."""

import gzip
import json
from pathlib import Path

import pytest

from touchneedle.benchmark.records import (
    MAX_RECORD,
    Budget,
    EstimatorInfo,
    Metric,
    Record,
    ToyInfo,
    read_record,
    read_records,
    record_files,
    record_path,
    write_record,
)
from touchneedle.benchmark.seeding import derive_seed
from touchneedle.conf.errors import InputError


def make_record(run_id: str = "abc", **changes: object) -> Record:
    values: dict[str, object] = {
        "run_id": run_id,
        "fit_id": "fit",
        "status": "ok",
        "toy": ToyInfo(name="gaussian_shift", version="1"),
        "estimator": EstimatorInfo(name="oracle"),
        "budget": Budget(name="tiny", n_train=2_000),
        "design": "prior",
        "seed": 0,
    }
    return Record.model_validate(values | changes)


def test_round_trip_keeps_infinities_and_missing_values(tmp_path: Path) -> None:
    metrics = [
        Metric(family="density", name="kl", value=float("inf"), stderr=float("nan"), n=3),
        Metric(family="fit", name="n_star", value=None, at={"reason": "not regular", "point": 0}),
    ]
    record = make_record(metrics=metrics)
    write_record(tmp_path, record)
    back = read_records(tmp_path)[0]
    assert back.metrics[0].value == float("inf")
    assert back.metrics[1] == metrics[1]
    assert "NaN" in (tmp_path / "abc.json").read_text()
    json.loads((tmp_path / "abc.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_nothing_but_the_record_is_left(tmp_path: Path) -> None:
    write_record(tmp_path, make_record())
    assert [file.name for file in tmp_path.iterdir()] == ["abc.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run_id": 1}', "\x00\x01"])
def test_a_corrupt_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(InputError, match=r"bad\.json is corrupt") as caught:
        read_record(tmp_path / "bad.json")
    assert "\n" not in str(caught.value)


def test_a_gzipped_record_is_the_same_record(tmp_path: Path) -> None:
    plain = write_record(tmp_path, make_record())
    packed = tmp_path / "abc.json.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert record_files(tmp_path) == [plain]
    plain.unlink()
    assert record_files(tmp_path) == [packed] == [record_path(tmp_path, "abc")]
    assert read_records(tmp_path) == [make_record()]


def test_a_new_record_replaces_a_gzipped_one(tmp_path: Path) -> None:
    (tmp_path / "abc.json.gz").write_bytes(gzip.compress(b"{}"))
    write_record(tmp_path, make_record())
    assert [file.name for file in tmp_path.iterdir()] == ["abc.json"]


TOO_LONG = gzip.compress(b" " * (MAX_RECORD + 1))


@pytest.mark.parametrize("content", [b"", b"{}", gzip.compress(b"{}" * 999)[:-9], gzip.compress(b"{"), TOO_LONG], ids=range(5))
def test_a_corrupt_gzipped_record_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.json\.gz is corrupt") as caught:
        read_record(tmp_path / "bad.json.gz")
    assert "\n" not in str(caught.value)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path, make_record(schema_version=99))
    with pytest.raises(InputError, match="expected schema version 1; got 99"):
        read_records(tmp_path)


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="cannot write") as caught:
        write_record(blocked, make_record())
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of records"):
        read_records(tmp_path / "none")


def test_seeds_depend_on_every_label_and_not_on_concatenation() -> None:
    seeds = {
        derive_seed(0, "data", "a"),
        derive_seed(1, "data", "a"),
        derive_seed(0, "data", "b"),
        derive_seed(0, "dataa"),
        derive_seed(0, "data", "a", ""),
    }
    assert len(seeds) == 5
    assert derive_seed(0, "data", "a") == derive_seed(0, "data", "a")
    assert all(0 <= seed < 2**63 for seed in seeds)
