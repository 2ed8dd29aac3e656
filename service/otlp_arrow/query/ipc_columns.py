"""Single columns of a record batch in a segment, read and decompressed without touching the others.

pyarrow decodes whole fields: every child of an attribute map, the empty ones too (a third of the bytes). Here only the
buffers that are wanted are read, as far as they are wanted; children that are null throughout cost nothing, and what
our kernel compressed it reads back itself. All on the thread that asks: to share this work with others cost more in
waiting for Python's lock than it gained. Buffers follow the schema depth first
(https://arrow.apache.org/docs/format/Columnar.html#recordbatch-message)::

    RecordBatch  length, nodes: [{length, null_count}], buffers: [{offset, length}], compression
    buffer       int64 decompressed length (-1: stored as it is), data

``Field`` numbers nodes, buffers and dictionaries as the format does: dictionaries depth first, as our writer's library
gives ids.
"""

from __future__ import annotations

import enum
import functools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from otlp_arrow.storage.ipc import _field as field_at
from otlp_arrow.storage.ipc import _u32 as u32_at

_kernel: Any
try:
    from otlp_arrow.codec import _kernel
except ImportError:  # pragma: no cover - only where no kernel was built
    _kernel = None

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


class Kind(enum.Enum):
    """How an array of a type lies in its buffers, behind the validity."""

    FIXED = enum.auto()  # values of one width
    BITS = enum.auto()
    OCTETS = enum.auto()  # offsets, bytes
    WORDS = enum.auto()  # codes of a dictionary
    STRUCT = enum.auto()  # nothing: the children are as long
    LIST = enum.auto()  # offsets into the child; maps too


@dataclass(frozen=True, slots=True)
class Field:
    """Where a field of a schema begins among nodes and buffers, and its buffers with those of its children end;
    ``dictionary``: its dictionary's id, or -1."""

    type: pa.DataType
    kind: Kind
    node: int
    buffer: int
    end: int
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
    kind = _kind(type_)
    counter[1] += {Kind.STRUCT: 1, Kind.OCTETS: 3}.get(kind, 2)
    if kind is Kind.WORDS:
        dictionary = counter[2]
        counter[2] += 1
    elif kind is Kind.STRUCT:
        children = tuple(_lay_out(child.type, counter) for child in type_)
    elif pa.types.is_map(type_):
        children = (_lay_out(pa.struct([type_.key_field, type_.item_field]), counter),)
    elif kind is Kind.LIST:
        children = (_lay_out(type_.value_type, counter),)
    return Field(type_, kind, node, buffer, counter[1], dictionary, children)


def _kind(type_: pa.DataType) -> Kind:
    if pa.types.is_dictionary(type_):
        return Kind.WORDS
    if pa.types.is_struct(type_):
        return Kind.STRUCT
    if pa.types.is_map(type_) or pa.types.is_list(type_):
        return Kind.LIST
    if pa.types.is_boolean(type_):
        return Kind.BITS
    if pa.types.is_fixed_size_binary(type_) or pa.types.is_primitive(type_):
        return Kind.FIXED
    if pa.types.is_string(type_) or pa.types.is_binary(type_):
        return Kind.OCTETS
    raise Unreadable(f"columns of type {type_} are not known here")


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
class Octets:
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
        return self._array(field, self.read((field,)))

    def read(self, fields: Sequence[Field]) -> Octets:
        """The bytes of some fields, for ``take``. Raises ``Unreadable`` or ``OSError``."""
        first, last = min(field.buffer for field in fields), max(field.end for field in fields)
        spans = self._header.buffers[first:last]
        used = spans[spans[:, 1] > 0]
        if not len(used):
            return Octets(b"", 0)
        start, end = int(used[:, 0].min()), int((used[:, 0] + used[:, 1]).max())
        data = self._read(self._body + start, end - start)
        if len(data) < end - start:
            raise Unreadable("the file ends inside a record batch")
        return Octets(data, start)

    # -- some rows -------------------------------------------------------------------------------

    def take(self, field: Field, rows: np.ndarray, data: Octets | None = None) -> pa.Array:
        """Some rows of a column, given in ascending order. Raises ``Unreadable`` or ``OSError``.

        Buffers are decompressed only as far as these rows reach. Meant for few rows. ``data``: from ``read``.
        """
        return self._take(field, rows, data or self.read((field,)))

    def _take(self, field: Field, rows: np.ndarray, data: Octets) -> pa.Array:
        length, null_count = self._node(field)
        type_ = field.type
        if not len(rows) or (length and null_count == length and not field.children):
            return pa.nulls(len(rows), type_)
        last = int(rows[-1])
        if last >= length:
            raise Unreadable("a column that is shorter than its batch")
        validity = self._take_bits(field.buffer, rows, data) if null_count else None
        match field.kind:
            case Kind.WORDS:
                assert self._dictionary is not None
                codes = self._take_fixed(field.buffer + 1, rows, 4, data)
                buffers = [validity, pa.py_buffer(codes)]
                return pa.DictionaryArray.from_buffers(type_, len(rows), buffers, self._dictionary(field.dictionary))
            case Kind.STRUCT:
                children = [self._take(child, rows, data) for child in field.children]
                return pa.Array.from_buffers(type_, len(rows), [validity], children=children)
            case Kind.LIST:
                bounds, members = self._take_offsets(field.buffer + 1, rows, data)
                child = self._take(field.children[0], members, data)
                return pa.Array.from_buffers(type_, len(rows), [validity, pa.py_buffer(bounds)], children=[child])
            case Kind.BITS:
                return pa.Array.from_buffers(
                    type_, len(rows), [validity, self._take_bits(field.buffer + 1, rows, data)]
                )
            case Kind.OCTETS:
                bounds, octets = self._take_octets(field.buffer + 1, rows, data)
                return pa.Array.from_buffers(type_, len(rows), [validity, pa.py_buffer(bounds), pa.py_buffer(octets)])
            case Kind.FIXED:
                values = self._take_fixed(field.buffer + 1, rows, type_.bit_width // 8, data)
                return pa.Array.from_buffers(type_, len(rows), [validity, pa.py_buffer(values)])

    def _take_bits(self, number: int, rows: np.ndarray, data: Octets) -> pa.Buffer:
        found = np.frombuffer(self._prefix(number, int(rows[-1]) // 8 + 1, data), np.uint8)
        return pa.py_buffer(np.packbits(found[rows >> 3] >> (rows & 7).astype(np.uint8) & 1, bitorder="little"))

    def _take_fixed(self, number: int, rows: np.ndarray, width: int, data: Octets) -> np.ndarray:
        found = self._prefix(number, (int(rows[-1]) + 1) * width, data)
        cells = np.frombuffer(found, f"V{width}", int(rows[-1]) + 1)
        return np.ascontiguousarray(cells[rows])

    def _take_offsets(self, number: int, rows: np.ndarray, data: Octets) -> tuple[np.ndarray, np.ndarray]:
        """New offsets, and the numbers of the members that belong to the rows."""
        offsets = np.frombuffer(self._prefix(number, (int(rows[-1]) + 2) * 4, data), np.int32)
        starts, ends = offsets[rows].astype(np.int64), offsets[rows + 1].astype(np.int64)
        lengths = ends - starts
        if (lengths < 0).any():
            raise Unreadable("offsets that go back")
        bounds = _offsets_of(lengths)
        members = np.repeat(starts - bounds[:-1], lengths) + np.arange(bounds[-1])
        return bounds, members

    def _take_octets(self, number: int, rows: np.ndarray, data: Octets) -> tuple[np.ndarray, bytes]:
        offsets = np.frombuffer(self._prefix(number, (int(rows[-1]) + 2) * 4, data), np.int32)
        starts, ends = offsets[rows], offsets[rows + 1]
        found = memoryview(self._prefix(number + 1, int(ends.max()), data))
        pieces = [found[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        return _offsets_of(np.maximum(ends - starts, 0)), b"".join(pieces)

    def _prefix(self, number: int, size: int, data: Octets) -> Any:
        """At least the first ``size`` bytes of a buffer, as something with the buffer protocol."""
        if size == 0:
            return b""
        at, stored = self._place(number, data)
        if stored == 0:
            raise Unreadable("a buffer is missing")
        piece = memoryview(data.octets)[at : at + stored]
        length = _LENGTH_PREFIX.unpack_from(piece)[0] if self._codec is not None else -1
        found = _own_frame(piece[8:], size) if length >= size else None
        if found is None and length >= _SMALL_BYTES and size <= _PREFIX_SHARE * length:
            assert self._codec is not None
            found = _inflate(piece[8:], self._codec.name, size)
        elif found is None:
            found = self._buffer(number, data)
        if found is None or len(found) < size:
            raise Unreadable("a buffer that is too short")
        return found

    def _place(self, number: int, data: Octets) -> tuple[int, int]:
        """Where a buffer lies in some bytes, and its size."""
        if number >= len(self._header.buffers):
            raise Unreadable("a record batch with fewer buffers than its schema")
        return self._header.buffers.item(number, 0) - data.start, self._header.buffers.item(number, 1)

    def _node(self, field: Field) -> tuple[int, int]:
        if field.node >= len(self._header.nodes):
            raise Unreadable("a record batch with fewer columns than its schema")
        return self._header.nodes.item(field.node, 0), self._header.nodes.item(field.node, 1)

    def _array(self, field: Field, data: Octets) -> pa.Array:
        length, null_count = self._node(field)
        type_, kind = field.type, field.kind
        # What is null throughout is not read. Lists are left alone: their offsets count.
        if length and null_count == length and not field.children:
            return pa.nulls(length, type_)
        count = {Kind.STRUCT: 1, Kind.OCTETS: 3}.get(kind, 2)
        buffers = [None if null_count == 0 else self._buffer(field.buffer, data)]
        buffers += [self._buffer(field.buffer + n, data) for n in range(1, count)]
        if kind is Kind.WORDS:
            assert self._dictionary is not None
            return pa.DictionaryArray.from_buffers(
                type_, length, buffers, self._dictionary(field.dictionary), null_count
            )
        children = [self._array(child, data) for child in field.children]
        if kind in (Kind.OCTETS, Kind.LIST) and (buffers[1] is None or buffers[1].size < 4 * (length + 1)):
            buffers[1] = pa.py_buffer(bytes(4 * (length + 1)))  # no rows may mean no offsets
        if kind is Kind.OCTETS:
            buffers[2] = buffers[2] or pa.py_buffer(b"")
        return pa.Array.from_buffers(type_, length, buffers, null_count, children=children or None)

    def _buffer(self, number: int, data: Octets) -> pa.Buffer | None:
        at, size = self._place(number, data)
        if size == 0:
            return None
        piece = pa.py_buffer(memoryview(data.octets)[at : at + size])
        if self._codec is None:
            return piece
        (length,) = _LENGTH_PREFIX.unpack_from(data.octets, at)
        if length == -1:
            return piece.slice(8)
        if length == 0:
            return None
        if not 0 < length <= _MAX_BUFFER_BYTES:
            raise Unreadable(f"a buffer claims {length} bytes")
        frame = piece.slice(8)
        own = _own_frame(frame, length)
        if own is not None:
            return own
        try:
            return self._codec.decompress(frame, decompressed_size=length)
        except (pa.ArrowException, OSError) as error:
            raise Unreadable(f"a buffer cannot be decompressed: {error}") from error


_LENGTH_PREFIX = struct.Struct("<q")


def _offsets_of(lengths: np.ndarray) -> np.ndarray:
    found = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=found[1:])
    return found


def _own_frame(frame: Any, size: int) -> pa.Buffer | None:
    """The first ``size`` bytes of what our kernel compressed; None if somebody else did."""
    found = None if _kernel is None else _kernel.zstd_beginning(frame, size)
    if found is None:
        return None
    if isinstance(found, int):
        return pa.py_buffer(bytes([found]) * size) if found else _zeros(size)
    return pa.py_buffer(found)


def _zeros(size: int) -> pa.Buffer:
    """So many zero bytes, shared: half of the columns of a unit hold nothing else somewhere."""
    length = max(_SHARED_ZEROS, 1 << (size - 1).bit_length())
    return _shared_zeros(length).slice(0, size)


_SHARED_ZEROS = 4 * 1024 * 1024


@functools.cache
def _shared_zeros(length: int) -> pa.Buffer:
    return pa.py_buffer(np.zeros(length, np.uint8))  # pages that nobody writes to take no memory


_PREFIX_SHARE = 0.75
"""Of a buffer; beyond it decompressing the whole at once is faster than in steps."""

_SMALL_BYTES = 256 * 1024
_STEP_BYTES = 1024 * 1024
"""As much as Arrow decompresses at once."""


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


# Offsets of one batch are signed 32 bit.
_MAX_BUFFER_BYTES = 2**31
