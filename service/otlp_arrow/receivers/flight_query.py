"""What a reader asks of Flight, and the answer as messages.

A ticket, or the command of a descriptor, is JSON::

    {"signal": "traces", "start": "2026-01-01T12:00:00Z", "end": 1767272400000000000, "columns": ["name"]}

``start`` is inclusive, ``end`` is not; each is nanoseconds since 1970 or a time in ISO 8601 with its zone. All but
``signal`` may be missing.
"""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Rejected, Signal, limits
from otlp_arrow.receivers import flight_wire as wire
from otlp_arrow.storage.ipc import SCHEMA, Message, walk
from otlp_arrow.storage.snapshot import Snapshot, TimeRange

_KEYS = ("signal", "start", "end", "columns")
_PREFIX_BYTES = 8  # before the flatbuffer of an encapsulated IPC message
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Query:
    """Rows of a signal, by time, some of their columns (empty: all)."""

    signal: Signal
    times: TimeRange = field(default_factory=TimeRange)
    columns: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether every row is asked for."""
        return not self.times

    @property
    def schema(self) -> pa.Schema:
        """Of the answer."""
        schema = SCHEMAS[self.signal]
        if not self.columns:
            return schema
        return pa.schema([schema.field(name) for name in self.columns], metadata=schema.metadata)

    def to_json(self) -> bytes:
        """As a ticket."""
        found: dict[str, Any] = {"signal": self.signal.value}
        if self.times.start is not None:
            found["start"] = self.times.start
        if self.times.end is not None:
            found["end"] = self.times.end
        if self.columns:
            found["columns"] = list(self.columns)
        return json.dumps(found).encode()


def signal_of(path: tuple[str, ...]) -> Signal:
    """The signal that a descriptor's path names. Raises ``Rejected``."""
    try:
        (name,) = path
        return Signal(name)
    except ValueError:
        names = ", ".join(signal.value for signal in Signal)
        raise Rejected(f"no flight {'/'.join(path)[:100]!r}; there are {names}") from None


def query_of(descriptor: wire.Descriptor) -> Query:
    """What a descriptor names: a path, or a command as in a ticket. Raises ``Rejected``."""
    if descriptor.command is None:
        return Query(signal_of(descriptor.path))
    return parse_query(descriptor.command)


def parse_query(text: bytes) -> Query:
    """The query of a ticket. Raises ``Rejected``."""
    if len(text) > limits.MAX_TICKET_BYTES:
        raise Rejected(f"a ticket of {len(text)} bytes; {limits.MAX_TICKET_BYTES} are the limit")
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Rejected(f"a ticket is JSON such as {{'signal': 'traces'}}: {error}") from error
    if not isinstance(asked, dict) or not set(asked) <= set(_KEYS):
        raise Rejected(f"a ticket is a JSON object with the keys {', '.join(_KEYS)}")
    signal = signal_of((str(asked.get("signal", "")),))
    times = TimeRange(_time("start", asked.get("start")), _time("end", asked.get("end")))
    return Query(signal, times, _columns(signal, asked.get("columns")))


def _time(key: str, value: object) -> int | None:
    if value is None:
        return None
    if type(value) is int and 0 <= value <= limits.MAX_TIME_UNIX_NANO:
        return value
    if isinstance(value, str):
        try:
            found = datetime.datetime.fromisoformat(value)
            if found.tzinfo is not None:
                return (found - _EPOCH) // datetime.timedelta(microseconds=1) * 1000
        except (ValueError, OverflowError):
            pass
    raise Rejected(f"{key!r} of a ticket is nanoseconds since 1970, or ISO 8601 with a time zone; not {value!r:.100}")


def _columns(signal: Signal, names: object) -> tuple[str, ...]:
    if names is None:
        return ()
    known = SCHEMAS[signal].names
    if not isinstance(names, list) or not names:
        raise Rejected("'columns' of a ticket is a list of column names")
    for name in names:
        if name not in known or names.count(name) > 1:
            raise Rejected(f"column {name!r:.100} is not one of {signal.value}, or asked for twice")
    return tuple(names)


def schema_message(schema: pa.Schema) -> bytes:
    """A schema as an encapsulated IPC message."""
    return bytes(schema.serialize())


Piece = tuple[bytes, bytes | memoryview]
"""A message: what stands before its body, and the body."""


def answer(query: Query, snapshot: Snapshot) -> Generator[Piece, None, None]:
    """The ``FlightData`` messages of a ``DoGet``; blocking, one piece of a batch in memory at a time."""
    schema = query.schema
    yield wire.data_parts(schema_message(schema)[_PREFIX_BYTES:], b"")
    sink = io.BytesIO()
    writer = pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(use_threads=False))
    for batch in snapshot.rows(query.times):
        columns = pa.RecordBatch.from_arrays([batch.column(name) for name in schema.names], schema=schema)
        for piece in _pieces(columns):
            writer.write_batch(piece)
            yield from _messages(sink)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    rows = max(1, batch.num_rows * limits.FLIGHT_MESSAGE_BYTES // max(1, batch.nbytes))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _messages(sink: io.BytesIO) -> Iterator[Piece]:
    """What was written since the last call, but for the schema: the writer holds it back until there is a row."""
    view = memoryview(sink.getvalue())
    sink.seek(0)
    sink.truncate()
    for message in walk(view):
        assert isinstance(message, Message)
        if message.kind != SCHEMA:
            yield wire.data_parts(view[message.start + _PREFIX_BYTES : message.body], view[message.body : message.end])
