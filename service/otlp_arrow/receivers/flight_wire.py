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

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from otlp_arrow.model import Rejected
from otlp_arrow.receivers.protobuf_fields import BYTES, fields, last_bytes

flight_data: Callable[[bytes | memoryview], tuple[bytes, memoryview, bytes | None]] | None
try:
    from otlp_arrow.receivers._http2 import flight_data
except ImportError:  # pragma: no cover - only where nothing was compiled
    flight_data = None

_PATH = 1
_NO_BYTES = memoryview(b"")


class Data(NamedTuple):
    """One ``FlightData``. ``header`` is the flatbuffer of an Arrow IPC message, ``body`` its buffers, ``body_at`` where
    they begin if, as usual, nothing follows them."""

    header: bytes = b""
    body: memoryview = _NO_BYTES
    descriptor: bytes | None = None
    body_at: int = 0


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a client names: a path, or a command (``command`` is None then, and the other way round)."""

    path: tuple[str, ...] = ()
    command: bytes | None = None


# -- reading -------------------------------------------------------------------------------------


def read_data(message: bytes | memoryview) -> Data:
    """Raises ``Rejected``."""
    try:
        header, body, descriptor = (flight_data or plain_flight_data)(message)
    except ValueError as error:
        raise Rejected(f"a message is damaged: {error}") from error
    return Data(header, body, descriptor, len(message) - len(body))


def plain_flight_data(message: bytes | memoryview) -> tuple[bytes, memoryview, bytes | None]:
    """As the compiled ``flight_data``: header, body and descriptor. Raises ``Rejected``."""
    header, body, descriptor = b"", _NO_BYTES, None
    for number, value in fields(message):
        if isinstance(value, int):
            continue
        if number == 1:
            descriptor = bytes(value)
        elif number == 2:
            header = bytes(value)
        elif number == 1000:
            body = value
    return header, body, descriptor


def read_descriptor(message: bytes) -> Descriptor:
    """Raises ``Rejected``."""
    kind, command, path = 0, b"", []
    for number, value in fields(message):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2 and not isinstance(value, int):
            command = bytes(value)
        elif number == 3 and not isinstance(value, int):
            path.append(bytes(value).decode(errors="replace"))
    return Descriptor(tuple(path)) if kind == _PATH else Descriptor(command=command)


def read_ticket(message: bytes) -> bytes:
    """Raises ``Rejected``."""
    return last_bytes(message, 1)


def read_action(message: bytes) -> tuple[str, bytes]:
    """The type of an action and its body. Raises ``Rejected``."""
    return last_bytes(message, 1).decode(errors="replace"), last_bytes(message, 2)


# -- writing -------------------------------------------------------------------------------------


def data(header: bytes | memoryview, body: bytes | memoryview, app_metadata: bytes = b"") -> bytes:
    """``FlightData`` of one Arrow IPC message."""
    return b"".join(data_parts(header, body, app_metadata))


def data_parts(
    header: bytes | memoryview, body: bytes | memoryview, app_metadata: bytes = b""
) -> tuple[bytes, bytes | memoryview]:
    """The same as what stands before the body, and the body, which is not copied."""
    metadata = _field(3, app_metadata) if app_metadata else b""
    return b"".join((_prefix(2, len(header)), header, metadata, _prefix(1000, len(body)))), body


def put_result(app_metadata: bytes) -> bytes:
    """``PutResult``."""
    if len(app_metadata) < 0x80:
        return b"\x0a%c%b" % (len(app_metadata), app_metadata)
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
    return _varint(number << 3 | BYTES) + _varint(length)


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value & (1 << 64) - 1)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
