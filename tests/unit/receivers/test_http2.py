"""The compiled side of the gRPC door: header blocks, frames, windows, and what a peer may not do."""

from __future__ import annotations

import errno
import gc
import random
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from http2_frames import (
    CALL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    GREETING,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH,
    RST,
    SETTINGS,
    WINDOW,
    block,
    call,
    frame,
    message,
)

_kernel = pytest.importorskip("otlp_arrow.codec._kernel", reason="the kernel was not built")
http2 = pytest.importorskip("otlp_arrow.receivers._http2", reason="the compiled door was not built")


class Server:
    """A connection that answers every call at once, and writes down what it heard."""

    def __init__(self, *, answers: bool = True, many: bool = False, **limits: int) -> None:
        self.many = many  # every call has any number of messages
        self.heard: list[tuple[Any, ...]] = []
        self.streams: list[Any] = []
        self.answers = answers
        bounds = {
            "max_message_bytes": 100_000,
            "max_streams": 100,
            "max_header_bytes": 16384,
            "max_nuisance": 1000,
            "stream_window_bytes": 1 << 20,
            "connection_window_bytes": 1 << 22,
            "max_frame_bytes": 1 << 18,
        }
        self.connection = http2.Connection(self, **(bounds | limits))
        self.output = b""

    def begin(self, stream: Any) -> None:
        self.streams.append(stream)
        self.heard.append(("begin", stream.stream_id, stream.headers[":path"]))
        if self.many:
            self.connection.take_many(stream)

    def complete(self, stream: Any) -> None:
        self.heard.append(("complete", stream.stream_id, stream.message))
        if self.answers:
            self.connection.ok(stream)

    def broken(self, stream: Any, reason: str, too_large: bool) -> None:
        self.heard.append(("broken", stream.stream_id, reason, too_large))
        self.connection.respond(stream, http2.header_block([(b":status", b"200"), (b"grpc-status", b"3")]))

    def reset(self, stream: Any) -> None:
        self.heard.append(("reset", stream.stream_id))

    def expect(self, stream: Any, nbytes: int) -> None:
        self.heard.append(("expect", stream.stream_id, nbytes))

    def message(self, stream: Any, body: bytes, compressed: bool) -> None:
        self.heard.append(("message", stream.stream_id, body))

    def finished(self, stream: Any) -> None:
        self.heard.append(("finished", stream.stream_id))
        if self.answers:
            self.connection.ok(stream)

    def drained(self, stream: Any) -> None:
        self.heard.append(("drained", stream.stream_id))

    def read(self, data: bytes, step: int = 1 << 18) -> list[tuple[Any, ...]]:
        """As ``feed``, by a transport that reads into what it is offered."""
        before, at = len(self.heard), 0
        while at < len(data) and not self.connection.closed:
            offered = self.connection.offer()
            if offered is None:
                piece = bytearray(data[at : at + step])
                self.connection.receive(piece, len(piece))
                at += len(piece)
            else:
                n = min(len(offered), step, len(data) - at)
                offered[:n] = data[at : at + n]
                self.connection.accept_offered(n)
                at += n
        self.output += self.connection.take()
        return self.heard[before:]

    def read_socket(self, data: bytes, step: int = 1 << 18) -> list[tuple[Any, ...]]:
        """As ``feed``, by way of a socket that ``step`` bytes are sent to at a time."""
        before, at = len(self.heard), 0
        buffer = bytearray(1 << 18)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            while at < len(data) and not self.connection.closed:
                at += theirs.send(data[at : at + step])
                assert self.connection.read(ours.fileno(), buffer, 1 << 20)
                buffer[:] = b"\xaa" * len(buffer)  # nothing of it may be kept
            if not self.connection.closed:
                with pytest.raises(BlockingIOError):
                    ours.recv(1)
        self.output += self.connection.take()
        return self.heard[before:]

    def feed(self, data: bytes, step: int = 1 << 18) -> list[tuple[Any, ...]]:
        """Take bytes in; what was heard of since the last time."""
        before = len(self.heard)
        for at in range(0, len(data), step):
            piece = bytearray(data[at : at + step])
            self.connection.receive(piece, len(piece))
            piece[:] = bytes(len(piece))  # nothing of it may be kept
        self.output += self.connection.take()
        return self.heard[before:]

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """The frames that came out since the last time."""
        found, data = [], self.output
        self.output = b""
        while data:
            size = int.from_bytes(data[:3], "big")
            found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
            data = data[9 + size :]
        return found

    def error(self) -> tuple[int, str]:
        """The code and the words of the GOAWAY that closed the connection."""
        assert self.connection.closed
        kind, _, stream, payload = self.frames()[-1]
        assert (kind, stream) == (GOAWAY, 0)
        assert payload[8:].decode() == self.connection.error
        return int.from_bytes(payload[4:8], "big"), payload[8:].decode()


Way = Callable[[Server, bytes, int], list[tuple[Any, ...]]]
WAYS: list[Way] = [Server.feed, Server.read]
if http2.READS_SOCKETS:
    WAYS.append(Server.read_socket)


def greeted(**options: Any) -> Server:
    server = Server(**options)
    server.feed(GREETING)
    server.frames()
    return server


# -- header blocks -------------------------------------------------------------------------------------
names = st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True).filter(
    lambda n: n not in ("te", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")
)
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
fields = st.lists(st.tuples(names, values, st.booleans()), max_size=12)


@settings(max_examples=50)
@given(st.lists(st.tuples(fields, st.booleans(), st.sampled_from([None, 0, 100, 4096])), max_size=8))
def test_blocks_read_as_an_independent_encoder_meant_them(blocks: Any) -> None:
    encoder, decoder = hpack.Encoder(), http2.HeaderDecoder(1 << 16)
    for some, huffman, table_bytes in blocks:
        if table_bytes is not None:
            encoder.header_table_size = table_bytes
        sent = [hpack.HeaderTuple(n, v) if kept else hpack.NeverIndexedHeaderTuple(n, v) for n, v, kept in some]
        pseudo = [(":method", "POST"), (":scheme", "http"), (":path", "/x")]
        wanted: dict[str, bytes] = {n: v.encode() for n, v in pseudo}
        for name, value, _ in some:
            wanted[name] = wanted[name] + b", " + value.encode() if name in wanted else value.encode()
        assert decoder.decode(encoder.encode([*pseudo, *sent], huffman=huffman)) == wanted


@given(st.binary(max_size=300))
def test_any_bytes_survive_the_huffman_code(raw: bytes) -> None:
    value = raw.translate(None, b"\0\r\n")
    encoded = hpack.Encoder().encode([(b":method", b"x"), (b":scheme", b"x"), (b":path", value)], huffman=True)
    assert http2.HeaderDecoder(1 << 16).decode(encoded)[":path"] == value


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    decoder = http2.HeaderDecoder(1 << 16)
    try:
        headers = decoder.decode(raw)
    except http2.HpackError:
        return
    assert headers is None or ":path" in headers


def test_a_repeated_block_is_the_same_headers_until_the_table_changes() -> None:
    encoder, decoder = hpack.Encoder(), http2.HeaderDecoder(1 << 16)
    decoder.decode(block(CALL, encoder))
    indexed = block(CALL, encoder)
    first = decoder.decode(indexed)
    assert decoder.decode(indexed) is first
    decoder.decode(block([*CALL, ("x", "y")], encoder))
    assert decoder.decode(block(CALL, encoder)) == first


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\xff\xff\xff\xff\xff\xff", "too long"),
        (b"\xff\x80", "cut off"),
        (b"\x80", "number 0"),
        (b"\xc0", "number 64"),
        (b"\x00\x05ab", "cut off"),
        (b"\x00", "cut off"),
        (b"\x3f\xe2\x1f", "table of 4097 bytes"),
        (b"\x82\x20", "within the fields"),
        (b"\x00\x84\xff\xff\xff\xff\x01a", "end of a string|does not end"),
        (b"\x00\x81\x00\x01a", "does not end"),
    ],
)
def test_blocks_against_the_rules_are_refused(raw: bytes, says: str) -> None:
    with pytest.raises(http2.HpackError, match=says):
        http2.HeaderDecoder(1 << 16).decode(raw)


@pytest.mark.parametrize(
    "fields",
    [
        CALL[1:],
        [*CALL, (":method", "POST")],
        [*CALL, (":status", "200")],
        [*CALL, ("connection", "close")],
        [*CALL, ("te", "gzip")],
        [*CALL, ("Upper", "x")],
        [*CALL, ("a b", "x")],
        [*CALL, ("a", "x\ny")],
    ],
)
def test_malformed_headers_reset_their_call_and_no_other(fields: Any) -> None:
    server = greeted()
    assert server.feed(frame(HEADERS, END_HEADERS, 1, block(fields))) == []
    assert (RST, 0, 1, struct.pack(">I", 1)) in server.frames()
    assert [kind for kind, *_ in server.feed(call(3, b"x"))] == ["begin", "complete"]


def test_a_header_list_over_the_limit_resets_its_call_and_keeps_the_table_in_step() -> None:
    server, encoder = greeted(max_header_bytes=2000), hpack.Encoder()
    large = [*CALL, *[("k", f"v{n}") for n in range(60)]]  # indexed entries: few bytes, a long list
    server.feed(frame(HEADERS, END_HEADERS, 1, block(large, encoder)))
    assert any(kind == RST for kind, *_ in server.frames())
    server.feed(frame(HEADERS, END_HEADERS, 3, block([*CALL, ("k", "v59")], encoder)))
    assert server.streams[-1].headers["k"] == b"v59"


# -- calls ---------------------------------------------------------------------------------------------
@settings(deadline=None)
@given(
    bodies=st.lists(st.binary(max_size=3000), min_size=1, max_size=6),
    step=st.integers(1, 700),
    frame_bytes=st.integers(1, 1000),
    padding=st.integers(0, 20),
)
def test_calls_are_heard_alike_however_the_bytes_are_cut(
    bodies: list[bytes], step: int, frame_bytes: int, padding: int
) -> None:
    sent = GREETING
    for number, body in enumerate(bodies):
        stream, whole = 2 * number + 1, message(body)
        raw = block()
        sent += frame(HEADERS, 0, stream, raw[:3]) + frame(CONTINUATION, END_HEADERS, stream, raw[3:])
        for at in range(0, len(whole), frame_bytes):
            piece = whole[at : at + frame_bytes]
            last = END_STREAM if at + frame_bytes >= len(whole) else 0
            if padding:
                sent += frame(DATA, last | PADDED, stream, bytes([padding]) + piece + bytes(padding))
            else:
                sent += frame(DATA, last, stream, piece)
    server = Server()
    heard = server.feed(sent, step)
    assert server.connection.error is None
    assert [event[2] for event in heard if event[0] == "complete"] == bodies
    assert (server.connection.open_streams, server.connection.incomplete_bytes) == (0, 0)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 65_535, 65_536, 70_001, 99_999]), min_size=1, max_size=5),
    page_at=st.integers(0, 9000),
    step=st.sampled_from([7_001, 20_000, 1 << 18]),
    way=st.sampled_from(WAYS),
)
def test_large_messages_lie_where_their_owner_wishes(sizes: list[int], page_at: int, step: int, way: Way) -> None:
    server = greeted(many=True)
    server.feed(frame(HEADERS, END_HEADERS, 1, block()))
    server.streams[0].page_at = page_at
    bodies = [bytes((seed + i) % 251 for i in range(997)) * (size // 997 + 1) for seed, size in enumerate(sizes)]
    bodies = [body[:size] for body, size in zip(bodies, sizes, strict=True)]
    sent = b"".join(frame(DATA, 0, 1, message(body)) for body in bodies)
    heard = [event[2] for event in way(server, sent, step) if event[0] == "message"]
    assert [bytes(body) for body in heard] == bodies
    for body in heard:
        if len(body) >= 65_536:
            assert (_kernel.address_of(body) + page_at) % 4096 == 0
        else:
            assert type(body) is bytes
    assert server.connection.incomplete_bytes == 0


@pytest.fixture
def no_kept_memory() -> Iterator[None]:
    gc.collect()  # servers of other tests
    http2.free_unused_memory(though_wanted=True)
    yield
    http2.free_unused_memory(though_wanted=True)


def put_one(server: Server, body: bytes) -> Any:
    """A message of a put whose rows are to lie at a page, as it was handed over."""
    server.feed(frame(DATA, 0, 1, message(body)), 1 << 20)
    taken = server.heard.pop()
    assert taken[:2] == ("message", 1)
    server.connection.consumed(server.streams[0], len(body))
    return taken[2]


def large_puts() -> Server:
    bounds = {"max_message_bytes": 1 << 23, "max_frame_bytes": 1 << 23}
    server = greeted(many=True, stream_window_bytes=1 << 24, connection_window_bytes=1 << 25, **bounds)
    server.feed(frame(HEADERS, END_HEADERS, 1, block()))
    server.streams[0].page_at = 1000
    return server


@pytest.mark.usefixtures("no_kept_memory")
def test_messages_keep_what_is_theirs_whichever_of_their_neighbours_are_let_go() -> None:
    chance = random.Random(3)
    server = large_puts()
    kept: list[tuple[bytes, Any]] = []
    for number in range(150):
        body = bytes([number]) * chance.choice([65_536, 100_000, 530_000, 5 << 20 if number % 40 == 7 else 70_000])
        kept.append((body, put_one(server, body)))
        while kept and (len(kept) > 12 or chance.random() < 0.4):
            expected, found = kept.pop(chance.randrange(len(kept)))
            assert found == expected
            assert (_kernel.address_of(found) + 1000) % 4096 == 0
            del found
    assert all(found == expected for expected, found in kept)


@pytest.mark.usefixtures("no_kept_memory")
def test_messages_that_nobody_lets_go_of_lie_in_ordinary_memory_in_the_end() -> None:
    server = large_puts()
    body = random.Random(4).randbytes(1 << 20)
    kept = [put_one(server, body) for _ in range(80)]
    held, _ = http2.huge_memory()
    assert held <= 64 << 20
    assert all(found == body and (_kernel.address_of(found) + 1000) % 4096 == 0 for found in kept)
    del kept
    assert http2.huge_memory()[1] <= 16 << 20


@pytest.mark.usefixtures("no_kept_memory")
def test_memory_of_messages_goes_back_when_no_further_ones_come() -> None:
    server = large_puts()
    kept = [put_one(server, bytes(1 << 20)) for _ in range(9)]
    if not http2.huge_memory()[0]:
        pytest.skip("this system has no huge pages")
    http2.free_unused_memory()
    assert http2.huge_memory()[0] >= 9 << 20
    del kept
    http2.free_unused_memory()  # nothing came since the last time
    assert http2.huge_memory() == (0, 0)


def test_a_compressed_message_and_one_that_grows_lie_anywhere() -> None:
    server = greeted(many=True, max_message_bytes=1 << 25, stream_window_bytes=1 << 26, connection_window_bytes=1 << 26)
    server.feed(frame(HEADERS, END_HEADERS, 1, block()))
    server.streams[0].page_at = 0
    large = bytes(17 << 20)  # more than is given to a message before its bytes come
    sent = message(large)
    frames = [frame(DATA, 0, 1, sent[at : at + (1 << 17)]) for at in range(0, len(sent), 1 << 17)]
    packed = b"\1" + message(bytes(70_000))[1:]
    heard = server.feed(b"".join(frames) + frame(DATA, 0, 1, packed))
    assert [(event[0], len(event[2]), type(event[2])) for event in heard if event[0] == "message"] == [
        ("message", 17 << 20, bytes),
        ("message", 70_000, bytes),
    ]


def test_a_call_whose_message_came_waits_for_no_bytes() -> None:
    server = greeted(answers=False)
    server.feed(call(1, b"x")[:-1])
    assert server.streams[0].received_bytes == 5
    server.feed(b"x")
    assert server.streams[0].received_bytes == 0


def test_an_answer_is_headers_an_empty_message_and_trailers() -> None:
    server = greeted()
    server.feed(call(1, b"spans"))
    head, data, end = server.frames()
    decoder = hpack.Decoder()
    assert head[:3] == (HEADERS, END_HEADERS, 1)
    assert (":status", "200") in decoder.decode(head[3])
    assert data == (DATA, 0, 1, bytes(5))
    assert end[:3] == (HEADERS, END_HEADERS | END_STREAM, 1)
    assert decoder.decode(end[3]) == [("grpc-status", "0")]


def test_header_blocks_of_ours_read_back() -> None:
    sent = [(b":status", b"415"), (b"grpc-message", b"x" * 500), (b"empty", b"")]
    assert [(n.encode(), v.encode()) for n, v in hpack.Decoder().decode(http2.header_block(sent))] == sent


@pytest.mark.parametrize(
    ("data", "reason", "too_large"),
    [
        (b"", "without a message", False),
        (b"\0\0\0", "within its message", False),
        (b"\0\0\0\0\5abc", "within its message", False),
        (b"\2\0\0\0\1a", "not a gRPC message", False),
        (message(b"a") + b"b", "more than one message", False),
        (b"\0" + struct.pack(">I", 100_001), "100001 bytes is over the limit of 100000", True),
    ],
)
def test_what_is_not_one_message_breaks_its_call_alone(data: bytes, reason: str, too_large: bool) -> None:
    server = greeted()
    server.feed(frame(HEADERS, END_HEADERS, 1, block()))
    (broken,) = server.feed(frame(DATA, END_STREAM, 1, data))
    assert broken[0] == "broken"
    assert reason in broken[2]
    assert broken[3] is too_large
    assert [kind for kind, *_ in server.feed(call(3, b"x"))] == ["begin", "complete"]
    assert server.connection.incomplete_bytes == 0


def test_a_call_refused_early_is_told_to_stop_sending_and_the_rest_is_ignored() -> None:
    server = greeted()
    server.feed(frame(HEADERS, END_HEADERS, 1, block()) + frame(DATA, 0, 1, b"\0\0\0\0\x50" + bytes(20)))
    assert server.connection.incomplete_bytes == 20
    server.connection.respond(server.streams[0], http2.header_block([(b":status", b"200")]))
    server.feed(frame(DATA, END_STREAM, 1, bytes(60)) + frame(RST, 0, 1, bytes(4)))
    kinds = [(kind, flags) for kind, flags, stream, _ in server.frames() if stream == 1]
    assert kinds == [(HEADERS, END_HEADERS | END_STREAM), (RST, 0)]
    assert (server.connection.incomplete_bytes, server.connection.closed) == (0, False)


def test_a_reset_is_heard_and_its_answer_dropped() -> None:
    server = greeted(answers=False)
    server.feed(call(1, b"x"))
    assert server.feed(frame(RST, 0, 1, struct.pack(">I", 8))) == [("reset", 1)]
    server.connection.ok(server.streams[0])
    assert [f for f in server.frames() if f[2] == 1] == []


def test_calls_above_the_bound_are_refused_retryably() -> None:
    server = greeted(answers=False, max_streams=2)
    server.feed(call(1, b"a") + call(3, b"b") + call(5, b"c"))
    assert (RST, 0, 5, struct.pack(">I", 7)) in server.frames()
    assert server.connection.open_streams == 2


def test_long_messages_come_whole_and_windows_are_renewed() -> None:
    server = greeted(max_message_bytes=8 << 20)
    body = random.Random(1).randbytes(5 << 20)
    whole = message(body)
    head = frame(HEADERS, END_HEADERS, 1, block())
    server.feed(head)
    room = 1 << 20
    for at in range(0, len(whole), 1 << 16):
        piece = whole[at : at + (1 << 16)]
        room -= len(piece)
        server.feed(frame(DATA, END_STREAM if at + (1 << 16) >= len(whole) else 0, 1, piece), 5000)
        room += sum(int.from_bytes(f[3], "big") for f in server.frames() if (f[0], f[2]) == (WINDOW, 1))
        assert room > 0
    assert server.heard[-1] == ("complete", 1, body)


# -- calls of many messages ----------------------------------------------------------------------------
def conversation(*bodies: bytes, frame_bytes: int = 1 << 18) -> bytes:
    """A call of these messages, cut into frames without regard to them."""
    whole = b"".join(map(message, bodies))
    data = frame(HEADERS, END_HEADERS, 1, block())
    for at in range(0, len(whole), frame_bytes):
        data += frame(DATA, END_STREAM if at + frame_bytes >= len(whole) else 0, 1, whole[at : at + frame_bytes])
    return data


@pytest.mark.parametrize("frame_bytes", [3, 1000, 50_000, 1 << 18])
@pytest.mark.parametrize("step", [1, 700, 1 << 18])
def test_messages_of_a_stream_are_handed_over_one_by_one_however_they_are_cut(frame_bytes: int, step: int) -> None:
    chance = random.Random(5)
    bodies = [chance.randbytes(n) for n in (0, 1, 5, 40_000, 0, 90_000, 20_000)]
    if frame_bytes == 3:
        bodies = [body[:50] for body in bodies]
    for way in WAYS:
        server = greeted(many=True, max_nuisance=1 << 20)
        heard = way(server, conversation(*bodies, frame_bytes=frame_bytes), step)
        assert [event[2] for event in heard if event[0] == "message"] == bodies
        assert heard[-1] == ("finished", 1)
        assert server.connection.incomplete_bytes == 0
        assert server.connection.open_streams == 0


def test_what_is_much_of_a_message_is_read_where_it_is_kept() -> None:
    server = greeted(many=True, max_message_bytes=4 << 20)
    body = random.Random(2).randbytes(3 << 20)
    server.feed(frame(HEADERS, END_HEADERS, 1, block()))
    whole = message(body)
    for at in range(0, len(whole), 1 << 18):
        piece = frame(DATA, 0, 1, whole[at : at + (1 << 18)])
        server.read(piece[:100])
        offered = server.connection.offer()
        assert len(piece) < 200 or (offered is not None and len(offered) == len(piece) - 100)
        server.read(piece[100:])
    assert server.heard[-1] == ("message", 1, body)
    assert ("expect", 1, len(body)) in server.heard


@pytest.mark.skipif(not http2.READS_SOCKETS, reason="no readv here")
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 100, 20_000, 70_000, 300_000]), min_size=1, max_size=6),
    cuts=st.lists(st.sampled_from([1, 9, 16_384, 20_000, 90_000, 1 << 18]), min_size=1, max_size=5),
    between=st.lists(st.sampled_from(["nothing", "ping", "other", "padded", "priority"]), min_size=1, max_size=4),
    step=st.sampled_from([1 << 14, 25_000, 140_000, 1 << 18]),
    pads=st.booleans(),
)
def test_whatever_stands_between_the_frames_of_a_message_is_read_as_by_any_transport(
    sizes: list[int], cuts: list[int], between: list[str], step: int, pads: bool
) -> None:
    chance = random.Random(11)
    sent = frame(HEADERS, END_HEADERS, 1, block()) + frame(HEADERS, END_HEADERS, 3, block())
    whole = b"".join(message(chance.randbytes(size)) for size in sizes)
    at = number = 0
    while at < len(whole):
        cut = cuts[number % len(cuts)] if number < 200 else 1 << 18
        piece, at = whole[at : at + cut], at + cut
        match between[number % len(between)] if number < 200 else "nothing":
            case "ping":
                sent += frame(PING, 0, 0, b"12345678")
            case "other":
                sent += frame(DATA, 0, 3, message(chance.randbytes(number * 300 % 70_000)))
            case "padded":
                sent += frame(DATA, PADDED, 3, b"\x20" + message(b"padded") + bytes(32))
            case "priority":
                sent += frame(PRIORITY, 0, 1, bytes(5))
        if pads and number % 2:
            sent += frame(DATA, PADDED, 1, b"\x10" + piece[: (1 << 18) - 17] + bytes(16)) + frame(
                DATA, 0, 1, piece[(1 << 18) - 17 :]
            )
        else:
            sent += frame(DATA, 0, 1, piece)
        number += 1
    wide = {"stream_window_bytes": 1 << 28, "connection_window_bytes": 1 << 28, "max_message_bytes": 1 << 20}
    plain, read = greeted(many=True, **wide), greeted(many=True, **wide)
    assert read.read_socket(sent, step) == plain.feed(sent)
    assert read.frames() == plain.frames()
    for server in (plain, read):
        assert server.connection.error is None
        assert server.connection.incomplete_bytes == 0


@pytest.mark.skipif(not http2.READS_SOCKETS, reason="no readv here")
def test_a_reset_between_the_frames_of_a_message_lets_go_of_it() -> None:
    server = greeted(many=True)
    body = message(bytes(90_000))
    sent = frame(HEADERS, END_HEADERS, 1, block()) + frame(DATA, 0, 1, body[:40_000]) + frame(RST, 0, 1, bytes(4))
    heard = server.read_socket(sent + frame(DATA, 0, 1, body[40_000:]) + call(3, b"next"), 30_000)
    assert [event[0] for event in heard] == ["begin", "reset", "begin", "message", "finished"]
    assert server.connection.incomplete_bytes == 0
    assert server.connection.error is None


@pytest.mark.skipif(not http2.READS_SOCKETS, reason="no readv here")
def test_a_socket_is_read_to_its_end_or_to_the_bound_of_a_turn() -> None:
    server = greeted(many=True, max_message_bytes=1 << 20)
    sent = conversation(bytes(100_000), bytes(100_000), bytes(100_000))[: -(1 << 14)]
    buffer = bytearray(1 << 15)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            theirs.sendall(sent)
            ours.setblocking(False)
            assert server.connection.read(ours.fileno(), buffer, 1)
            assert not [event for event in server.heard if event[0] == "message"]
            assert server.connection.read(ours.fileno(), buffer, 1 << 20)
            assert len([event for event in server.heard if event[0] == "message"]) == 2
            assert server.connection.read(ours.fileno(), buffer, 1 << 20)  # there is nothing, and more may come
        assert not server.connection.read(ours.fileno(), buffer, 1 << 20)
    with pytest.raises(OSError, match="descriptor") as raised:
        server.connection.read(-1, buffer, 1)
    assert raised.value.errno == errno.EBADF


def windows(server: Server) -> dict[int, int]:
    """What was given back since the last time, by stream; 0 is the connection."""
    given: dict[int, int] = {}
    for kind, _, stream, payload in server.frames():
        if kind == WINDOW:
            given[stream] = given.get(stream, 0) + int.from_bytes(payload, "big")
    return given


def test_messages_count_against_the_windows_until_they_are_consumed() -> None:
    server = greeted(many=True, stream_window_bytes=100_000, connection_window_bytes=150_000)
    server.feed(frame(HEADERS, END_HEADERS, 1, block()))
    for _ in range(9):
        server.feed(frame(DATA, 0, 1, message(bytes(10_000))))
    assert windows(server) == {}
    stream = server.streams[0]
    server.connection.consumed(stream, 10_000)
    server.feed(b"")
    assert windows(server) == {}  # a few at a time are not worth a frame
    server.connection.consumed(stream, 60_000)
    server.feed(b"")
    assert windows(server).keys() == {1}
    server.connection.consumed(stream, 1 << 40)  # more than there is
    server.feed(b"")
    assert windows(server).keys() == {0}
    server.feed(frame(DATA, 0, 1, message(bytes(79_990))))
    assert not server.connection.closed, server.connection.error
    server.feed(frame(DATA, 0, 1, message(bytes(20_000))))
    assert server.connection.error == "more data than the stream's window"


def test_a_call_that_ends_gives_back_what_it_held() -> None:
    server = greeted(many=True, stream_window_bytes=100_000, connection_window_bytes=150_000)
    for stream_id in range(1, 41, 2):
        server.feed(frame(HEADERS, END_HEADERS, stream_id, block()) + frame(DATA, 0, stream_id, message(bytes(90_000))))
        end = [lambda s: server.connection.ignore(s), lambda s: server.connection.cut(s, http2.GRPC_OK)]
        if stream_id % 3:
            end[stream_id % 2](server.streams[-1])
        server.feed(frame(RST, 0, stream_id, bytes(4)))
    assert not server.connection.closed, server.connection.error


def test_a_message_larger_than_the_window_comes_whole() -> None:
    server = greeted(many=True, max_message_bytes=1 << 20, stream_window_bytes=100_000, connection_window_bytes=1 << 20)
    whole, room = message(bytes(900_000)), 100_000
    server.feed(frame(HEADERS, END_HEADERS, 1, block()))
    for at in range(0, len(whole), 10_000):
        server.feed(frame(DATA, 0, 1, whole[at : at + 10_000]))
        room += windows(server).get(1, 0) - 10_000
        assert room > 0
    assert server.heard[-1] == ("message", 1, bytes(900_000))


def test_a_stream_that_ends_within_a_message_is_broken() -> None:
    for rest in (b"\0\0", message(b"abcdef")[:-1]):
        server = greeted(many=True)
        server.feed(frame(HEADERS, END_HEADERS, 1, block()))
        heard = server.feed(frame(DATA, END_STREAM, 1, message(b"whole") + rest))
        assert heard[0] == ("message", 1, b"whole")
        assert heard[1] == ("broken", 1, "the call ended within its message", False)
        assert server.connection.incomplete_bytes == 0


def test_large_answers_go_out_uncopied_and_the_owner_hears_when_the_client_took_them() -> None:
    server = greeted(answers=False)
    server.feed(call(1, b"x"))
    stream = server.streams[0]
    body = random.Random(3).randbytes(200_000)
    server.connection.send(stream, b"head", memoryview(body))
    pieces = server.connection.take_pieces()
    assert any(isinstance(piece, memoryview) and piece.obj is body for piece in pieces)
    server.output = b"".join(pieces)
    assert stream.waiting_bytes == 5 + 4 + len(body) - 65535
    stream.tell_drained = True
    update = struct.pack(">I", 100_000)
    assert server.feed(frame(WINDOW, 0, 0, update) + frame(WINDOW, 0, 1, update)) == []
    assert server.feed(frame(WINDOW, 0, 0, update) + frame(WINDOW, 0, 1, update)) == [("drained", 1)]
    sent = b"".join(f[3] for f in server.frames() if f[0] == DATA)
    assert sent == message(b"head" + body)


def test_an_answer_that_is_cut_lets_go_of_what_the_client_did_not_take() -> None:
    server = greeted(answers=False, many=True)
    server.feed(frame(HEADERS, END_HEADERS, 1, block()))
    stream = server.streams[0]
    server.connection.send(stream, bytes(500_000))
    server.feed(b"")
    server.frames()
    server.connection.cut(stream, http2.GRPC_OK)
    server.feed(b"")
    assert [(f[0], f[1]) for f in server.frames()] == [(HEADERS, END_HEADERS | END_STREAM), (RST, 0)]
    assert stream.waiting_bytes == 0
    server.connection.send(stream, b"more")
    server.feed(frame(WINDOW, 0, 0, struct.pack(">I", 500_000)) + frame(DATA, 0, 1, message(bytes(100))))
    assert server.frames() == []


def test_what_is_sent_to_a_call_whose_answer_is_held_back_is_not_kept() -> None:
    server = Server(answers=False)
    server.feed(http2.PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
    server.feed(frame(HEADERS, END_HEADERS, 1, block()))
    server.connection.respond(server.streams[0], http2.GRPC_HEADERS, b"an answer", http2.GRPC_OK)
    server.feed(frame(DATA, 0, 1, message(bytes(90_000))[:50_000]))
    assert server.connection.incomplete_bytes == 0
    assert server.connection.open_streams == 1


# -- windows of the peer -------------------------------------------------------------------------------
def test_answers_wait_for_the_peers_windows() -> None:
    server = Server()
    server.feed(http2.PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 3)))
    server.frames()
    server.feed(call(1, b"x"))
    assert [(f[0], f[3]) for f in server.frames() if f[2] == 1][1:] == [(DATA, bytes(3))]
    server.feed(call(3, b"y") + frame(WINDOW, 0, 1, struct.pack(">I", 1)))
    assert [(f[0], len(f[3])) for f in server.frames() if f[2] == 1] == [(DATA, 1)]
    server.feed(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 100)))
    frames = server.frames()
    assert [f[0] for f in frames if f[2] == 1] == [DATA, HEADERS]
    assert [f[0] for f in frames if f[2] == 3] == [DATA, HEADERS]
    assert server.connection.open_streams == 0


def test_a_window_may_shrink_below_nothing_and_grow_again() -> None:
    server = greeted(answers=False)
    server.feed(call(1, b"x"))
    stream = server.streams[0]
    server.connection.begin(stream, http2.GRPC_HEADERS)
    server.connection.push(stream, bytes(60_000))
    server.feed(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))  # now 60,000 below nothing
    server.connection.push(stream, bytes(10), None, True)
    server.feed(frame(WINDOW, 0, 1, struct.pack(">I", 60_000)))
    assert max(len(f[3]) for f in server.frames() if f[0] == DATA) <= 16384
    server.feed(frame(WINDOW, 0, 1, struct.pack(">I", 10)))
    assert [(f[1], len(f[3])) for f in server.frames() if f[0] == DATA] == [(END_STREAM, 10)]


# -- what a peer may not do ----------------------------------------------------------------------------
HEAD = frame(HEADERS, END_HEADERS, 1, block())
VIOLATIONS = {
    "another preface": (b"GET / HTTP/1.1\r\n\r\n", 1, "preface"),
    "no settings": (http2.PREFACE + frame(PING, 0, 0, bytes(8)), 1, "begin with SETTINGS"),
    "an acknowledgement first": (http2.PREFACE + frame(SETTINGS, 1), 1, "begin with SETTINGS"),
    "even stream": (GREETING + frame(HEADERS, END_HEADERS, 2, block()), 1, "even"),
    "stream zero": (GREETING + frame(HEADERS, END_HEADERS, 0, block()), 1, "even"),
    "data unopened": (GREETING + frame(DATA, 0, 1, b"x"), 1, "not opened"),
    "data on zero": (GREETING + frame(DATA, 0, 0, b"x"), 1, "not opened"),
    "huge frame": (GREETING + (1 << 19).to_bytes(3, "big") + bytes(6), 6, "frame of 524288 bytes"),
    "huge settings": (GREETING + frame(SETTINGS, 0, 0, bytes(6 * 3000)), 6, "frame of"),
    "bad settings": (GREETING + frame(SETTINGS, 0, 0, bytes(5)), 6, "SETTINGS"),
    "settings on a stream": (GREETING + frame(SETTINGS, 0, 1, bytes(6)), 1, "SETTINGS"),
    "push enabled": (GREETING + frame(SETTINGS, 0, 0, struct.pack(">HI", 2, 2)), 1, "ENABLE_PUSH"),
    "window of settings": (GREETING + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)), 3, "WINDOW_SIZE"),
    "frame size of settings": (GREETING + frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 1)), 1, "MAX_FRAME_SIZE"),
    "short ping": (GREETING + frame(PING, 0, 0, bytes(7)), 6, "PING"),
    "ping on a stream": (GREETING + frame(PING, 0, 1, bytes(8)), 1, "PING"),
    "short reset": (GREETING + HEAD + frame(RST, 0, 1, bytes(3)), 6, "RST"),
    "reset unopened": (GREETING + frame(RST, 0, 1, bytes(4)), 1, "not opened"),
    "short priority": (GREETING + frame(PRIORITY, 0, 1, bytes(4)), 6, "PRIORITY"),
    "short goaway": (GREETING + frame(GOAWAY, 0, 0, bytes(7)), 1, "GOAWAY"),
    "push": (GREETING + frame(PUSH, 0, 1, bytes(8)), 1, "push"),
    "window of nothing": (GREETING + frame(WINDOW, 0, 0, bytes(4)), 1, "window update of nothing"),
    "short window": (GREETING + frame(WINDOW, 0, 0, bytes(3)), 6, "WINDOW_UPDATE"),
    "window unopened": (GREETING + frame(WINDOW, 0, 9, struct.pack(">I", 1)), 1, "not opened"),
    "window overflow": (GREETING + frame(WINDOW, 0, 0, struct.pack(">I", 0x7FFFFFFF)), 3, "window above"),
    "padding over data": (GREETING + HEAD + frame(DATA, PADDED, 1, b"\x05abc"), 1, "more padding"),
    "padding over headers": (GREETING + frame(HEADERS, END_HEADERS | PADDED, 1, b"\x05abc"), 1, "more padding"),
    "priority over headers": (GREETING + frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, b"abc"), 1, "more padding"),
    "no pad length": (GREETING + HEAD + frame(DATA, PADDED | END_STREAM, 1), 6, "padding without"),
    "no pad length of headers": (GREETING + frame(HEADERS, END_HEADERS | PADDED, 1), 6, "padding without"),
    "not continued": (GREETING + frame(HEADERS, 0, 1, b"") + frame(PING, 0, 0, bytes(8)), 1, "not continued"),
    "continued elsewhere": (GREETING + frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 4, 3), 1, "not continued"),
    "continued nothing": (GREETING + frame(CONTINUATION, 4, 1), 1, "continuation of nothing"),
    "headers twice": (GREETING + HEAD + HEAD, 1, "within a call"),
    "bad block": (GREETING + frame(HEADERS, END_HEADERS, 1, b"\x80"), 9, "number 0"),
    "endless headers": (
        GREETING + frame(HEADERS, 0, 1, bytes(9000)) + frame(CONTINUATION, 0, 1, bytes(9000)),
        11,
        "more than 16384",
    ),
    "pings": (GREETING + frame(PING, 0, 0, bytes(8)) * 1100, 11, "without a request"),
    "settings": (GREETING + frame(SETTINGS) * 1100, 11, "without a request"),
    "empty data": (GREETING + HEAD + frame(DATA, 0, 1) * 1100, 11, "without a request"),
    "empty continuations": (GREETING + frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * 1100, 11, "without"),
    "unknown frames": (GREETING + frame(77, 0, 1, b"x") * 1100, 11, "without a request"),
    "over the stream's window": (
        GREETING + HEAD + frame(DATA, 0, 1, b"\0\0\0\xff\xff" + bytes(65000)) + frame(DATA, 0, 1, bytes(1 << 18)) * 4,
        3,
        "the stream's window",
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
@pytest.mark.parametrize("step", [1 << 18, 7])
def test_a_breach_of_the_protocol_ends_the_connection_with_its_reason(name: str, step: int) -> None:
    data, code, reason = VIOLATIONS[name]
    if step == 7 and len(data) > 100_000:
        step = 7001
    server = Server(answers=False, max_message_bytes=1 << 20)
    if name == "over the stream's window":  # else the window would be renewed
        server = Server(answers=False, max_message_bytes=1 << 20, stream_window_bytes=1 << 17)
    server.feed(data, step)
    found = server.error()
    assert found[0] == code
    assert reason in found[1]
    assert server.feed(call(1001, b"x")) == []


def test_rapid_resets_end_the_connection_and_honest_clients_are_left_alone() -> None:
    server = greeted()
    raw = block()
    for number in range(2000):
        server.feed(frame(HEADERS, END_HEADERS, 2 * number + 1, raw) + frame(RST, 0, 2 * number + 1, bytes(4)))
        if server.connection.closed:
            break
    assert server.error()[0] == 11
    server = greeted()
    for number in range(3000):  # a ping and a settings frame with every request
        stream = 2 * number + 1
        server.feed(frame(PING, 0, 0, bytes(8)) + frame(PRIORITY, 0, stream, bytes(5)) + call(stream, b"x"))
    assert not server.connection.closed


def test_unknown_frames_and_answers_to_pings_are_passed_over() -> None:
    server = greeted()
    server.feed(frame(99, 0xFF, 5, b"?") + frame(PING, 1, 0, bytes(8)) + frame(GOAWAY, 0, 0, bytes(9)))
    assert server.frames() == []
    server.feed(frame(PING, 0, 0, b"12345678"))
    assert server.frames() == [(PING, 1, 0, b"12345678")]


def test_stopping_takes_what_is_on_its_way_and_then_nothing() -> None:
    server = greeted()
    server.connection.stop()
    server.feed(b"")
    server.output += server.connection.take()
    goaway, ping = server.frames()
    assert (goaway[0], goaway[3][:4]) == (GOAWAY, b"\x7f\xff\xff\xff")
    assert [kind for kind, *_ in server.feed(call(1, b"x"))] == ["begin", "complete"]
    server.feed(frame(PING, 1, 0, ping[3]) + call(3, b"y"))
    assert server.connection.refusing
    assert (GOAWAY, 0, 0, struct.pack(">II", 1, 0)) in server.frames()
    assert len(server.heard) == 2


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("examples", [3000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_mutated_conversations_are_answered_or_ended_and_never_more(examples: int, many: bool) -> None:
    chance = random.Random(7)
    encoder = hpack.Encoder()
    talk = GREETING + b"".join(
        frame(HEADERS, END_HEADERS, stream, block([*CALL, ("n", str(stream))], encoder))
        + frame(DATA, END_STREAM, stream, message(bytes(stream)) + message(bytes(20_000)) * many)
        + frame(WINDOW, 0, 0, struct.pack(">I", 10))
        for stream in range(1, 20, 2)
    )
    for _ in range(examples):
        data = bytearray(talk)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(http2.PREFACE), len(data))
            match chance.randrange(4):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    del data[at : at + chance.randint(1, 30)]
                case 2:
                    data[at:at] = chance.randbytes(chance.randint(1, 20))
                case 3:
                    other = chance.randrange(len(data))
                    data[at:at] = data[other : other + 40]
        server = Server(many=many)
        way = chance.choice(WAYS)
        way(server, bytes(data), chance.choice([1 << 18, 20_000] if many else [1 << 18, 50, 3]))
        server.frames()
        completed = [event[1] for event in server.heard if event[0] == "complete"]
        assert len(completed) == len(set(completed))
        assert server.connection.incomplete_bytes >= 0
        assert (server.connection.error is None) is not server.connection.closed
