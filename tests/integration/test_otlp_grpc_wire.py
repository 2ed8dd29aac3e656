"""The compiled gRPC door on real sockets: strangers, silence, floods, uvloop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from certificates import Certificates
from doors import SERVERS, CountingMeter, MemoryIntake, open_door, span_request, until
from http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    GREETING,
    HEADERS,
    PING,
    RST,
    block,
    call,
    frame,
    message,
)
from otlp_arrow.model import Signal, limits
from otlp_arrow.receivers.services import SERVICES

pytest.importorskip("otlp_arrow.receivers._http2", reason="the compiled door was not built")
otlp_grpc = pytest.importorskip("otlp_arrow.receivers.otlp_grpc")

SPAN = span_request("one")


class Client:
    """A connection that says what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def frame(self, *kinds: int) -> tuple[int, int, int, bytes]:
        """The next frame of these kinds; of any without."""
        async with asyncio.timeout(10):
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                if not kinds or head[3] in kinds:
                    return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    async def end(self) -> bytes:
        """What comes until the server closes."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""


@asynccontextmanager
async def client_of(door: Any, greeting: bytes = GREETING) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.server.bound_port)
    writer.write(greeting)
    yield Client(reader, writer)
    writer.close()


@pytest.fixture
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_grpc, "_TICK_S", 0.05)


# -- strangers -----------------------------------------------------------------------------------------
async def test_an_http_client_is_told_which_port_it_wants() -> None:
    async with open_door("grpc") as door, client_of(door, b"POST /v1/traces HTTP/1.1\r\n\r\n") as client:
        answer = await client.end()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"4318" in answer
        assert (await door.sender.send(Signal.TRACES, SPAN)).ok


async def test_a_tls_client_is_told_that_the_port_is_plain() -> None:
    async with open_door("grpc") as door:
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", door.server.bound_port, ssl=ssl.create_default_context())
        async with client_of(door, b"\x16\x03\x01\x00\x05hello") as client:
            assert b"not encrypted" in await client.end()


async def test_http2_that_is_not_grpc_gets_415_and_a_hint() -> None:
    get = block([(":method", "GET"), (":scheme", "http"), (":path", "/")])
    async with open_door("grpc") as door, client_of(door) as client:
        client.say(frame(HEADERS, END_HEADERS | END_STREAM, 1, get))
        _, flags, _, raw = await client.frame(HEADERS)
        assert b"415" in raw
        assert not flags & END_STREAM
        assert b"OTLP/gRPC" in (await client.frame(DATA))[3]


# -- a peer that breaks the rules ----------------------------------------------------------------------
async def test_a_breach_of_the_protocol_is_answered_with_goaway_and_the_end() -> None:
    async with open_door("grpc") as door, client_of(door) as client:
        client.say(frame(DATA, 0, 1, b"x"))
        *_, payload = await client.frame(GOAWAY)
        assert payload[4:8] == struct.pack(">I", 1)
        assert await client.end() == b""
        assert (await door.sender.send(Signal.TRACES, SPAN)).ok


async def test_two_messages_in_a_call_are_refused() -> None:
    async with open_door("grpc") as door, client_of(door) as client:
        client.say(frame(HEADERS, END_HEADERS, 1, block()))
        client.say(frame(DATA, END_STREAM, 1, message(SPAN) * 2))
        assert b"more than one message" in (await client.frame(HEADERS))[3]
        assert door.meter.outcomes == {"rejected": 1}


async def test_an_unknown_compression_is_unimplemented_and_names_those_that_are_known() -> None:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", f"/{SERVICES[Signal.TRACES]}/Export")]
    fields += [("content-type", "application/grpc"), ("grpc-encoding", "snappy")]
    async with open_door("grpc") as door, client_of(door) as client:
        client.say(frame(HEADERS, END_HEADERS, 1, block(fields)))
        client.say(frame(DATA, END_STREAM, 1, b"\1" + message(b"abc")[1:]))
        *_, raw = await client.frame(HEADERS)
        assert b"12" in raw
        assert b"snappy" in raw
        assert b"identity, gzip, deflate, zstd" in raw
        client.say(frame(HEADERS, END_HEADERS, 3, block()))
        client.say(frame(DATA, END_STREAM, 3, b"\1" + message(b"abc")[1:]))
        assert b"names no compression" in (await client.frame(HEADERS))[3]


async def test_a_reset_cancels_what_is_under_way() -> None:
    async with open_door("grpc") as door, client_of(door) as client:
        door.intake.gate.clear()
        client.say(call(1, SPAN))
        await until(lambda: door.intake.waiting == 1)
        client.say(frame(RST, 0, 1, struct.pack(">I", 8)))
        await until(lambda: door.intake.waiting == 0)
        door.intake.gate.set()
        assert door.meter.outcomes == {"cancelled": 1}


# -- silence -------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("quick_ticks")
async def test_a_connection_that_says_nothing_is_closed() -> None:
    async with open_door("grpc") as door, client_of(door, b"") as client:
        assert await client.end() == b""


@pytest.mark.usefixtures("quick_ticks")
async def test_a_silent_peer_is_asked_and_let_go_unless_it_answers() -> None:
    async with open_door("grpc") as door, client_of(door) as client:
        for _ in range(3):
            *_, payload = await client.frame(PING)
            client.say(frame(PING, 1, 0, payload))
        await client.end()


@pytest.mark.usefixtures("quick_ticks")
async def test_a_message_that_does_not_go_on_is_given_up_and_one_that_creeps_is_not() -> None:
    async with open_door("grpc") as door, client_of(door) as client:
        client.say(frame(HEADERS, END_HEADERS, 1, block()) + frame(DATA, 0, 1, b"\0\0\0\0\x50abc"))
        client.say(frame(HEADERS, END_HEADERS, 3, block()) + frame(DATA, 0, 3, b"\0" + struct.pack(">I", len(SPAN))))
        refused = asyncio.create_task(client.frame(HEADERS))
        for at in range(len(SPAN)):
            await asyncio.sleep(0.01)
            client.say(frame(DATA, END_STREAM if at + 1 == len(SPAN) else 0, 3, SPAN[at : at + 1]))
        _, _, stream, raw = await refused
        assert stream == 1
        assert b"did not go on" in raw
        assert (await client.frame(HEADERS))[2] == 3
        assert len(door.intake.batches) == 1


async def test_too_many_unfinished_messages_are_asked_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_INCOMPLETE_BYTES", 100_000)
    async with open_door("grpc") as door, client_of(door) as first, client_of(door) as second:
        for client in (first, second):
            client.say(frame(HEADERS, END_HEADERS, 1, block()) + frame(DATA, 0, 1, b"\0\0\x0f\0\0" + bytes(60_000)))
        told = [asyncio.create_task(client.frame(HEADERS)) for client in (first, second)]
        done, waiting = await asyncio.wait(told, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(waiting)) == (1, 1)
        assert b"too many large requests" in done.pop().result()[3]
        waiting.pop().cancel()
        assert (await door.sender.send(Signal.TRACES, SPAN)).ok


async def test_a_client_that_reads_no_answers_is_not_read_from() -> None:
    unknown = block(
        [(":method", "POST"), (":scheme", "http"), (":path", "/" + "x" * 200), ("content-type", "application/grpc")]
    )
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with open_door("grpc") as door:
        own.connect(("127.0.0.1", door.server.bound_port))
        _, writer = await asyncio.open_connection(sock=own, limit=1024)
        writer.write(GREETING)
        (connection,) = [await first_of(door.server._exports.connections)]
        transport = connection._transport
        stream = 1
        async with asyncio.timeout(20):
            while transport.is_reading():
                for _ in range(200):
                    writer.write(frame(HEADERS, END_HEADERS | END_STREAM, stream, unknown))
                    stream += 2
                await asyncio.sleep(0)
        assert transport.get_write_buffer_size() < limits.MIB
        writer.transport.abort()


async def first_of(some: set[Any]) -> Any:
    await until(lambda: bool(some))
    return next(iter(some))


# -- uvloop, which production runs on ------------------------------------------------------------------
@contextmanager
def on_uvloop(**options: Any) -> Iterator[tuple[int, MemoryIntake, Callable[[], None]]]:
    """A door on a uvloop of its own thread: its port, what it keeps, and how to close it."""
    uvloop = pytest.importorskip("uvloop")
    opened: concurrent.futures.Future[tuple[int, MemoryIntake]] = concurrent.futures.Future()
    closing = threading.Event()

    async def serve() -> None:
        intake = MemoryIntake()
        arguments = {"host": "127.0.0.1", "port": 0, "meter": CountingMeter()} | options
        async with SERVERS["grpc"](intake, **arguments) as server:
            opened.set_result((server.bound_port, intake))
            await asyncio.to_thread(closing.wait)

    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    try:
        yield *opened.result(10), closing.set
    finally:
        closing.set()
        thread.join(10)
        assert not thread.is_alive()


def export(channel: grpc.Channel, **options: Any) -> bytes:
    method = channel.unary_unary(f"/{SERVICES[Signal.TRACES]}/Export")
    answer: bytes = method(options.pop("body", SPAN), timeout=10, **options)
    return answer


def test_on_uvloop_calls_are_answered_and_the_stop_is_clean() -> None:
    with on_uvloop() as (port, intake, _):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            large = span_request(*("x" * 1000 for _ in range(3000)))
            assert export(channel, body=large) == b""
            assert export(channel, compression=grpc.Compression.Gzip) == b""
            assert export(channel, compression=grpc.Compression.Deflate) == b""
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                assert set(pool.map(lambda _: export(channel), range(200))) == {b""}
        assert len(intake.batches) == 203


@pytest.mark.parametrize("mutual", [False, True])
def test_on_uvloop_tls_works_and_hides_nothing(tmp_path: Path, mutual: bool) -> None:
    certificates = Certificates(tmp_path)
    with on_uvloop(tls=certificates.server(mutual=mutual)) as (port, intake, _):
        with grpc.secure_channel(f"localhost:{port}", certificates.grpc_client(mutual=mutual)) as channel:
            for _ in range(3):
                assert export(channel, body=span_request(*("x" * 1000 for _ in range(300)))) == b""
        assert len(intake.batches) == 3
        if mutual:
            stranger = grpc.secure_channel(f"localhost:{port}", certificates.grpc_client())
            with stranger, pytest.raises(grpc.RpcError):
                export(stranger)
