"""Both doors seen from outside: an intake in memory behind them, and senders that speak each dialect."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import grpc.aio
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from otlp_arrow.codec.otlp_json import protobuf_to_json
from otlp_arrow.codec.reference import decode_with_outcome
from otlp_arrow.model import Batch, Busy, Receipt, Rejected, Signal
from otlp_arrow.model.meter import REQUESTS, Metric, NullMeter
from otlp_arrow.receivers import AioOtlpGrpcServer, OtlpGrpcServer, OtlpHttpServer
from otlp_arrow.receivers.services import SERVICES

REQUEST: dict[Signal, type[Message]] = {
    Signal.TRACES: ExportTraceServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
}
RESPONSE: dict[Signal, type[Message]] = {
    Signal.TRACES: ExportTraceServiceResponse,
    Signal.METRICS: ExportMetricsServiceResponse,
    Signal.LOGS: ExportLogsServiceResponse,
}
REJECTED_FIELD = {
    Signal.TRACES: "rejected_spans",
    Signal.METRICS: "rejected_data_points",
    Signal.LOGS: "rejected_log_records",
}


class MemoryTicket:
    def __init__(self, intake: MemoryIntake, nbytes: int) -> None:
        self._intake = intake
        self._nbytes = 0
        self.grow(nbytes)

    def grow(self, nbytes: int) -> None:
        assert nbytes >= 0
        if self._intake.held_bytes + nbytes > self._intake.max_bytes:
            raise Busy("the buffer is full", self._intake.retry_after_s)
        self._nbytes += nbytes
        self._intake.held_bytes += nbytes
        self._intake.peak_bytes = max(self._intake.peak_bytes, self._intake.held_bytes)

    def release(self) -> None:
        self._intake.held_bytes -= self._nbytes
        self._nbytes = 0


class MemoryIntake:
    """Decodes and keeps batches in a list, and refuses when told to."""

    def __init__(self, max_bytes: int = 1 << 40) -> None:
        self.batches: list[Batch] = []
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.peak_bytes = 0
        self.asked_bytes: list[int] = []  # by each admit
        self.retry_after_s = 1.0
        self.error: Exception | None = None  # raised by accept
        self.receipt: Receipt | None = None  # returned by accept, instead of what decoding says
        self.waiting = 0
        self.gate = asyncio.Event()  # accept waits for it
        self.gate.set()

    def admit(self, nbytes: int) -> MemoryTicket:
        self.asked_bytes.append(nbytes)
        return MemoryTicket(self, nbytes)

    def submit(self, batch: Batch, ticket: MemoryTicket | None = None) -> asyncio.Future[Receipt]:
        return asyncio.ensure_future(self.accept(batch, ticket))

    def when_ready(self, submit_more: Callable[[], None]) -> None:
        submit_more()

    async def accept(self, batch: Batch, ticket: MemoryTicket | None = None) -> Receipt:
        ticket = ticket or self.admit(len(batch.payload))
        self.waiting += 1
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            if self.receipt is not None:
                return self.receipt
            _, outcome = decode_with_outcome(batch.signal, batch.payload)
            if outcome.error is not None:
                raise Rejected(outcome.error)
            self.batches.append(batch)
            return Receipt(outcome.rows, outcome.rejected, outcome.message, len(self.batches))
        finally:
            self.waiting -= 1
            ticket.release()


class CountingMeter(NullMeter):
    """Counts requests by outcome."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def add(self, metric: Metric, amount: float = 1, *labels: str) -> None:
        assert len(labels) == len(metric.labels)
        if metric is REQUESTS:
            self.outcomes[labels[-1]] += int(amount)


@dataclass
class Answer:
    """What a sender heard, in words that fit every dialect. ``code`` is a name of ``google.rpc.Code``."""

    code: str
    message: str = ""
    retry_after_s: float | None = None
    response: Message | None = None
    http: aiohttp.ClientResponse | None = None
    body: bytes = b""

    @property
    def ok(self) -> bool:
        return self.code == "OK"


_HTTP_CODES = {
    200: "OK",
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    413: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class GrpcSender:
    """OTLP/gRPC by the library's own client."""

    def __init__(self, port: int, credentials: grpc.ChannelCredentials | None = None, host: str = "127.0.0.1") -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        target = f"{host}:{port}"
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(target, options=options)
        else:
            self.channel = grpc.aio.secure_channel(target, credentials, options=options)

    async def send(
        self,
        signal: Signal,
        payload: bytes,
        headers: Mapping[str, str] | None = None,
        gzip: bool = False,
        timeout: float = 10,
    ) -> Answer:
        method = self.channel.unary_unary(f"/{SERVICES[signal]}/Export")
        call = method(
            payload,
            metadata=tuple((headers or {}).items()),
            compression=grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression,
            timeout=timeout,
        )
        try:
            body = await call
        except grpc.aio.AioRpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            return Answer(error.code().name, error.details() or "", _delay_s(trailers))
        return Answer("OK", response=RESPONSE[signal].FromString(body), body=body)

    async def close(self) -> None:
        await self.channel.close()


def _delay_s(trailers: Mapping[str, Any]) -> float | None:
    """The delay for a retry, having seen that it is the same in both places."""
    bare = trailers.get("google.rpc.retryinfo-bin")
    details = Status.FromString(trailers.get("grpc-status-details-bin", b"")).details
    packed = [detail for detail in details if detail.Is(RetryInfo.DESCRIPTOR)]
    assert (bare is not None) == bool(packed)
    if bare is None:
        return None
    info = RetryInfo()
    packed[0].Unpack(info)
    assert info == RetryInfo.FromString(bare)
    return float(info.retry_delay.ToTimedelta().total_seconds())


class HttpSender:
    """OTLP/HTTP by aiohttp's client, in protobuf or JSON. Checks what holds for every answer."""

    def __init__(self, port: int, media: str, context: ssl.SSLContext | None = None) -> None:
        self.media = media
        self.base = f"{'https' if context else 'http'}://127.0.0.1:{port}"
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context or True, limit=0))

    async def send(
        self,
        signal: Signal,
        payload: bytes,
        headers: Mapping[str, str] | None = None,
        gzip: bool = False,
        timeout: float = 10,
    ) -> Answer:
        body = payload if self.media == "protobuf" else protobuf_to_json(signal, payload).encode()
        return await self.post(signal, body, headers, gzip, timeout)

    async def post(
        self,
        signal: Signal,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        gzip: bool = False,
        timeout: float = 10,
    ) -> Answer:
        sent = {"Content-Type": "application/x-protobuf" if self.media == "protobuf" else "application/json"}
        if gzip:
            compressor = zlib.compressobj(wbits=31)
            body = compressor.compress(body) + compressor.flush()
            sent["Content-Encoding"] = "gzip"
        async with self.session.post(
            f"{self.base}/v1/{signal.value}",
            data=io.BytesIO(body),  # bytes over a megabyte make aiohttp warn
            headers=sent | dict(headers or {}),
            timeout=aiohttp.ClientTimeout(timeout),
        ) as response:
            return self._answer(signal, response, await response.read())

    def _answer(self, signal: Signal, response: aiohttp.ClientResponse, body: bytes) -> Answer:
        assert response.headers["Content-Type"] == response.request_info.headers["Content-Type"].partition(";")[0]
        code = _HTTP_CODES[response.status]
        if response.status == 200:
            if self.media == "protobuf":
                message = RESPONSE[signal].FromString(body)
            else:
                message = _from_json(RESPONSE[signal], json.loads(body))
            return Answer(code, response=message, http=response, body=body)
        if self.media == "protobuf":
            text = Status.FromString(body).message
        else:
            status = json.loads(body)
            assert isinstance(status["code"], int)
            text = status["message"]
        delay = response.headers.get("Retry-After")
        return Answer(code, text, float(delay) if delay else None, http=response, body=body)

    async def close(self) -> None:
        await self.session.close()


def _from_json(kind: type[Message], value: dict[str, Any]) -> Message:
    for number in value.get("partialSuccess", {}).items():
        assert isinstance(number[1], str)  # 64-bit integers are strings in JSON, too
    message: Message = ParseDict(value, kind())
    return message


Sender = GrpcSender | HttpSender


@dataclass
class OpenDoor:
    """A door, what is behind it, and a sender in front of it."""

    server: AioOtlpGrpcServer | OtlpGrpcServer | OtlpHttpServer
    intake: MemoryIntake
    meter: CountingMeter
    sender: Sender


DIALECTS = ("grpc", "grpc-library", "http-protobuf", "http-json")
SERVERS: dict[str, Callable[..., Any]] = {
    "grpc": OtlpGrpcServer,
    "grpc-library": AioOtlpGrpcServer,
    "http-protobuf": OtlpHttpServer,
    "http-json": OtlpHttpServer,
}


@asynccontextmanager
async def open_door(dialect: str, *, intake: MemoryIntake | None = None, **options: Any) -> AsyncIterator[OpenDoor]:
    """One door on a free port, with a sender of ``dialect``; afterwards nothing may be left reserved."""
    intake = intake or MemoryIntake()
    meter = CountingMeter()
    arguments = {"host": "127.0.0.1", "port": 0, "meter": meter} | options
    async with SERVERS[dialect](intake, **arguments) as server:
        sender: Sender
        if dialect.startswith("grpc"):
            sender = GrpcSender(server.bound_port)
        else:
            sender = HttpSender(server.bound_port, dialect.removeprefix("http-"))
        try:
            yield OpenDoor(server, intake, meter, sender)
        finally:
            await sender.close()
    assert intake.held_bytes == 0, "a reservation was left behind"


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Returns when ``condition`` holds; fails if it does not within ``timeout_s``."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.002)


def request_message(signal: Signal, payload: bytes) -> Message:
    """``payload`` as the message it is."""
    return REQUEST[signal].FromString(payload)


def span_request(*names: str, trace_ids: Sequence[bytes] | None = None) -> bytes:
    """An ExportTraceServiceRequest with one span for each name."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for index, name in enumerate(names):
        trace_id = trace_ids[index] if trace_ids else bytes([1] * 16)
        spans.add(name=name, trace_id=trace_id, span_id=bytes([2] * 8), start_time_unix_nano=1, end_time_unix_nano=2)
    return request.SerializeToString()
