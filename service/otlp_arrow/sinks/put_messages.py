"""The messages of a ``DoPut`` over the memory of a builder: no Arrow object is made, nothing large is copied."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

from otlp_arrow.codec import ColumnMemory
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Parts, Signal
from otlp_arrow.sinks.plain_grpc import framed

arrow_writing: ModuleType | None
try:
    from otlp_arrow.codec import arrow_writing
except ImportError:  # no kernel, and no builder that has its columns as memory
    arrow_writing = None

Piece = bytes | memoryview

_PATH = 1
_PREFIX_BYTES = 8  # of an encapsulated message: a marker, the length of what follows


def put_messages(signal: Signal, columns: ColumnMemory) -> Parts:
    """Schema, dictionaries and rows, each a ``FlightData`` in gRPC's frame. They hold ``columns.owner``."""
    assert arrow_writing is not None
    writer = arrow_writing.StreamWriter(SCHEMAS[signal], None)
    path = signal.value.encode()
    descriptor = _number(1, _PATH) + _field(3, path)
    pieces = _data(writer.schema_message[_PREFIX_BYTES:], [], _field(1, descriptor))
    for header, body in writer.messages(columns, {}):
        pieces += _data(header, body)
    return Parts(pieces)


def app_metadata(put_result: bytes) -> bytes:
    """Of a ``PutResult``, whose only field it is; nothing of what is none."""
    length = 0
    if put_result[:1] == b"\x0a":
        for place, byte in enumerate(put_result[1:6]):
            length |= (byte & 127) << 7 * place
            if byte < 128:
                return put_result[2 + place :][:length]
    return b""


def _data(header: bytes, body: Iterable[Piece], before: bytes = b"") -> list[Piece]:
    """``FlightData``: descriptor, header, body."""
    pieces = [piece for piece in body if len(piece)]
    size = sum(map(len, pieces))
    head = before + _field(2, header) + (_tag(1000) + _varint(size) if size else b"")
    return [framed(len(head) + size) + head, *pieces]


def _field(number: int, content: bytes) -> bytes:
    return _tag(number) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
