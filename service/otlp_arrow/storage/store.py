"""Everything on disk below one ``output_dir``: opened and repaired, written, released, expired.

Blocking throughout. Threads: one commits to ``wal``; one calls the methods of ``Store``.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from otlp_arrow.codec import ColumnMemory
from otlp_arrow.codec.schema import SCHEMA_VERSION, SCHEMAS
from otlp_arrow.codec.time_bounds import time_bounds
from otlp_arrow.model import Corrupt, OtlpIOError, Signal
from otlp_arrow.model.limits import GIB, MIB, WAL_FILE_BYTES
from otlp_arrow.storage.catalog import Catalog, Segment, new_segment, segment_of
from otlp_arrow.storage.cursor import Sequences, load_cursor, store_cursor
from otlp_arrow.storage.disk import Disk, SystemDisk
from otlp_arrow.storage.frames import Frame
from otlp_arrow.storage.ipc import END_OF_STREAM
from otlp_arrow.storage.layout import SEGMENT_SUFFIX, Layout, segment_number
from otlp_arrow.storage.lock import DirectoryLock
from otlp_arrow.storage.quarantine import Quarantine
from otlp_arrow.storage.reader import Backlog
from otlp_arrow.storage.readers import Readers
from otlp_arrow.storage.retention import Expiry, plan_newest, plan_retention
from otlp_arrow.storage.segment import Reading, SegmentFile, UnitRange, close_after, read_segment
from otlp_arrow.storage.segment import relax as relax_segments
from otlp_arrow.storage.wal import Wal, WalFindings

log = logging.getLogger(__name__)

_WEEK_S = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """What storage needs to know. Ages and sizes as in docs/configuration.md."""

    output_dir: Path
    max_file_size: int = 100 * MIB
    max_file_age_secs: float = 3600.0
    max_disk_bytes: int = 10 * GIB
    cleanup_interval_secs: Mapping[Signal, float] = field(default_factory=lambda: dict.fromkeys(Signal, _WEEK_S))
    # Level 1 costs 0.58 µs a span at 98 bytes; level 3 saves a tenth of the bytes for half as much CPU again.
    compression_level: int = 1
    wal_file_bytes: int = WAL_FILE_BYTES
    wal_direct: bool = False
    """Write the log past the page cache where that can be done: for who waits for the disk anyway (decisions/0010)."""


@dataclass(slots=True)
class Findings:
    """What opening a directory found and did."""

    wal: WalFindings = field(default_factory=WalFindings)
    torn_segments: int = 0
    quarantined_segments: int = 0
    damaged_cursors: int = 0
    lost_rows: dict[tuple[str, str], int] = field(default_factory=dict)  # (signal, reason)

    def lose(self, signal: str, reason: str, rows: int) -> None:
        if rows:
            self.lost_rows[signal, reason] = self.lost_rows.get((signal, reason), 0) + rows


class Store:
    """The output directory. ``open`` before anything else, ``close`` at the end."""

    def __init__(
        self,
        settings: StorageSettings,
        *,
        disk: Disk | None = None,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.settings = settings
        self.layout = Layout(settings.output_dir)
        self.disk = disk or SystemDisk()
        self.catalog = Catalog()
        self.quarantine = Quarantine(self.disk, self.layout.quarantine)
        self.wal = Wal(
            self.disk, self.layout, self.quarantine, file_bytes=settings.wal_file_bytes, direct=settings.wal_direct
        )
        self.readers = Readers(self.disk, self.layout, self.quarantine)
        self._writer_sequence = 0  # what the log may delete as far as the writer is concerned
        self._time_ns = time_ns
        self._lock = DirectoryLock(self.layout.lock_file)
        self._files: dict[Signal, SegmentFile] = {}
        self._opened_ns: dict[Signal, int] = {}
        self._numbers = dict.fromkeys(Signal, 0)
        self._cursor: Sequences = dict.fromkeys(Signal, 0)
        self._watermarks: Sequences = dict.fromkeys(Signal, 0)

    def __repr__(self) -> str:
        segments = {s.value: len(self.catalog.snapshot(s)) for s in Signal}
        return f"Store({self.layout.root}, segments={segments}, {self.wal!r})"

    # -- opening ---------------------------------------------------------------------------------

    def open(self) -> Findings:
        """Lock the directory, repair what a crash left, read the catalogue.

        Raises ``DirectoryLocked``, or ``OtlpIOError`` or ``OSError`` if the directory cannot be used.
        """
        self.disk.make_directory(self.layout.root)
        self._lock.acquire()
        try:
            for directory in self.layout.directories():
                self.disk.make_directory(directory)
            findings = Findings()
            self._load_cursor(findings)
            forwarded = self.readers.load()
            findings.damaged_cursors += self.readers.damaged_cursors
            readings = {signal: self._read_segments(signal) for signal in Signal}
            for signal in Signal:
                self._watermarks[signal] = _watermark(readings[signal], self._cursor[signal])
            newest = max(forwarded, *self._watermarks.values(), *self._cursor.values())
            findings.wal = self.wal.recover(at_least=newest + 1)
            for signal in Signal:
                self._repair_segments(signal, readings[signal], findings)
            self._count_lost_frames(findings)
            self.readers.attach(self.wal)
        except BaseException:
            self._lock.release()
            raise
        return findings

    def _load_cursor(self, findings: Findings) -> None:
        path = self.layout.writer_cursor
        try:
            self._cursor = load_cursor(self.disk, path)
        except Corrupt as error:
            findings.damaged_cursors += 1
            self.quarantine.move(path, error.reason)

    def _read_segments(self, signal: Signal) -> list[Reading]:
        """What the segments of a signal hold, in the order of their sequences; nothing is changed."""
        readings = {}
        for path in self.disk.list(self.layout.segments(signal)):
            if path.suffix == SEGMENT_SUFFIX:
                number = segment_number(path)
                if number is None:
                    log.warning("%s is not named like a segment: left alone", path)
                    continue
                self._numbers[signal] = max(self._numbers[signal], number + 1)
                readings[path] = self._read_segment(path, signal)
        while (doubtful := _doubtful(readings.values())) is not None:
            readings[doubtful.path] = self._read_segment(doubtful.path, signal, verify=True)
        return sorted(readings.values(), key=_by_sequence)

    def _read_segment(self, path: Path, signal: Signal, *, verify: bool = False) -> Reading:
        data = self.disk.map(path)
        reading = read_segment(path, data, verify=verify)
        if not reading.closed and not verify:  # open at the crash: a few at most
            reading = read_segment(path, data, verify=True)
        data.release()  # no mapping may be left when the file is cut
        if reading.units and reading.signal is not signal:
            reading.damage = f"holds {reading.signal}, lies under {signal.value}"
            reading.units, reading.discarded, reading.torn, reading.closed = [], [], False, False
        if reading.units and reading.version != str(SCHEMA_VERSION):
            log.warning("%s is of schema version %s", path.name, reading.version)
        return reading

    def _repair_segments(self, signal: Signal, readings: list[Reading], findings: Findings) -> None:
        """Cut, close or set aside what is not whole, enter the rest into the catalogue, count what is lost."""
        if any(r.torn for r in readings) and not any(f.signal is signal for f in self.unstored_frames()):
            # An unfinished write is one whose frames are still in the log. These are not: they were stored.
            for reading in readings:
                reading.torn = reading.torn and reading.size <= len(END_OF_STREAM)
            self._watermarks[signal] = _watermark(readings, self._cursor[signal])
        self._count_lost_units(signal, readings, findings)
        for reading in readings:
            if not reading.closed:
                self._repair_segment(reading, findings)
        kept = [r for r in readings if r.units]
        for older, newer in pairwise(kept):
            self._cut_overlap(older, newer.wal_first)
        for reading in kept:
            segment = segment_of(reading, signal, reading.path.stat().st_mtime_ns) if reading.units else None
            if segment is not None:
                self.catalog.put(segment)

    def _repair_segment(self, reading: Reading, findings: Findings) -> None:
        path = reading.path
        if reading.torn:
            findings.torn_segments += 1
            log.warning("%s: cut an unfinished unit at byte %d", path.name, reading.good_end)
        elif reading.damage:
            findings.quarantined_segments += 1
            if not reading.units:
                self.quarantine.move(path, reading.damage)
                return
            if self.quarantine.keep(path.name, self.disk.read(path), reading.damage) is None:
                raise OtlpIOError(f"{path} is damaged, and is not cut before a copy is written aside: {reading.damage}")
        if reading.units:
            self._close_after(reading, reading.good_end)
        else:
            self.disk.delete(path)

    def _close_after(self, reading: Reading, good_end: int) -> None:
        try:
            close_after(self.disk, reading.path, good_end)
        except OSError as error:  # the next start tries again
            log.error("could not close the segment %s: %s", reading.path.name, error)
        reading.size, reading.closed = good_end + len(END_OF_STREAM), True

    def _cut_overlap(self, older: Reading, newer_first: int) -> None:
        """A sync failed, its file could not be cut, and the same rows went to a newer segment."""
        keep = [u for u in older.units if u.range.wal_last < newer_first]
        if len(keep) == len(older.units):
            return
        older.units = keep
        if keep:
            log.warning("%s: cut units that a newer segment holds", older.path.name)
            self._close_after(older, keep[-1].end)
        else:
            self.quarantine.move(older.path, "another segment holds its WAL sequences")

    def _count_lost_units(self, signal: Signal, readings: list[Reading], findings: Findings) -> None:
        """Units behind damage whose rows are neither in another segment nor in the log."""
        whole = [u.range for r in readings for u in r.units]
        for reading in readings:
            for unit in reading.discarded:
                if not any(u.wal_first <= unit.wal_first and unit.wal_last <= u.wal_last for u in whole):
                    in_log = sum(
                        f.rows
                        for f in self.unstored_frames()
                        if f.signal is signal and unit.wal_first <= f.sequence <= unit.wal_last
                    )
                    findings.lose(signal.value, "corrupt_segment", max(0, unit.rows - in_log))

    def _count_lost_frames(self, findings: Findings) -> None:
        """Frames that cannot be read and that no segment holds."""
        for damage in findings.wal.damaged:
            stored = min(self._watermarks.values()) if damage.signal is None else self._watermarks[damage.signal]
            if damage.after_sequence >= stored:
                findings.lose(damage.signal.value if damage.signal else "unknown", "corrupt_frame", damage.rows)

    def unstored_frames(self) -> Iterator[Frame]:
        """The frames that no segment holds, in order: what recovery replays."""
        stored = {s: max(self._watermarks[s], self.catalog.watermark(s)) for s in Signal}
        for frame in self.wal.read(after=min(stored.values())):
            if frame.sequence > stored[frame.signal]:
                yield frame

    def finish_recovery(self) -> None:
        """Every frame of the log is in a segment now: say so, and let go of it. Raises ``OSError``."""
        up_to = self.wal.confirmed_sequence
        self._advance_cursor(up_to)
        self.release(up_to)

    # -- writing ---------------------------------------------------------------------------------

    def write(self, signal: Signal, rows: pa.RecordBatch | ColumnMemory, wal_first: int, wal_last: int) -> Segment:
        """Append rows as one unit: synced when this returns, the catalogue knows it.

        Raises ``OSError`` and leaves nothing of them in a segment if the disk refuses; the same
        rows may be written again.
        """
        time_min, time_max = time_bounds(signal, rows) or (None, None)
        count = rows.rows if isinstance(rows, ColumnMemory) else rows.num_rows
        unit = UnitRange(wal_first, wal_last, count, time_min, time_max)
        file = self._files.get(signal) or self._open_segment(signal)
        good_size = file.size
        try:
            file.append(rows, unit)
        except OSError:
            del self._files[signal]
            file.abandon(good_size)
            self._note_abandoned(signal, file, good_size)
            raise
        now_ns = self._time_ns()
        known = next((s for s in self.catalog.snapshot(signal) if s.path == file.path), None)
        if known is None:
            segment = new_segment(file.path, signal, unit, file.size, now_ns)
        else:
            segment = known.extended(unit, file.size, now_ns)
        self.catalog.put(segment)
        if file.size >= self.settings.max_file_size:
            self.close_segment(signal)
        return segment

    def _open_segment(self, signal: Signal) -> SegmentFile:
        now_ns = self._time_ns()
        while True:
            path = self.layout.segment_path(signal, now_ns, self._numbers[signal])
            self._numbers[signal] += 1
            try:
                file = SegmentFile(self.disk, path, SCHEMAS[signal], compression_level=self.settings.compression_level)
                break
            except FileExistsError:
                continue
        self._files[signal] = file
        self._opened_ns[signal] = now_ns
        return file

    def _note_abandoned(self, signal: Signal, file: SegmentFile, good_size: int) -> None:
        known = next((s for s in self.catalog.snapshot(signal) if s.path == file.path), None)
        if known is not None:
            self.catalog.put(dataclasses.replace(known, closed=True, size_bytes=good_size + len(END_OF_STREAM)))
            return
        try:
            self.disk.delete(file.path)
        except OSError as error:
            log.error("could not delete the empty segment %s: %s", file.path.name, error)

    def close_segment(self, signal: Signal) -> None:
        """Finish the open segment of a signal, if there is one.

        A disk that refuses the end-of-stream marker costs nothing: recovery adds it.
        """
        file = self._files.pop(signal, None)
        if file is None:
            return
        good_size = file.size
        try:
            file.close()
        except OSError as error:
            log.error("could not close the segment %s: %s", file.path.name, error)
        known = next((s for s in self.catalog.snapshot(signal) if s.path == file.path), None)
        if known is not None:
            self.catalog.put(dataclasses.replace(known, closed=True, size_bytes=good_size + len(END_OF_STREAM)))

    def relax(self) -> None:
        """Give back memory that is kept for the next unit. On any thread."""
        for file in list(self._files.values()):
            file.relax()
        relax_segments()

    def close_aged_segments(self) -> None:
        """Close the segments that have been open for ``max_file_age_secs``."""
        now_ns = self._time_ns()
        for signal in list(self._files):
            if now_ns - self._opened_ns[signal] >= self.settings.max_file_age_secs * 1e9:
                self.close_segment(signal)

    # -- letting go ------------------------------------------------------------------------------

    def release(self, up_to: int) -> int:
        """Every frame up to this sequence is in a segment: the WAL may let go of it once every reader has
        passed it too. Bytes freed. Raises ``OSError``; the WAL keeps everything then.
        """
        self._writer_sequence = max(self._writer_sequence, up_to)
        self.readers.keep_bounds()
        free = self.readers.needed_above(up_to)
        if not self.wal.would_release(free):
            return 0
        self._advance_cursor(up_to)
        return self.wal.release(free)

    def register_reader(self, name: str, max_backlog_bytes: int, signals: Iterable[Signal] = Signal) -> Backlog:
        """A reader of the log that keeps what it has not confirmed, up to a bound. Before ``open``."""
        return self.readers.register(name, max_backlog_bytes, signals)

    def make_room(self) -> int:
        """The disk is full: the oldest file that only readers still need goes. Bytes freed, 0 if there is none.

        On any thread. Backlog gives way before senders are refused: local storage never suffers for a remote.
        """
        return self.readers.give_way(self._writer_sequence)

    def _advance_cursor(self, up_to: int) -> None:
        moved = {s: max(self._cursor[s], self.catalog.watermark(s), up_to) for s in Signal}
        if moved == self._cursor:
            return
        store_cursor(self.disk, self.layout.writer_cursor, moved)
        self._cursor = moved

    def expire(self, up_to: int) -> list[Expiry]:
        """Delete what retention lets go; ``up_to`` as in ``release``; what was deleted.

        Raises ``OSError`` if nothing could be.
        """
        plan = plan_retention(
            self.catalog.everything(),
            now_ns=self._time_ns(),
            max_age_s=self.settings.cleanup_interval_secs,
            max_bytes=self.settings.max_disk_bytes,
            other_bytes=self.wal.size_bytes,
        )
        return self._delete(plan, up_to)

    def keep_newest(self, signal: Signal, max_rows: int, max_bytes: int, up_to: int) -> list[Expiry]:
        """Close the segment of a signal and delete its oldest ones, until at most so many rows and bytes are left;
        otherwise as ``expire``."""
        self.close_segment(signal)
        plan = plan_newest(self.catalog.snapshot(signal), max_rows=max_rows, max_bytes=max_bytes)
        return self._delete(plan, up_to)

    def _delete(self, plan: list[Expiry], up_to: int) -> list[Expiry]:
        if plan:
            # The metadata of the deleted segments was the truth; from now on the cursor is.
            self._advance_cursor(up_to)
        deleted: list[Expiry] = []
        for expiry in plan:
            try:
                self.disk.delete(expiry.segment.path)
            except OSError as error:
                if not deleted:
                    raise
                log.error("could not delete %s: %s", expiry.segment.path.name, error)
                break
            self.catalog.remove(expiry.segment)
            deleted.append(expiry)
        return deleted

    def abandon(self) -> None:
        """Let go of the directory as it is: the next start mends it."""
        try:
            for signal in Signal:
                self.close_segment(signal)
        finally:
            self._lock.release()

    def close(self, up_to: int) -> None:
        """Close the segments, store the cursor, let go of the directory."""
        try:
            for signal in Signal:
                self.close_segment(signal)
            try:
                self._advance_cursor(up_to)
            finally:
                self.wal.close()
            self.wal.release(self.readers.needed_above(up_to))
        except OSError as error:  # what is missing is mended at the next start
            log.error("could not close %s cleanly: %s", self.layout.root, error)
        finally:
            self._lock.release()


def _by_sequence(reading: Reading) -> tuple[int, int]:
    return reading.wal_first, reading.wal_last


def _watermark(readings: Iterable[Reading], cursor: int) -> int:
    """The highest sequence that is stored for sure. The cursor counts units that turned out damaged."""
    held = max((r.wal_last for r in readings), default=0)
    damaged = any(r.damage and not r.torn for r in readings)
    return held if damaged else max(held, cursor)


def _doubtful(readings: Iterable[Reading]) -> Reading | None:
    """A closed segment whose checksums have to be compared, because its sequences decide what is replayed
    or cut: the one that reaches highest, and those that overlap."""
    ordered = sorted((r for r in readings if r.units), key=_by_sequence)
    deciding = {r.path: r for pair in pairwise(ordered) if pair[1].wal_first <= pair[0].wal_last for r in pair}
    if ordered:
        newest = max(ordered, key=lambda r: r.wal_last)
        deciding[newest.path] = newest
    return next((r for r in deciding.values() if not r.verified), None)
