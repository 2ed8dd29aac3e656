"""Which segments there are. One writer changes it; readers hold immutable snapshots."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from otlp_arrow.model import Signal
from otlp_arrow.storage.segment import Reading, UnitRange


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment file with at least one unit. Times are ns since 1970, None if no row has one."""

    path: Path
    signal: Signal
    rows: int
    size_bytes: int
    units: int
    wal_first: int
    wal_last: int
    time_min: int | None
    time_max: int | None
    closed: bool
    changed_ns: int  # when the last unit was written

    def extended(self, unit: UnitRange, size_bytes: int, now_ns: int) -> Segment:
        """The segment after one more unit."""
        return dataclasses.replace(
            self,
            rows=self.rows + unit.rows,
            size_bytes=size_bytes,
            units=self.units + 1,
            wal_last=unit.wal_last,
            time_min=_least(self.time_min, unit.time_min),
            time_max=_greatest(self.time_max, unit.time_max),
            changed_ns=now_ns,
        )


def new_segment(path: Path, signal: Signal, unit: UnitRange, size_bytes: int, now_ns: int) -> Segment:
    """A segment after its first unit."""
    return Segment(
        path,
        signal,
        unit.rows,
        size_bytes,
        1,
        unit.wal_first,
        unit.wal_last,
        unit.time_min,
        unit.time_max,
        False,
        now_ns,
    )


def segment_of(reading: Reading, signal: Signal, changed_ns: int) -> Segment | None:
    """What the catalogue keeps of a segment that was read; None if it has no unit."""
    units = reading.units
    if not units:
        return None
    first = new_segment(reading.path, signal, units[0].range, units[0].end, changed_ns)
    for unit in units[1:]:
        first = first.extended(unit.range, unit.end, changed_ns)
    return dataclasses.replace(first, size_bytes=reading.size, closed=reading.closed)


class Catalog:
    """The segments of all signals, each list ordered by WAL sequence."""

    def __init__(self, segments: Iterable[Segment] = ()) -> None:
        self._segments: dict[Signal, tuple[Segment, ...]] = dict.fromkeys(Signal, ())
        for segment in sorted(segments, key=lambda s: s.wal_first):
            self._segments[segment.signal] += (segment,)

    def snapshot(self, signal: Signal) -> tuple[Segment, ...]:
        """The segments of a signal now, oldest first; the tuple never changes."""
        return self._segments[signal]

    def everything(self) -> tuple[Segment, ...]:
        """The segments of all signals."""
        return tuple(s for signal in Signal for s in self._segments[signal])

    def put(self, segment: Segment) -> None:
        """Add a segment, or replace what is known of it."""
        kept = tuple(s for s in self._segments[segment.signal] if s.path != segment.path)
        self._segments[segment.signal] = tuple(sorted((*kept, segment), key=lambda s: s.wal_first))

    def remove(self, segment: Segment) -> None:
        """Forget a segment."""
        self._segments[segment.signal] = tuple(s for s in self._segments[segment.signal] if s.path != segment.path)

    def watermark(self, signal: Signal) -> int:
        """The highest WAL sequence that a segment of the signal holds, 0 if there is none."""
        return max((s.wal_last for s in self._segments[signal]), default=0)


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _greatest(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)
