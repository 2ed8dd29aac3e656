"""The compiled Flight door on real sockets: what a hostile or odd client does on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import gzip
import re
import secrets
import socket
import struct
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from arrow_forms import batch_of, with_column
from doors import CountingMeter, until
from http2_frames import (
    CALL,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    GREETING,
    HEADERS,
    PADDED,
    PING,
    RST,
    SETTINGS,
    WINDOW,
    block,
    frame,
    message,
)
from otlp_arrow.codec.arrow_messages import to_stream
from otlp_arrow.model import Receipt, Signal, limits
from otlp_arrow.pipeline import Pipeline, PipelineSettings
from otlp_arrow.receivers import Authenticator
from otlp_arrow.receivers import flight_wire as wire
from otlp_arrow.receivers.flight_service import SERVICE
from otlp_arrow.storage.ipc import Message, walk
from otlp_arrow.storage.store import StorageSettings

flight = pytest.importorskip("otlp_arrow.receivers.flight", reason="the compiled door was not built")
http2_door = pytest.importorskip("otlp_arrow.receivers.http2_door")
http2 = pytest.importorskip("otlp_arrow.receivers._http2")

ROWS = 40
BATCH = pa.ipc.open_stream(to_stream(batch_of(Signal.TRACES).slice(0, ROWS))).read_next_batch()


def put_messages(batch: pa.RecordBatch = BATCH) -> tuple[bytes, list[bytes], bytes]:
    """The messages of a put as gRPC sends them: the first, its dictionaries, its batch."""
    view = memoryview(to_stream(batch))
    first, *others = (
        wire.data(view[m.start + 8 : m.body], view[m.body : m.end]) for m in walk(view) if isinstance(m, Message)
    )
    path = wire.path_descriptor("traces")
    descriptor = b"\x0a" + bytes([len(path)]) + path
    *dictionaries, rows = others
    return message(descriptor + first), [message(d) for d in dictionaries], message(rows)


FIRST, DICTIONARIES, ROWS_MESSAGE = put_messages()
OPENING = FIRST + b"".join(DICTIONARIES)


def headers(method: str, **more: str) -> bytes:
    fields = [(name, f"/{SERVICE}/{method}" if name == ":path" else value) for name, value in CALL]
    return block([*fields, *((name.replace("_", "-"), value) for name, value in more.items())])


class Client:
    """A connection that says what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    def put(self, data: bytes, *, stream: int = 1, end: bool = False, frame_bytes: int = 60_000) -> None:
        """DATA of a call, in frames."""
        for at in range(0, len(data), frame_bytes):
            last = end and at + frame_bytes >= len(data)
            self.say(frame(DATA, END_STREAM if last else 0, stream, data[at : at + frame_bytes]))

    async def frame(self, *kinds: int, stream: int | None = None) -> tuple[int, int, int, bytes]:
        """The next frame of these kinds; of any without."""
        async with asyncio.timeout(10):
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                number = int.from_bytes(head[5:], "big")
                if (not kinds or head[3] in kinds) and stream in (None, number):
                    return head[3], head[4], number, payload

    async def results(self, count: int, stream: int = 1) -> list[bytes]:
        """The PutResults that come next."""
        found: list[bytes] = []
        while len(found) < count:
            found += re.findall(rb"\{.*?\}", (await self.frame(DATA, stream=stream))[3])
        return found

    async def trailers(self, stream: int = 1) -> bytes:
        """The header block that ends a call."""
        while True:
            _, flags, _, payload = await self.frame(HEADERS, stream=stream)
            if flags & END_STREAM:
                return payload

    async def end(self) -> bytes:
        """What comes until the server closes."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""


class Door:
    """An open door and what is behind it."""

    def __init__(self, server: Any, pipeline: Pipeline, meter: CountingMeter) -> None:
        self.server = server
        self.pipeline = pipeline
        self.meter = meter

    @property
    def in_flight(self) -> int:
        return int(self.server._service.in_flight.count)

    @asynccontextmanager
    async def client(self, greeting: bytes = GREETING, **options: Any) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.bound_port, **options)
        writer.write(greeting)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def rows(self) -> int:
        await self.pipeline.flush()
        return sum(segment.rows for segment in self.pipeline.store.catalog.snapshot(Signal.TRACES))


@asynccontextmanager
async def open_door(directory: Path, **options: Any) -> AsyncIterator[Door]:
    meter = CountingMeter()
    async with Pipeline(PipelineSettings(StorageSettings(directory), write_interval_secs=3600), meter=meter) as opened:
        arguments = {"host": "127.0.0.1", "port": 0, "meter": meter} | options
        async with flight.FlightServer(opened.intake, opened, **arguments) as server:
            door = Door(server, opened, meter)
            yield door
        assert door.in_flight == 0
        await until(lambda: opened.intake._reserved_bytes == 0)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(tmp_path) as opened:
        yield opened


@pytest.fixture
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_door, "_TICK_S", 0.05)


class Gate:
    """Holds what is submitted to the intake until it is opened."""

    def __init__(self, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: list[asyncio.Future[Receipt]] = []

        def submit(_intake: Any, _batch: Any, ticket: Any = None) -> asyncio.Future[Receipt]:
            future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda _: ticket.release())
            self.waiting.append(future)
            return future

        monkeypatch.setattr(type(door.pipeline.intake), "submit", submit)

    def settle(self) -> None:
        for number, future in enumerate(self.waiting, 1):
            if not future.done():
                future.set_result(Receipt(ROWS, 0, "", number))


# -- puts ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("frame_bytes", [7, 1000, 250_000])
async def test_a_put_is_taken_however_it_is_cut(door: Door, frame_bytes: int):
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.put(OPENING + ROWS_MESSAGE * 3, end=True, frame_bytes=frame_bytes)
        assert len(await client.results(3)) == 3
        assert b"grpc-status" in await client.trailers()
    assert await door.rows() == 3 * ROWS


def sockets_of(door: Door) -> list[socket.socket]:
    """What the connections of a door are read from, beside their transports."""
    return [each._socket for each in door.server._door.connections if each._socket is not None]


async def put_and_count(door: Door) -> list[socket.socket]:
    """A put of two batches; what its connection was read from."""
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.put(OPENING + ROWS_MESSAGE)
        await client.results(1)
        found = sockets_of(door)
        client.put(ROWS_MESSAGE, end=True)
        await client.results(1)
        assert b"grpc-status" in await client.trailers()
    await until(lambda: not door.server._door.connections)
    return found


async def test_a_connection_is_read_by_the_door_itself_and_nothing_of_it_stays_open(door: Door):
    (own,) = await put_and_count(door)
    assert own.fileno() == -1
    assert await door.rows() == 2 * ROWS


async def test_a_connection_is_read_by_its_transport_where_there_is_no_second_descriptor(
    door: Door, monkeypatch: pytest.MonkeyPatch
):
    def refuse(_descriptor: int) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(http2_door.os, "dup", refuse)
    assert await put_and_count(door) == []
    assert await door.rows() == 2 * ROWS


async def test_a_connection_is_read_by_its_transport_where_the_loop_cannot_tell_of_sockets(
    door: Door, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", refuse)
    assert await put_and_count(door) == []
    assert await door.rows() == 2 * ROWS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="messages lie in huge pages on Linux only")
async def test_memory_of_large_messages_goes_back_when_nobody_sends_any(door: Door, monkeypatch: pytest.MonkeyPatch):
    wide = with_column(BATCH, "status_message", pa.array([secrets.token_hex(20_000) for _ in range(ROWS)]))
    first, dictionaries, rows = put_messages(wide)
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.put(first + b"".join(dictionaries) + rows)  # from which the door knows how they lie best
        await client.results(1)
        client.put(rows * 2, end=True)
        await client.results(2)
        assert http2.huge_memory()[0] > 0
        await client.trailers()
        monkeypatch.setattr(http2_door, "_TICK_S", 0.05)
    await door.rows()

    def gone() -> bool:
        gc.collect()  # doors of other tests
        return bool(http2.huge_memory() == (0, 0))

    await until(gone)


async def test_padding_is_no_part_of_a_message(door: Door):
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.put(OPENING)
        for at in range(0, len(ROWS_MESSAGE), 1000):
            piece = ROWS_MESSAGE[at : at + 1000]
            client.say(frame(DATA, PADDED, 1, b"\xff" + piece + bytes(255)))
        await client.results(1)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compressed_messages_are_taken_in_their_order(door: Door, coding: str):
    def compressed(plain: bytes) -> bytes:
        squeezed = gzip.compress(plain[5:]) if coding == "gzip" else zlib.compress(plain[5:])
        return b"\1" + len(squeezed).to_bytes(4, "big") + squeezed

    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut", grpc_encoding=coding)))
        first, *others = (FIRST, *DICTIONARIES)
        client.put(compressed(first) + b"".join(others) + compressed(ROWS_MESSAGE) + ROWS_MESSAGE, end=True)
        assert len(await client.results(2)) == 2
        await client.trailers()
        client.say(frame(HEADERS, END_HEADERS, 3, headers("DoPut", grpc_encoding="snappy")))
        client.put(compressed(FIRST), stream=3)
        assert b"snappy" in await client.trailers(3)
        ticket = b"\x0a\x14" + b'{"signal": "traces"}'
        client.say(frame(HEADERS, END_HEADERS, 5, headers("DoGet", grpc_encoding=coding)))
        client.put(compressed(message(ticket)), stream=5, end=True)
        await client.frame(DATA, stream=5)


async def test_a_message_that_is_cut_ends_its_call_after_what_came_before(door: Door):
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.put(OPENING + ROWS_MESSAGE + ROWS_MESSAGE[:-1], end=True)
        assert len(await client.results(1)) == 1
        assert b"within its message" in await client.trailers()
        assert door.meter.outcomes == {"ok": 1, "rejected": 1}
    assert await door.rows() == ROWS


async def test_a_message_over_the_limit_is_refused_by_its_length(tmp_path: Path):
    async with open_door(tmp_path, max_request_bytes=100_000) as door, door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")), frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"))
        assert b"over the limit" in await client.trailers()
        assert door.server._door.incomplete_bytes == 0


async def test_a_large_message_is_refused_before_it_is_read_while_the_buffer_is_full(door: Door):
    ticket = door.pipeline.intake.admit(door.pipeline.settings.max_buffer_bytes)
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.say(frame(DATA, 0, 1, b"\0" + (1 << 20).to_bytes(4, "big")))
        assert b"buffer" in await client.trailers()
    ticket.release()


async def test_a_put_without_a_descriptor_is_refused(door: Door):
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.put(ROWS_MESSAGE)
        assert b"begins with a descriptor" in await client.trailers()
        client.say(frame(HEADERS, END_HEADERS | END_STREAM, 3, headers("DoPut")))
        assert b"without a message" in await client.trailers(3)


async def test_many_tiny_messages_cost_no_more_than_their_window(door: Door, monkeypatch: pytest.MonkeyPatch):
    gate = Gate(door, monkeypatch)
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.put(OPENING + ROWS_MESSAGE * limits.FLIGHT_PUTS_IN_FLIGHT)
        await until(lambda: len(gate.waiting) == limits.FLIGHT_PUTS_IN_FLIGHT)
        client.put((message(b"\x12\x00") + message(b"")) * 20_000)
        await client.writer.drain()
        client.put(message(b"\xff"))
        gate.settle()
        assert b"damaged" in await client.trailers()


async def test_further_batches_wait_in_the_client(door: Door, monkeypatch: pytest.MonkeyPatch):
    gate = Gate(door, monkeypatch)
    wide = with_column(BATCH, "status_message", pa.array([secrets.token_hex(10_000) for _ in range(ROWS)]))
    first, dictionaries, rows = put_messages(wide)
    async with door.client() as client:
        given: dict[int, int] = {}

        async def listen() -> None:
            while True:
                _, _, stream, payload = await client.frame(WINDOW)
                given[stream] = given.get(stream, 0) + int.from_bytes(payload, "big")

        listening = asyncio.create_task(listen())
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        sent = len(first) + sum(map(len, dictionaries))
        client.put(first + b"".join(dictionaries))
        full = limits.FLIGHT_PUTS_IN_FLIGHT

        def room() -> bool:
            return sent + 2 * len(rows) <= limits.FLIGHT_STREAM_WINDOW_BYTES + given.get(1, 0)

        while True:
            await until(lambda: room() or len(gate.waiting) == full)
            if not room():
                break
            client.put(rows)
            sent += len(rows)
            await client.writer.drain()
        assert len(gate.waiting) == full
        taken = limits.FLIGHT_PUTS_IN_FLIGHT * len(rows)
        assert sent <= taken + limits.FLIGHT_STREAM_WINDOW_BYTES * 1.5
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize("end", ["reset", "gone"])
async def test_a_client_that_goes_with_batches_under_way_leaves_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch, end: str
):
    gate = Gate(door, monkeypatch)
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.put(OPENING + ROWS_MESSAGE * (limits.FLIGHT_PUTS_IN_FLIGHT + 3) + ROWS_MESSAGE[:100])
        await until(lambda: len(gate.waiting) == limits.FLIGHT_PUTS_IN_FLIGHT)
        if end == "reset":
            client.say(frame(RST, 0, 1, struct.pack(">I", 8)))
            await until(lambda: door.in_flight == 0)
    await until(lambda: door.in_flight == 0)
    assert all(future.cancelled() for future in gate.waiting)
    assert door.meter.outcomes == {"cancelled": 1}
    await until(lambda: door.pipeline.intake._reserved_bytes == 0)
    await until(lambda: door.server._door.incomplete_bytes == 0)


async def test_acknowledgements_that_are_not_taken_hold_further_batches_up(door: Door):
    closed = GREETING[:24] + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    async with door.client(closed) as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        many = limits.FLIGHT_PUTS_IN_FLIGHT * 3
        client.put(OPENING + ROWS_MESSAGE * many, end=True)
        await client.frame(HEADERS)
        await until(lambda: door.meter.outcomes["ok"] == 1)
        await until(lambda: door.pipeline.store.wal.confirmed_sequence >= limits.FLIGHT_PUTS_IN_FLIGHT)
        assert door.pipeline.store.wal.confirmed_sequence <= limits.FLIGHT_PUTS_IN_FLIGHT + 1
        client.say(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 60_000)))
        assert len(await client.results(many)) == many
        await client.trailers()
    assert await door.rows() == many * ROWS


async def test_what_follows_a_refusal_is_not_listened_to(door: Door):
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.put(message(b"\xff"))
        assert b"damaged" in await client.trailers()
        assert (await client.frame(RST))[2] == 1
        for _ in range(5):  # more than the connection's window in all, given back as it comes
            client.put(bytes(4 << 20), frame_bytes=1 << 18)
            await client.writer.drain()
        client.say(frame(HEADERS, END_HEADERS, 3, headers("DoPut")))
        client.put(OPENING + ROWS_MESSAGE, stream=3, end=True)
        await client.results(1, stream=3)
        assert door.server._door.incomplete_bytes == 0


@pytest.mark.usefixtures("quick_ticks")
async def test_a_message_that_does_not_go_on_is_given_up(door: Door):
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.put(OPENING + ROWS_MESSAGE + ROWS_MESSAGE[:5000])
        await client.results(1)
        assert b"did not go on" in await client.trailers()
        client.say(frame(HEADERS, END_HEADERS, 3, headers("DoGet")))
        assert b"did not go on" in await client.trailers(3)


# -- answers -------------------------------------------------------------------------------------------
async def stored(door: Door) -> None:
    """Some megabytes that do not compress."""
    wide = with_column(BATCH, "status_message", pa.array([secrets.token_hex(100_000) for _ in range(ROWS)]))
    first, dictionaries, rows = put_messages(wide)
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.put(first + b"".join(dictionaries) + rows, end=True)
        await client.trailers()
    await door.pipeline.flush()


def ask(client: Client, stream: int = 1) -> None:
    client.say(frame(HEADERS, END_HEADERS, stream, headers("DoGet")))
    client.put(message(b"\x0a\x14" + b'{"signal": "traces"}'), stream=stream, end=True)


async def test_a_reader_that_takes_nothing_loses_its_place_and_what_it_left(
    door: Door, monkeypatch: pytest.MonkeyPatch
):
    await stored(door)
    monkeypatch.setattr(limits, "FLIGHT_STALL_S", 0.1)
    async with door.client() as client:
        ask(client)
        await client.frame(DATA)
        (connection,) = door.server._door.connections
        (stream,) = connection._http2.calls()
        await until(lambda: stream.waiting_bytes > 0)
        assert b"took nothing" in await client.trailers()
        assert stream.waiting_bytes == 0
        assert door.server._service.reads._value == limits.MAX_FLIGHT_READS
        client.say(frame(PING, 0, 0, b"12345678"))
        assert (await client.frame(PING))[3] == b"12345678"


async def test_a_reader_that_does_not_read_its_connection_loses_it(door: Door, monkeypatch: pytest.MonkeyPatch):
    await stored(door)
    monkeypatch.setattr(limits, "FLIGHT_STALL_S", 0.2)
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    own.connect(("127.0.0.1", door.server.bound_port))
    wide_open = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 30)) + frame(WINDOW, 0, 0, struct.pack(">I", 1 << 30))
    reader, writer = await asyncio.open_connection(sock=own, limit=1024)
    client = Client(reader, writer)
    client.say(GREETING[:24] + wide_open)
    try:
        for stream in (1, 3, 5):
            ask(client, stream)
        await until(lambda: any(c._paused for c in door.server._door.connections))
        await until(lambda: not door.server._door.connections)
        # An answer whose rows a thread is reading ends when the thread comes back.
        await until(lambda: door.in_flight == 0)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("method", ["DoPut", "DoGet"])
async def test_credentials_are_asked_for_before_a_message_is_read(tmp_path: Path, method: str):
    async with open_door(tmp_path, auth=Authenticator(bearer_tokens=["hunter2"])) as door, door.client() as client:
        client.say(frame(HEADERS, END_HEADERS, 1, headers(method)))
        assert b"credentials" in await client.trailers()
        assert (await client.frame(RST))[2] == 1
        client.put(OPENING + ROWS_MESSAGE)
        client.say(frame(HEADERS, END_HEADERS, 3, headers(method, authorization="Bearer hunter2")))
        client.put(b"\0\xff\xff\xff\xff", stream=3)
        assert b"over the limit" in await client.trailers(3)
        assert door.meter.outcomes == {"unauthenticated": 1, "rejected": 1}


# -- strangers and the end -----------------------------------------------------------------------------
async def test_an_http_client_is_told_what_this_port_is(door: Door):
    async with door.client(b"GET / HTTP/1.1\r\n\r\n") as client:
        assert b"speaks Arrow Flight" in await client.end()
    async with door.client() as client:
        client.say(frame(HEADERS, END_HEADERS | END_STREAM, 1, headers("DoExchange")))
        assert b"there is no method" in await client.trailers()


async def test_a_put_that_would_go_on_for_ever_is_told_to_come_back_at_the_stop(tmp_path: Path):
    async with open_door(tmp_path, grace_s=20) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.server.bound_port)
        client = Client(reader, writer)
        client.say(GREETING, frame(HEADERS, END_HEADERS, 1, headers("DoPut")))
        client.put(OPENING + ROWS_MESSAGE)
        assert len(await client.results(1)) == 1

        async def go_on() -> bytes:
            await client.frame(GOAWAY)
            client.put(ROWS_MESSAGE * 2)
            said = await client.trailers()
            client.say(frame(PING, 1, 0, b"stopping"))
            await client.end()
            return said

        talking = asyncio.create_task(go_on())
    assert b"stopping" in await talking
    writer.close()
