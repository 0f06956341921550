"""What a contributed record is held against before it enters a results folder. Each check raises `InputError` in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow
import pyarrow.parquet

from touchneedle.benchmark.config import ExperimentConfig, parse_config
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.records import BOARD_SEEDS, Record
from touchneedle.benchmark.store import CURVE_COLUMNS
from touchneedle.conf.errors import InputError

MANIFEST = "manifest.json"
MAX_POINTS = 50_000
_RUN_FILE = re.compile(r"[a-z0-9_-]{1,64}(\.json|/curves\.parquet)")


def is_file_of_a_run(name: str) -> bool:
    """Whether a name is one that a run may have: letters, digits, ``_`` and ``-``; no way out of the folder.

    >>> is_file_of_a_run("0123456789abcdef/curves.parquet"), is_file_of_a_run("../a.json"), is_file_of_a_run("/etc/a.json")
    (True, False, False)
    """
    return _RUN_FILE.fullmatch(name) is not None and name != MANIFEST


def check_record(name: str, record: Record) -> None:
    """The record is that of its file and of its own configuration; its identity follows from that where the components are known."""
    if name != f"{record.run_id}.json":
        raise InputError(f"record {name}: expected run_id {name.removesuffix('.json')}; got {record.run_id}")
    config = parse_config(record.config)
    said = (record.toy.name, record.toy.params, record.estimator.name, record.estimator.params, record.budget.n_train, record.design)
    meant = (config.toy.name, config.toy.params, config.estimator.name, config.estimator.params, config.budget.n_train, config.design)
    for what, own, other in zip(("toy", "toy.params", "estimator", "estimator.params", "budget", "design"), said, meant, strict=True):
        if own != other:
            raise InputError(f"record {name}: {what} {own!r} is not that of its configuration, {other!r}; it was altered")
    if record.seed != config.seed:
        raise InputError(f"record {name}: seed {record.seed} is not that of its configuration, {config.seed}; it was altered")
    if _identity(config) not in ("", record.run_id):
        raise InputError(
            f"record {name}: its configuration belongs to run {_identity(config)}; it was altered, or another version wrote it"
        )


def _identity(config: ExperimentConfig) -> str:
    """The run_id of a configuration; empty where a plugin or a file that it needs is not here."""
    try:
        return identify(config)[1]
    except InputError:
        return ""


def check_board_seed(record: Record) -> None:
    """The record is one of the board's, not of development."""
    if record.seed not in BOARD_SEEDS:
        raise InputError(
            f"record {record.run_id}: expected a seed of the board, {BOARD_SEEDS.start} to {BOARD_SEEDS.stop - 1}; got {record.seed}, "
            f"which is for development; run it again with seed={BOARD_SEEDS.start}"
        )


def check_track(record: Record) -> None:
    """The track is the one that the configuration earns, or open."""
    if record.track == "open":
        return
    tuning, trainer = (record.config.get(group) or {} for group in ("tuning", "trainer"))
    name = f"record {record.run_id}"
    if trainer.get("start"):
        raise InputError(f"{name}: training started from the weights of another run, which is track open; submit it with --open")
    if record.status != "ok":
        return
    trials = tuning.get("trials", 0)
    searched = "tuned" if trials else "default"
    if record.track != searched:
        raise InputError(f"{name}: expected track {searched} (or open) with {trials} trials; got {record.track}")
    if len(record.trials) != trials:
        raise InputError(f"{name}: expected all of its {trials} trials; got {len(record.trials)}")


def check_one_toy_version(records: Iterable[Record]) -> dict[str, str]:
    """The version of every toy; scores of different versions never mix. Cells that did not get as far as their toy have none."""
    versions: dict[str, str] = {}
    for record in records:
        # What follows a plus sign is the content of a user's own file.
        version = record.toy.version.partition("+")[0]
        if version and versions.setdefault(record.toy.name, version) != version:
            raise InputError(
                f"record {record.run_id}: expected version {versions[record.toy.name]} of toy {record.toy.name}, as in the other records; "
                f"got {version}; keep them in separate folders"
            )
    return dict(sorted(versions.items()))


def check_curves(name: str, content: bytes) -> None:
    """A curve file has the columns of one, and no more points than a figure can use."""
    if not name.endswith(".parquet"):
        return
    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{name}: expected curves as parquet; got something else") from error
    if file.schema_arrow.names != list(CURVE_COLUMNS) or file.metadata.num_rows > MAX_POINTS:
        raise InputError(f"{name}: expected columns {', '.join(CURVE_COLUMNS)} and at most {MAX_POINTS:,} rows; got something else")
