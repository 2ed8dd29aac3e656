"""What is stored of a signal at one moment: segments up to a WAL sequence, and the rows in memory above it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from otlp_arrow.codec.lazy_compute import pc
from otlp_arrow.codec.schema import TIME, TIME_COLUMN
from otlp_arrow.model import Corrupt, Signal
from otlp_arrow.storage.catalog import Segment
from otlp_arrow.storage.segment import UnitRange


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Nanoseconds since 1970, ``start`` included and ``end`` not; None is open."""

    start: int | None = None
    end: int | None = None

    def __bool__(self) -> bool:
        return self.start is not None or self.end is not None

    def overlaps(self, least: int | None, greatest: int | None) -> bool:
        """Whether a row with a time from ``least`` to ``greatest`` may be inside (None: no row has a time)."""
        if not self:
            return True
        if least is None or greatest is None:
            return False
        return (self.end is None or least < self.end) and (self.start is None or greatest >= self.start)

    def covers(self, least: int | None, greatest: int | None) -> bool:
        """Whether all times from ``least`` to ``greatest`` are inside."""
        if least is None or greatest is None:
            return not self
        return (self.start is None or least >= self.start) and (self.end is None or greatest < self.end)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All rows of ``signal``: in ``segments`` those of WAL sequences below ``before``, in ``batches`` the others.

    The segments may have grown since; a segment that retention deleted meanwhile is passed over.
    """

    signal: Signal
    segments: tuple[Segment, ...]
    batches: tuple[pa.RecordBatch, ...]
    before: int

    def rows(self, times: TimeRange = TimeRange()) -> Iterator[pa.RecordBatch]:
        """The rows whose time is in ``times``, oldest segment first, one batch of a file in memory at a time.

        A row without a time is in an open range only. Blocking. Raises ``Corrupt`` or ``OSError``.
        """
        for segment in self.segments:
            if segment.wal_first < self.before and times.overlaps(segment.time_min, segment.time_max):
                for batch in read_rows(segment, self.before):
                    yield from rows_inside(self.signal, batch, times)
        for batch in self.batches:
            yield from rows_inside(self.signal, batch, times)


def read_rows(segment: Segment, before: int) -> Iterator[pa.RecordBatch]:
    """The batches of a segment that hold WAL sequences below ``before``, as far as it had grown when it was noted.

    Raises ``Corrupt`` where it cannot be read.
    """
    try:
        source = pa.memory_map(str(segment.path))
    except FileNotFoundError:
        return
    with source:
        try:
            with pa.ipc.open_stream(source.read_buffer(segment.size_bytes)) as reader:
                while True:
                    batch, custom = reader.read_next_batch_with_custom_metadata()
                    if _range(custom).wal_first >= before:
                        return
                    yield batch
        except StopIteration:
            return
        except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
            raise Corrupt(segment.path, 0, f"cannot be read: {error}") from error


def _range(custom: pa.KeyValueMetadata | None) -> UnitRange:
    return UnitRange.of({key.decode(): value.decode() for key, value in (custom or {}).items()})


def row_times(signal: Signal, batch: pa.RecordBatch) -> pa.Array:
    """The time of each row that ranges speak of (int64 nanoseconds); null where it has none."""
    column = batch.column(TIME_COLUMN[signal])
    if signal is Signal.LOGS:
        column = pc.coalesce(column, batch.column("observed_time_unix_nano"))
    return column.cast(TIME).view(pa.int64())


def rows_inside(signal: Signal, batch: pa.RecordBatch, times: TimeRange) -> Iterator[pa.RecordBatch]:
    """The rows of a batch whose time is in ``times``, as one batch or none."""
    if not times:
        yield batch
        return
    at = row_times(signal, batch)
    found = pc.min_max(at)
    least, greatest = found["min"].as_py(), found["max"].as_py()
    if not times.overlaps(least, greatest):
        return
    if at.null_count == 0 and times.covers(least, greatest):
        yield batch
        return
    kept = pc.is_valid(at)
    if times.start is not None:
        kept = pc.and_kleene(kept, pc.greater_equal(at, times.start))
    if times.end is not None:
        kept = pc.and_kleene(kept, pc.less(at, times.end))
    yield batch.filter(kept)
