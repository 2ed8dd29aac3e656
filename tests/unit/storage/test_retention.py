"""What may go, and why: plans on plain values."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.model import Signal
from otlp_arrow.storage.catalog import Catalog, Segment
from otlp_arrow.storage.retention import plan_newest, plan_retention

NOW_NS = 10**18
AGES = {Signal.TRACES: 100.0, Signal.METRICS: 0.0, Signal.LOGS: 50.0}


def segment(
    name: str, *, signal: Signal = Signal.LOGS, age_s: float = 0, size: int = 10, closed: bool = True, first: int = 1
) -> Segment:
    changed_ns = NOW_NS - int(age_s * 1e9)
    return Segment(Path(name), signal, 1, size, 1, first, first, None, None, closed, changed_ns)


def planned(*segments: Segment, max_bytes: int = 10**9, other_bytes: int = 0) -> list[tuple[str, str]]:
    plan = plan_retention(segments, now_ns=NOW_NS, max_age_s=AGES, max_bytes=max_bytes, other_bytes=other_bytes)
    return [(str(e.segment.path), e.reason) for e in plan]


def test_a_closed_segment_goes_when_it_is_older_than_its_signal_allows():
    assert planned(segment("a", age_s=51), segment("b", age_s=50), segment("c", age_s=99, signal=Signal.TRACES)) == [
        ("a", "age")
    ]


def test_an_age_of_zero_means_never():
    assert planned(segment("a", age_s=1e6, signal=Signal.METRICS)) == []


def test_an_open_segment_never_goes():
    assert planned(segment("a", age_s=1e6, closed=False), max_bytes=0) == []


def test_the_oldest_go_first_until_the_total_fits_the_log_counted_in():
    three = [segment("new", age_s=1), segment("old", age_s=3), segment("older", age_s=4)]
    assert planned(*three, max_bytes=30) == []
    assert planned(*three, max_bytes=20) == [("older", "size")]
    assert planned(*three, max_bytes=20, other_bytes=1) == [("older", "size"), ("old", "size")]


def test_what_goes_by_age_makes_room_before_anything_goes_by_size():
    assert planned(segment("aged", age_s=60), segment("young", age_s=1), max_bytes=10) == [("aged", "age")]


@given(
    st.lists(st.tuples(st.sampled_from(list(Signal)), st.integers(0, 200), st.integers(0, 50), st.booleans())),
    st.integers(0, 300),
)
def test_a_plan_names_closed_segments_once_and_ends_as_soon_as_it_may(rows, max_bytes: int):
    segments = [segment(str(i), signal=s, age_s=a, size=n, closed=c) for i, (s, a, n, c) in enumerate(rows)]
    plan = plan_retention(segments, now_ns=NOW_NS, max_age_s=AGES, max_bytes=max_bytes)
    assert len({e.segment.path for e in plan}) == len(plan)
    assert all(e.segment.closed for e in plan)
    left = sum(s.size_bytes for s in segments) - sum(e.segment.size_bytes for e in plan)
    kept_closed = {s.path for s in segments if s.closed} - {e.segment.path for e in plan}
    assert left <= max_bytes or not kept_closed
    by_size = [e for e in plan if e.reason == "size"]
    if by_size:
        assert left + by_size[-1].segment.size_bytes > max_bytes


# -- the catalogue it is made from -----------------------------------------------------------------


def test_a_snapshot_of_the_catalogue_does_not_change_under_its_reader():
    catalog = Catalog([segment("b", first=5), segment("a", first=1)])
    snapshot = catalog.snapshot(Signal.LOGS)
    assert [str(s.path) for s in snapshot] == ["a", "b"]
    catalog.put(segment("c", first=3))
    catalog.remove(snapshot[0])
    assert [str(s.path) for s in snapshot] == ["a", "b"]
    assert [str(s.path) for s in catalog.snapshot(Signal.LOGS)] == ["c", "b"]
    assert catalog.everything() == catalog.snapshot(Signal.LOGS)
    assert (catalog.watermark(Signal.LOGS), catalog.watermark(Signal.TRACES)) == (5, 0)


def test_of_one_signal_the_oldest_go_until_rows_and_bytes_fit_and_an_open_one_stays():
    segments = [segment("a"), segment("b"), segment("c", closed=False)]

    def gone(max_rows: int, max_bytes: int) -> list[str]:
        return [str(e.segment.path) for e in plan_newest(segments, max_rows=max_rows, max_bytes=max_bytes)]

    assert gone(3, 30) == []
    assert gone(2, 30) == gone(3, 29) == ["a"]
    assert gone(0, 0) == ["a", "b"]
