"""The one thing that travels from a door into the pipeline, and what comes back."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from otlp_arrow.model.signal import Signal
from otlp_arrow.model.value import value

if TYPE_CHECKING:  # `otlp-arrow config` speaks these words too, and needs no Arrow
    import pyarrow as pa


class Encoding(enum.Enum):
    """How the bytes of a batch, and of its WAL frame, are to be read. Numbers are never reused."""

    OTLP = 1  # an Export…ServiceRequest in protobuf
    ARROW = 2  # an Arrow IPC stream holding record batches in the storage schema

    __hash__ = object.__hash__


class Parts:
    """A payload that lies in several pieces of memory: written one after the other, joined only for who needs it
    whole.

    Nobody changes the memory while this is held. ``len`` is in bytes. ``page_at``: the byte of it that lies where a
    page of memory begins, in a part that is worth being written from there; None if there is none.
    """

    __slots__ = ("_length", "page_at", "parts")

    def __init__(self, parts: Iterable[bytes | memoryview], page_at: int | None = None) -> None:
        self.page_at = page_at
        self.parts = tuple(parts)
        length = 0
        for part in self.parts:
            if type(part) is not bytes and (type(part) is not memoryview or part.itemsize != 1 or part.ndim != 1):
                # ``len`` of a view counts items: make them bytes.
                self.parts = tuple(part if type(part) is bytes else memoryview(part).cast("B") for part in self.parts)
                length = sum(map(len, self.parts))
                break
            length += len(part)
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"Parts({len(self.parts)} parts, {self._length} bytes)"

    def joined(self) -> bytes:
        """All of it in one piece: a copy."""
        return b"".join(self.parts)


Payload = bytes | Parts


def joined(payload: Payload) -> bytes:
    """A payload in one piece; the same object if it is."""
    return payload if isinstance(payload, bytes) else payload.joined()


@value
class ArrowMessage:
    """A record batch of an Arrow stream as it came: the flatbuffer ``header``, the ``body``, and for each encoded field
    of the schema, depth first, its dictionary as the kernel reads it."""

    header: bytes
    body: bytes | memoryview
    dictionaries: tuple[Any, ...]


@value
class Batch:
    """Telemetry of one signal as it was received.

    ``payload`` is what the WAL keeps. ``columns`` is the same data as Arrow where a door already
    has it (in-process, Flight where it had to be cast), so that nobody reads the payload again; ``message`` is it
    where a door has not looked at it (Flight): then ``NotPlain`` may come back.
    """

    signal: Signal
    payload: Payload
    encoding: Encoding = Encoding.OTLP
    receiver: str = "otlp"
    transport: str = "grpc"
    columns: pa.RecordBatch | None = None
    message: ArrowMessage | None = None

    @property
    def payload_bytes(self) -> bytes:
        """The payload in one piece."""
        return joined(self.payload)


@value
class Receipt:
    """What ``accept`` kept. ``sequence`` is the WAL sequence of its frame, 0 if nothing was kept."""

    rows: int
    rejected: int = 0
    message: str = ""
    sequence: int = 0
