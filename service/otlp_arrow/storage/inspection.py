"""Looking at an output directory from outside: no lock, nothing changed, a running collector undisturbed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from otlp_arrow.model import Corrupt, OtlpIOError, Signal
from otlp_arrow.storage.cursor import Sequences, decode_cursor, load_cursor
from otlp_arrow.storage.disk import Disk, SystemDisk
from otlp_arrow.storage.frames import FILE_HEADER, Damage, read_file_header, scan
from otlp_arrow.storage.layout import FORWARD_PREFIX, SEGMENT_SUFFIX, WAL_SUFFIX, Layout
from otlp_arrow.storage.segment import Reading, read_segment

_Held = tuple[int, Signal, int, int, int]  # sequence, signal, rows, payload bytes, received (ns) of a frame


@dataclass(frozen=True, slots=True)
class WalFileView:
    """One WAL file. ``frames`` and ``rows`` are per signal; ``problems`` in words."""

    path: Path
    size_bytes: int
    first_sequence: int | None
    last_sequence: int | None
    frames: dict[Signal, int]
    rows: dict[Signal, int]
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SegmentView:
    """One segment. Times in ns since 1970, None if no row has one."""

    path: Path
    signal: Signal
    size_bytes: int
    rows: int
    units: int
    wal_first: int | None
    wal_last: int | None
    time_min: int | None
    time_max: int | None
    closed: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class QuarantineView:
    """One quarantined item and why it is there."""

    path: Path
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class DestinationView:
    """A destination of forwarding: what the WAL holds above its stored cursor. It may be further by a second."""

    name: str
    sequences: Sequences
    lag_rows: dict[Signal, int]
    lag_bytes: int
    oldest_ns: int | None  # when the oldest of it was received


@dataclass(frozen=True, slots=True)
class DirectoryView:
    """Everything in an output directory."""

    root: Path
    wal: list[WalFileView]
    segments: list[SegmentView]
    cursors: dict[str, Sequences]
    quarantine: list[QuarantineView]
    problems: list[str]
    unstored_rows: dict[Signal, int]  # in the WAL above what segments and cursor hold: what a restart replays
    destinations: list[DestinationView] = field(default_factory=list)


def inspect_directory(root: Path, *, verify: bool = False, disk: Disk | None = None) -> DirectoryView:
    """Read what lies in ``root``; with ``verify`` every checksum in segments is compared too.

    Raises ``OtlpIOError`` if ``root`` is no output directory.
    """
    disk = disk or SystemDisk()
    layout = Layout(root)
    if not layout.wal.is_dir() and not (root / "otlp").is_dir():
        raise OtlpIOError(f"{root} is no output directory: it has neither wal/ nor otlp/")
    problems: list[str] = []
    cursors: dict[str, Sequences] = {}
    try:
        cursors["writer"] = load_cursor(disk, layout.writer_cursor)
    except Corrupt as error:
        problems.append(str(error))
    # The WAL before the segments: what a collector stores in between is then in them, and never in neither.
    held: list[_Held] = []
    files = [_wal_file(disk, path, held) for path in _files(disk, layout.wal, WAL_SUFFIX)]
    wal = [file for file in files if file is not None]
    segments = [view for signal in Signal for view in _segments(disk, layout, signal, verify=verify)]
    watermarks = {
        signal: max(
            [s.wal_last for s in segments if s.signal is signal and s.wal_last is not None],
            default=0,
        )
        for signal in Signal
    }
    for signal in Signal:
        watermarks[signal] = max(watermarks[signal], cursors.get("writer", {}).get(signal, 0))
    unstored = dict.fromkeys(Signal, 0)
    for sequence, signal, rows, _nbytes, _received_ns in held:
        if sequence > watermarks[signal]:
            unstored[signal] += rows
    quarantine = [
        QuarantineView(path, path.stat().st_size, _reason(path))
        for path in _files(disk, layout.quarantine, "")
        if path.suffix != ".reason"
    ]
    destinations = _destinations(disk, layout, held, problems)
    return DirectoryView(root, wal, segments, cursors, quarantine, problems, unstored, destinations)


def _destinations(disk: Disk, layout: Layout, held: list[_Held], problems: list[str]) -> list[DestinationView]:
    views = []
    for path in _files(disk, layout.state, ".json"):
        if not path.name.startswith(FORWARD_PREFIX):
            continue
        try:
            cursor = decode_cursor(path, disk.read(path))
        except FileNotFoundError:
            continue
        except Corrupt as error:
            problems.append(str(error))
            continue
        lag = [frame for frame in held if frame[1] in cursor and frame[0] > cursor[frame[1]]]
        views.append(
            DestinationView(
                path.stem.removeprefix(FORWARD_PREFIX),
                cursor,
                {signal: sum(rows for _, of, rows, _, _ in lag if of is signal) for signal in Signal},
                sum(nbytes for *_, nbytes, _ in lag),
                min((received_ns for *_, received_ns in lag), default=None),
            )
        )
    return views


def _files(disk: Disk, directory: Path, suffix: str) -> list[Path]:
    if not directory.is_dir():
        return []
    return [path for path in disk.list(directory) if not suffix or path.suffix == suffix]


def _segments(disk: Disk, layout: Layout, signal: Signal, *, verify: bool) -> list[SegmentView]:
    views = []
    for path in _files(disk, layout.segments(signal), SEGMENT_SUFFIX):
        try:
            data = disk.read(path)  # not mapped: a running collector may cut or delete the file meanwhile
        except FileNotFoundError:
            continue
        views.append(_segment_view(read_segment(path, data, verify=verify), signal))
    return views


def _segment_view(reading: Reading, signal: Signal) -> SegmentView:
    ranges = [unit.range for unit in reading.units]
    starts = [r.time_min for r in ranges if r.time_min is not None]
    ends = [r.time_max for r in ranges if r.time_max is not None]
    return SegmentView(
        reading.path,
        signal,
        reading.size,
        sum(r.rows for r in ranges),
        len(ranges),
        ranges[0].wal_first if ranges else None,
        ranges[-1].wal_last if ranges else None,
        min(starts, default=None),
        max(ends, default=None),
        reading.closed,
        # An unfinished unit at the end of an open segment is just being written.
        "" if reading.torn else reading.damage,
    )


def _wal_file(disk: Disk, path: Path, held: list[_Held]) -> WalFileView | None:
    """A WAL file, None if it has just gone; what its frames hold is added to ``held``."""
    try:
        data = disk.read(path)
    except FileNotFoundError:
        return None
    frames, rows = dict.fromkeys(Signal, 0), dict.fromkeys(Signal, 0)
    # A file without a whole header is just being created.
    damaged = len(data) >= FILE_HEADER.size and read_file_header(data) is None
    problems = ["file header is damaged"] if damaged else []
    first = last = None
    for offset, found in scan(data):
        if isinstance(found, Damage):
            if not found.torn:
                problems.append(f"at byte {offset}: {found.reason}")
            continue
        first = found.sequence if first is None else first
        last = found.sequence
        frames[found.signal] += 1
        rows[found.signal] += found.rows
        held.append((found.sequence, found.signal, found.rows, len(found.payload), found.received_ns))
    return WalFileView(path, len(data), first, last, frames, rows, problems)


def _reason(path: Path) -> str:
    try:
        return path.with_name(path.name + ".reason").read_text(errors="replace").strip()
    except OSError:
        return ""
