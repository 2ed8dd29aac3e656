"""The load generator: sends prepared OTLP requests and times the acknowledgements.

It must not be the bottleneck on two shared cores, so it writes HTTP/2 frames and HTTP/1.1 messages
itself: that costs a third of a gRPC client in Python, which spends as much as the server it should
load. ``benchmarks/README.md`` has the figures, and how it was checked against the real client.

Closed loop: a fixed number of requests is under way, each acknowledgement sends the next (saturation).
Open loop: requests fall due at a fixed rate, and latency counts from that moment, sent or not, so that
a stalled server cannot hide its stall.

    python benchmarks/loadgen.py grpc://localhost:4317 traces-512 --seconds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import struct
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import cycle
from typing import cast
from urllib.parse import urlsplit

import hpack
import uvloop
from payloads import WORKLOADS, Workload

CONNECTIONS = 4
IN_FLIGHT = {1: 256, 50: 64}
"""Requests under way at saturation, by records a request; ``IN_FLIGHT_LARGE`` for all others."""
IN_FLIGHT_LARGE = 16
BACK_OFF_S = 0.1
"""A refused sender waits this long before its next request."""
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 10.0
"""After the last request was sent; what is unanswered then counts as lost."""

_GRPC_PATHS = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}


@dataclass(frozen=True, slots=True)
class Result:
    """What a load met. Latencies are milliseconds from due to acknowledged, at the client."""

    seconds: float
    requests: int
    records: int
    failures: dict[str, int]
    partial: int
    latency_ms: dict[str, float]
    client_cpu_us_per_request: float
    requests_per_s: float = field(init=False)
    records_per_s: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "requests_per_s", self.requests / self.seconds)
        object.__setattr__(self, "records_per_s", self.records / self.seconds)


async def drive(
    url: str, workload: Workload, *, seconds: float, in_flight: int | None = None, rate: float | None = None
) -> Result:
    """Load ``url`` (``grpc://host:port`` or ``http://host:port``) for ``seconds``.

    ``rate`` is in requests a second (open loop); None keeps ``in_flight`` requests under way.
    """
    load = _Load(workload, seconds, rate)
    in_flight = in_flight or IN_FLIGHT.get(workload.records_per_request, IN_FLIGHT_LARGE)
    if rate:
        in_flight = max(in_flight, 256)  # a bound against a server that has stopped; late requests queue behind it
    connect = _connect_grpc if urlsplit(url).scheme == "grpc" else _connect_http
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        connections = await connect(url, load, in_flight)
    try:
        return await load.run([slot for connection in connections for slot in connection.slots()])
    finally:
        for connection in connections:
            connection.close()


Slot = Callable[[bytes, float], None]
"""Sends one request that fell due at a moment; free again when the load hears ``answered``."""


class _Load:
    """Decides what is sent when, and gathers what came of it; knows nothing of the wire."""

    def __init__(self, workload: Workload, seconds: float, rate: float | None) -> None:
        self.workload = workload
        self._requests: Iterator[bytes] = cycle(workload.requests)
        self._seconds = seconds
        self._rate = rate
        self._running = False
        self._under_way = 0
        self._idle: list[Slot] = []
        self._overdue: deque[float] = deque()
        self._latencies = array("d")
        self._failures: Counter[str] = Counter()
        self._partial = 0
        self._last_answer = 0.0
        self._all_answered = asyncio.Event()

    async def run(self, slots: list[Slot]) -> Result:
        cpu, started = _cpu_s(), time.perf_counter()
        self._running = True
        if self._rate is None:
            for slot in slots:
                self._send(slot, time.perf_counter())
            await asyncio.sleep(self._seconds)
        else:
            self._idle = slots
            await self._pace(started, self._rate)
        self._running = False
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while self._under_way or self._overdue:
                    self._all_answered.clear()
                    await self._all_answered.wait()
        except TimeoutError:
            self._failures["unanswered"] += self._under_way + len(self._overdue)
        cpu = _cpu_s() - cpu
        count = len(self._latencies)
        return Result(
            seconds=max(self._last_answer - started, 1e-9),
            requests=count,
            records=count * self.workload.records_per_request,
            failures=dict(self._failures),
            partial=self._partial,
            latency_ms=_percentiles(self._latencies),
            client_cpu_us_per_request=cpu * 1e6 / max(count, 1),
        )

    def answered(self, slot: Slot, due: float, status: str, partial: bool) -> None:
        """A request that fell due at ``due`` was answered with ``status``; its slot is free."""
        now = self._last_answer = time.perf_counter()
        self._under_way -= 1
        if status == "OK":
            self._latencies.append(now - due)
            self._partial += partial
            self._next(slot, now)
        else:
            self._failures[status] += 1
            asyncio.get_running_loop().call_later(BACK_OFF_S, self._next, slot, now)
        if not self._under_way:
            self._all_answered.set()

    def _next(self, slot: Slot, now: float) -> None:
        if self._overdue:
            self._send(slot, self._overdue.popleft())
        elif self._rate is not None:
            self._idle.append(slot)
        elif self._running:
            self._send(slot, now)

    def _send(self, slot: Slot, due: float) -> None:
        self._under_way += 1
        slot(next(self._requests), due)

    async def _pace(self, started: float, rate: float) -> None:
        for number in range(int(self._seconds * rate)):
            due = started + number / rate
            ahead = due - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            if self._idle:
                self._send(self._idle.pop(), due)
            else:
                self._overdue.append(due)


# -- OTLP/gRPC over HTTP/2 (RFC 9113, RFC 7541) ---------------------------------------------------

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 2, 4, 5
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_GRPC_STATUS = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"),
    *("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


async def _connect_grpc(url: str, load: _Load, in_flight: int) -> list[_Http2]:
    parts = urlsplit(url)
    address = parts.hostname or "localhost", parts.port or 4317
    path = _GRPC_PATHS[load.workload.signal]
    connections = []
    for number in range(min(CONNECTIONS, in_flight)):
        slots = len(range(number, in_flight, CONNECTIONS))
        _, connection = await asyncio.get_running_loop().create_connection(
            partial(_Http2, load, parts.netloc, path, slots), *address
        )
        connections.append(connection)
        await connection.ready.wait()
    return connections


@dataclass(slots=True)
class _Stream:
    """One request on its way out, and back."""

    slot: Slot
    due: float
    window: int
    unsent: memoryview
    partial: bool = False


class _Http2(asyncio.Protocol):
    """One connection. Only what a unary gRPC call needs; anything unexpected closes it loudly."""

    def __init__(self, load: _Load, authority: str, path: str, slots: int) -> None:
        self.ready = asyncio.Event()
        self._load = load
        self._slots = slots
        self._buffer = b""
        self._streams: dict[int, _Stream] = {}
        self._blocked: deque[int] = deque()  # streams with unsent bytes
        self._last_stream = -1
        self._window = 65_535
        self._stream_window = 65_535
        self._max_frame = 16_384
        self._out: list[bytes | memoryview] = []
        self._reading = False
        # The server indexes these fields at the first request and is sent six bytes from then on,
        # as a real client does.
        fields = [
            (":path", path),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("user-agent", "otlp-arrow-loadgen"),
            ("te", "trailers"),
        ]
        self._headers = b"\x83\x86" + b"".join(
            b"\x40" + _hpack_string(name) + _hpack_string(value) for name, value in fields
        )
        self._indexed_headers = b"\x83\x86" + bytes(0x80 | 62 + place for place in reversed(range(len(fields))))
        # The server is told to index nothing (table size 0), so equal blocks mean equal trailers.
        self._statuses: dict[bytes, str] = {}

    def slots(self) -> list[Slot]:
        """One sender for each request that may be under way here."""

        def make() -> Slot:
            def send(request: bytes, due: float) -> None:
                self._open(send, request, due)

            return send

        return [make() for _ in range(self._slots)]

    def close(self) -> None:
        self._streams.clear()
        self._transport.close()

    # -- asyncio calls these --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        settings = struct.pack(">HIHIHI", _HEADER_TABLE_SIZE, 0, _ENABLE_PUSH, 0, _INITIAL_WINDOW_SIZE, 1 << 20)
        # Answers are a few bytes each: one large credit at the start lasts for the whole run.
        credit = _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + credit)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ready.set()
        self._fail_all(f"connection lost: {exc}" if exc else "connection closed")

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at, end = 0, len(buffer)
        self._reading = True
        while end - at >= 9:
            length = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            if end - at < 9 + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9]) & 0x7FFF_FFFF
            at += 9
            self._received(kind, flags, stream, buffer[at : at + length])
            at += length
        self._buffer = buffer[at:]
        self._reading = False
        self._flush()

    # -- one frame --

    def _received(self, kind: int, flags: int, number: int, body: bytes) -> None:
        if kind == _HEADERS:
            if flags & _END_STREAM:
                assert flags & _END_HEADERS, "trailers in several frames"
                self._answered(number, self._statuses.get(body) or self._read_status(body))
        elif kind == _DATA:
            if len(body) > 5 and number in self._streams:  # a response message that is not empty
                self._streams[number].partial = True
        elif kind == _WINDOW_UPDATE:
            (credit,) = struct.unpack(">I", body)
            if number == 0:
                self._window += credit
            elif number in self._streams:
                self._streams[number].window += credit
            self._send_unsent()
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self._apply_settings(body)
        elif kind == _PING:
            if not flags & _ACK:
                self._out.append(_frame(_PING, _ACK, 0, body))
        elif kind == _RST_STREAM:
            self._answered(number, f"reset {int.from_bytes(body)}")
        elif kind == _GOAWAY:
            self._fail_all("goaway")

    def _apply_settings(self, body: bytes) -> None:
        for key, value in struct.iter_unpack(">HI", body):
            if key == _INITIAL_WINDOW_SIZE:
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif key == _MAX_FRAME_SIZE:
                self._max_frame = value
        self._out.append(_frame(_SETTINGS, _ACK, 0))
        self.ready.set()
        self._send_unsent()

    def _read_status(self, block: bytes) -> str:
        decoder = hpack.Decoder()
        decoder.max_allowed_table_size = 0
        decoder.header_table_size = 0
        trailers = {str(name): str(value) for name, value in decoder.decode(block)}
        status = _GRPC_STATUS[int(trailers["grpc-status"])]
        if status == "OK":
            self._statuses[block] = status
        return status

    def _answered(self, number: int, status: str) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            self._load.answered(stream.slot, stream.due, status, stream.partial)

    def _fail_all(self, why: str) -> None:
        for number in list(self._streams):
            self._answered(number, why)

    # -- sending --

    def _open(self, slot: Slot, request: bytes, due: float) -> None:
        if self._transport.is_closing():
            self._load.answered(slot, due, "connection closed", False)
            return
        self._last_stream += 2
        number = self._last_stream
        self._out.append(_frame(_HEADERS, _END_HEADERS, number, self._headers))
        self._headers = self._indexed_headers
        message = memoryview(b"\0" + len(request).to_bytes(4) + request)
        self._streams[number] = _Stream(slot, due, self._stream_window, message)
        self._blocked.append(number)
        self._send_unsent()
        if not self._reading:
            self._flush()

    def _send_unsent(self) -> None:
        """Write what the server's windows allow, oldest stream first."""
        for _ in range(len(self._blocked)):
            if self._window <= 0:
                return
            number = self._blocked.popleft()
            stream = self._streams.get(number)
            if stream is None:
                continue
            while (size := min(len(stream.unsent), stream.window, self._window, self._max_frame)) > 0:
                last = size == len(stream.unsent)
                self._out.append(_frame_head(size, _DATA, _END_STREAM if last else 0, number))
                self._out.append(stream.unsent[:size])
                stream.unsent = stream.unsent[size:]
                stream.window -= size
                self._window -= size
            if stream.unsent:
                self._blocked.append(number)

    def _flush(self) -> None:
        if self._out and not self._transport.is_closing():
            self._transport.writelines(self._out)
        self._out = []


def _frame_head(length: int, kind: int, flags: int, stream: int) -> bytes:
    return struct.pack(">HBBBI", length >> 8, length & 0xFF, kind, flags, stream)


def _frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return _frame_head(len(body), kind, flags, stream) + body


def _hpack_string(text: str) -> bytes:
    assert len(text) < 127, text
    return bytes([len(text)]) + text.encode()


# -- OTLP/HTTP over HTTP/1.1 ----------------------------------------------------------------------


async def _connect_http(url: str, load: _Load, in_flight: int) -> list[_Http1]:
    parts = urlsplit(url)
    address = parts.hostname or "localhost", parts.port or 4318
    head = (
        f"POST /v1/{load.workload.signal} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        "Content-Type: application/x-protobuf\r\nContent-Length: "
    ).encode()
    connections = []
    for _ in range(in_flight):
        _, connection = await asyncio.get_running_loop().create_connection(partial(_Http1, load, head), *address)
        connections.append(connection)
    return connections


class _Http1(asyncio.Protocol):
    """One kept-alive connection with at most one request under way."""

    def __init__(self, load: _Load, head: bytes) -> None:
        self._load = load
        self._head = head
        self._buffer = b""
        self._due: float | None = None

    def slots(self) -> list[Slot]:
        return [self._send]

    def close(self) -> None:
        self._due = None
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._answered("connection closed", False)

    def _send(self, request: bytes, due: float) -> None:
        if self._transport.is_closing():
            self._load.answered(self._send, due, "connection closed", False)
            return
        self._due = due
        self._transport.writelines([self._head, b"%d\r\n\r\n" % len(request), request])

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        status, *fields = head.split(b"\r\n")
        length = next((int(f[15:]) for f in fields if f[:15].lower() == b"content-length:"), None)
        assert length is not None, f"an answer without Content-Length: {head!r}"
        if len(body) < length:
            return
        self._buffer = b""
        code = status.split(b" ", 2)[1]
        self._answered("OK" if code == b"200" else code.decode(), length > 0)

    def _answered(self, status: str, partial: bool) -> None:
        due, self._due = self._due, None
        if due is not None:
            self._load.answered(self._send, due, status, partial)


# -- figures --------------------------------------------------------------------------------------


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _percentiles(seconds: array[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ordered = sorted(seconds)
    at = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 for name, share in at.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="grpc://host:port or http://host:port")
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--in-flight", type=int, help="requests under way at saturation")
    parser.add_argument("--rate", type=float, help="requests a second; without it, saturation")
    arguments = parser.parse_args()
    workload = WORKLOADS[arguments.workload]()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(
            drive(
                arguments.url,
                workload,
                seconds=arguments.seconds,
                in_flight=arguments.in_flight,
                rate=arguments.rate,
            )
        )
    print(json.dumps(asdict(result), indent=2))


if __name__ == "__main__":
    main()
