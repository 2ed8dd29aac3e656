"""Remotes that forwarders send to: real servers on loopback that keep what arrives and fail when they are told to."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import grpc
import grpc.aio
import pyarrow as pa
from aiohttp import web
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from otlp_arrow import codec
from otlp_arrow.model import Signal
from otlp_arrow.sinks.destination import GRPC_METHODS as METHODS

_span_numbers = count(1)


def spans(n: int, *, bad: int = 0, pad: int = 0) -> bytes:
    """A request of ``n`` spans that no other request holds, and ``bad`` ones without a trace id."""
    scope = ScopeSpans()
    for number in (next(_span_numbers) for _ in range(n)):
        scope.spans.append(
            Span(
                trace_id=number.to_bytes(16, "big"),
                span_id=number.to_bytes(8, "big"),
                name=f"span {number}" + "." * pad,
                start_time_unix_nano=number,
                end_time_unix_nano=number + 1,
            )
        )
    for _ in range(bad):
        scope.spans.append(Span(span_id=b"12345678", name="bad"))
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])]).SerializeToString()


def span_ids(payload: bytes) -> list[int]:
    """The numbers of the spans in a request."""
    request = ExportTraceServiceRequest.FromString(payload)
    return [
        int.from_bytes(span.span_id, "big")
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.trace_id
    ]


@dataclass(frozen=True, slots=True)
class Refuse:
    """An answer that is none: a gRPC code, or the HTTP status that means the same."""

    code: grpc.StatusCode
    message: str = "told to fail"
    after_s: float | None = None
    date: bool = False  # Retry-After as a date
    http: int = 0  # instead of the table's


@dataclass(frozen=True, slots=True)
class Partial:
    """Taken, except for some."""

    rejected: int
    message: str = "some are bad"


class Drop:
    """The connection breaks before an answer."""


@dataclass(frozen=True, slots=True)
class Slow:
    """Taken, after a while."""

    seconds: float


Answer = Refuse | Partial | Drop | Slow | None
HTTP = {
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNIMPLEMENTED: 404,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


@dataclass(slots=True)
class Remote:
    """What arrived, and what is answered next. ``answers`` go first, then ``decide`` is asked each time."""

    answers: deque[Answer] = field(default_factory=deque)
    decide: Callable[[int, Signal, bytes], Answer] = lambda n, signal, payload: None
    delay_s: float = 0.0
    requests: int = 0
    payloads: list[tuple[Signal, bytes]] = field(default_factory=list)
    columns: list[tuple[Signal, pa.RecordBatch]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    ids: Counter[int] = field(default_factory=Counter)
    bytes_in_flight: int = 0
    most_at_once: int = 0
    _now: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, signal: Signal, payload: bytes, headers: dict[str, str]) -> Answer:
        self.requests += 1
        number = self.requests
        self.headers.append(headers)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            answer = self.answers.popleft() if self.answers else self.decide(number, signal, payload)
            if isinstance(answer, Slow):
                await asyncio.sleep(answer.seconds)
                answer = None
        finally:
            self._now -= 1
        if answer is None or isinstance(answer, Partial):
            self.payloads.append((signal, payload))
            if signal is Signal.TRACES:
                self.ids.update(span_ids(payload))
            event, self.arrived = self.arrived, asyncio.Event()
            event.set()
        return answer

    async def wait_for(self, condition: Callable[[Remote], bool], timeout_s: float = 15.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition(self):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.arrived.wait(), 0.05)


def retry_trailers(refuse: Refuse) -> tuple[tuple[str, bytes], ...]:
    if refuse.after_s is None:
        return ()
    seconds = int(refuse.after_s)
    delay = Duration(seconds=seconds, nanos=int((refuse.after_s - seconds) * 1e9))
    detail = AnyMessage()
    detail.Pack(RetryInfo(retry_delay=delay))
    status = Status(code=refuse.code.value[0], message=refuse.message, details=[detail])
    return (("grpc-status-details-bin", status.SerializeToString()),)


class Server:
    """A ``Remote`` behind a port that stays the same when it goes down and comes back."""

    transport = ""

    def __init__(self, remote: Remote | None = None, credentials: Any = None) -> None:
        self.remote = remote or Remote()
        self.port = 0
        self.credentials = credentials
        self._wire: Wire | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.credentials else 'http'}://localhost:{self.port}"

    async def __aenter__(self) -> Server:
        await self.up()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.down()

    async def up(self) -> None:
        """Behind a wire that can be cut, so that connections break as they do in life."""
        inner = await self._listen()
        self._wire = await Wire.open(self.port, inner)
        self.port = self._wire.port

    async def down(self) -> None:
        if self._wire is not None:
            await self._wire.close()
            self._wire = None
        await self._stop()

    def cut(self) -> None:
        """Break every connection; new ones are taken."""
        assert self._wire is not None
        self._wire.cut()

    async def _listen(self) -> int:
        raise NotImplementedError

    async def _stop(self) -> None:
        raise NotImplementedError


class GrpcServer(Server):
    transport = "grpc"

    async def _listen(self) -> int:
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        for signal, method in METHODS.items():
            service = method.split("/")[1]
            handler = grpc.unary_unary_rpc_method_handler(self._handler(signal))
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
        port = (
            self._server.add_secure_port("127.0.0.1:0", self.credentials)
            if self.credentials
            else self._server.add_insecure_port("127.0.0.1:0")
        )
        await self._server.start()
        return port

    async def _stop(self) -> None:
        await self._server.stop(0)

    def _handler(self, signal: Signal):
        async def export(payload: bytes, context: grpc.aio.ServicerContext) -> bytes:
            answer = await self.remote.answer(signal, payload, _metadata(context))
            await self._refuse(answer, context)
            return _partial(answer)

        return export

    async def _refuse(self, answer: Answer, context: grpc.aio.ServicerContext) -> None:
        if isinstance(answer, Drop):
            self.cut()
            await asyncio.sleep(0.2)
            await context.abort(grpc.StatusCode.ABORTED, "dropped")
        if isinstance(answer, Refuse):
            await context.abort(answer.code, answer.message, retry_trailers(answer))


class FlightServer(GrpcServer):
    transport = "arrow_flight"

    async def _listen(self) -> int:
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        handler = grpc.stream_stream_rpc_method_handler(self._do_put)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("arrow.flight.protocol.FlightService", {"DoPut": handler}),)
        )
        port = (
            self._server.add_secure_port("127.0.0.1:0", self.credentials)
            if self.credentials
            else self._server.add_insecure_port("127.0.0.1:0")
        )
        await self._server.start()
        return port

    async def _do_put(self, messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        signal, stream = Signal.TRACES, bytearray()
        async for message in messages:
            fields = _fields(message)
            if 1 in fields:
                signal = Signal(_fields(fields[1])[3].decode())
            stream += b"\xff\xff\xff\xff" + len(fields[2]).to_bytes(4, "little") + fields[2] + fields.get(1000, b"")
        columns = pa.ipc.open_stream(bytes(stream)).read_all().combine_chunks().to_batches()[0]
        payload = codec.encode(signal, columns)
        answer = await self.remote.answer(signal, payload, _metadata(context))
        await self._refuse(answer, context)
        self.remote.columns.append((signal, columns))
        metadata = b'{"rows": 1}'
        if isinstance(answer, Partial):
            metadata = b'{"rejected": %d, "message": "%s"}' % (answer.rejected, answer.message.encode())
        yield b"\x0a" + bytes([len(metadata)]) + metadata


class HttpServer(Server):
    transport = "http"

    async def _listen(self) -> int:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/{signal}", self._post)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.credentials)
        await site.start()
        return self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._runner.cleanup()

    async def _post(self, request: web.Request) -> web.Response:
        payload = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        if headers.get("content-encoding") == "zstd":
            payload = pa.input_stream(pa.py_buffer(payload), compression="zstd").read()
        elif payload[:2] == b"\x1f\x8b":
            payload = gzip.decompress(payload)
        answer = await self.remote.answer(Signal(request.match_info["signal"]), payload, headers)
        if isinstance(answer, Drop):
            assert request.transport is not None
            request.transport.abort()
        if isinstance(answer, Refuse):
            more = {}
            if answer.after_s is not None:
                more["Retry-After"] = _date_in(answer.after_s) if answer.date else f"{answer.after_s:g}"
            body = Status(code=answer.code.value[0], message=answer.message).SerializeToString()
            status = answer.http or HTTP[answer.code]
            if answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED and answer.after_s is None:
                status = 413
            return web.Response(status=status, body=body, content_type="application/x-protobuf", headers=more)
        return web.Response(body=_partial(answer), content_type="application/x-protobuf")


SERVERS: Sequence[type[Server]] = (GrpcServer, HttpServer, FlightServer)


class Wire:
    """A TCP relay that can be cut."""

    def __init__(self) -> None:
        self.port = 0
        self._to = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, port: int, to: int) -> Wire:
        wire = cls()
        wire._to = to
        wire._server = await asyncio.start_server(wire._relay, "127.0.0.1", port)
        wire.port = wire._server.sockets[0].getsockname()[1]
        return wire

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, inner_writer}
        for source, target in ((reader, inner_writer), (inner_reader, writer)):
            task = asyncio.create_task(_pump(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    target.close()


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Waits until something is so that nobody announces."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.005)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def _metadata(context: grpc.aio.ServicerContext) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _partial(answer: Answer) -> bytes:
    if not isinstance(answer, Partial):
        return b""
    partial = ExportTracePartialSuccess(rejected_spans=answer.rejected, error_message=answer.message)
    return ExportTraceServiceResponse(partial_success=partial).SerializeToString()


def _fields(message: bytes) -> dict[int, bytes]:
    """The fields of bytes of a protobuf message."""
    found: dict[int, bytes] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 2:
            length = varint()
            found[tag >> 3] = message[at : at + length]
            at += length
        else:
            varint()
    return found


def _date_in(seconds: float) -> str:
    import email.utils
    import math
    import time

    return email.utils.formatdate(math.ceil(time.time() + seconds), usegmt=True)


def all_ids(payloads: Iterable[bytes]) -> set[int]:
    """The numbers of every span in some requests."""
    return {number for payload in payloads for number in span_ids(payload)}
