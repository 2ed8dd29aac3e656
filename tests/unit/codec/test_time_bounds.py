"""The time range of a batch: what segments carry about themselves."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.codec import time_bounds as module
from otlp_arrow.codec.schema import SCHEMAS, TIME, TIME_COLUMN
from otlp_arrow.codec.time_bounds import time_bounds
from otlp_arrow.model import Signal

TIMES = st.lists(st.one_of(st.none(), st.integers(1, 2**63 - 1)), max_size=30)


def batch_of(signal: Signal, times: list[int | None], observed: list[int | None]) -> pa.RecordBatch:
    names = [TIME_COLUMN[signal]] + (["observed_time_unix_nano"] if signal is Signal.LOGS else [])
    columns = [pa.array(times, TIME), pa.array(observed, TIME)][: len(names)]
    assert all(SCHEMAS[signal].field(name).type == TIME for name in names)
    return pa.RecordBatch.from_arrays(columns, names)


def expected(times: list[int | None]) -> tuple[int, int] | None:
    known = [t for t in times if t is not None]
    return (min(known), max(known)) if known else None


@pytest.fixture(params=["kernel", "compute"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "compute":
        monkeypatch.setattr(module, "_kernel", None)


@given(TIMES, st.integers(0, 5))
def test_the_bounds_are_least_and_greatest_also_of_a_slice(times: list[int | None], skip: int) -> None:
    batch = batch_of(Signal.TRACES, times, times).slice(skip)
    assert time_bounds(Signal.TRACES, batch) == expected(times[skip:])


@pytest.mark.usefixtures("way")
def test_a_log_record_without_a_time_counts_as_observed() -> None:
    batch = batch_of(Signal.LOGS, [5, None, None, 9], [1, 3, None, 99])
    assert time_bounds(Signal.LOGS, batch) == (3, 9)
    assert time_bounds(Signal.LOGS, batch.slice(2)) == (9, 9)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("times", [[], [None, None]])
def test_rows_without_times_have_no_bounds(times: list[int | None]) -> None:
    assert time_bounds(Signal.METRICS, batch_of(Signal.METRICS, times, times)) is None
