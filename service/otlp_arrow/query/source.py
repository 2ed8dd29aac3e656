"""What lies in an output directory at one moment, as units: those of segments, and the rows of the WAL above them.

The WAL is looked at before the segments: what a collector stores in between is then in both and counted once, and never
in neither. A file that goes while it is looked at is no error: the look is taken anew.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from otlp_arrow.model import Corrupt, Signal
from otlp_arrow.query.errors import QueryError
from otlp_arrow.query.index import IndexFolder, UnitSummary
from otlp_arrow.query.segments import BatchUnit, ColumnCache, FileUnit, SegmentFile, SegmentPlaces, Unit
from otlp_arrow.query.wal_tail import WalTail
from otlp_arrow.storage.cursor import load_cursor
from otlp_arrow.storage.disk import SystemDisk
from otlp_arrow.storage.layout import SEGMENT_SUFFIX, Layout
from otlp_arrow.storage.snapshot import Snapshot

CACHE_BYTES = 72 * 1024 * 1024
"""Decoded columns that are kept: those of the two or three newest units, which most questions concern."""

ORIGIN_CACHE_BYTES = 32 * 1024 * 1024
"""Numbered resources and scopes, and dictionaries: 0.1 MiB a unit, which saves decoding 30."""

MAX_OPEN_FILES = 64
"""Segments kept open between questions; opening one takes 20 µs."""

_TRIES = 10


@dataclass(frozen=True, slots=True)
class View:
    """The units of a signal at one moment, oldest first.

    ``newest``: the highest WAL sequence among them; ``frames``: sequence and rows of those that no segment holds.
    """

    signal: Signal
    units: list[Unit]
    newest: int
    frames: tuple[tuple[int, int], ...] = ()


class DirectorySource:
    """Views of one output directory, live or not. Thread-safe."""

    def __init__(self, root: Path, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.layout = Layout(root)
        if not self.layout.wal.is_dir() and not (root / "otlp").is_dir():
            raise QueryError(f"{root} is no output directory: it has neither wal/ nor otlp/")
        self.cache = ColumnCache(cache_bytes)
        self.origins = ColumnCache(ORIGIN_CACHE_BYTES)
        self.index = IndexFolder(self.layout)
        self._disk = SystemDisk()
        self._lock = threading.Lock()
        self._tail = WalTail(self.layout)
        self._places: dict[Signal, dict[Path, SegmentPlaces]] = {signal: {} for signal in Signal}
        self._files: OrderedDict[Path, SegmentFile] = OrderedDict()
        self._units: dict[tuple[str, int, int], FileUnit] = {}
        self._watermarks = dict.fromkeys(Signal, 0)
        self._looked: set[Signal] = set()

    def view(self, signal: Signal) -> View:
        """Everything that is acknowledged now. Raises ``QueryError``."""
        with self._lock:
            for _ in range(_TRIES):
                try:
                    return self._look(signal)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise QueryError(f"{self.layout.root} cannot be read: {error}") from error
        raise QueryError(f"{self.layout.root}: files went faster than they could be looked at")

    def summary(self, unit: Unit) -> UnitSummary | None:
        """What the index says of a unit, if it was looked at before."""
        return self.index.summary(unit) if isinstance(unit, FileUnit) else None

    def known_units(self, signal: Signal) -> list[FileUnit]:
        """The units of segments as they were looked at last."""
        with self._lock:
            return [unit for unit in self._units.values() if unit.signal is signal]

    # -- looking ---------------------------------------------------------------------------------

    def _look(self, signal: Signal) -> View:
        if signal not in self._looked:  # so that a log of gigabytes is not decoded where segments hold all of it
            for each in Signal:
                cursor = self._cursor(each)
                self._raise_watermark(each, cursor, self._look_at_segments(each))
                self._looked.add(each)
        self._tail.read(self._watermarks)
        # Before the segments: what is written after a look at them is in none of them, and below a later cursor.
        cursor = self._cursor(signal)
        units = self._look_at_segments(signal)
        watermark = self._raise_watermark(signal, cursor, units)
        rows: list[Unit] = [*units, *self._tail.units(signal, watermark)]
        return View(signal, rows, max(watermark, self._tail.newest(signal)), self._tail.frames(signal))

    def _cursor(self, signal: Signal) -> int:
        try:
            return load_cursor(self._disk, self.layout.writer_cursor)[signal]
        except Corrupt:
            return 0

    def _raise_watermark(self, signal: Signal, cursor: int, units: list[FileUnit]) -> int:
        held = max((unit.wal_last for unit in units), default=0)
        self._watermarks[signal] = max(cursor, held)
        return self._watermarks[signal]

    def _look_at_segments(self, signal: Signal) -> list[FileUnit]:
        known = self._places[signal]
        found: dict[Path, SegmentPlaces] = {}
        for path, stat in _segment_files(self.layout.segments(signal)):
            places = known.get(path)
            if places is None or places.inode != stat.st_ino or stat.st_size < places.good_end:
                places = self.index.places(path, signal, stat) or SegmentPlaces(path, signal, stat.st_ino)
            if (places.size, places.changed_ns) != (stat.st_size, stat.st_mtime_ns):
                if places.closed:  # a closed file does not change: this is another one, or it was cut
                    places = SegmentPlaces(path, signal, stat.st_ino)
                places.extend(self._open(path, stat.st_ino), stat.st_size, stat.st_mtime_ns)
            found[path] = places
        self._places[signal] = found
        self._forget(signal, known.keys() - found.keys())
        return self._units_of(sorted((p for p in found.values() if p.units), key=lambda p: (p.wal_first, p.wal_last)))

    def _units_of(self, ordered: list[SegmentPlaces]) -> list[FileUnit]:
        units = []
        for places, following in pairwise([*ordered, None]):
            assert places is not None
            # A failed sync may leave rows in an older file that a newer one holds as well.
            void_from = following.wal_first if following is not None else None
            for place in places.units:
                if void_from is None or place.range.wal_last < void_from:
                    key = (str(places.path), places.inode, place.start)
                    unit = self._units.get(key)
                    if unit is None:
                        unit = FileUnit(places, place, _LazyFile(self, places), self.cache, self.origins)
                        self._units[key] = unit
                    units.append(unit)
        return units

    def _forget(self, signal: Signal, gone: set[Path]) -> None:
        if not gone:
            return
        names = {str(path) for path in gone}
        for key in [k for k in self._units if k[0] in names]:
            del self._units[key]
        for path in gone:
            self._files.pop(path, None)
        self.index.forget(gone)

    def _open(self, path: Path, inode: int) -> SegmentFile:
        file = self._files.get(path)
        if file is None or file.stat().st_ino != inode:
            file = SegmentFile(path)
            if file.stat().st_ino != inode:
                raise FileNotFoundError(path)
            self._files[path] = file
            while len(self._files) > MAX_OPEN_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(path)
        return file

    def open_file(self, places: SegmentPlaces) -> SegmentFile:
        """The file of a segment, kept open for a while. Raises ``FileNotFoundError`` if it is gone."""
        with self._lock:
            return self._open(places.path, places.inode)


class PipelineSource(DirectorySource):
    """For a collector in this process that acknowledges before it writes: its memory is asked, not its WAL."""

    def __init__(self, root: Path, snapshot: Callable[[Signal], Snapshot], *, cache_bytes: int = CACHE_BYTES) -> None:
        super().__init__(root, cache_bytes=cache_bytes)
        self.snapshot = snapshot

    def view(self, signal: Signal) -> View:
        """As ``DirectorySource.view``."""
        for _ in range(_TRIES):
            taken = self.snapshot(signal)
            try:
                with self._lock:
                    stored = self._look_at_segments(signal)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise QueryError(f"{self.layout.root} cannot be read: {error}") from error
            units: list[Unit] = [unit for unit in stored if unit.wal_first < taken.before]
            # Their sequences are not known one by one; tails of such a collector come when they reach a segment.
            fresh = [BatchUnit(signal, batch, 0, 0) for batch in taken.batches if batch.num_rows]
            return View(signal, [*units, *fresh], max((unit.wal_last for unit in units), default=0))
        raise QueryError(f"{self.layout.root}: files went faster than they could be looked at")


class _LazyFile(SegmentFile):
    """A segment's file, opened when something is read."""

    def __init__(self, source: DirectorySource, places: SegmentPlaces) -> None:
        self.path = places.path
        self._descriptor = -1
        self._source = source
        self._places = places

    def read(self, offset: int, size: int) -> bytes:
        try:
            return self._source.open_file(self._places).read(offset, size)
        except FileNotFoundError as error:
            raise SegmentGone(str(self.path)) from error


class SegmentGone(Exception):
    """A segment was deleted before it was opened: take another view."""


def _segment_files(directory: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(SEGMENT_SUFFIX):
                    try:
                        found.append((directory / entry.name, os.stat(entry.path)))
                    except FileNotFoundError:
                        continue
    except FileNotFoundError:
        return []
    return found
