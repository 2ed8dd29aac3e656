"""Segments as queries see them: where each unit lies, and its columns one by one.

A file may grow, be cut or be deleted by its collector at any time, also by one in another process, so it is read with
``pread`` and never mapped: what was whole once stays readable through the descriptor.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otlp_arrow.codec.schema import SCHEMAS, SIGNAL_KEY
from otlp_arrow.model import Signal
from otlp_arrow.query.errors import QueryError
from otlp_arrow.query.ipc_columns import (
    BatchReader,
    Field,
    Unreadable,
    layout,
    read_batch_header,
    read_dictionary_header,
)
from otlp_arrow.query.nested import combine, row_codes
from otlp_arrow.storage.checksum import crc32
from otlp_arrow.storage.ipc import CONTINUATION, DICTIONARY, RECORD_BATCH, SCHEMA
from otlp_arrow.storage.ipc import _read_flatbuffer as read_flatbuffer
from otlp_arrow.storage.segment import CRC_KEY, UnitRange

_HEAD_BYTES = 16 * 1024  # holds the metadata of any message of ours; the largest takes 6 KiB
_MAX_METADATA_BYTES = 16 * 1024 * 1024
_WORDS = layout(pa.schema([("word", pa.utf8())]))["word"]

_LAYOUTS: dict[Signal, dict[str, Field]] = {signal: layout(SCHEMAS[signal]) for signal in Signal}


@dataclass(frozen=True, slots=True)
class UnitPlace:
    """A unit in a file: its bytes, its batch's message, and per dictionary id the message that is in force."""

    start: int
    end: int
    batch: int
    body: int
    range: UnitRange
    crc: str
    dictionaries: tuple[tuple[int, int], ...]  # message, body


@dataclass(slots=True)
class SegmentPlaces:
    """What is known of one file. Only ``extend`` changes it."""

    path: Path
    signal: Signal
    inode: int
    size: int = 0  # bytes of the file when it was looked at last
    changed_ns: int = 0
    good_end: int = 0  # all units known end here
    closed: bool = False
    units: list[UnitPlace] = field(default_factory=list)
    _dictionaries: dict[int, tuple[int, int]] = field(default_factory=dict)
    _known: bool = False  # the schema was read, and is the one we know

    @property
    def wal_first(self) -> int:
        """The lowest WAL sequence of the units."""
        return self.units[0].range.wal_first

    @property
    def wal_last(self) -> int:
        """The highest WAL sequence of the units."""
        return self.units[-1].range.wal_last

    def extend(self, file: SegmentFile, size: int, changed_ns: int) -> None:
        """Look at what was written since the last time."""
        at = self.good_end
        dictionaries = dict(self._dictionaries)
        closed = False
        while at + 8 <= size:
            head = file.read(at, _HEAD_BYTES)
            if len(head) < 8 or head[:4] != CONTINUATION:
                break
            (length,) = struct.unpack_from("<i", head, 4)
            if length == 0:
                closed = True
                break
            if not 0 < length <= _MAX_METADATA_BYTES:
                break
            metadata = head[8 : 8 + length] if len(head) >= 8 + length else file.read(at + 8, length)
            if len(metadata) < length:
                break
            try:
                kind, body_length, custom = read_flatbuffer(metadata)
                end = at + 8 + length + body_length
                if body_length < 0 or end > size:
                    break
                if kind == SCHEMA:
                    self._check_schema(file.read(at, 8 + length))
                elif kind == DICTIONARY:
                    identity, delta, _ = read_dictionary_header(metadata)
                    if delta:
                        raise Unreadable("a delta dictionary")
                    dictionaries[identity] = (at, at + 8 + length)
                elif kind == RECORD_BATCH:
                    if not self._known:
                        raise Unreadable("no schema")
                    where = tuple(dictionaries[n] for n in range(len(dictionaries)))
                    unit = UnitRange.of(custom)
                    if self.units and unit.wal_first <= self.wal_last:
                        break
                    self.units.append(UnitPlace(self.good_end, end, at, at + 8 + length, unit, custom[CRC_KEY], where))
                    self.good_end = end
                    self._dictionaries = dict(dictionaries)
            except (struct.error, UnicodeDecodeError, LookupError, ValueError):
                break  # damage: recovery sets it aside, what lies before it stands
            at = end
        self.size, self.changed_ns, self.closed = size, changed_ns, closed

    def _check_schema(self, message: bytes) -> None:
        schema = pa.ipc.read_schema(pa.py_buffer(message))
        if (
            not schema.equals(SCHEMAS[self.signal])
            or (schema.metadata or {}).get(SIGNAL_KEY) != self.signal.value.encode()
        ):
            raise Unreadable("another schema")
        self._known = True


class SegmentFile:
    """An open segment; closed when nobody refers to it any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._descriptor = os.open(path, flags)
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def stat(self) -> os.stat_result:
        """Of the file that was opened, whatever its name means now."""
        return os.fstat(self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file; fewer only at its end."""
        if hasattr(os, "pread"):
            data = os.pread(self._descriptor, size, offset)
            while len(data) < size and (more := os.pread(self._descriptor, size - len(data), offset + len(data))):
                data += more
            return data
        with self._lock:  # Windows
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, size)


class ColumnCache:
    """Decoded columns of units, the least recently used out first; bounded in bytes. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._lock = threading.Lock()
        self._arrays: OrderedDict[tuple[str, int, int, str], tuple[pa.Array, int]] = OrderedDict()

    def get(self, key: tuple[str, int, int, str]) -> pa.Array | None:
        """What was put there, if it is still there."""
        with self._lock:
            found = self._arrays.get(key)
            if found is None:
                return None
            self._arrays.move_to_end(key)
            return found[0]

    def put(self, key: tuple[str, int, int, str], array: pa.Array) -> None:
        """Keep an array, unless it alone would fill a half of the room."""
        nbytes = array.get_total_buffer_size()
        if nbytes > self.max_bytes // 2:
            return
        with self._lock:
            if key in self._arrays:
                return
            self._arrays[key] = (array, nbytes)
            self.nbytes += nbytes
            while self.nbytes > self.max_bytes:
                _, (_, freed) = self._arrays.popitem(last=False)
                self.nbytes -= freed


class FileUnit:
    """One unit of a segment: its columns, decoded when asked for."""

    def __init__(
        self,
        places: SegmentPlaces,
        place: UnitPlace,
        file: SegmentFile,
        cache: ColumnCache,
        origins: ColumnCache,
    ) -> None:
        self.signal = places.signal
        self.place = place
        self.rows = place.range.rows
        self.wal_first, self.wal_last = place.range.wal_first, place.range.wal_last
        self.time_min, self.time_max = place.range.time_min, place.range.time_max
        self.segment = places
        self._file = file
        self._cache = cache
        self._origins = origins
        self._key = (str(places.path), places.inode, place.start)
        self._reader: BatchReader | None = None
        self.wants_origins = False  # ``number`` would save decoding
        self._taken = self._numbered = False
        self._varied = False  # resources hardly repeat: numbering is of no use

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells it from any other."""
        return self._key

    def column(self, name: str, *, keep: bool = True) -> pa.Array:
        """A column; ``keep``: it is likely to be wanted again. Raises ``QueryError`` if the file is damaged."""
        key = (*self._key, name)
        found = self._cache.get(key)
        if found is None:
            try:
                found = self._open().column(_LAYOUTS[self.signal][name])
            except (Unreadable, OSError, pa.ArrowException) as error:
                raise QueryError(f"{self.segment.path}: {error}") from error
            if len(found) != self.rows:
                raise QueryError(f"{self.segment.path}: a unit of {self.rows} rows holds {len(found)}")
            if keep:
                self._cache.put(key, found)
        return found

    def take(self, rows: np.ndarray) -> pa.RecordBatch:
        """Some rows, in this order, in the storage schema.

        Resources and scopes repeat: numbered once, they need not be decoded again. Whoever wants few rows does not
        wait for that, but says so.
        """
        schema = SCHEMAS[self.signal]
        indices = pa.array(rows)
        origins = self.cached_origins()
        if origins is None and self._taken and not self._varied:
            if len(rows) > SPARSE_ROWS:
                origins = self.origins()
            else:  # what the cache had no room to keep is not made again and again for a few rows
                self.wants_origins = not self._numbered
        self._taken = True
        repeated = None if origins is None else origins.dictionary.take(origins.indices.take(indices))
        own = [name for name in schema.names if repeated is None or name not in ORIGIN_COLUMNS]
        columns = self._sparse(own, rows) if len(rows) <= SPARSE_ROWS else {}
        for name in own:
            if name not in columns:
                columns[name] = self.column(name, keep=False).take(indices)
        if repeated is not None:
            columns |= {name: repeated.field(name) for name in ORIGIN_COLUMNS}
        return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)

    def _sparse(self, names: list[str], rows: np.ndarray) -> dict[str, pa.Array]:
        """Few rows, in ascending order, of those columns that are not decoded yet."""
        if (rows[1:] <= rows[:-1]).any():
            return {}
        missing = [name for name in names if self._cache.get((*self._key, name)) is None]
        if not missing:
            return {}
        found: dict[str, pa.Array] = {}
        try:
            reader = self._open()
            for run in _runs(missing, _LAYOUTS[self.signal]):
                data = reader.read(list(run.values()))
                found |= {name: reader.take(field, rows, data) for name, field in run.items()}
            return found
        except (Unreadable, OSError, pa.ArrowException) as error:
            raise QueryError(f"{self.segment.path}: {error}") from error

    def cached_origins(self) -> pa.DictionaryArray | None:
        """What ``origins`` found, if it is still kept."""
        return self._origins.get((*self._key, "origins"))

    def origins(self) -> pa.DictionaryArray | None:
        """Resource and scope of each row as the number of a distinct one; None if they hardly repeat."""
        found = self.cached_origins()
        if found is None:
            found = number_origins(self)
            if found is not None:
                self._origins.put((*self._key, "origins"), found)
        return found

    def number(self) -> None:
        """Number resources and scopes, so that ``take`` need not decode them."""
        self.wants_origins = False
        self._numbered = True
        if self.cached_origins() is None and not self._varied:
            try:
                self._varied = self.origins() is None
            except QueryError:  # deleted or damaged: whoever asks for its rows hears of it
                self._varied = True

    def verify(self) -> None:
        """Compare the unit's checksum. Raises ``QueryError``."""
        data = bytearray(self._file.read(self.place.start, self.place.end - self.place.start))
        at = data.find(self.place.crc.encode(), self.place.batch - self.place.start, self.place.body - self.place.start)
        while at >= 0:
            digits, data[at : at + 8] = data[at : at + 8], b"00000000"
            if f"{crc32(data, 0):08x}" == self.place.crc:
                return
            data[at : at + 8] = digits
            at = data.find(self.place.crc.encode(), at + 1, self.place.body - self.place.start)
        raise QueryError(f"{self.segment.path}: checksum of the unit at byte {self.place.start} is wrong")

    def _open(self) -> BatchReader:
        if self._reader is None:
            metadata = self._file.read(self.place.batch + 8, self.place.body - self.place.batch - 8)
            self._reader = BatchReader(read_batch_header(metadata), self.place.body, self._file.read, self._dictionary)
        return self._reader

    def _dictionary(self, identity: int) -> pa.Array:
        if identity >= len(self.place.dictionaries):
            raise Unreadable(f"no dictionary {identity}")
        message, body = self.place.dictionaries[identity]
        key = (*self._key[:2], message, "dictionary")
        found = self._origins.get(key)
        if found is None:
            _, _, header = read_dictionary_header(self._file.read(message + 8, body - message - 8))
            found = BatchReader(header, body, self._file.read).column(_WORDS)
            self._origins.put(key, found)
        return found


class BatchUnit:
    """Rows in memory, asked as a unit of a file is."""

    def __init__(self, signal: Signal, batch: pa.RecordBatch, wal_first: int, wal_last: int) -> None:
        self.signal = signal
        self.batch = batch
        self.rows = batch.num_rows
        self.wal_first, self.wal_last = wal_first, wal_last
        self.time_min: int | None
        self.time_max: int | None
        self.time_min, self.time_max = _bounds(signal, batch)

    def column(self, name: str) -> pa.Array:
        """A column."""
        return self.batch.column(name)

    def take(self, rows: np.ndarray) -> pa.RecordBatch:
        """Some rows, in this order."""
        return self.batch.take(pa.array(rows))


Unit = FileUnit | BatchUnit


def _runs(names: list[str], fields: dict[str, Field]) -> Iterator[dict[str, Field]]:
    """Fields that lie side by side in a file, to be read at once."""
    run: dict[str, Field] = {}
    end = -1
    for name in names:
        field = fields[name]
        if run and field.buffer != end:
            yield run
            run = {}
        run[name], end = field, field.end
    if run:
        yield run


SPARSE_ROWS = 256
"""Up to so many rows of a unit are picked out of its columns instead of decoding these as a whole."""

ORIGIN_COLUMNS = tuple(SCHEMAS[Signal.TRACES].names[-10:])
"""Resource and scope, the same for every signal: ``service_name`` to ``scope_schema_url``."""

assert ORIGIN_COLUMNS[0] == "service_name"


def number_origins(unit: FileUnit) -> pa.DictionaryArray | None:
    """See ``FileUnit.origins``. About 30 ms for 65,536 rows."""
    columns = {name: unit.column(name, keep=False) for name in ORIGIN_COLUMNS}
    parts = []
    for name, column in columns.items():
        if name.endswith("_attributes"):
            codes = row_codes(column)
            if codes is None:
                return None
            parts.append(codes)
        elif pa.types.is_dictionary(column.type):
            parts.append(to_numpy(column.indices, -1) + 1)
        elif pa.types.is_integer(column.type):
            parts.append(to_numpy(column).astype(np.int64))
        elif len(column.values):  # entity references, which hardly anyone sends yet
            parts.append(pa.array([repr(each) for each in column.to_pylist()]).dictionary_encode().indices.to_numpy())
    _, first, codes = np.unique(combine(parts), return_index=True, return_inverse=True)
    if len(first) * 4 > unit.rows:
        return None
    narrow = np.uint8 if len(first) <= 2**7 else np.int16 if len(first) <= 2**15 else np.int32
    distinct = [column.take(pa.array(first)) for column in columns.values()]
    fields = [SCHEMAS[unit.signal].field(name) for name in ORIGIN_COLUMNS]
    struct_ = pa.StructArray.from_arrays(distinct, fields=fields)
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(narrow)), struct_)


class Columns(Protocol):
    """Whatever gives columns by name."""

    def column(self, name: str) -> pa.Array:
        """A column."""


def times_of(signal: Signal, unit: Columns) -> pa.Array:
    """The time of each row (int64 nanoseconds), null where it has none."""
    if signal is Signal.TRACES:
        return as_int64(unit.column("start_time_unix_nano"))
    found = as_int64(unit.column("time_unix_nano"))
    if signal is Signal.LOGS:
        found = pc.coalesce(found, as_int64(unit.column("observed_time_unix_nano")))
    return found


def as_int64(column: pa.Array) -> pa.Array:
    """A time column as nanoseconds."""
    return column.view(pa.int64())


def to_numpy(array: pa.Array, missing: int = 0) -> np.ndarray:
    """An integer array as numpy, nulls replaced."""
    return np.asarray((array.fill_null(missing) if array.null_count else array).to_numpy(zero_copy_only=False))


def _bounds(signal: Signal, batch: pa.RecordBatch) -> tuple[int | None, int | None]:
    times = times_of(signal, batch)
    if times.null_count == len(times):
        return None, None
    valid = to_numpy(times.drop_null() if times.null_count else times)
    return int(valid.min()), int(valid.max())


def checksum_of(units: Iterator[UnitPlace] | list[UnitPlace]) -> int:
    """One number for the checksums of many units."""
    return zlib.crc32("".join(u.crc for u in units).encode())
