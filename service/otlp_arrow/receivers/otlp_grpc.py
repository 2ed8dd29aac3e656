"""OTLP over gRPC: the bytes of each call go to the intake as they came.

This is the hottest path of the product. gRPC's own library spends some 300 µs of CPU on a call before our code
sees it, six times what keeping a span costs (docs/decisions/0009); so HTTP/2 is read by a compiled module
(``_http2``), nothing is deserialized, logged or looked up per call that can be prepared, and no task is
made for a call: its answer is a callback of the intake's future. Answers of one turn of the loop
leave in one write.

Bounds, and who keeps them:

* Message size as sent: ``_http2``, from the length in front of the message; after decompression: ``inflate``.
  RESOURCE_EXHAUSTED without RetryInfo.
* Headers, frames, windows, frames that do nothing: ``_http2``.
* Calls at a time: ``MAX_CONCURRENT_STREAMS`` a connection; what is over it is refused retryably.
* Memory of messages on their way: ``MAX_INCOMPLETE_BYTES`` for the door; past it the connection that sends is
  asked to come again. A message that does not go on for ``BODY_READ_TIMEOUT_S`` is given up.
* Memory of whole messages: the intake. Once it has refused one, further calls are refused at their headers
  until it has room again.
"""

from __future__ import annotations

import asyncio
import base64
import functools
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from types import TracebackType
from typing import Any, cast
from urllib.parse import quote

import structlog

from otlp_arrow.model import Batch, Busy, Receipt, Rejected, Signal, TooLarge, Unauthenticated, limits
from otlp_arrow.model.meter import REQUESTS, Meter
from otlp_arrow.receivers import misdirected, replies, unpack
from otlp_arrow.receivers._http2 import GRPC_HEADERS, GRPC_OK, PREFACE, Connection, Stream, header_block
from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.in_flight import InFlight
from otlp_arrow.receivers.inflating import Reservation, inflate
from otlp_arrow.receivers.intake import Intake
from otlp_arrow.receivers.listen import Place, bind
from otlp_arrow.receivers.services import SERVICES, Code
from otlp_arrow.receivers.tls import ServerTls

log = structlog.get_logger(__name__)

_DOOR = ("otlp", "grpc")
_HEALTH = "grpc.health.v1.Health"
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3  # HealthCheckResponse.ServingStatus

_RECEIVE_BYTES = 256 * limits.KIB  # one read; all connections share the buffer, as each read is used up at once
_TICK_S = limits.GRPC_KEEPALIVE_S / 4
_QUIET_TICKS = 4
_DEAD_TICKS = 6
_STALLED_TICKS = 1 + round(limits.BODY_READ_TIMEOUT_S / _TICK_S)
_WORKERS = 2


class _Health(Enum):
    CHECK = "Check"
    WATCH = "Watch"


class OtlpGrpcServer:
    """The door for OTLP/gRPC, open inside ``async with``; leaving lets calls in flight finish.

    ``bound_port`` is the port it got (``port`` 0 takes a free one). ``auth`` guards the export services, never
    health. Opening raises ``OtlpServerError`` if the port is not to be had.
    """

    def __init__(
        self,
        intake: Intake[Any],
        *,
        host: str,
        port: int,
        max_request_bytes: int = limits.MAX_REQUEST_BYTES,
        auth: Authenticator | None = None,
        tls: ServerTls | None = None,
        meter: Meter,
        grace_s: float = limits.DOOR_GRACE_S,
    ) -> None:
        self._place = Place("OTLP/gRPC", host, port, "protocols.protobuf_port")
        self._tls = tls
        self._grace_s = grace_s
        self._exports = _Exports(intake, max_request_bytes, auth, meter)
        self._listeners: list[asyncio.Server] = []
        self.bound_port = 0

    async def __aenter__(self) -> OtlpGrpcServer:
        loop = asyncio.get_running_loop()
        context = self._tls.ssl_context("h2") if self._tls else None
        exports = self._exports
        exports.set_serving(_SERVING)
        sockets = bind(self._place)
        self.bound_port = sockets[0].getsockname()[1]
        try:
            for listening in sockets:
                server = await loop.create_server(lambda: _Connection(exports), sock=listening, ssl=context)
                self._listeners.append(server)
        except BaseException:
            for listening in sockets:
                listening.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for listener in self._listeners:
            listener.close()
        await self._exports.stop(self._grace_s)
        for listener in self._listeners:
            await listener.wait_closed()

    async def set_serving(self, serving: bool) -> None:
        """What the health service answers, for the whole server and for each export service."""
        self._exports.set_serving(_SERVING if serving else _NOT_SERVING)


class _Exports:
    """What the connections of a door share."""

    def __init__(self, intake: Intake[Any], max_request_bytes: int, auth: Authenticator | None, meter: Meter) -> None:
        self.intake = intake
        self.max_request_bytes = max_request_bytes
        self.auth = auth
        self.meter = meter
        self.full = False  # the last call was refused for want of room
        self.in_flight = InFlight()
        self.methods: dict[bytes, Signal | _Health] = {
            f"/{service}/Export".encode(): signal for signal, service in SERVICES.items()
        }
        self.methods |= {f"/{_HEALTH}/{method.value}".encode(): method for method in _Health}
        self.buffer = bytearray(_RECEIVE_BYTES)
        self.view = memoryview(self.buffer)
        self.connections: set[_Connection] = set()
        self.incomplete_bytes = 0
        self.hints = misdirected.Hints()
        self.stopping = False
        self._workers = ThreadPoolExecutor(_WORKERS, "otlp-grpc")  # threads start when the first large body comes
        self._all_gone = asyncio.Event()
        self._status = _NOT_SERVING
        self._watchers: dict[Stream, _Connection] = {}

    def look_for_room(self) -> None:
        """Raises ``Busy`` as long as the intake is full, so that senders who come at once again cost little."""
        self.intake.admit(1).release()
        self.full = False

    async def inflated(self, signal: Signal, stream: Stream) -> Receipt:
        """Keep the message of a call that compressed it."""
        name = stream.headers.get("grpc-encoding", b"identity").decode("latin-1")
        applied = unpack.codings(name)
        if not applied:
            raise Rejected("the message is marked as compressed, and grpc-encoding names no compression")
        body = stream.message
        reservation = Reservation(self.intake, len(body))
        try:
            body = await inflate(body, applied, self.max_request_bytes, reservation, self._workers)
        except BaseException:
            reservation.ticket.release()
            raise
        return await self.intake.accept(Batch(signal, body), reservation.ticket)

    # -- health ----------------------------------------------------------------------------------------
    def set_serving(self, status: int) -> None:
        """Set the answer, and tell those who watch."""
        if status != self._status:
            self._status = status
            for stream, connection in self._watchers.items():
                connection.tell(stream, _health_answer(status))

    def health_of(self, request: bytes) -> int | None:
        """The status of the service that a request names, None if there is none. Raises ``Rejected``."""
        from google.protobuf.message import DecodeError
        from grpc_health.v1 import health_pb2

        try:
            service = health_pb2.HealthCheckRequest.FromString(request).service
        except DecodeError as error:
            raise Rejected("the message is no HealthCheckRequest") from error
        return self._status if service in ("", *SERVICES.values()) else None

    def watch(self, stream: Stream, connection: _Connection) -> None:
        """Tell this call of changes."""
        self._watchers[stream] = connection

    def unwatch(self, stream: Stream) -> None:
        """The call has ended."""
        self._watchers.pop(stream, None)

    # -- the end ---------------------------------------------------------------------------------------
    def gone(self, connection: _Connection) -> None:
        """A connection is no more."""
        self.connections.discard(connection)
        if not self.connections:
            self._all_gone.set()

    async def stop(self, grace_s: float) -> None:
        """Let calls in flight finish within the grace, then cancel them."""
        self.stopping = True
        self.set_serving(_NOT_SERVING)
        for stream, connection in list(self._watchers.items()):
            connection.refuse(stream, replies.Refusal("ok", Code.UNAVAILABLE, 503, "the collector is stopping"))
        self._watchers.clear()
        for connection in list(self.connections):
            connection.stop()
        try:
            async with asyncio.timeout(grace_s):
                while self.connections:
                    self._all_gone.clear()
                    await self._all_gone.wait()
        except TimeoutError:
            for connection in list(self.connections):
                connection.cancel()
        await self.in_flight.none_left(limits.DOOR_GRACE_S)
        self._workers.shutdown(wait=False, cancel_futures=True)


class _Connection(asyncio.BufferedProtocol):
    """One client. ``http2`` calls ``begin``, ``complete``, ``broken`` and ``reset`` while it takes bytes in."""

    def __init__(self, exports: _Exports) -> None:
        self._exports = exports
        self._loop = asyncio.get_running_loop()
        self._http2 = Connection(
            self,
            max_message_bytes=exports.max_request_bytes,
            max_streams=limits.MAX_CONCURRENT_STREAMS,
            max_header_bytes=limits.MAX_HEADER_BYTES,
            max_nuisance=limits.MAX_NUISANCE_FRAMES,
            stream_window_bytes=limits.HTTP2_STREAM_WINDOW_BYTES,
            connection_window_bytes=limits.HTTP2_CONNECTION_WINDOW_BYTES,
            max_frame_bytes=limits.HTTP2_FRAME_BYTES,
        )
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._greeted = False
        self._flushing = False
        self._quiet_ticks = 0
        self._incomplete_bytes = 0
        self._stalled: dict[int, tuple[int, int]] = {}  # of calls without their message: its bytes, ticks since

    # -- the transport's side --------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._exports.connections.add(self)
        self._timer = self._loop.call_later(_TICK_S, self._tick)
        if self._exports.stopping:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._exports.view

    def buffer_updated(self, nbytes: int) -> None:
        if not self._greeted and not self._greet(bytes(self._exports.view[: min(nbytes, len(PREFACE))])):
            return
        http2 = self._http2
        self._quiet_ticks = 0
        http2.receive(self._exports.buffer, nbytes)
        if http2.incomplete_bytes != self._incomplete_bytes:
            self._reckon()
        self._flush()

    def _reckon(self) -> None:
        """Add what this connection holds to what the door holds; too much of it is not waited for."""
        exports = self._exports
        exports.incomplete_bytes += self._http2.incomplete_bytes - self._incomplete_bytes
        self._incomplete_bytes = self._http2.incomplete_bytes
        if exports.incomplete_bytes > limits.MAX_INCOMPLETE_BYTES:
            for stream in self._http2.calls():
                if stream.received_bytes:
                    self._failed(stream, Busy("too many large requests are on their way at once"))
            exports.incomplete_bytes += self._http2.incomplete_bytes - self._incomplete_bytes
            self._incomplete_bytes = self._http2.incomplete_bytes

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()  # who does not read answers gets no further ones

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self._exports.incomplete_bytes -= self._incomplete_bytes
        self._incomplete_bytes = 0
        for stream in self._http2.calls():
            self.reset(stream)
        self._exports.gone(self)

    def _greet(self, first_bytes: bytes) -> bool:
        """Whether the client speaks HTTP/2, by its first bytes; others are told what to do."""
        self._greeted = True
        if PREFACE.startswith(first_bytes):
            return True
        mistake = misdirected.TLS if first_bytes[:1] == b"\x16" else misdirected.HTTP1
        assert self._transport is not None
        peer = self._transport.get_extra_info("peername")
        self._exports.hints.give(f"{mistake.name} at grpc", mistake.hint, peer=peer[0] if peer else None)
        self._transport.write(mistake.answer)
        self._transport.close()
        return False

    def _tick(self) -> None:
        """Every so often: who is silent is asked, who stays silent is let go; messages that stall are given up."""
        assert self._transport is not None
        self._timer = self._loop.call_later(_TICK_S, self._tick)
        self._quiet_ticks += 1
        if not self._greeted or self._quiet_ticks >= _DEAD_TICKS:
            self._transport.abort()
            return
        self._http2.nuisance = 0
        if self._quiet_ticks == _QUIET_TICKS:
            self._http2.ping()
        stalled: dict[int, tuple[int, int]] = {}
        for stream in self._http2.calls():
            if isinstance(stream.context, Signal):
                nbytes, ticks = self._stalled.get(stream.stream_id, (-1, 0))
                ticks = ticks + 1 if nbytes == stream.received_bytes else 0
                if ticks >= _STALLED_TICKS:
                    reason = f"the message did not go on for {limits.BODY_READ_TIMEOUT_S} seconds"
                    self.refuse(stream, replies.Refusal("rejected", Code.DEADLINE_EXCEEDED, 408, reason))
                else:
                    stalled[stream.stream_id] = (stream.received_bytes, ticks)
        self._stalled = stalled
        self._flush()

    # -- what goes out ---------------------------------------------------------------------------------
    def _flush_soon(self) -> None:
        """Write once for all answers of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        http2, transport = self._http2, self._transport
        if transport is None:
            return
        data = http2.take()
        if data:
            transport.write(data)
        if http2.closed:
            log.info("a gRPC client broke the protocol", reason=http2.error, peer=transport.get_extra_info("peername"))
            transport.close()
        elif http2.refusing and not http2.open_streams:
            transport.close()

    def stop(self) -> None:
        """Take no further calls, and close when those under way are answered."""
        self._http2.stop()
        self._flush_soon()

    def cancel(self) -> None:
        """Close now; calls under way are cancelled."""
        if self._transport is not None:
            self._transport.abort()

    def refuse(self, stream: Stream, refused: replies.Refusal) -> None:
        """Answer a call with a refusal."""
        self._http2.respond(stream, _refusal_block(refused))
        self._flush_soon()

    def tell(self, stream: Stream, answer: bytes) -> None:
        """One more message of an answer that goes on."""
        self._http2.push(stream, answer)
        self._flush_soon()

    # -- calls -----------------------------------------------------------------------------------------
    def begin(self, stream: Stream) -> None:
        """The headers of a call are here."""
        exports = self._exports
        headers = stream.headers
        method = exports.methods.get(headers[":path"])
        if not headers.get("content-type", b"").startswith(b"application/grpc"):
            self._http2.respond(stream, _NOT_GRPC, misdirected.HTTP1.hint.encode())
            return
        if method is None:
            shown = ascii(headers[":path"][:200].decode("latin-1"))
            reason = f"there is no method {shown}; this port takes {', '.join(SERVICES.values())}"
            self.refuse(stream, replies.Refusal("rejected", Code.UNIMPLEMENTED, 404, reason))
            return
        stream.context = method
        if isinstance(method, Signal):
            try:
                if exports.auth is not None:
                    exports.auth.check(headers)
                if exports.full:
                    exports.look_for_room()
            except (Unauthenticated, Busy) as error:
                self._failed(stream, error)

    def complete(self, stream: Stream) -> None:
        """The message of a call is here, and nothing follows it."""
        method = stream.context
        if method.__class__ is not Signal:
            self._answer_health(stream, method)
            return
        exports = self._exports
        future: asyncio.Future[Receipt]
        try:
            if stream.compressed:
                future = asyncio.ensure_future(exports.inflated(method, stream))
            else:
                future = exports.intake.submit(Batch(method, stream.message))
        except Exception as error:
            self._failed(stream, error)
            return
        stream.context = future
        exports.in_flight.__enter__()
        future.add_done_callback(functools.partial(self._settled, stream, method))

    def broken(self, stream: Stream, reason: str, too_large: bool) -> None:
        """What came is no message of ours."""
        self._failed(stream, TooLarge(f"{reason} (setting max_request_bytes)") if too_large else Rejected(reason))

    def reset(self, stream: Stream) -> None:
        """The client has given a call up, or is gone."""
        if isinstance(stream.context, asyncio.Future):
            stream.context.cancel()
        elif stream.context is _Health.WATCH:
            self._exports.unwatch(stream)
        elif stream.context is not None:
            self._exports.meter.add(REQUESTS, 1, *_DOOR, "cancelled")

    def _settled(self, stream: Stream, signal: Signal, future: asyncio.Future[Receipt]) -> None:
        exports = self._exports
        exports.in_flight.__exit__()
        if future.cancelled():
            exports.meter.add(REQUESTS, 1, *_DOOR, "cancelled")
            self._http2.abort(stream)
            self._flush_soon()
            return
        error = future.exception()
        if error is not None:
            self._failed(stream, error)
            return
        receipt = future.result()
        if receipt.rejected or receipt.message:
            exports.meter.add(REQUESTS, 1, *_DOOR, "partial" if receipt.rejected else "ok")
            self._http2.respond(stream, GRPC_HEADERS, _message(replies.partial_success(signal, receipt)), GRPC_OK)
        else:
            exports.meter.add(REQUESTS, 1, "otlp", "grpc", "ok")
            self._http2.ok(stream)
        self._flush_soon()

    def _failed(self, stream: Stream, error: BaseException) -> None:
        if not isinstance(error, Exception):
            raise error
        if isinstance(error, Busy):
            self._exports.full = True
        refused = replies.refusal(error)
        if isinstance(error, unpack.Unsupported):  # the gRPC protocol's word for an unknown compression
            refused = replies.Refusal("rejected", Code.UNIMPLEMENTED, 415, str(error))
        if refused.outcome == "failed":
            log.error("a request failed for a reason of our own", exc_info=error)
        self._exports.meter.add(REQUESTS, 1, *_DOOR, refused.outcome)
        self.refuse(stream, refused)

    def _answer_health(self, stream: Stream, method: _Health) -> None:
        try:
            status = self._exports.health_of(stream.message)
        except Rejected as error:
            self.refuse(stream, replies.refusal(error))
            return
        if method is _Health.WATCH:
            self._http2.begin(stream, GRPC_HEADERS)
            self._exports.watch(stream, self)
            self.tell(stream, _health_answer(_SERVICE_UNKNOWN if status is None else status))
        elif status is None:
            self.refuse(stream, replies.Refusal("rejected", Code.NOT_FOUND, 404, "no such service"))
        else:
            self._http2.respond(stream, GRPC_HEADERS, _health_answer(status), GRPC_OK)
            self._flush_soon()


_NOT_GRPC = header_block([(b":status", b"415"), (b"content-type", b"text/plain; charset=utf-8")])
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # as they are in grpc-message


def _message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


def _health_answer(status: int) -> bytes:
    from grpc_health.v1 import health_pb2

    return _message(health_pb2.HealthCheckResponse(status=status).SerializeToString())


@functools.lru_cache(maxsize=32)  # under overload the same refusal goes out thousands of times a second
def _refusal_block(refused: replies.Refusal) -> bytes:
    """The one header block of a refused call ("Trailers-Only")."""
    message, metadata = replies.trailers(refused)
    fields = [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", str(refused.rpc_code).encode()),
        (b"grpc-message", quote(message, safe=_PLAIN).encode()),
    ]
    if refused.grpc_code is Code.UNIMPLEMENTED:
        fields.append((b"grpc-accept-encoding", b"identity, gzip, deflate, zstd"))
    fields += [(name.encode(), base64.b64encode(value).rstrip(b"=")) for name, value in metadata]
    return header_block(fields)
