"""Arrow Flight: batches in by ``DoPut``, everything stored out by ``DoGet``. Served by our own HTTP/2.

``pyarrow.flight``'s server decodes a message before anybody may look at it (docs/decisions/0007), and gRPC's library in
Python costs more than keeping the rows (docs/decisions/0009). What the methods do is in ``flight_service``; this is how
its calls travel. A put has no task and no thread: each message is handed over when it is whole, its results leave in
one write for each turn of the loop, and a message counts against the windows until it was looked at, so that the
client is held back by HTTP/2.

``http2_door`` says what is bounded here; in addition, what a client did not take of an answer within
``FLIGHT_STALL_S`` is let go, and acknowledgements that it does not take hold up its further batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from otlp_arrow.model import Closed, Unauthenticated, limits
from otlp_arrow.model.meter import REQUESTS, Meter
from otlp_arrow.receivers import misdirected
from otlp_arrow.receivers._http2 import GRPC_HEADERS, GRPC_OK, Stream
from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.flight_service import (
    DOOR,
    MESSAGE_OVERHEAD_BYTES,
    SERVICE,
    FlightService,
    Method,
    Put,
    Stalled,
    Stored,
)
from otlp_arrow.receivers.http2_door import Door, DoorConnection, is_grpc
from otlp_arrow.receivers.inflating import Reservation
from otlp_arrow.receivers.intake import Intake
from otlp_arrow.receivers.listen import Place
from otlp_arrow.receivers.tls import ServerTls


class FlightServer:
    """The door for Arrow Flight, open inside ``async with``; leaving lets calls in flight finish.

    ``bound_port`` is the port it got (``port`` 0 takes a free one). ``auth`` guards every method. Opening raises
    ``OtlpServerError`` if the port is not to be had.
    """

    def __init__(
        self,
        intake: Intake[Any],
        stored: Stored,
        *,
        host: str,
        port: int,
        max_request_bytes: int = limits.MAX_REQUEST_BYTES,
        auth: Authenticator | None = None,
        tls: ServerTls | None = None,
        meter: Meter,
        health: Callable[[], Mapping[str, Any]] = dict,
        grace_s: float = limits.DOOR_GRACE_S,
    ) -> None:
        self._place = Place("Arrow Flight", host, port, "protocols.arrow_flight_port")
        self._tls = tls
        self._grace_s = grace_s
        self._service = FlightService(intake, stored, meter, health, max_request_bytes)
        self._door = _FlightDoor(
            self._service,
            max_message_bytes=max_request_bytes + MESSAGE_OVERHEAD_BYTES,
            auth=auth,
            meter=meter,
            name="otlp-flight-inflate",
        )
        self.bound_port = 0

    async def __aenter__(self) -> FlightServer:
        self.bound_port = await self._door.open(self._place, self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._door.close(self._grace_s)
        finally:
            self._service.close()


class _FlightDoor(Door):
    """What the connections of the door share."""

    labels = DOOR
    stranger = misdirected.NOT_FLIGHT
    frame_bytes = limits.FLIGHT_FRAME_BYTES
    stream_window_bytes = limits.FLIGHT_STREAM_WINDOW_BYTES
    connection_window_bytes = limits.FLIGHT_CONNECTION_WINDOW_BYTES
    reads_in_place = True

    def __init__(self, service: FlightService, **options: Any) -> None:
        super().__init__(service.intake, **options)
        self.service = service
        self.in_flight = service.in_flight
        self.methods: dict[bytes, Method | type[_PutCall]] = {
            f"/{SERVICE}/{name}".encode(): method for name, method in service.methods.items()
        }
        self.methods[f"/{SERVICE}/DoPut".encode()] = _PutCall

    def connection(self) -> _Connection:
        return _Connection(self)


class _Connection(DoorConnection):
    """One client. The context of a stream is its method, then its ``_PutCall`` or ``_Answer``."""

    _door: _FlightDoor

    # -- what http2 says -------------------------------------------------------------------------------
    def begin(self, stream: Stream) -> None:
        door = self._door
        if not is_grpc(stream):
            self.refuse_stranger(stream)
            return
        method = door.methods.get(stream.headers[":path"])
        if method is None:
            self.refuse_unknown(stream, f"the methods DoPut, {', '.join(door.service.methods)} of {SERVICE}")
            return
        if door.auth is not None:
            try:
                door.auth.check(stream.headers)
            except Unauthenticated as error:
                self.refuse_for(stream, error)
                return
        if method is _PutCall:
            self._http2.take_many(stream)
            stream.context = _PutCall(self, stream)
        else:
            stream.context = method

    def expect(self, stream: Stream, nbytes: int) -> None:
        """A message of this size comes next: no byte of it is read if there is no room for it."""
        try:
            self._door.intake.admit(nbytes).release()
        except Exception as error:
            stream.context.put.refuse(error)

    def message(self, stream: Stream, message: bytes | memoryview, compressed: bool) -> None:
        """One more message of a put."""
        stream.context.put.message(message, compressed)

    def finished(self, stream: Stream) -> None:
        """The client has sent all of a put."""
        stream.context.put.end()

    def complete(self, stream: Stream) -> None:
        stream.context = _Answer(self, stream, stream.context)

    def drained(self, stream: Stream) -> None:
        """What waited of an answer is on its way."""
        if isinstance(stream.context, _PutCall | _Answer):
            stream.context.drained()

    def reset(self, stream: Stream) -> None:
        if isinstance(stream.context, _PutCall):
            stream.context.put.abandon()
        elif isinstance(stream.context, _Answer):
            stream.context.task.cancel()
        elif stream.context is not None:
            self._door.meter.add(REQUESTS, 1, *DOOR, "cancelled")

    def failed(self, stream: Stream, error: BaseException) -> None:
        if isinstance(stream.context, _PutCall) and isinstance(error, Exception):
            stream.context.put.refuse(error)
        else:
            self.refuse_for(stream, error)

    def waits_for_message(self, stream: Stream) -> bool:
        return bool(stream.received_bytes) or not isinstance(stream.context, _PutCall | _Answer)

    # -- the connection --------------------------------------------------------------------------------
    def resume_writing(self) -> None:
        super().resume_writing()
        for stream in self._http2.calls():
            if isinstance(stream.context, _Answer):
                stream.context.drained()

    def stop(self) -> None:
        """Puts, which might go on for ever, end with what has come."""
        super().stop()
        for stream in self._http2.calls():
            if isinstance(stream.context, _PutCall):
                stream.context.put.refuse(Closed("the collector is stopping"))


class _PutCall:
    """A ``DoPut`` on its connection."""

    __slots__ = ("_connection", "_stream", "put")

    def __init__(self, connection: _Connection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream
        self.put = Put(connection._door.service, self)

    def acknowledge(self, result: bytes) -> bool:
        connection, stream = self._connection, self._stream
        connection._http2.send(stream, result)
        connection._flush_soon()
        if stream.waiting_bytes:
            stream.tell_drained = True
            return False
        return True

    def drained(self) -> None:
        self.put.go_on()

    def consumed(self, nbytes: int) -> None:
        self._connection._http2.consumed(self._stream, nbytes)

    def lay_out(self, page_at: int) -> None:
        self._stream.page_at = page_at

    def ignore(self) -> None:
        self._connection._http2.ignore(self._stream)

    def finish(self, error: Exception | None) -> None:
        connection, stream = self._connection, self._stream
        if error is not None:
            connection.refuse_for(stream, error)
        elif stream.begun:
            connection._http2.push(stream, b"", GRPC_OK, True)
        else:
            connection._http2.respond(stream, GRPC_HEADERS, b"", GRPC_OK)
        connection._flush_soon()

    async def inflated(self, message: bytes, reservation: Reservation) -> bytes:
        return await self._connection._door.inflated(self._stream, message, reservation)


class _Answer:
    """A call of one message that is being answered: a task, and where it waits for the client to read."""

    def __init__(self, connection: _Connection, stream: Stream, method: Method) -> None:
        self._connection = connection
        self._stream = stream
        self._taken: asyncio.Future[None] | None = None
        connection._door.in_flight.__enter__()
        self.task = asyncio.create_task(self._serve(method))
        self.task.add_done_callback(self._ended)

    async def write(self, *parts: bytes | memoryview) -> None:
        connection, stream = self._connection, self._stream
        connection._http2.send(stream, *parts)
        connection._flush()
        while (stream.waiting_bytes or connection._paused) and not stream.ended:
            stream.tell_drained = bool(stream.waiting_bytes)
            self._taken = asyncio.get_running_loop().create_future()
            await self._taken

    def drained(self) -> None:
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)

    async def _serve(self, method: Method) -> None:
        connection, stream = self._connection, self._stream
        message = stream.message
        if stream.compressed:
            reservation = Reservation(connection._door.intake, len(message))
            try:
                message = await connection._door.inflated(stream, message, reservation)
            finally:
                reservation.ticket.release()
        await method(message, self)
        if not stream.begun:
            connection._http2.begin(stream, GRPC_HEADERS)
        connection._http2.push(stream, b"", GRPC_OK, True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        connection, stream = self._connection, self._stream
        connection._door.in_flight.__exit__()
        stream.context = None
        if task.cancelled():
            connection._door.meter.add(REQUESTS, 1, *DOOR, "cancelled")
        elif (error := task.exception()) is not None:
            stuck = isinstance(error, Stalled) and connection._paused
            connection.refuse_for(stream, error)
            if stuck:  # the client does not even read its connection: only this frees what was written to it
                connection.cancel()
                return
        connection._flush_soon()
