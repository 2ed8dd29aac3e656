"""Single columns of a record batch in a segment, read and decompressed without touching the others.

pyarrow decodes whole fields: every child of an attribute map, the empty ones too (a third of the bytes). Here only the
buffers that are wanted are read, the large ones side by side, and children that are null throughout cost nothing.
Buffers follow the schema depth first
(https://arrow.apache.org/docs/format/Columnar.html#recordbatch-message)::

    RecordBatch  length, nodes: [{length, null_count}], buffers: [{offset, length}], compression
    buffer       int64 decompressed length (-1: stored as it is), data

``Field`` numbers nodes, buffers and dictionaries as the format does: dictionaries depth first, as our writer's library
gives ids.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from otlp_arrow.storage.ipc import _field as field_at
from otlp_arrow.storage.ipc import _u32 as u32_at

# Slots in the tables' vtables.
_HEADER = 2
_LENGTH, _NODES, _BUFFERS, _COMPRESSION = 0, 1, 2, 3
_CODEC = 0
_DICTIONARY_ID, _DICTIONARY_DATA, _IS_DELTA = 0, 1, 2

_CODECS = {0: "lz4", 1: "zstd"}

ReadBytes = Callable[[int, int], bytes]
"""``read(offset, size)`` of a file; fewer bytes only at its end."""


class Unreadable(ValueError):
    """The bytes are no record batch of this schema."""


@dataclass(frozen=True, slots=True)
class Field:
    """Where a field of a schema begins among nodes and buffers; ``dictionary``: its dictionary's id, or -1."""

    type: pa.DataType
    node: int
    buffer: int
    dictionary: int
    children: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """A RecordBatch message, read: ``nodes`` (n, 2) length and null count, ``buffers`` (n, 2) offset and length."""

    rows: int
    nodes: np.ndarray
    buffers: np.ndarray
    codec: str | None


def layout(schema: pa.Schema) -> dict[str, Field]:
    """The top-level fields of a schema by name."""
    counter = [0, 0, 0]
    return {field.name: _lay_out(field.type, counter) for field in schema}


def _lay_out(type_: pa.DataType, counter: list[int]) -> Field:
    node, buffer = counter[0], counter[1]
    counter[0] += 1
    dictionary = -1
    children: tuple[Field, ...] = ()
    if pa.types.is_dictionary(type_):
        dictionary = counter[2]
        counter[1] += 2
        counter[2] += 1
    elif pa.types.is_struct(type_):
        counter[1] += 1
        children = tuple(_lay_out(child.type, counter) for child in type_)
    elif pa.types.is_map(type_):
        counter[1] += 2
        entries = pa.struct([type_.key_field, type_.item_field])
        children = (_lay_out(entries, counter),)
    elif pa.types.is_list(type_):
        counter[1] += 2
        children = (_lay_out(type_.value_type, counter),)
    elif pa.types.is_string(type_) or (pa.types.is_binary(type_) and not pa.types.is_fixed_size_binary(type_)):
        counter[1] += 3
    elif pa.types.is_primitive(type_) or pa.types.is_fixed_size_binary(type_):
        counter[1] += 2
    else:
        raise Unreadable(f"columns of type {type_} are not known here")
    return Field(type_, node, buffer, dictionary, children)


def read_batch_header(metadata: bytes) -> BatchHeader:
    """The RecordBatch of a Message. Raises ``Unreadable``."""
    try:
        return _batch_header(metadata, _table(metadata, u32_at(metadata, 0), _HEADER))
    except (struct.error, IndexError, ValueError) as error:
        raise Unreadable(f"a damaged record batch message: {error}") from error


def read_dictionary_header(metadata: bytes) -> tuple[int, bool, BatchHeader]:
    """Id, whether it is a delta, and the batch of a DictionaryBatch Message. Raises ``Unreadable``."""
    try:
        table = _table(metadata, u32_at(metadata, 0), _HEADER)
        at = field_at(metadata, table, _DICTIONARY_ID)
        identity = struct.unpack_from("<q", metadata, at)[0] if at else 0
        delta = field_at(metadata, table, _IS_DELTA)
        return (
            identity,
            bool(delta and metadata[delta]),
            _batch_header(metadata, _table(metadata, table, _DICTIONARY_DATA)),
        )
    except (struct.error, IndexError, ValueError) as error:
        raise Unreadable(f"a damaged dictionary message: {error}") from error


def _table(buffer: bytes, table: int, slot: int) -> int:
    at = field_at(buffer, table, slot)
    if not at:
        raise IndexError("a table is missing")
    return at + u32_at(buffer, at)


def _batch_header(buffer: bytes, table: int) -> BatchHeader:
    at = field_at(buffer, table, _LENGTH)
    rows = struct.unpack_from("<q", buffer, at)[0] if at else 0
    codec = None
    if field_at(buffer, table, _COMPRESSION):
        compression = _table(buffer, table, _COMPRESSION)
        at = field_at(buffer, compression, _CODEC)
        codec = _CODECS[buffer[at] if at else 0]
    return BatchHeader(rows, _pairs(buffer, table, _NODES), _pairs(buffer, table, _BUFFERS), codec)


def _pairs(buffer: bytes, table: int, slot: int) -> np.ndarray:
    """A vector of structs of two int64."""
    if not field_at(buffer, table, slot):
        return np.empty((0, 2), np.int64)
    vector = _table(buffer, table, slot)
    count = u32_at(buffer, vector)
    return np.frombuffer(buffer, "<i8", 2 * count, vector + 4).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class _Bytes:
    """Bytes of a message's body from ``start`` on."""

    octets: bytes
    start: int


class BatchReader:
    """The columns of one batch in a file, decoded when asked for.

    ``body``: where the message's body begins. ``dictionary`` gives the array of a dictionary by its id.
    """

    def __init__(
        self, header: BatchHeader, body: int, read: ReadBytes, dictionary: Callable[[int], pa.Array] | None = None
    ) -> None:
        self._header = header
        self._body = body
        self._read = read
        self._dictionary = dictionary
        self._codec = pa.Codec(header.codec) if header.codec else None

    def column(self, field: Field) -> pa.Array:
        """The array of a top-level field. Raises ``Unreadable`` or ``OSError``."""
        first, last = field.buffer, _last_buffer(field)
        octets = self._column_bytes(field)
        data, start = octets.octets, octets.start
        large = [n for n in range(first, last) if self._worth_a_thread(n)]
        ahead = {n: _threads().submit(self._buffer, n, data, start) for n in large[1:]}
        try:
            return self._array(field, data, start, ahead)
        finally:
            for each in ahead.values():
                each.cancel()

    # -- some rows -------------------------------------------------------------------------------

    def take(self, field: Field, rows: np.ndarray) -> pa.Array:
        """Some rows of a column, given in ascending order. Raises ``Unreadable`` or ``OSError``.

        Buffers are decompressed only as far as these rows reach, in small steps: fresh memory for all of a large
        one costs as much as decompressing it. Meant for few rows.
        """
        return self._take(field, rows, self._column_bytes(field))

    def _column_bytes(self, field: Field) -> _Bytes:
        spans = self._header.buffers[field.buffer : _last_buffer(field)]
        used = spans[spans[:, 1] > 0]
        if not len(used):
            return _Bytes(b"", 0)
        start, end = int(used[:, 0].min()), int((used[:, 0] + used[:, 1]).max())
        data = self._read(self._body + start, end - start)
        if len(data) < end - start:
            raise Unreadable("the file ends inside a record batch")
        return _Bytes(data, start)

    def _take(self, field: Field, rows: np.ndarray, data: _Bytes) -> pa.Array:
        length, null_count = self._node(field)
        type_ = field.type
        if not len(rows) or (length and null_count == length and not field.children):
            return pa.nulls(len(rows), type_)
        if int(rows[-1]) >= length:
            raise Unreadable("a column that is shorter than its batch")
        validity = self._take_validity(field, rows, data) if null_count else None
        if field.dictionary >= 0:
            assert self._dictionary is not None
            codes = self._take_fixed(field.buffer + 1, rows, 4, data)
            buffers = [validity, pa.py_buffer(codes)]
            return pa.DictionaryArray.from_buffers(type_, len(rows), buffers, self._dictionary(field.dictionary))
        if pa.types.is_struct(type_):
            children = self._take_children(field, rows, data)
            return pa.Array.from_buffers(type_, len(rows), [validity], children=children)
        if pa.types.is_list(type_) or pa.types.is_map(type_):
            bounds, members = self._take_offsets(field.buffer + 1, rows, data)
            child = self._take(field.children[0], members, data)
            return pa.Array.from_buffers(type_, len(rows), [validity, pa.py_buffer(bounds)], children=[child])
        if pa.types.is_boolean(type_):
            bits = self._take_validity(field, rows, data, number=field.buffer + 1)
            return pa.Array.from_buffers(type_, len(rows), [validity, bits])
        if pa.types.is_string(type_) or (pa.types.is_binary(type_) and not pa.types.is_fixed_size_binary(type_)):
            bounds, octets = self._take_octets(field.buffer + 1, rows, data)
            return pa.Array.from_buffers(type_, len(rows), [validity, pa.py_buffer(bounds), pa.py_buffer(octets)])
        values = self._take_fixed(field.buffer + 1, rows, type_.bit_width // 8, data)
        return pa.Array.from_buffers(type_, len(rows), [validity, pa.py_buffer(values)])

    def _take_children(self, field: Field, rows: np.ndarray, data: _Bytes) -> list[pa.Array]:
        """The children of a struct; large leaves side by side."""
        ahead: dict[int, Future[pa.Array]] = {}
        for number, child in enumerate(field.children[1:], 1):
            large = any(self._worth_a_thread(n) for n in range(child.buffer, _last_buffer(child)))
            if large and not child.children:  # what waits for nobody
                ahead[number] = _threads().submit(self._take, child, rows, data)
        try:
            return [
                ahead[number].result() if number in ahead else self._take(child, rows, data)
                for number, child in enumerate(field.children)
            ]
        finally:
            for each in ahead.values():
                each.cancel()

    def _take_validity(
        self, field: Field, rows: np.ndarray, data: _Bytes, number: int | None = None
    ) -> pa.Buffer | None:
        found = self._prefix(field.buffer if number is None else number, int(rows[-1]) // 8 + 1, data)
        bits = np.unpackbits(np.frombuffer(found, np.uint8), bitorder="little")[rows]
        return pa.py_buffer(np.packbits(bits, bitorder="little"))

    def _take_fixed(self, number: int, rows: np.ndarray, width: int, data: _Bytes) -> np.ndarray:
        found = self._prefix(number, (int(rows[-1]) + 1) * width, data)
        cells = np.frombuffer(found, np.uint8, (int(rows[-1]) + 1) * width).reshape(-1, width)
        return np.ascontiguousarray(cells[rows])

    def _take_offsets(self, number: int, rows: np.ndarray, data: _Bytes) -> tuple[np.ndarray, np.ndarray]:
        """New offsets, and the numbers of the members that belong to the rows."""
        offsets = np.frombuffer(self._prefix(number, (int(rows[-1]) + 2) * 4, data), np.int32)
        starts, ends = offsets[rows].astype(np.int64), offsets[rows + 1].astype(np.int64)
        lengths = ends - starts
        if (lengths < 0).any():
            raise Unreadable("offsets that go back")
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        members = np.repeat(starts - bounds[:-1], lengths) + np.arange(bounds[-1])
        return bounds.astype(np.int32), members

    def _take_octets(self, number: int, rows: np.ndarray, data: _Bytes) -> tuple[np.ndarray, bytes]:
        offsets = np.frombuffer(self._prefix(number, (int(rows[-1]) + 2) * 4, data), np.int32)
        starts, ends = offsets[rows].tolist(), offsets[rows + 1].tolist()
        found = memoryview(self._prefix(number + 1, max(ends), data))
        pieces = [found[start:end] for start, end in zip(starts, ends, strict=True)]
        bounds = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int32)
        return bounds, b"".join(pieces)

    def _prefix(self, number: int, size: int, data: _Bytes) -> Any:
        """At least the first ``size`` bytes of a buffer, as something with the buffer protocol."""
        offset, stored = (int(n) for n in self._header.buffers[number])
        at = offset - data.start
        if size == 0:
            return b""
        if stored == 0:
            raise Unreadable("a buffer is missing")
        piece = memoryview(data.octets)[at : at + stored]
        length = struct.unpack_from("<q", piece)[0] if self._codec is not None else -1
        if length < 0 or size > _PREFIX_SHARE * length or length < _SMALL_BYTES:
            found = self._buffer(number, data.octets, data.start)
        else:
            assert self._codec is not None
            found = _inflate(piece[8:], self._codec.name, size)
        if found is None or len(found) < size:
            raise Unreadable("a buffer that is too short")
        return found

    def _node(self, field: Field) -> tuple[int, int]:
        try:
            length, null_count = (int(n) for n in self._header.nodes[field.node])
        except IndexError as error:
            raise Unreadable("a record batch with fewer columns than its schema") from error
        return length, null_count

    def _worth_a_thread(self, number: int) -> bool:
        return self._codec is not None and int(self._header.buffers[number][1]) > _THREAD_BYTES

    def _array(
        self,
        field: Field,
        data: bytes,
        start: int,
        ahead: Mapping[int, Future[pa.Buffer | None]] = MappingProxyType({}),
    ) -> pa.Array:
        length, null_count = self._node(field)
        type_ = field.type
        # What is null throughout is not read. Lists are left alone: their offsets count.
        if length and null_count == length and not field.children:
            return pa.nulls(length, type_)
        count = 3 if pa.types.is_string(type_) or pa.types.is_binary(type_) else 1 if pa.types.is_struct(type_) else 2
        buffers = [
            ahead[n].result() if n in ahead else self._buffer(n, data, start)
            for n in range(field.buffer, field.buffer + count)
        ]
        if not null_count:
            buffers[0] = None
        if field.dictionary >= 0:
            assert self._dictionary is not None
            return pa.DictionaryArray.from_buffers(
                type_, length, buffers, self._dictionary(field.dictionary), null_count
            )
        children = [self._array(child, data, start, ahead) for child in field.children]
        has_offsets = pa.types.is_string(type_) or pa.types.is_binary(type_) or pa.types.is_list(type_)
        if (has_offsets or pa.types.is_map(type_)) and (buffers[1] is None or buffers[1].size < 4 * (length + 1)):
            buffers[1] = pa.py_buffer(bytes(4 * (length + 1)))  # no rows may mean no offsets
        if pa.types.is_string(type_) or pa.types.is_binary(type_):
            buffers[2] = buffers[2] or pa.py_buffer(b"")
        return pa.Array.from_buffers(type_, length, buffers, null_count, children=children or None)

    def _buffer(self, number: int, data: bytes, start: int) -> pa.Buffer | None:
        offset, size = (int(n) for n in self._header.buffers[number])
        if size == 0:
            return None
        piece = pa.py_buffer(memoryview(data)[offset - start : offset - start + size])
        if self._codec is None:
            return piece
        (length,) = struct.unpack_from("<q", data, offset - start)
        if length == -1:
            return piece.slice(8)
        if length == 0:
            return None
        if not 0 < length <= _MAX_BUFFER_BYTES:
            raise Unreadable(f"a buffer claims {length} bytes")
        try:
            return self._codec.decompress(piece.slice(8), decompressed_size=length)
        except (pa.ArrowException, OSError) as error:
            raise Unreadable(f"a buffer cannot be decompressed: {error}") from error


_PREFIX_SHARE = 0.75
"""Of a buffer; beyond it decompressing the whole at once is faster than in steps."""

_SMALL_BYTES = 256 * 1024
_STEP_BYTES = 128 * 1024


def _inflate(piece: memoryview, codec: str, size: int) -> memoryview:
    """The first ``size`` bytes of what was compressed."""
    found = bytearray(size)
    target = memoryview(found)
    at = 0
    try:
        with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(piece)), codec) as stream:
            while at < size and (got := stream.readinto(target[at : at + _STEP_BYTES])):
                at += got
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(f"a buffer cannot be decompressed: {error}") from error
    return target[:at]


_THREAD_BYTES = 64 * 1024
"""Compressed buffers above this size (0.3 ms or more) are decompressed side by side."""


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="otlp-columns")


# Offsets of one batch are signed 32 bit.
_MAX_BUFFER_BYTES = 2**31


def _last_buffer(field: Field) -> int:
    if field.children:
        return _last_buffer(field.children[-1])
    type_ = field.type
    count = 3 if field.dictionary < 0 and (pa.types.is_string(type_) or pa.types.is_binary(type_)) else 2
    return field.buffer + count
