"""HTTP/2 (RFC 9113) as a client of unary gRPC calls needs it: requests from the memory where they lie, small answers.

::

    Channel ─► Connection ─► frames
       │           ▲ ends: the next call makes another one
       └ a call that the peer has not looked at goes out once more

gRPC's own library copies a request twice and writes it in pieces of 16 KiB from threads of its own: 0.6 µs a span.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from otlp_arrow.model.limits import HTTP2_FRAME_BYTES, KIB, MAX_REPLY_BYTES
from otlp_arrow.sinks.hpack import Fields, HpackError, decode

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = (
    *(0, 1, 3, 4, 5, 6, 7, 8, 9),
)
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_CONCURRENT, _INITIAL_WINDOW, _MAX_FRAME, _MAX_HEADERS = 1, 2, 3, 4, 5, 6
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DEFAULT_WINDOW = 65_535
_MAX_WINDOW = 2**31 - 1
_LAST_CALL = 2**31 - 1
_OUR_FRAME_BYTES = 16 * KIB  # what we take; answers are small
_HEADERS_BYTES = 64 * KIB
_CANCEL, _PROTOCOL_ERROR, _REFUSED_STREAM = 8, 1, 7
_CODES = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED"),
    *("FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM"),
    *("INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)
_KNOWN_BLOCKS = 64
_LINGER_S = 1.0
"""What was written before a connection is closed has so long to go out."""


class BrokenCall(Exception):
    """A call without an answer. ``unseen``: the peer says that it did not look at it."""

    def __init__(self, reason: str, *, unseen: bool = False) -> None:
        super().__init__(reason)
        self.unseen = unseen


@dataclass(slots=True)
class Answer:
    """What came back: ``headers`` and ``trailers`` (empty if there were only headers), and the body."""

    headers: Fields = field(default_factory=list)
    trailers: Fields = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)


@dataclass(eq=False, slots=True)
class _Stream:
    number: int
    unsent: deque[memoryview]
    window: int
    done: asyncio.Future[Answer]
    answer: Answer = field(default_factory=Answer)
    headed: bool = False
    closed_here: bool = False


class Connection(asyncio.Protocol):
    """One connection. Anything that should not come ends it, with the calls that are under way."""

    def __init__(self) -> None:
        self.usable = True  # for further calls
        self.received = 0  # bytes so far: whether the peer lives
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.gone = asyncio.Event()
        self._buffer = b""
        self._streams: dict[int, _Stream] = {}
        self._sending: deque[_Stream] = deque()
        self._next = 1
        self._window = _DEFAULT_WINDOW
        self._stream_window = _DEFAULT_WINDOW
        self._frame_bytes = 16_384
        self._most = 2**31
        self._room = asyncio.Event()
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags and what came of a header block
        self._known: dict[bytes, Fields] = {}
        self._unacknowledged = 0
        self._out: list[bytes | memoryview] = []
        self._reading = False
        self._end = ""

    # -- calls -----------------------------------------------------------------------------------

    async def call(self, headers: bytes, message: Sequence[bytes | memoryview]) -> Answer:
        """Send a request and wait for the whole answer. Raises ``BrokenCall``. Cancelled, the call is reset."""
        while self.usable and len(self._streams) >= self._most:
            self._room.clear()
            await self._room.wait()
        if not self.usable:
            raise BrokenCall(self._end or "the connection was closed", unseen=True)
        number, self._next = self._next, self._next + 2
        if self._next > _LAST_CALL:
            self.usable = False
        unsent = deque(view for part in message if len(view := memoryview(part).cast("B")))
        stream = _Stream(number, unsent, self._stream_window, asyncio.get_running_loop().create_future())
        self._streams[number] = stream
        first = True
        for at in range(0, len(headers), self._frame_bytes):
            piece = headers[at : at + self._frame_bytes]
            last = at + self._frame_bytes >= len(headers)
            kind = _HEADERS if first else _CONTINUATION
            self._out += (_head(len(piece), kind, _END_HEADERS if last else 0, number), piece)
            first = False
        self._sending.append(stream)
        self._send()
        self._flush()
        try:
            return await stream.done
        finally:
            if self._streams.pop(number, None) is not None:
                self._reset(stream, _CANCEL)
            self._one_less()

    def close(self) -> None:
        """End it, with the calls that are under way."""
        self._break("the connection was closed")

    def retire(self) -> None:
        """No further calls; it is closed with the last one."""
        self.usable = False
        self._one_less()

    # -- asyncio calls these ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        settings = {
            _HEADER_TABLE_SIZE: 0,  # equal blocks are equal headers, then
            _ENABLE_PUSH: 0,
            _INITIAL_WINDOW: MAX_REPLY_BYTES + KIB,
            _MAX_HEADERS: _HEADERS_BYTES,
        }
        payload = b"".join(struct.pack(">HI", *pair) for pair in settings.items())
        self._transport.write(_PREFACE + _head(len(payload), _SETTINGS, 0, 0) + payload)

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(f"connection lost: {exc}" if exc else "connection lost: the peer closed it")
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        buffer = self._buffer + data if self._buffer else data
        if not self.ready.done() and buffer.startswith(b"HTTP/"):
            self._break("Trying to connect an http1.x server")  # as gRPC says it, see ``causes``
            return
        at, end = 0, len(buffer)
        self._reading = True
        try:
            while end - at >= 9 and self._end == "":
                length = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
                if length > _OUR_FRAME_BYTES:
                    raise _Violation(f"a frame of {length} bytes")
                if end - at < 9 + length:
                    break
                stream = int.from_bytes(buffer[at + 5 : at + 9], "big") & _MAX_WINDOW
                self._frame(buffer[at + 3], buffer[at + 4], stream, buffer[at + 9 : at + 9 + length])
                at += 9 + length
        except (_Violation, HpackError, struct.error, IndexError) as error:
            self._goaway(_PROTOCOL_ERROR)
            self._break(f"the peer does not speak HTTP/2: {error}")
            return
        finally:
            self._reading = False
        self._buffer = buffer[at:]
        self._send()
        self._flush()

    # -- one frame -------------------------------------------------------------------------------

    def _frame(self, kind: int, flags: int, number: int, body: bytes) -> None:
        if self._block is not None and kind != _CONTINUATION:
            raise _Violation("a header block that is interrupted")
        if not self.ready.done() and kind != _SETTINGS:
            raise _Violation("its first frame is no SETTINGS")
        if kind == _DATA:
            self._data(flags, number, body)
        elif kind == _HEADERS:
            body = _unpadded(flags, body)
            self._block = (number, flags, bytearray(body[5:] if flags & _PRIORITY else body))
            self._headers_end(flags)
        elif kind == _CONTINUATION:
            if self._block is None or self._block[0] != number:
                raise _Violation("a header block that was not begun")
            self._block[2].extend(body)
            if len(self._block[2]) > _HEADERS_BYTES:
                raise _Violation("too large headers")
            self._headers_end(flags)
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self._settings(body)
        elif kind == _WINDOW_UPDATE:
            (credit,) = struct.unpack(">I", body)
            if number == 0:
                self._window += credit & _MAX_WINDOW
            elif number in self._streams:
                self._streams[number].window += credit & _MAX_WINDOW
        elif kind == _PING:
            if not flags & _ACK:
                self._out.append(_head(len(body), _PING, _ACK, 0) + body)
        elif kind == _RST_STREAM:
            (code,) = struct.unpack(">I", body)
            self._fail(number, f"the call was reset: {_name(code)}", unseen=code == _REFUSED_STREAM)
        elif kind == _GOAWAY:
            last, code = struct.unpack(">II", body[:8])
            why = f"GOAWAY: {_name(code)}" + (f", {body[8:].decode(errors='replace')}" if len(body) > 8 else "")
            for stream in [s for s in self._streams if s > last & _MAX_WINDOW]:
                self._fail(stream, why, unseen=True)
            self.retire()
        elif kind == _PUSH_PROMISE:
            raise _Violation("a push that was not allowed")

    def _data(self, flags: int, number: int, body: bytes) -> None:
        self._unacknowledged += len(body)
        if self._unacknowledged >= _DEFAULT_WINDOW // 2:
            self._out.append(_head(4, _WINDOW_UPDATE, 0, 0) + self._unacknowledged.to_bytes(4, "big"))
            self._unacknowledged = 0
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.answer.body += _unpadded(flags, body)
        if len(stream.answer.body) > MAX_REPLY_BYTES + 5:
            self._fail(number, "an answer that is too large")
            self._reset(stream, _CANCEL)
        elif flags & _END_STREAM:
            self._done(stream)

    def _headers_end(self, flags: int) -> None:
        if not flags & _END_HEADERS:
            return
        assert self._block is not None
        number, first_flags, raw = self._block
        self._block = None
        block = bytes(raw)
        fields = self._known.get(block)
        if fields is None:
            fields = decode(block)
            if len(self._known) >= _KNOWN_BLOCKS:
                self._known.clear()
            self._known[block] = fields
        stream = self._streams.get(number)
        if stream is None:
            return
        ended = first_flags & _END_STREAM
        if stream.headed:
            stream.answer.trailers = fields
        elif ended or not dict(fields).get(":status", "").startswith("1"):
            stream.headed = True
            stream.answer.headers = fields
        if ended:
            self._done(stream)

    def _settings(self, body: bytes) -> None:
        for key, value in struct.iter_unpack(">HI", body):
            if key == _INITIAL_WINDOW:
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif key == _MAX_FRAME:
                self._frame_bytes = min(value, HTTP2_FRAME_BYTES)
            elif key == _MAX_CONCURRENT:
                self._most = max(1, value)
                self._room.set()
        self._out.append(_head(0, _SETTINGS, _ACK, 0))
        if not self.ready.done():
            self.ready.set_result(None)

    # -- ends ------------------------------------------------------------------------------------

    def _done(self, stream: _Stream) -> None:
        self._streams.pop(stream.number, None)
        if stream.unsent:  # it has heard enough
            self._reset(stream, 0)
        if not stream.done.done():
            stream.done.set_result(stream.answer)

    def _fail(self, number: int, why: str, *, unseen: bool = False) -> None:
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        stream.unsent.clear()
        if not stream.done.done():
            stream.done.set_exception(BrokenCall(why, unseen=unseen))

    def _one_less(self) -> None:
        """A call is over: another one may begin, and a connection that takes none is closed with its last."""
        self._room.set()
        if not self.usable and not self._streams:
            self.close()

    def _reset(self, stream: _Stream, code: int) -> None:
        stream.unsent.clear()
        self._out.append(_head(4, _RST_STREAM, 0, stream.number) + code.to_bytes(4, "big"))
        self._flush()

    def _goaway(self, code: int) -> None:
        self._out.append(_head(8, _GOAWAY, 0, 0) + bytes(4) + code.to_bytes(4, "big"))
        self._reading = False
        self._flush()

    def _break(self, why: str) -> None:
        self.usable = False
        self._end = self._end or why
        if not self.ready.done():
            self.ready.set_exception(BrokenCall(why, unseen=True))
        for number in list(self._streams):
            self._fail(number, why)
        self._room.set()
        self._transport.close()
        asyncio.get_running_loop().call_later(_LINGER_S, self._transport.abort)  # its peer may be gone

    # -- sending ---------------------------------------------------------------------------------

    def _send(self) -> None:
        """As much as the peer's windows allow, the oldest call first."""
        for _ in range(len(self._sending)):
            stream = self._sending.popleft()
            while stream.unsent and (room := min(stream.window, self._window, self._frame_bytes)) > 0:
                pieces, size = _take(stream.unsent, room)
                stream.window -= size
                self._window -= size
                self._out.append(_head(size, _DATA, 0 if stream.unsent else _END_STREAM, stream.number))
                self._out += pieces
            if stream.unsent:
                self._sending.append(stream)

    def _flush(self) -> None:
        if self._out and not self._reading:
            out, self._out = self._out, []
            if not self._transport.is_closing():
                self._transport.writelines(out)


class Channel:
    """Calls to one address, over one connection that is made when it is needed."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()

    async def call(self, headers: bytes, message: Sequence[bytes | memoryview]) -> Answer:
        """One unary call. Raises ``BrokenCall``, and ``OSError`` if there is no connection to be had.

        After a cancellation the peer may or may not have it. A connection on which nothing came while a call ran
        into its timeout is not used again: its peer may be gone without a word.
        """
        for last in (False, True):
            connection = await self._connect()
            received = connection.received
            try:
                return await connection.call(headers, message)
            except BrokenCall as error:
                if last or not error.unseen:
                    raise
            except asyncio.CancelledError:
                if connection.received == received:
                    connection.retire()
                raise
        raise AssertionError("unreachable")

    async def _connect(self) -> Connection:
        async with self._connecting:
            connection = self._connection
            if connection is None or not connection.usable:
                _, connection = await asyncio.get_running_loop().create_connection(Connection, self._host, self._port)
                try:
                    await asyncio.shield(connection.ready)
                except BaseException:
                    connection.close()
                    raise
                self._connection = connection
            return connection

    async def close(self) -> None:
        """End the connection, with the calls that are under way."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            await connection.gone.wait()  # at the latest after ``_LINGER_S``


class _Violation(Exception):
    """Of the protocol, by the peer."""


def _head(length: int, kind: int, flags: int, stream: int) -> bytes:
    return struct.pack(">HBBBI", length >> 8, length & 0xFF, kind, flags, stream)


def _name(code: int) -> str:
    return _CODES[code] if code < len(_CODES) else f"error {code}"


def _unpadded(flags: int, body: bytes) -> bytes:
    if not flags & _PADDED:
        return body
    if body[0] >= len(body):
        raise _Violation("more padding than frame")
    return body[1 : len(body) - body[0]]


def _take(unsent: deque[memoryview], most: int) -> tuple[list[memoryview], int]:
    """Up to ``most`` bytes from the front, and how many they are."""
    pieces, size = [], 0
    while unsent and size < most:
        view = unsent.popleft()
        if len(view) > most - size:
            unsent.appendleft(view[most - size :])
            view = view[: most - size]
        pieces.append(view)
        size += len(view)
    return pieces, size
