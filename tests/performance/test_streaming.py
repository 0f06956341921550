"""Reading training events: batches of a stream against a bare loop over row groups with pyarrow, in threads of the same number."""

import statistics
from pathlib import Path
from typing import Any

from tests.performance.ratios import Speed, note_speed, ratio
from tests.performance.streaming import READ_FILES, SPEC, draw, read_seconds
from touchneedle.toys.event_layout import write_events

EVENTS = 4_000_000
LIMIT = 500_000_000
BARE = {
    "in order, 1 worker": ("stream_1", "bare_one_thread"),
    "in order, 2 workers": ("stream_2", "bare_threads"),
    "shuffled, 1 worker": ("shuffled_1", "bare_one_thread"),
    "shuffled, 2 workers": ("shuffled_2", "bare_threads"),
}
ALONE = {"bare_one_thread": "decoding", "stream_1": "and copying", "shuffled_1": "and mixing"}


def test_reading_against_a_bare_loop(benchmark: Any, tmp_path: Path) -> None:
    for k in range(READ_FILES):
        write_events(tmp_path / f"events_{k}.parquet", draw(EVENTS, k), SPEC)
    seconds: dict[str, list[float]] = {}
    benchmark.pedantic(lambda: seconds.update(read_seconds(tmp_path, LIMIT)), rounds=1)
    alone = ", ".join(f"{what} {statistics.median(seconds[loop]):.2f} s" for loop, what in ALONE.items())
    rows = [
        Speed(
            "reading events", what, *ratio(seconds[bare], seconds[loop]), against=f"pyarrow, {bare.replace('_', ' ')}", wanted=0.8,
            note=f"with one thread that reads: {alone}",
        )
        for what, (loop, bare) in BARE.items()
    ]  # fmt: skip
    note_speed(benchmark, *rows)
    assert min(row.value for row in rows) > 0.2
