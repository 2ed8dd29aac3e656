"""What an Arrow IPC message claims to hold, read before Arrow acts on it.

Arrow's own reader allocates what a compressed buffer says it will inflate to, and loads extension types by name; a
message of a kilobyte may ask for a gigabyte. So messages of strangers are looked at here first. Only a few
fields of the flatbuffers are read; Arrow verifies the rest.
Format: https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format

::

    Message      version, header type, header, body length, custom metadata
    RecordBatch  length, nodes, buffers: [{offset, length}], compression, variadic counts
                 (a compressed buffer begins with its inflated length: int64, -1 if it is stored as it is)
    Dictionary…  id, data: RecordBatch, is delta
"""

from __future__ import annotations

import enum
import io
import struct
from dataclasses import dataclass

import pyarrow as pa

from otlp_arrow.model import Rejected, TooLarge

Buffer = bytes | memoryview

_CONTINUATION = b"\xff\xff\xff\xff"
END_OF_STREAM = _CONTINUATION + bytes(4)

# Slots in the tables' vtables.
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3
_ROWS, _NODES, _BUFFERS, _COMPRESSION, _VARIADIC_COUNTS = range(5)
_DICTIONARY_ID, _DICTIONARY_DATA, _IS_DELTA = 0, 1, 2
_SCHEMA_FIELDS, _FIELD_DICTIONARY, _FIELD_CHILDREN, _ENCODING_ID = 1, 4, 5, 0

MAX_SCHEMA_DEPTH = 16
"""Fields in fields of a schema; ours have seven."""

_EXTENSION_KEY = b"ARROW:extension:name"


class Kind(enum.IntEnum):
    """The header types that a stream of batches is made of."""

    SCHEMA = 1
    DICTIONARY = 2
    RECORD_BATCH = 3


@dataclass(frozen=True, slots=True)
class Claim:
    """A message of a stream. ``decoded_bytes``: what its buffers take once they are inflated."""

    kind: Kind
    decoded_bytes: int = 0
    dictionary_id: int = 0
    is_delta: bool = False
    compressed: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """``nodes``: rows and nulls of each array, ``buffers``: where each lies and its bytes; both flat."""

    rows: int
    nodes: tuple[int, ...]
    buffers: tuple[int, ...]


def inspect(header: Buffer, body: Buffer, max_bytes: int) -> Claim:
    """What the message of ``header`` (a flatbuffer ``Message``) and ``body`` claims.

    Raises ``TooLarge`` if its buffers would take more than ``max_bytes``, ``Rejected`` if it is damaged.
    """
    try:
        return _inspect(bytes(header), body, max_bytes)
    except (struct.error, IndexError, ValueError) as error:
        raise Rejected(f"an Arrow message is damaged: {error}") from error


def encapsulated(header: Buffer, body: Buffer, block: int = 8, before: int = 0) -> tuple[bytes, bytes, Buffer]:
    """The parts of the message as a stream has them: prefix, padded header, body, which begins at a multiple of
    ``block`` if ``before`` bytes come before them. Both are multiples of 8."""
    padding = -(before + 8 + len(header)) % block
    return _CONTINUATION + struct.pack("<i", len(header) + padding), b"".join((header, bytes(padding))), body


def dictionary_id(header: bytes) -> int:
    """The id in the header of a dictionary's message. Raises ``ValueError`` for whatever is none."""
    try:
        message = int(struct.unpack_from("<I", header, 0)[0])
        if header[_slot(header, message, _HEADER_TYPE)] != Kind.DICTIONARY:
            raise ValueError("no dictionary")
        at = _slot(header, _follow(header, _slot(header, message, _HEADER)), _DICTIONARY_ID)
        return int(struct.unpack_from("<q", header, at)[0]) if at else 0
    except (struct.error, IndexError) as error:
        raise ValueError(f"a damaged message: {error}") from error


def dictionary_ids(header: Buffer) -> list[int]:
    """The ids of the dictionary-encoded fields of a schema message, depth first. Raises ``Rejected``.

    A program may give several fields one id: they share a dictionary.
    """
    found: list[int] = []
    try:
        data = bytes(header)
        message = int(struct.unpack_from("<I", data, 0)[0])
        if data[_slot(data, message, _HEADER_TYPE)] != Kind.SCHEMA:
            raise ValueError("no schema")
        schema = _follow(data, _slot(data, message, _HEADER))
        _dictionaries_of(data, _slot(data, schema, _SCHEMA_FIELDS), found, MAX_SCHEMA_DEPTH)
    except (struct.error, IndexError, ValueError) as error:
        raise Rejected(f"the schema is damaged: {error}") from error
    return found


def _dictionaries_of(data: bytes, fields: int, found: list[int], depth: int) -> None:
    if not fields:
        return
    vector = _follow(data, fields)
    (count,) = struct.unpack_from("<I", data, vector)
    if count * 4 > len(data) or len(found) > len(data) or not depth:
        raise ValueError(f"{count} fields in {len(data)} bytes")
    for slot in range(vector + 4, vector + 4 + 4 * count, 4):
        field = _follow(data, slot)
        encoding = _slot(data, field, _FIELD_DICTIONARY)
        if encoding:
            encoded = _follow(data, encoding)
            at = _slot(data, encoded, _ENCODING_ID)
            found.append(int(struct.unpack_from("<q", data, at)[0]) if at else 0)
        _dictionaries_of(data, _slot(data, field, _FIELD_CHILDREN), found, depth - 1)


def to_stream(batch: pa.RecordBatch) -> bytes:
    """The batch as an Arrow IPC stream, not compressed."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(use_threads=False)) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def harmless_schema(header: Buffer) -> bytes:
    """The header of a schema message in which no field is an extension type any more.

    The key that makes Arrow load one is written in small letters, which keeps all offsets; the field
    then has its storage type and says in its metadata what it was (``cast`` refuses it for that).
    """
    return bytes(header).replace(_EXTENSION_KEY, _EXTENSION_KEY.lower())


def layout(header: Buffer, kind: Kind, body_bytes: int) -> Layout | None:
    """Where the arrays of a record batch, or of a dictionary's, lie; None if it is of another kind, compressed, a
    delta, not made for such a body, or damaged. Places are not held against the body."""
    data = bytes(header)
    try:
        message = int(struct.unpack_from("<I", data, 0)[0])
        if data[_slot(data, message, _HEADER_TYPE)] != kind:
            return None
        if struct.unpack_from("<q", data, _slot(data, message, _BODY_LENGTH) or len(data))[0] != body_bytes:
            return None
        table = _follow(data, _slot(data, message, _HEADER))
        if kind is Kind.DICTIONARY:
            is_delta = _slot(data, table, _IS_DELTA)
            if is_delta and data[is_delta]:
                return None
            table = _follow(data, _slot(data, table, _DICTIONARY_DATA))
        if _slot(data, table, _COMPRESSION) or _slot(data, table, _VARIADIC_COUNTS):
            return None
        rows_at = _slot(data, table, _ROWS)
        rows = int(struct.unpack_from("<q", data, rows_at)[0]) if rows_at else 0
        if rows < 0:
            return None
        return Layout(rows, _pairs(data, table, _NODES), _pairs(data, table, _BUFFERS))
    except (struct.error, IndexError, ValueError):
        return None


def _inspect(header: bytes, body: Buffer, max_bytes: int) -> Claim:
    message = int(struct.unpack_from("<I", header, 0)[0])
    kind = Kind(header[_slot(header, message, _HEADER_TYPE)])
    length_at = _slot(header, message, _BODY_LENGTH)
    body_length = int(struct.unpack_from("<q", header, length_at)[0]) if length_at else 0
    if body_length != len(body):  # or Arrow would read on, and find a message that was not looked at here
        raise ValueError(f"a body of {len(body)} bytes, {body_length} according to its header")
    table = _follow(header, _slot(header, message, _HEADER))
    if kind is Kind.SCHEMA:
        return Claim(kind)
    number, is_delta = 0, False
    if kind is Kind.DICTIONARY:
        id_at, delta_at = _slot(header, table, _DICTIONARY_ID), _slot(header, table, _IS_DELTA)
        number = int(struct.unpack_from("<q", header, id_at)[0]) if id_at else 0
        is_delta = bool(header[delta_at]) if delta_at else False
        table = _follow(header, _slot(header, table, _DICTIONARY_DATA))
    _pairs(header, table, _NODES)  # damaged ones are refused here, in our words
    buffers = _pairs(header, table, _BUFFERS)
    compressed = bool(_slot(header, table, _COMPRESSION))
    decoded_bytes = _decoded_bytes(buffers, body, compressed)
    if decoded_bytes > max_bytes:
        raise TooLarge(
            f"a batch or dictionary of {decoded_bytes} bytes is over the limit of {max_bytes}; send fewer rows"
        )
    return Claim(kind, decoded_bytes, number, is_delta, compressed)


def _pairs(header: bytes, batch: int, slot: int) -> tuple[int, ...]:
    """A vector of structs of two int64, flat. None of ours is negative."""
    vector = _follow(header, _slot(header, batch, slot))
    (count,) = struct.unpack_from("<I", header, vector)
    if count * 16 > len(header):
        raise ValueError(f"{count} entries in {len(header)} bytes")
    numbers: tuple[int, ...] = struct.unpack_from(f"<{2 * count}q", header, vector + 4)
    if min(numbers, default=0) < 0:
        raise ValueError("a negative length")
    return numbers


def _decoded_bytes(buffers: tuple[int, ...], body: Buffer, compressed: bool) -> int:
    if not compressed:
        return sum(buffers[1::2])
    pairs = zip(buffers[::2], buffers[1::2], strict=True)
    return sum(_inflated_bytes(body, offset, length) for offset, length in pairs)


def _inflated_bytes(body: Buffer, offset: int, length: int) -> int:
    if not length:
        return 0
    inflated = int(struct.unpack_from("<q", body, offset)[0])
    if inflated < -1 or length < 8:
        raise ValueError(f"a buffer that inflates to {inflated} bytes")
    return length - 8 if inflated == -1 else inflated


def _follow(buffer: bytes, at: int) -> int:
    """Where the offset at ``at`` points. ``at`` is 0 where a field is absent."""
    if not at:
        raise ValueError("a part is missing")
    return at + int(struct.unpack_from("<I", buffer, at)[0])


def _slot(buffer: bytes, table: int, slot: int) -> int:
    """Where field ``slot`` of a table lies; 0 if it is absent."""
    vtable = table - int(struct.unpack_from("<i", buffer, table)[0])
    if not 0 <= vtable < len(buffer):
        raise ValueError("a table outside its message")
    (size,) = struct.unpack_from("<H", buffer, vtable)
    at = 4 + 2 * slot
    if at + 2 > size:
        return 0
    (relative,) = struct.unpack_from("<H", buffer, vtable + at)
    return table + int(relative) if relative else 0
