"""Segments: Arrow IPC stream files, written unit by unit, and what can be read off them.

A unit is one record batch with the messages before it (its dictionaries; for the first one the schema);
its message metadata names the WAL sequences it holds, its rows, its time range and a checksum
(docs/formats.md).
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pyarrow as pa

from otlp_arrow.codec import ColumnMemory
from otlp_arrow.codec.arrow_messages import encapsulated
from otlp_arrow.codec.schema import SIGNAL_KEY, VERSION_KEY
from otlp_arrow.model import Signal
from otlp_arrow.model.limits import PAST_CACHE_UNIT_BYTES, RESYNC_BYTES_PER_BYTE
from otlp_arrow.storage.checksum import crc32
from otlp_arrow.storage.disk import Buffer, Disk
from otlp_arrow.storage.ipc import (
    CONTINUATION,
    DICTIONARY,
    END_OF_STREAM,
    RECORD_BATCH,
    SCHEMA,
    EndOfStream,
    Message,
    NotAMessage,
    read_message,
    walk,
)

arrow_writing: ModuleType | None
try:
    from otlp_arrow.codec import arrow_writing
except ImportError:  # no kernel, and no builder that has its columns as memory
    arrow_writing = None

WAL_KEY = "otlp_arrow.wal"
ROWS_KEY = "otlp_arrow.rows"
TIME_KEY = "otlp_arrow.time"
CRC_KEY = "otlp_arrow.crc32"
_NO_CRC = b"00000000"
# What stands for the checksum while the unit is built; found again in the serialized metadata.
_CRC_PLACEHOLDER = b"\x01crc32?\x01"


@dataclass(frozen=True, slots=True)
class UnitRange:
    """What a unit holds: WAL sequences (inclusive), rows, and times in ns (None if no row has one)."""

    wal_first: int
    wal_last: int
    rows: int
    time_min: int | None = None
    time_max: int | None = None

    def metadata(self) -> dict[str, str]:
        time = "" if self.time_min is None else f"{self.time_min}-{self.time_max}"
        return {
            WAL_KEY: f"{self.wal_first}-{self.wal_last}",
            ROWS_KEY: str(self.rows),
            TIME_KEY: time,
            CRC_KEY: _CRC_PLACEHOLDER.decode(),
        }

    @classmethod
    def of(cls, custom: dict[str, str]) -> UnitRange:
        """Raises ``ValueError`` or ``KeyError`` if the metadata is not ours."""
        first, _, last = custom[WAL_KEY].partition("-")
        low, _, high = custom[TIME_KEY].partition("-")
        time_min, time_max = (int(low), int(high)) if low else (None, None)
        return cls(int(first), int(last), int(custom[ROWS_KEY]), time_min, time_max)


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit in a file: bytes ``start`` to ``end``."""

    start: int
    end: int
    range: UnitRange
    crc32: str


@dataclass(slots=True)
class Reading:
    """What a segment file turned out to hold.

    ``good_end``: up to here every unit is whole. ``damage``: why not all of the file is, and ``torn`` whether
    that looks like an unfinished write; ``discarded``: units from the damage on. ``closed``: the
    end-of-stream marker is there and nothing is wrong. ``verified``: checksums were compared.
    """

    path: Path
    size: int
    verified: bool = False
    signal: Signal | None = None
    version: str = ""
    units: list[Unit] = field(default_factory=list)
    good_end: int = 0
    damage: str = ""
    torn: bool = False
    closed: bool = False
    discarded: list[UnitRange] = field(default_factory=list)

    @property
    def wal_first(self) -> int:
        """The lowest WAL sequence of the whole units, 0 if there are none."""
        return self.units[0].range.wal_first if self.units else 0

    @property
    def wal_last(self) -> int:
        """The highest WAL sequence of the whole units, 0 if there are none."""
        return self.units[-1].range.wal_last if self.units else 0


def relax() -> None:
    """Give back memory that is kept for the next unit, whichever file it goes to. On any thread."""
    if arrow_writing is not None:
        arrow_writing.relax()


class SegmentFile:
    """One open segment. Blocking; one caller at a time."""

    def __init__(self, disk: Disk, path: Path, schema: pa.Schema, *, compression_level: int = 1) -> None:
        self.path = path
        self.opened_units = 0
        self._schema = schema
        self._options = pa.ipc.IpcWriteOptions(
            compression=pa.Codec("zstd", compression_level=compression_level), use_threads=False
        )
        self._writer = arrow_writing.StreamWriter(schema, compression_level) if arrow_writing else None
        self._file = disk.create(path)
        try:
            disk.sync_directory(path.parent)
        except BaseException:
            self._file.close()
            disk.delete(path)
            raise

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._file.size

    def append(self, rows: pa.RecordBatch | ColumnMemory, unit: UnitRange) -> int:
        """Write one unit and sync it; the bytes it took.

        Raises ``OSError`` if the disk refuses; the segment must then be given up with ``abandon``.
        """
        parts = self._unit_of_memory(rows, unit) if isinstance(rows, ColumnMemory) else self._unit_of_batch(rows, unit)
        size = sum(map(len, parts))
        self._file.append(parts, past_cache=size >= PAST_CACHE_UNIT_BYTES)
        self._file.sync()
        self.opened_units += 1
        return size

    def relax(self) -> None:
        """Give back memory that is kept for the next unit. On any thread."""
        self._file.relax()

    def _unit_of_memory(self, columns: ColumnMemory, unit: UnitRange) -> list[Buffer]:
        assert self._writer is not None
        parts: list[Buffer] = [] if self.opened_units else [self._writer.schema_message]
        for header, body in self._writer.messages(columns, unit.metadata()):
            prefix, header, _ = encapsulated(header, b"")
            parts += prefix, header, *body
        # Before the metadata there are numbers only, and none has eight bytes that are not zero.
        last = len(parts) - len(body) - 1
        parts[last] = header.replace(_CRC_PLACEHOLDER, _NO_CRC, 1)
        checksum = 0
        for part in parts:
            checksum = crc32(part, checksum)
        parts[last] = header.replace(_CRC_PLACEHOLDER, b"%08x" % checksum, 1)
        return parts

    def _unit_of_batch(self, batch: pa.RecordBatch, unit: UnitRange) -> list[Buffer]:
        """By pyarrow, with all its dictionaries: it knows nothing of those that another writer wrote."""
        if self._writer is not None:
            self._writer.forget_dictionaries()
        buffer = io.BytesIO()
        with pa.ipc.new_stream(buffer, self._schema, options=self._options) as stream:
            schema_bytes = buffer.tell() or len(self._schema.serialize())
            stream.write_batch(batch, custom_metadata=unit.metadata())
        data = bytearray(buffer.getbuffer()[: -len(END_OF_STREAM)])
        if self.opened_units:
            del data[:schema_bytes]
        _put_checksum(data)
        return [data]

    def close(self) -> None:
        """Write the end-of-stream marker, sync, close. Raises ``OSError``; the units stand all the same."""
        good_size = self._file.size
        try:
            self._file.append([END_OF_STREAM])
            self._file.sync()
        except OSError:
            self._cut(good_size)  # readers would stumble over half a marker
            raise
        finally:
            self._file.close()

    def abandon(self, good_size: int) -> None:
        """Cut the file to ``good_size``, close the stream there if the disk lets us, and let go of it."""
        if not self._cut(good_size):  # recovery does; a unit beyond it is void: a newer segment holds its sequences
            self._file.close()
            return
        try:
            self.close()
        except OSError:
            pass  # recovery adds the marker

    def _cut(self, size: int) -> bool:
        try:
            self._file.truncate(size)
        except OSError:
            return False
        return True


def _put_checksum(unit: bytearray) -> None:
    at = -1
    # A body may hold the same bytes by chance, so the placeholder is looked for in the batch's metadata.
    for message in walk(memoryview(unit)):
        if isinstance(message, Message) and message.kind == RECORD_BATCH:
            at = unit.find(_CRC_PLACEHOLDER, message.start, message.body)
    assert at >= 0
    unit[at : at + 8] = _NO_CRC
    unit[at : at + 8] = f"{crc32(unit, 0):08x}".encode()


def read_segment(path: Path, data: bytes | memoryview, *, verify: bool) -> Reading:
    """What a segment file with the content ``data`` holds; with ``verify``, checksums are compared.

    Without ``verify`` only the messages' metadata is touched. Never raises: damage is in the result.
    """
    reading = Reading(path, len(data), verify)
    unit_start = end = 0
    try:
        for message in walk(data):
            if isinstance(message, EndOfStream):
                reading.closed = True
                continue
            end = message.end
            if message.kind == SCHEMA:
                _read_schema(bytes(data[message.start : message.end]), reading)
            elif message.kind != DICTIONARY:
                _read_unit(data, unit_start, message, reading)
                unit_start = message.end
            if reading.damage:
                break
    except NotAMessage as error:
        reading.torn, reading.damage = error.torn, str(error)
    if not reading.damage and end > reading.good_end:
        reading.torn, reading.damage = not reading.closed, "the file ends inside a unit"
    if not reading.damage and not reading.units:
        reading.torn, reading.damage = True, "no whole unit"
    if reading.damage:
        reading.closed = False
        reading.discarded = _units_after(data, reading.good_end)
        # Only the last write can be unfinished, and in a closed file none is.
        ended = reading.size > len(END_OF_STREAM) and bytes(data[-len(END_OF_STREAM) :]) == END_OF_STREAM
        reading.torn = reading.torn and not ended and not reading.discarded
    return reading


def _read_unit(data: bytes | memoryview, start: int, batch: Message, reading: Reading) -> None:
    try:
        unit = Unit(start, batch.end, UnitRange.of(batch.custom_metadata), batch.custom_metadata[CRC_KEY])
    except (KeyError, ValueError) as error:
        reading.damage = f"at byte {start}: not a unit of ours: {error!r}"
        return
    if batch.kind != RECORD_BATCH:
        reading.damage = f"at byte {start}: a message of kind {batch.kind}"
    elif not reading.wal_last < unit.range.wal_first <= unit.range.wal_last:
        reading.damage = f"at byte {start}: WAL sequences do not rise"
    elif reading.verified:
        reading.damage = _wrong_checksum(data, unit, batch)
    if not reading.damage:
        reading.units.append(unit)
        reading.good_end = unit.end


def _units_after(data: bytes | memoryview, offset: int) -> list[UnitRange]:
    """What units there seem to be behind a place where no message can be read."""
    rest = bytes(data[offset:])
    found = []
    budget = RESYNC_BYTES_PER_BYTE * len(rest)
    at = rest.find(CONTINUATION)
    while at >= 0 and budget > 0:
        following = at + 1
        if (offset + at) % 8 == 0:
            try:
                message = read_message(rest, at)
            except NotAMessage as error:
                budget -= error.examined
            else:
                if isinstance(message, Message):
                    budget -= message.body - at
                    with contextlib.suppress(KeyError, ValueError):  # dictionaries and schemas have no range
                        found.append(UnitRange.of(message.custom_metadata))
                        following = message.body  # its length may be the damage
        at = rest.find(CONTINUATION, following)
    return found


def _read_schema(message: bytes, reading: Reading) -> None:
    try:
        metadata = pa.ipc.read_schema(pa.py_buffer(message)).metadata or {}
        reading.signal = Signal(metadata[SIGNAL_KEY].decode())
        reading.version = metadata[VERSION_KEY].decode()
    except (KeyError, ValueError, OSError, pa.ArrowException) as error:
        reading.damage = f"the schema cannot be read: {error!r}"


def _wrong_checksum(data: bytes | memoryview, unit: Unit, message: Message) -> str:
    content = bytearray(data[unit.start : unit.end])
    expected = unit.crc32.encode()
    metadata = (message.start - unit.start, message.body - unit.start)
    at = content.find(expected, *metadata)
    while at >= 0 and len(expected) == len(_NO_CRC):  # the same digits may stand in another value by chance
        content[at : at + len(_NO_CRC)] = _NO_CRC
        if f"{crc32(content, 0):08x}" == unit.crc32:
            return ""
        content[at : at + len(_NO_CRC)] = expected
        at = content.find(expected, at + 1, metadata[1])
    sequences = f"{unit.range.wal_first}-{unit.range.wal_last}"
    return f"at byte {unit.start}: checksum of the unit with WAL sequences {sequences} is wrong"


def close_after(disk: Disk, path: Path, good_end: int) -> None:
    """Cut a segment behind its last whole unit and mark the end of the stream."""
    file = disk.open(path)
    try:
        file.truncate(good_end)
        file.append([END_OF_STREAM])
        file.sync()
    finally:
        file.close()
