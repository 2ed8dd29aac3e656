"""A port served by our own HTTP/2 (``_http2``): its connections, strangers, silence and the end.

What the calls of a door mean is its own: ``otlp_grpc`` (one message in, one out) and ``flight`` (streams) build on
``Door`` and ``DoorConnection``. Answers of one turn of the loop leave in one write. Where messages are large
(``reads_in_place``), what is still to come of one is read from the socket into the memory that it will be kept in: by
``_http2`` itself, but for TLS and where a loop cannot say that a socket can be read.

Bounds, and who keeps them:

* Message size as sent: ``_http2``, from the length in front of the message.
* Headers, frames, windows, frames that do nothing: ``_http2``.
* Calls at a time: ``MAX_CONCURRENT_STREAMS`` a connection; what is over it is refused retryably.
* Memory of messages on their way: ``MAX_INCOMPLETE_BYTES`` for the door; past it the connection that sends is
  asked to come again. A message that does not go on for ``BODY_READ_TIMEOUT_S`` is given up.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from urllib.parse import quote

import structlog

from otlp_arrow.model import Busy, Rejected, TooLarge, limits
from otlp_arrow.model.meter import REQUESTS, Meter
from otlp_arrow.receivers import misdirected, replies, unpack
from otlp_arrow.receivers._http2 import (
    GRPC_HEADERS,
    GRPC_OK,
    PREFACE,
    READS_SOCKETS,
    Connection,
    Stream,
    free_unused_memory,
    header_block,
    huge_memory,
)
from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.in_flight import InFlight
from otlp_arrow.receivers.inflating import Reservation, inflate
from otlp_arrow.receivers.intake import Intake
from otlp_arrow.receivers.listen import Place, bind
from otlp_arrow.receivers.services import Code
from otlp_arrow.receivers.tls import ServerTls

log = structlog.get_logger(__name__)

_RECEIVE_BYTES = 256 * limits.KIB  # one read; all connections share the buffer, as each read is used up at once
_HEAD_BYTES = 16 * limits.KIB  # where large messages follow one another: what is read beside their memory is copied
_TURN_BYTES = limits.MIB  # what one connection reads before others are asked
_TICK_S = limits.GRPC_KEEPALIVE_S / 4
_QUIET_TICKS = 4
_DEAD_TICKS = 6
_STALLED_TICKS = 1 + round(limits.BODY_READ_TIMEOUT_S / _TICK_S)
_WORKERS = 2


class Door:
    """What the connections of a port share. ``labels`` are the receiver and transport of its metrics."""

    labels = ("", "")
    stranger = misdirected.HTTP1
    frame_bytes = limits.HTTP2_FRAME_BYTES
    stream_window_bytes = limits.HTTP2_STREAM_WINDOW_BYTES
    connection_window_bytes = limits.HTTP2_CONNECTION_WINDOW_BYTES
    reads_in_place = False
    """Whether what is still to come of a message is read into its own memory: of use for messages of many reads."""

    def __init__(
        self, intake: Intake[Any], *, max_message_bytes: int, auth: Authenticator | None, meter: Meter, name: str
    ) -> None:
        self.intake = intake
        self.max_message_bytes = max_message_bytes
        self.auth = auth
        self.meter = meter
        self.in_flight = InFlight()
        self.buffer = bytearray(_RECEIVE_BYTES)
        self.view = memoryview(self.buffer)
        self.head_view = self.view[:_HEAD_BYTES]
        self.connections: set[DoorConnection] = set()
        self.incomplete_bytes = 0
        self.hints = misdirected.Hints()
        self.stopping = False
        self._workers = ThreadPoolExecutor(_WORKERS, name)  # threads start when the first large body comes
        self._all_gone = asyncio.Event()
        self._free_at_s = 0.0
        self._freeing: asyncio.TimerHandle | None = None
        self._listeners: list[asyncio.Server] = []

    def connection(self) -> DoorConnection:
        """The protocol of one more client."""
        raise NotImplementedError

    async def open(self, place: Place, tls: ServerTls | None) -> int:
        """Listen; the port. Raises ``OtlpServerError``."""
        loop = asyncio.get_running_loop()
        context = tls.ssl_context("h2") if tls else None
        sockets = bind(place)
        port = int(sockets[0].getsockname()[1])
        try:
            for listening in sockets:
                self._listeners.append(await loop.create_server(self.connection, sock=listening, ssl=context))
        except BaseException:
            for listening in sockets:
                listening.close()
            raise
        return port

    async def close(self, grace_s: float) -> None:
        """Take no further calls; let those under way finish within the grace, then cancel them."""
        for listener in self._listeners:
            listener.close()
        self.stopping = True
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
        if self._freeing is not None:
            self._freeing.cancel()
        await self.in_flight.none_left(limits.DOOR_GRACE_S)
        free_unused_memory(though_wanted=True)
        self._workers.shutdown(wait=False, cancel_futures=True)
        for listener in self._listeners:
            await listener.wait_closed()

    def gone(self, connection: DoorConnection) -> None:
        """A connection is no more."""
        self.connections.discard(connection)
        if not self.connections:
            self._all_gone.set()
            if not self.stopping and self._freeing is None and huge_memory()[0]:
                self._freeing = asyncio.get_running_loop().call_later(_TICK_S, self._free_later)

    def free_memory(self) -> None:
        """Every so often, while there are connections: what is kept for large messages goes back when none come."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._free_at_s:
            self._free_at_s = now_s + _TICK_S
            free_unused_memory()

    def _free_later(self) -> None:
        """The same when nobody is there any more: who comes soon again finds it."""
        self._freeing = None
        if not self.connections:
            free_unused_memory()
            if huge_memory()[0]:
                self._freeing = asyncio.get_running_loop().call_later(_TICK_S, self._free_later)

    async def inflated(self, stream: Stream, message: bytes, reservation: Reservation) -> bytes:
        """A message of a call that compressed it, as it was before. Raises as ``inflate`` does, and ``Rejected``."""
        applied = unpack.codings(stream.headers.get("grpc-encoding", b"identity").decode("latin-1"))
        if not applied:
            raise Rejected("the message is marked as compressed, and grpc-encoding names no compression")
        return await inflate(message, applied, self.max_message_bytes, reservation, self._workers)


class DoorConnection(asyncio.BufferedProtocol):
    """One client. ``http2`` calls ``begin``, ``complete``, ``broken`` and ``reset`` while it takes bytes in."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._http2 = Connection(
            self,
            max_message_bytes=door.max_message_bytes,
            max_streams=limits.MAX_CONCURRENT_STREAMS,
            max_header_bytes=limits.MAX_HEADER_BYTES,
            max_nuisance=limits.MAX_NUISANCE_FRAMES,
            stream_window_bytes=door.stream_window_bytes,
            connection_window_bytes=door.connection_window_bytes,
            max_frame_bytes=door.frame_bytes,
        )
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None  # a second descriptor, which we read from ourselves
        self._timer: asyncio.TimerHandle | None = None
        self._greeted = False
        self._offered = False
        self._flushing = False
        self._paused = False  # the transport holds more than it should: the client does not read
        self._quiet_ticks = 0
        self._incomplete_bytes = 0
        self._stalled: dict[int, tuple[int, int]] = {}  # of calls without their message: its bytes, ticks since

    # -- what a door adds ------------------------------------------------------------------------------
    def begin(self, stream: Stream) -> None:
        """The headers of a call are here."""
        raise NotImplementedError

    def complete(self, stream: Stream) -> None:
        """The message of a call is here, and nothing follows it."""
        raise NotImplementedError

    def reset(self, stream: Stream) -> None:
        """The client has given a call up, or is gone."""
        raise NotImplementedError

    def failed(self, stream: Stream, error: BaseException) -> None:
        """A call cannot go on."""
        self.refuse_for(stream, error)

    def waits_for_message(self, stream: Stream) -> bool:
        """Whether a call is given up if no more of a message comes."""
        return bool(stream.received_bytes)

    def broken(self, stream: Stream, reason: str, too_large: bool) -> None:
        """What came is no message of ours."""
        self.failed(stream, TooLarge(f"{reason} (setting max_request_bytes)") if too_large else Rejected(reason))

    # -- the transport's side --------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._door.connections.add(self)
        self._timer = self._loop.call_later(_TICK_S, self._tick)
        if self._door.stopping:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        door = self._door
        offered = self._http2.offer() if door.reads_in_place else None
        if offered is None:
            self._offered = False
            return door.head_view if door.reads_in_place and self._http2.large_messages else door.view
        self._offered = True
        return offered

    def buffer_updated(self, nbytes: int) -> None:
        http2 = self._http2
        self._quiet_ticks = 0
        if self._offered:
            http2.accept_offered(nbytes)
        else:
            if not self._greeted and not self._greet(bytes(self._door.view[: min(nbytes, len(PREFACE))])):
                return
            http2.receive(self._door.buffer, nbytes)
            if self._socket is None and self._door.reads_in_place and READS_SOCKETS:
                self._read_ourselves()
        self._heard()

    def _read_ourselves(self) -> None:
        """From now on, unless the transport has to decrypt. A batch of half a megabyte takes 1.6 reads; by way of the
        loop it takes six, each with two calls and Python's lock twice."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_extra_info("ssl_object") is not None:
            return
        try:
            own = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        except OSError:  # there are no more descriptors to be had
            return
        transport.pause_reading()
        try:
            self._loop.add_reader(own, self._readable)
        except NotImplementedError:  # Windows
            own.close()
            transport.resume_reading()
        else:
            self._socket = own

    def _readable(self) -> None:
        assert self._socket is not None
        self._quiet_ticks = 0
        try:
            goes_on = self._http2.read(self._socket.fileno(), self._door.buffer, _TURN_BYTES)
        except OSError:  # the connection broke
            self.cancel()
            return
        self._heard()
        if not goes_on:
            self._end()

    def _heard(self) -> None:
        """The HTTP/2 has taken in what came."""
        http2 = self._http2
        if http2.incomplete_bytes != self._incomplete_bytes:
            self._reckon()
        self._flush()

    def _reckon(self) -> None:
        """Add what this connection holds to what the door holds; too much of it is not waited for."""
        door = self._door
        door.incomplete_bytes += self._http2.incomplete_bytes - self._incomplete_bytes
        self._incomplete_bytes = self._http2.incomplete_bytes
        if door.incomplete_bytes > limits.MAX_INCOMPLETE_BYTES:
            for stream in self._http2.calls():
                if stream.received_bytes:
                    self.failed(stream, Busy("too many large requests are on their way at once"))
            door.incomplete_bytes += self._http2.incomplete_bytes - self._incomplete_bytes
            self._incomplete_bytes = self._http2.incomplete_bytes

    def pause_writing(self) -> None:
        self._paused = True
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
        elif self._transport is not None:
            self._transport.pause_reading()  # who does not read answers gets no further ones

    def resume_writing(self) -> None:
        self._paused = False
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._readable)
        elif self._transport is not None:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._stop_reading()
        self._transport = None
        self._door.incomplete_bytes -= self._incomplete_bytes
        self._incomplete_bytes = 0
        for stream in self._http2.calls():
            self.reset(stream)
        self._door.gone(self)

    def _greet(self, first_bytes: bytes) -> bool:
        """Whether the client speaks HTTP/2, by its first bytes; others are told what to do."""
        self._greeted = True
        if PREFACE.startswith(first_bytes):
            return True
        mistake = misdirected.TLS if first_bytes[:1] == b"\x16" else self._door.stranger
        assert self._transport is not None
        peer = self._transport.get_extra_info("peername")
        name = f"{mistake.name} at {'_'.join(self._door.labels)}"
        self._door.hints.give(name, mistake.hint, peer=peer[0] if peer else None)
        self._transport.write(mistake.answer)
        self._transport.close()
        return False

    def _tick(self) -> None:
        """Every so often: who is silent is asked, who stays silent is let go; messages that stall are given up."""
        assert self._transport is not None
        self._timer = self._loop.call_later(_TICK_S, self._tick)
        self._quiet_ticks += 1
        if not self._greeted or self._quiet_ticks >= _DEAD_TICKS:
            self.cancel()
            return
        self._http2.nuisance = 0
        self._door.free_memory()
        if self._quiet_ticks == _QUIET_TICKS:
            self._http2.ping()
        stalled: dict[int, tuple[int, int]] = {}
        for stream in self._http2.calls():
            if self.waits_for_message(stream):
                nbytes, ticks = self._stalled.get(stream.stream_id, (-1, 0))
                ticks = ticks + 1 if nbytes == stream.received_bytes else 0
                if ticks >= _STALLED_TICKS:
                    reason = f"the message did not go on for {limits.BODY_READ_TIMEOUT_S} seconds"
                    refused = replies.Refusal("rejected", Code.DEADLINE_EXCEEDED, 408, reason)
                    self.failed(stream, replies.Answered(refused))
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
        if http2.large:
            transport.writelines(http2.take_pieces())
        elif data := http2.take():
            transport.write(data)
        if http2.closed:
            log.info("a gRPC client broke the protocol", reason=http2.error, peer=transport.get_extra_info("peername"))
            self._end()
        elif http2.refusing and not http2.open_streams:
            self._end()

    def stop(self) -> None:
        """Take no further calls, and close when those under way are answered."""
        self._http2.stop()
        self._flush_soon()

    def cancel(self) -> None:
        """Close now; calls under way are cancelled."""
        self._stop_reading()
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        """Read no more, and close when everything is written."""
        self._stop_reading()
        if self._transport is not None:
            self._transport.close()

    def _stop_reading(self) -> None:
        if self._socket is not None:  # as long as it is open the peer is not told of an end
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def refuse(self, stream: Stream, refused: replies.Refusal) -> None:
        """Answer a call with a refusal; an answer that has begun ends with it."""
        if stream.begun:
            self._http2.cut(stream, _refusal_block(refused, stream.begun))
        else:
            self._http2.respond(stream, _refusal_block(refused))
        self._flush_soon()

    def refuse_for(self, stream: Stream, error: BaseException) -> None:
        """The same for an error, which is counted, and logged if it is ours."""
        if not isinstance(error, Exception):
            raise error
        refused = replies.refusal(error)
        if isinstance(error, unpack.Unsupported):  # the gRPC protocol's word for an unknown compression
            refused = replies.Refusal("rejected", Code.UNIMPLEMENTED, 415, str(error))
        if refused.outcome == "failed":
            log.error("a request failed for a reason of our own", exc_info=error)
        self._door.meter.add(REQUESTS, 1, *self._door.labels, refused.outcome)
        self.refuse(stream, refused)

    def refuse_stranger(self, stream: Stream) -> None:
        """Answer a call that is HTTP/2 and not gRPC."""
        self._http2.respond(stream, _NOT_GRPC, self._door.stranger.hint.encode())

    def refuse_unknown(self, stream: Stream, known: str) -> None:
        """Answer a call of a method that is not here."""
        shown = ascii(stream.headers[":path"][:200].decode("latin-1"))
        reason = f"there is no method {shown}; this port takes {known}"
        self.refuse(stream, replies.Refusal("rejected", Code.UNIMPLEMENTED, 404, reason))


def is_grpc(stream: Stream) -> bool:
    """Whether a call says that it is one of gRPC."""
    return stream.headers.get("content-type", b"").startswith(b"application/grpc")


def message(body: bytes) -> bytes:
    """A message with its prefix."""
    return b"\0" + len(body).to_bytes(4, "big") + body


_NOT_GRPC = header_block([(b":status", b"415"), (b"content-type", b"text/plain; charset=utf-8")])
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # as they are in grpc-message


@functools.lru_cache(maxsize=32)  # under overload the same refusal goes out thousands of times a second
def _refusal_block(refused: replies.Refusal, trailers: bool = False) -> bytes:
    """The one header block of a refused call ("Trailers-Only"), or the last one of an answer that had begun."""
    text, metadata = replies.trailers(refused)
    fields = [] if trailers else [(b":status", b"200"), (b"content-type", b"application/grpc")]
    fields += [
        (b"grpc-status", str(refused.rpc_code).encode()),
        (b"grpc-message", quote(text, safe=_PLAIN).encode()),
    ]
    if refused.grpc_code is Code.UNIMPLEMENTED:
        fields.append((b"grpc-accept-encoding", b"identity, gzip, deflate, zstd"))
    fields += [(name.encode(), base64.b64encode(value).rstrip(b"=")) for name, value in metadata]
    return header_block(fields)


__all__ = ["GRPC_HEADERS", "GRPC_OK", "Door", "DoorConnection", "is_grpc", "message"]
