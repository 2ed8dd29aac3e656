"""What is known of each unit without reading it: enough to pass over most of them.

Kept for closed segments in ``state/index/{segment}.idx``, derived from the data and never believed over it: a file that
does not fit its segment (size, time of the last change, checksums of the units) is made anew, and every row that an
index leads to is looked at.

::

     0   8  magic "OTLPIDX1"
     8   8  length of the description (compressed JSON), padded to 8 bytes
    16   4  crc32 of everything behind byte 24
    20   4  zero
    24   …  description, padding
     …   …  trace hashes of unit after unit, uint64, ascending within each

A trace's hash is the second half of its id, exclusive or the first half times an odd number.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otlp_arrow.model import Signal
from otlp_arrow.query.errors import QueryError
from otlp_arrow.query.nested import EVENT_LEVELS, attribute_columns, distinct_words, entries_of
from otlp_arrow.query.segments import (
    FileUnit,
    SegmentPlaces,
    Unit,
    UnitPlace,
    as_int64,
    checksum_of,
    to_numpy,
)
from otlp_arrow.storage.layout import Layout
from otlp_arrow.storage.segment import UnitRange

log = logging.getLogger(__name__)

INDEX_SUFFIX = ".idx"
_HEADER = struct.Struct("<8sQII")
_MAGIC = b"OTLPIDX1"
_VERSION = 1
_ODD = 0x9E3779B97F4A7C15


@dataclass(slots=True)
class UnitSummary:
    """What rows a unit has. Sets hold every value that occurs; None stands for null."""

    end_max: int | None  # latest end of a span; None if none has one
    duration_max: int | None
    hashes: np.ndarray  # of trace ids, ascending
    words: dict[str, frozenset[str | None]]  # by column: service_name, name, …
    numbers: dict[str, tuple[int, int]]  # by column: least and greatest
    keys: dict[str, dict[str, int]] = field(default_factory=dict)  # by level: key → bits of the types it has

    def may_have_trace(self, trace_hash: int) -> bool:
        """Whether a row may be of this trace."""
        at = int(self.hashes.searchsorted(np.uint64(trace_hash)))
        return at < len(self.hashes) and int(self.hashes[at]) == trace_hash

    def may_have_word(self, column: str, value: str) -> bool:
        """Whether a row may have this word in a column."""
        return column not in self.words or value in self.words[column]


_WORDS = {
    Signal.TRACES: ("service_name", "name"),
    Signal.LOGS: ("service_name", "severity_text", "event_name"),
    Signal.METRICS: ("service_name", "metric_name", "metric_type"),
}
_NUMBERS = {Signal.TRACES: ("status_code", "kind"), Signal.LOGS: ("severity_number",), Signal.METRICS: ()}


def trace_hash(trace_id: bytes) -> int:
    """The hash of one trace id."""
    first, second = struct.unpack("<QQ", trace_id)
    return int(first * _ODD & 2**64 - 1 ^ second)


def trace_hashes(column: pa.Array) -> np.ndarray:
    """The hashes of a column of trace ids; nulls left out."""
    if column.null_count:
        column = column.drop_null()
    halves = id_halves(column, 2)
    return np.asarray(halves[:, 0] * np.uint64(_ODD) ^ halves[:, 1])


def id_halves(column: pa.Array, words: int) -> np.ndarray:
    """A fixed-size binary column as (rows, words) of uint64, little-endian."""
    buffer = column.buffers()[1]
    if buffer is None or not len(column):
        return np.zeros((len(column), words), np.uint64)
    found = np.frombuffer(buffer, np.uint64, len(column) * words, column.offset * words * 8)
    return np.asarray(found.reshape(-1, words))


def summarize(unit: Unit) -> UnitSummary:
    """Read a unit through. About 40 ms for 65,536 spans."""
    signal = unit.signal
    words = {name: distinct_words(unit.column(name)) for name in _WORDS[signal]}
    numbers: dict[str, tuple[int, int]] = {}
    for name in _NUMBERS[signal]:
        values = to_numpy(unit.column(name))
        numbers[name] = (int(values.min()), int(values.max())) if len(values) else (0, -1)
    hashes = np.empty(0, np.uint64)
    end_max = duration_max = None
    if signal is not Signal.METRICS:
        hashes = np.unique(trace_hashes(unit.column("trace_id")))
    if signal is Signal.TRACES:
        ends = as_int64(unit.column("end_time_unix_nano"))
        end_max = pc.max(ends).as_py()
        duration_max = pc.max(pc.subtract(ends, as_int64(unit.column("start_time_unix_nano")))).as_py()
    keys = {level: _keys(unit, level) for level in attribute_columns(signal)}
    return UnitSummary(end_max, duration_max, hashes, words, numbers, keys)


def _keys(unit: Unit, level: str) -> dict[str, int]:
    column = unit.column(attribute_columns(unit.signal)[level])
    if level in EVENT_LEVELS and not len(column.values):
        return {}
    entries = entries_of(column, level)
    if not entries.count:
        return {}
    names = entries.names.to_pylist()
    pairs = np.bincount(entries.codes.astype(np.int64) * 8 + entries.types, minlength=len(names) * 8)
    bits = (pairs.reshape(-1, 8) > 0) @ (1 << np.arange(8))
    return {name: int(found) for name, found in zip(names, bits, strict=True) if found}


class IndexFolder:
    """The summaries of one output directory: in memory as units are looked at, on disk for closed segments."""

    def __init__(self, layout: Layout) -> None:
        self.directory = layout.state / "index"
        self._state = layout.state
        self._lock = threading.Lock()
        self._summaries: dict[tuple[str, int, int], UnitSummary] = {}
        self._saved: set[Path] = set()

    def summary(self, unit: FileUnit) -> UnitSummary | None:
        """What is known of a unit, if it was looked at."""
        return self._summaries.get(unit.key)

    def build(self, units: Iterable[Unit], budget_s: float | None = None) -> int:
        """Look at the units that are not known yet, and keep what is complete on disk; how many were new.

        Stops after ``budget_s`` seconds. Damaged units are left out: queries will say so.
        """
        began = time.monotonic()
        built = 0
        segments: dict[Path, SegmentPlaces] = {}
        for unit in units:
            if not isinstance(unit, FileUnit):
                continue
            if unit.key not in self._summaries:
                try:
                    unit.verify()
                    summary = summarize(unit)
                except QueryError as error:
                    log.warning("not indexed: %s", error)
                    continue
                with self._lock:
                    self._summaries[unit.key] = summary
                built += 1
            if unit.segment.closed:
                segments[unit.segment.path] = unit.segment
            if budget_s is not None and time.monotonic() - began > budget_s:
                break
        for places in segments.values():
            if places.path not in self._saved:
                self._save(places)
        return built

    def forget(self, gone: Iterable[Path]) -> None:
        """These segments were deleted."""
        names = {str(path) for path in gone}
        with self._lock:
            for key in [k for k in self._summaries if k[0] in names]:
                del self._summaries[key]
        for path in gone:
            self._saved.discard(path)
            try:
                self._path(path).unlink(missing_ok=True)
            except OSError:
                pass  # a directory that may only be read

    # -- on disk ---------------------------------------------------------------------------------

    def places(self, path: Path, signal: Signal, stat: os.stat_result) -> SegmentPlaces | None:
        """Where the units of a closed segment lie, as its index says; None if there is none that fits."""
        try:
            data = np.memmap(self._path(path), np.uint8, "r")
            described, start = _description(data)
            places = SegmentPlaces(path, signal, stat.st_ino, stat.st_size, stat.st_mtime_ns, closed=True)
            places.units = [_place(each) for each in described["units"]]
            fits = described["size"] == stat.st_size and described["changed_ns"] == stat.st_mtime_ns
            if not fits or described["checksum"] != checksum_of(places.units) or not places.units:
                return None
            places.good_end = places.units[-1].end
            hashes = data[start:].view(np.uint64)
            found = _summaries(described, hashes)
        except (OSError, ValueError, KeyError, TypeError, IndexError, struct.error, zlib.error):
            return None
        with self._lock:
            for place, summary in zip(places.units, found, strict=True):
                self._summaries[(str(path), stat.st_ino, place.start)] = summary
        self._saved.add(path)
        return places

    def _save(self, places: SegmentPlaces) -> None:
        summaries = [self._summaries.get((str(places.path), places.inode, unit.start)) for unit in places.units]
        whole = [summary for summary in summaries if summary is not None]
        if len(whole) < len(places.units):
            return
        data = _encode(places, whole)
        path = self._path(places.path)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            self.directory.mkdir(exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError:  # a full disk, or a directory that may only be read: the next one makes it anew
            try:
                temporary.unlink(missing_ok=True)
            except OSError:
                pass
        self._saved.add(places.path)

    def _path(self, segment: Path) -> Path:
        return self.directory / (segment.name + INDEX_SUFFIX)


def _encode(places: SegmentPlaces, summaries: list[UnitSummary]) -> bytes:
    texts: dict[str | None, int] = {}

    def number(text: str | None) -> int:
        return texts.setdefault(text, len(texts))

    described: dict[str, Any] = {
        "version": _VERSION,
        "size": places.size,
        "changed_ns": places.changed_ns,
        "checksum": checksum_of(places.units),
        "units": [
            [u.start, u.end, u.batch, u.body, u.crc, u.dictionaries]
            + [u.range.wal_first, u.range.wal_last, u.range.rows, u.range.time_min, u.range.time_max]
            for u in places.units
        ],
        "summaries": [
            {
                "end_max": s.end_max,
                "duration_max": s.duration_max,
                "hashes": len(s.hashes),
                "words": {column: [number(word) for word in words] for column, words in s.words.items()},
                "numbers": s.numbers,
                "keys": {level: [[number(key), bits] for key, bits in keys.items()] for level, keys in s.keys.items()},
            }
            for s in summaries
        ],
    }
    described["texts"] = list(texts)
    text = zlib.compress(json.dumps(described, separators=(",", ":")).encode(), 1)
    body = text + bytes(-len(text) % 8) + b"".join(s.hashes.astype("<u8").tobytes() for s in summaries)
    return _HEADER.pack(_MAGIC, len(text), zlib.crc32(body), 0) + body


def _description(data: np.ndarray) -> tuple[dict[str, Any], int]:
    magic, length, checksum, _ = _HEADER.unpack(bytes(data[: _HEADER.size]))
    start = _HEADER.size + length + -length % 8
    if magic != _MAGIC or start > len(data) or zlib.crc32(data[_HEADER.size :].data) != checksum:
        raise ValueError("not an index")
    described: dict[str, Any] = json.loads(zlib.decompress(bytes(data[_HEADER.size : _HEADER.size + length])))
    if described["version"] != _VERSION:
        raise ValueError("an index of another version")
    return described, start


def _place(fields: list[Any]) -> UnitPlace:
    start, end, batch, body, crc, dictionaries, *unit = fields
    return UnitPlace(start, end, batch, body, UnitRange(*unit), crc, tuple((a, b) for a, b in dictionaries))


def _summaries(described: dict[str, Any], hashes: np.ndarray) -> list[UnitSummary]:
    texts: list[str | None] = described["texts"]
    found = []
    at = 0
    for each in described["summaries"]:
        end = at + each["hashes"]
        found.append(
            UnitSummary(
                each["end_max"],
                each["duration_max"],
                hashes[at:end],
                {column: frozenset(texts[n] for n in numbers) for column, numbers in each["words"].items()},
                {column: (low, high) for column, (low, high) in each["numbers"].items()},
                {level: {str(texts[n]): bits for n, bits in keys} for level, keys in each["keys"].items()},
            )
        )
        at = end
    if at != len(hashes):
        raise ValueError("an index of another length")
    return found
