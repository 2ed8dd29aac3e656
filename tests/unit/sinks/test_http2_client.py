"""The HTTP/2 client of forwarding, against a peer that does on the wire what the test says."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import hpack as library
import pytest

from http2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PUSH,
    RST,
    SETTINGS,
    WINDOW,
    frame,
    message,
)
from otlp_arrow.model import Batch, Signal
from otlp_arrow.model.limits import MAX_REPLY_BYTES
from otlp_arrow.sinks import http2
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.http2 import Answer, BrokenCall, Channel
from otlp_arrow.sinks.otlp_grpc_plain import PlainGrpcSink
from otlp_arrow.sinks.sink import DeliveryResult, Fault, Permanent, Transient
from remotes import free_port

OK = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0")]
REQUEST = b"\x83"


def block(fields: list[tuple[str, str]]) -> bytes:
    encoder = library.Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(fields))


def trailers_only(stream: int, fields: list[tuple[str, str]] | None = None) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, block(fields or OK))


class Peer:
    """One connection, from the other side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def greet(self, settings: dict[int, int] | None = None) -> None:
        assert await self._reader.readexactly(len(PREFACE)) == PREFACE
        kind, _, _, payload = await self.frame()
        assert kind == SETTINGS
        self.settings = dict(struct.iter_unpack(">HI", payload))
        self.send(frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in (settings or {}).items())))
        kind, flags, _, _ = await self.frame()
        assert (kind, flags) == (SETTINGS, 1)

    async def frame(self) -> tuple[int, int, int, bytes]:
        head = await self._reader.readexactly(9)
        payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    async def of_kind(self, *kinds: int) -> tuple[int, int, int, bytes]:
        while True:
            found = await self.frame()
            if found[0] in kinds:
                return found

    async def request(self) -> tuple[int, bytes]:
        """The next whole request: its stream and its body."""
        body = bytearray()
        while True:
            _, flags, stream, payload = await self.of_kind(DATA)
            body += payload
            if flags & END_STREAM:
                return stream, bytes(body)

    def send(self, *frames: bytes) -> None:
        self._writer.write(b"".join(frames))

    def hang_up(self) -> None:
        self._writer.close()

    async def ended(self) -> None:
        """Until the client has closed the connection."""
        while await self._reader.read(65536):
            pass


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def peers(*scripts: Script) -> AsyncIterator[int]:
    """A port whose first connection follows the first script, and so on; each has to be followed to its end."""
    left = list(scripts)
    followed: list[asyncio.Task[None]] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert left, "one connection too many"
        task = asyncio.ensure_future(left.pop(0)(Peer(reader, writer)))
        followed.append(task)
        try:
            await task
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "localhost", 0)
    try:
        async with asyncio.timeout(20):
            yield server.sockets[0].getsockname()[1]
            assert not left, "a connection that was not made"
            await asyncio.gather(*followed)
    finally:
        server.close()


@asynccontextmanager
async def channel(*scripts: Script) -> AsyncIterator[Channel]:
    async with peers(*scripts) as port:
        made = Channel("localhost", port)
        try:
            yield made
        finally:
            await made.close()


def fields_of(answer: Answer) -> dict[str, str]:
    return dict(answer.headers + answer.trailers)


async def test_a_request_goes_out_in_the_peers_windows_and_frames():
    body = [bytes([n]) * 40_000 for n in range(5)]
    sizes: list[int] = []

    async def peer(peer: Peer) -> None:
        await peer.greet({4: 1000, 5: 20_000})
        got = b""
        stream_window, window = 1000, 65_535
        while True:
            _, flags, stream, payload = await peer.of_kind(DATA)
            sizes.append(len(payload))
            got += payload
            stream_window -= len(payload)
            window -= len(payload)
            assert stream_window >= 0
            assert window >= 0
            if flags & END_STREAM:
                break
            if stream_window == 0:
                peer.send(frame(WINDOW, 0, stream, (50_000).to_bytes(4, "big")))
                stream_window += 50_000
            if window < 20_000:
                peer.send(frame(WINDOW, 0, 0, (60_000).to_bytes(4, "big")))
                window += 60_000
        assert got == b"".join(body)
        peer.send(trailers_only(stream))

    async with channel(peer) as client:
        answer = await client.call(REQUEST, body)
    assert fields_of(answer)["grpc-status"] == "0"
    assert max(sizes) == 20_000
    assert sizes[0] == 1000


async def test_a_window_that_shrinks_below_what_was_sent_waits_for_more():
    async def peer(peer: Peer) -> None:
        await peer.greet({4: 1000})
        await peer.of_kind(DATA)
        peer.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
        await peer.of_kind(SETTINGS)  # acknowledged
        peer.send(frame(WINDOW, 0, 1, (500).to_bytes(4, "big")), frame(PING, 0, 0, b"12345678"))
        assert (await peer.frame())[0] == PING, "it has no room: -1000 and 500"
        peer.send(frame(WINDOW, 0, 1, (600).to_bytes(4, "big")))
        _, _, _, payload = await peer.of_kind(DATA)
        assert len(payload) == 100
        peer.send(trailers_only(1))

    async with channel(peer) as client:
        await client.call(REQUEST, [bytes(3000)])


async def test_headers_body_and_trailers_are_put_together():
    async def peer(peer: Peer) -> None:
        await peer.greet()
        assert peer.settings[1] == 0, "no table for its headers"
        stream, _ = await peer.request()
        headers = block([(":status", "200"), ("content-type", "application/grpc")])
        trailers = block([("grpc-status", "3"), ("grpc-message", "x" * 100)])
        peer.send(
            frame(HEADERS, END_HEADERS, stream, block([(":status", "103")])),
            frame(HEADERS, 0, stream, headers[:2]),
            frame(CONTINUATION, 0, stream, headers[2:4]),
            frame(CONTINUATION, END_HEADERS, stream, headers[4:]),
            frame(DATA, PADDED, stream, b"\x03" + b"hello" + bytes(3)),
            frame(0xAB, 0, stream, b"of a kind that nobody knows"),
            frame(
                HEADERS, PADDED | HAS_PRIORITY | END_HEADERS | END_STREAM, stream, b"\x02" + bytes(5) + trailers + b"__"
            ),
        )

    async with channel(peer) as client:
        answer = await client.call(REQUEST, [b"x"])
    assert answer.headers == [(":status", "200"), ("content-type", "application/grpc")]
    assert bytes(answer.body) == b"hello"
    assert dict(answer.trailers)["grpc-status"] == "3"


async def test_pings_are_answered_and_answers_paid_for():
    async def peer(peer: Peer) -> None:
        await peer.greet()
        for _ in range(3):
            stream, _ = await peer.request()
            peer.send(frame(PING, 0, 0, b"anything"))
            assert await peer.of_kind(PING) == (PING, 1, 0, b"anything")
            peer.send(frame(PING, 1, 0, b"an echo!"))
            peer.send(frame(HEADERS, END_HEADERS, stream, block(OK)))
            for _ in range(4):
                peer.send(frame(DATA, 0, stream, bytes(16_000)))
            _, _, of, credit = await peer.of_kind(WINDOW)
            assert (of, int.from_bytes(credit, "big") >= 32_000) == (0, True)
            peer.send(frame(DATA, END_STREAM, stream))

    async with channel(peer) as client:
        for _ in range(3):
            assert len((await client.call(REQUEST, [b"x"])).body) == 64_000


async def test_no_more_calls_at_once_than_the_peer_takes():
    async def peer(peer: Peer) -> None:
        await peer.greet({3: 2})
        first, _ = await peer.request()
        second, _ = await peer.request()
        peer.send(frame(PING, 0, 0, b"12345678"))
        assert (await peer.frame())[0] == PING, "the third waits"
        peer.send(trailers_only(second))
        third, _ = await peer.request()
        peer.send(trailers_only(first), trailers_only(third))

    async with channel(peer) as client:
        await asyncio.gather(*(client.call(REQUEST, [b"x"]) for _ in range(3)))


async def test_what_a_leaving_peer_did_not_look_at_goes_to_the_next_connection_at_once():
    async def leaving(peer: Peer) -> None:
        await peer.greet()
        first, _ = await peer.request()
        await peer.request()
        peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", first, 0) + b"max_age"))
        peer.send(trailers_only(first))
        await peer.ended()

    async def next_one(peer: Peer) -> None:
        await peer.greet()
        stream, body = await peer.request()
        assert body == b"second"
        peer.send(trailers_only(stream))

    async with channel(leaving, next_one) as client:
        answers = await asyncio.gather(client.call(REQUEST, [b"first"]), client.call(REQUEST, [b"second"]))
    assert [fields_of(a)["grpc-status"] for a in answers] == ["0", "0"]


async def test_a_call_that_is_refused_twice_is_not_sent_for_ever():
    async def refusing(peer: Peer) -> None:
        await peer.greet()
        for _ in range(2):
            stream, _ = await peer.request()
            peer.send(frame(RST, 0, stream, (7).to_bytes(4, "big")))

    async with channel(refusing) as client:
        with pytest.raises(BrokenCall, match="REFUSED_STREAM"):
            await client.call(REQUEST, [b"x"])


async def test_a_call_that_is_reset_otherwise_may_have_been_seen():
    async def resetting(peer: Peer) -> None:
        await peer.greet()
        stream, _ = await peer.request()
        peer.send(frame(RST, 0, stream, (11).to_bytes(4, "big")))

    async with channel(resetting) as client:
        with pytest.raises(BrokenCall, match="ENHANCE_YOUR_CALM") as caught:
            await client.call(REQUEST, [b"x"])
    assert not caught.value.unseen


async def test_an_early_answer_ends_the_request():
    async def peer(peer: Peer) -> None:
        await peer.greet({4: 100})
        _, _, stream, _ = await peer.of_kind(DATA)
        peer.send(trailers_only(stream))
        assert (await peer.of_kind(RST))[2:] == (stream, bytes(4))

    async with channel(peer) as client:
        assert fields_of(await client.call(REQUEST, [bytes(10_000)]))["grpc-status"] == "0"


async def test_a_cancelled_call_is_reset_and_the_connection_used_again():
    cancel = asyncio.Event()

    async def peer(peer: Peer) -> None:
        await peer.greet()
        stream, _ = await peer.request()
        peer.send(frame(HEADERS, END_HEADERS, stream, block(OK)))
        cancel.set()
        assert (await peer.of_kind(RST))[2:] == (stream, (8).to_bytes(4, "big"))
        stream, _ = await peer.request()
        peer.send(trailers_only(stream))

    async with channel(peer) as client:
        calling = asyncio.create_task(client.call(REQUEST, [b"x"]))
        await cancel.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await client.call(REQUEST, [b"x"])


async def test_a_connection_without_a_word_is_not_used_again():
    async def silent(peer: Peer) -> None:
        await peer.greet()
        await peer.ended()

    async def living(peer: Peer) -> None:
        await peer.greet()
        stream, _ = await peer.request()
        peer.send(trailers_only(stream))

    async with channel(silent, living) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.call(REQUEST, [b"x"])
        await client.call(REQUEST, [b"x"])


@pytest.mark.parametrize(
    ("nonsense", "reason"),
    [
        (frame(PING, 0, 0, bytes(8)), "first frame is no SETTINGS"),
        (frame(SETTINGS) + (1 << 20).to_bytes(3, "big") + bytes(6), "a frame of 1048576 bytes"),
        (frame(SETTINGS) + frame(PUSH, 0, 1, bytes(4)), "a push"),
        (frame(SETTINGS) + frame(CONTINUATION, 0, 1), "was not begun"),
        (frame(SETTINGS) + frame(HEADERS, 0, 1) + frame(PING, 0, 0, bytes(8)), "interrupted"),
        (frame(SETTINGS) + frame(HEADERS, END_HEADERS, 1, b"\xbe"), "no header with number 62"),
        (frame(SETTINGS) + frame(HEADERS, END_HEADERS | PADDED, 1, b"\x09"), "more padding than frame"),
        (frame(SETTINGS) + frame(WINDOW, 0, 0, b"x"), "HTTP/2"),
        (frame(SETTINGS) + frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1, bytes(16_000)) * 5, "too large headers"),
        (b"\x15\x03\x01\x00\x02\x02\x46" + bytes(9), "does not speak HTTP/2"),  # an alert of TLS
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "Trying to connect an http1"),
        (b"", "connection lost"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_peer_that_does_not_speak_http2_is_left(nonsense: bytes, reason: str):
    async def peer(peer: Peer) -> None:
        if nonsense.startswith(frame(SETTINGS)):
            await peer.greet()
            await peer.request()
            peer.send(nonsense.removeprefix(frame(SETTINGS)))
        elif nonsense:
            peer.send(nonsense)
        else:
            peer.hang_up()
        await peer.ended()

    async with channel(peer, peer) as client:
        for _ in range(2):
            with pytest.raises(BrokenCall, match=reason):
                await client.call(REQUEST, [b"x"])


async def test_calls_under_way_end_with_their_connection():
    async def peer(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        await peer.request()
        peer.hang_up()

    async with channel(peer) as client:
        calls = [client.call(REQUEST, [b"x"]) for _ in range(2)]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, BrokenCall)
            assert "connection lost" in str(outcome)


async def test_numbers_of_calls_end_and_a_new_connection_begins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http2, "_LAST_CALL", 4)

    async def peer(peer: Peer) -> None:
        await peer.greet()
        for _ in range(2):
            stream, _ = await peer.request()
            peer.send(trailers_only(stream))
        await peer.ended()

    async def second(peer: Peer) -> None:
        await peer.greet()
        stream, _ = await peer.request()
        assert stream == 1
        peer.send(trailers_only(stream))

    async with channel(peer, second) as client:
        for _ in range(3):
            await client.call(REQUEST, [b"x"])


# -- what gRPC makes of it -----------------------------------------------------------------------------
async def send(script: Script, timeout_s: float = 5) -> DeliveryResult:
    async with peers(script) as port:
        there = Destination("there", f"http://localhost:{port}", "grpc", timeout_s=timeout_s)
        async with PlainGrpcSink(there) as sink:
            return await sink.send(Batch(Signal.TRACES, b"payload"))


def answering(*frames_of: Callable[[int], bytes]) -> Script:
    async def peer(peer: Peer) -> None:
        await peer.greet()
        stream, _ = await peer.request()
        peer.send(*(make(stream) for make in frames_of))

    return peer


def with_fields(*fields: tuple[str, str]) -> Script:
    return answering(lambda stream: trailers_only(stream, list(fields)))


@pytest.mark.parametrize(
    ("status", "expected", "fault"),
    [
        ("503", Transient, Fault.UNREACHABLE),
        ("429", Transient, Fault.UNREACHABLE),
        ("401", Transient, Fault.CREDENTIALS),
        ("403", Transient, Fault.CREDENTIALS),
        ("404", Transient, Fault.ADDRESS),
        ("400", Permanent, None),
        ("500", Permanent, None),
    ],
)
async def test_an_http_status_of_whoever_stands_between(status: str, expected: type[Exception], fault: Fault | None):
    with pytest.raises(expected, match=f"HTTP {status}") as caught:
        await send(with_fields((":status", status)))
    assert getattr(caught.value, "fault", None) is fault


async def test_a_web_page_is_no_answer():
    with pytest.raises(Transient, match="text/html") as caught:
        await send(with_fields((":status", "200"), ("content-type", "text/html")))
    assert caught.value.fault is Fault.ADDRESS


async def test_an_answer_without_a_status_does_not_count():
    with pytest.raises(Transient, match="without a status"):
        await send(with_fields((":status", "200"), ("content-type", "application/grpc")))


@pytest.mark.parametrize("number", ["16", "99"])
async def test_words_are_decoded_and_unknown_codes_are_unknown(number: str):
    fields = [*OK[:2], ("grpc-status", number), ("grpc-message", "na%C3%AFve%0Atoken 100%")]
    with pytest.raises((Transient, Permanent), match=r"UNAUTHENTICATED|UNKNOWN") as caught:
        await send(with_fields(*fields))
    assert "naïve token 100%" in str(caught.value)


async def test_an_answer_that_is_too_large_is_cut_off():
    headers = frame(HEADERS, END_HEADERS, 1, block(OK))
    pieces = frame(DATA, 0, 1, bytes(16_000)) * (MAX_REPLY_BYTES // 16_000 + 1)

    async def peer(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.send(headers, pieces)
        await peer.of_kind(RST)

    with pytest.raises(Transient, match="too large"):
        await send(peer)


@pytest.mark.parametrize("body", [b"", b"\0\0", message(b"\x0a\x00") + b"more", b"\1" + message(b"zipped")[1:]])
async def test_an_ok_with_a_message_that_cannot_be_read_is_an_ok(body: bytes):
    script = answering(
        lambda stream: frame(HEADERS, END_HEADERS, stream, block(OK[:2])),
        lambda stream: frame(DATA, 0, stream, body),
        lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, block([("grpc-status", "0")])),
    )
    assert await send(script) == DeliveryResult()


async def test_details_that_are_no_base64_are_passed_over():
    fields = [*OK[:2], ("grpc-status", "14"), ("grpc-status-details-bin", "!")]
    with pytest.raises(Transient) as caught:
        await send(with_fields(*fields))
    assert caught.value.retry_after_s is None


async def test_who_does_not_greet_is_given_up_after_the_timeout():
    async def peer(peer: Peer) -> None:
        await peer.ended()

    with pytest.raises(Transient, match=r"no answer within 0\.1 s"):
        await send(peer, timeout_s=0.1)


async def test_nobody_there_is_said_in_plain_words():
    port = free_port()
    async with PlainGrpcSink(Destination("there", f"http://127.0.0.1:{port}", "grpc")) as sink:
        with pytest.raises(Transient, match=rf"cannot connect to 127\.0\.0\.1:{port}: connection refused"):
            await sink.send(Batch(Signal.TRACES, b"payload"))
