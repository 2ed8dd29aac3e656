"""The messages of the Flight protocol as protobuf bytes: the few fields that the door reads and writes.

Written out by hand because ``FlightData`` must not be copied on its way (its body is a view of what gRPC
received) and the rest is a handful of strings. Checked against ``pyarrow.flight`` in the tests.
Format: https://arrow.apache.org/docs/format/Flight.html#protocol-buffer-definitions

::

    FlightData        1 descriptor, 2 data_header, 3 app_metadata, 1000 data_body
    FlightDescriptor  1 type (1 path, 2 command), 2 cmd, 3 path
    FlightInfo        1 schema, 2 descriptor, 3 endpoint, 4 total_records, 5 total_bytes
    FlightEndpoint    1 ticket            Ticket  1 ticket
    Action            1 type, 2 body      Result  1 body      ActionType  1 type, 2 description
    SchemaResult      1 schema            PutResult  1 app_metadata
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from otlp_arrow.model import Rejected

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PATH = 1


@dataclass(frozen=True, slots=True)
class Data:
    """One ``FlightData``. ``header`` is the flatbuffer of an Arrow IPC message, ``body`` its buffers."""

    header: bytes = b""
    body: memoryview = field(default_factory=lambda: memoryview(b""))
    descriptor: bytes | None = None


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a client names: a path, or a command (``command`` is None then, and the other way round)."""

    path: tuple[str, ...] = ()
    command: bytes | None = None


# -- reading -------------------------------------------------------------------------------------


def read_data(message: bytes) -> Data:
    """Raises ``Rejected``."""
    header, body, descriptor = b"", memoryview(b""), None
    for number, value in _fields(message):
        if isinstance(value, int):
            continue
        if number == 1:
            descriptor = bytes(value)
        elif number == 2:
            header = bytes(value)
        elif number == 1000:
            body = value
    return Data(header, body, descriptor)


def read_descriptor(message: bytes) -> Descriptor:
    """Raises ``Rejected``."""
    kind, command, path = 0, b"", []
    for number, value in _fields(message):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2 and not isinstance(value, int):
            command = bytes(value)
        elif number == 3 and not isinstance(value, int):
            path.append(bytes(value).decode(errors="replace"))
    return Descriptor(tuple(path)) if kind == _PATH else Descriptor(command=command)


def read_ticket(message: bytes) -> bytes:
    """Raises ``Rejected``."""
    return _last(message, 1)


def read_action(message: bytes) -> tuple[str, bytes]:
    """The type of an action and its body. Raises ``Rejected``."""
    return _last(message, 1).decode(errors="replace"), _last(message, 2)


def _last(message: bytes, wanted: int) -> bytes:
    found = b""
    for number, value in _fields(message):
        if number == wanted and not isinstance(value, int):
            found = bytes(value)
    return found


def _fields(message: bytes) -> Iterator[tuple[int, memoryview | int]]:
    view = memoryview(message)
    at = 0
    while at < len(view):
        tag, at = _read_varint(view, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _read_varint(view, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _read_varint(view, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise Rejected(f"a Flight message is damaged: wire type {kind}")
        if at + length > len(view):
            raise Rejected("a Flight message ends early")
        yield number, view[at : at + length]
        at += length


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64 and at < len(view):
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Rejected("a Flight message is damaged: a number without end")


# -- writing -------------------------------------------------------------------------------------


def data(header: bytes | memoryview, body: bytes | memoryview, app_metadata: bytes = b"") -> bytes:
    """``FlightData`` of one Arrow IPC message."""
    metadata = _field(3, app_metadata) if app_metadata else b""
    return b"".join((_prefix(2, len(header)), header, metadata, _prefix(1000, len(body)), body))


def put_result(app_metadata: bytes) -> bytes:
    """``PutResult``."""
    return _field(1, app_metadata)


def path_descriptor(*path: str) -> bytes:
    """``FlightDescriptor`` of a path."""
    return _number(1, _PATH) + b"".join(_field(3, part.encode()) for part in path)


def info(schema: bytes, descriptor: bytes, ticket: bytes, total_records: int, total_bytes: int) -> bytes:
    """``FlightInfo`` with one endpoint, on this server. ``schema``: an encapsulated IPC message; -1: not known."""
    endpoint = _field(1, _field(1, ticket))
    return (
        _field(1, schema)
        + _field(2, descriptor)
        + _field(3, endpoint)
        + _number(4, total_records)
        + _number(5, total_bytes)
    )


def schema_result(schema: bytes) -> bytes:
    """``SchemaResult``."""
    return _field(1, schema)


def result(body: bytes) -> bytes:
    """``Result`` of an action."""
    return _field(1, body)


def action_type(name: str, description: str) -> bytes:
    """``ActionType``."""
    return _field(1, name.encode()) + _field(2, description.encode())


def _field(number: int, content: bytes) -> bytes:
    return _prefix(number, len(content)) + content


def _prefix(number: int, length: int) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(length)


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value & (1 << 64) - 1)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
