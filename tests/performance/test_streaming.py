"""Reading training events: batches of a stream against a bare loop over row groups with pyarrow, in threads of the same number."""

from pathlib import Path
from typing import Any

from tests.performance.streaming import READ_FILES, SPEC, draw, read_rates
from touchneedle.toys.event_layout import write_events

EVENTS = 2_000_000
LIMIT = 500_000_000


def test_reading_against_a_bare_loop(benchmark: Any, tmp_path: Path) -> None:
    """Rates in bytes a second, and as shares of the bare loop's (wanted: 0.8 and more), are in ``extra_info``."""
    for k in range(READ_FILES):
        write_events(tmp_path / f"events_{k}.parquet", draw(EVENTS, k), SPEC)
    rates = benchmark.pedantic(lambda: read_rates(tmp_path, LIMIT), rounds=1)
    benchmark.extra_info["bytes_per_second"] = rates
    for loop, bare in (("stream_1", "bare_one_thread"), ("stream_2", "bare_threads"), ("shuffled_2", "bare_threads")):
        benchmark.extra_info[f"{loop}_over_{bare}"] = rates[loop] / rates[bare]
