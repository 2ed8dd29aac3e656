"""A collector for tests: real doors on free ports, everything in memory, failures on demand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
import pyarrow as pa

from otlp_arrow.app.library import as_request
from otlp_arrow.app.loop_thread import LoopThread
from otlp_arrow.model import Receipt, Signal, limits
from otlp_arrow.model.meter import NullMeter
from otlp_arrow.receivers import OtlpGrpcServer, OtlpHttpServer
from otlp_arrow.receivers.flight import FlightServer
from otlp_arrow.receivers.inprocess import InProcessDoor
from otlp_arrow.receivers.replies import Refusal
from otlp_arrow.receivers.services import Code
from otlp_arrow.testing.memory import Fault, MemoryIntake
from otlp_arrow.testing.proxy import CuttableProxy
from otlp_arrow.testing.records import DataPoint, LogRecord, Span, records

if TYPE_CHECKING:
    from otlp_arrow.receivers.inprocess import Exportable

_CALL_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_GRACE_S = 0.2  # a test that ends does not wait for requests that it abandoned

# How HTTP says what gRPC says, by the table in google/rpc/code.proto.
_HTTP_STATUS = {
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ABORTED: 409,
    Code.ALREADY_EXISTS: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
_GRPC_CODE = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    408: Code.DEADLINE_EXCEEDED,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.RESOURCE_EXHAUSTED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


class MockCollector:
    """Takes OTLP/gRPC, OTLP/HTTP and Arrow Flight on free ports of ``host`` and keeps what comes in memory.

    ::

        with MockCollector() as collector:
            exporter = OTLPSpanExporter(endpoint=collector.grpc_endpoint)
            …
            collector.wait_for(spans=3)
            assert collector.spans[0].name == "checkout"

    A context manager, synchronous and asynchronous. Its loop runs in a thread of its own, so that every method may be
    called from any thread, an asynchronous test included; only ``wait_for`` has a variant to be awaited.
    """

    def __init__(self, *, host: str = "127.0.0.1") -> None:
        self._host = host
        self._intake = MemoryIntake(self._drop)
        self._proxies: dict[str, CuttableProxy] = {}
        self._thread: LoopThread[None] | None = None
        self._door = InProcessDoor(self._intake, NullMeter(), limits.MAX_REQUEST_BYTES)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def start(self) -> None:
        """Open the doors. Raises ``OtlpServerError``."""
        assert self._thread is None, "it was started already"
        self._thread = LoopThread("otlp-mock-collector", self._doors())
        self._thread.start(_CALL_TIMEOUT_S)

    def stop(self) -> None:
        """Close the doors; what was received stays. Idempotent."""
        if self._thread is not None:
            self._thread.stop(_STOP_TIMEOUT_S)
            self._thread = None

    @asynccontextmanager
    async def _doors(self) -> AsyncIterator[None]:
        common: dict[str, Any] = {"host": self._host, "port": 0, "meter": NullMeter(), "grace_s": _GRACE_S}
        servers: dict[str, AbstractAsyncContextManager[Any]] = {
            "grpc": OtlpGrpcServer(self._intake, **common),
            "http": OtlpHttpServer(self._intake, **common),
            "flight": FlightServer(self._intake, self._intake, **common),
        }
        async with AsyncExitStack() as parts:
            for name, server in servers.items():
                opened = await parts.enter_async_context(server)
                proxy = CuttableProxy(self._host, opened.bound_port)
                self._proxies[name] = await parts.enter_async_context(proxy)
            yield

    # -- where ---------------------------------------------------------------------------------------

    @property
    def grpc_endpoint(self) -> str:
        """For ``OTEL_EXPORTER_OTLP_ENDPOINT`` with the protocol grpc."""
        return f"http://{self._host}:{self._proxies['grpc'].port}"

    @property
    def http_endpoint(self) -> str:
        """For ``OTEL_EXPORTER_OTLP_ENDPOINT`` with http/protobuf or http/json: without the path of the signal."""
        return f"http://{self._host}:{self._proxies['http'].port}"

    @property
    def flight_endpoint(self) -> str:
        """For ``pyarrow.flight.connect``."""
        return f"grpc://{self._host}:{self._proxies['flight'].port}"

    # -- what was received -------------------------------------------------------------------------

    @property
    def spans(self) -> list[Span]:
        """The spans received so far, in order."""
        return [span for batch in self._intake.batches(Signal.TRACES) for span in records(Span, batch)]

    @property
    def data_points(self) -> list[DataPoint]:
        """The data points received so far, in order."""
        return [point for batch in self._intake.batches(Signal.METRICS) for point in records(DataPoint, batch)]

    @property
    def log_records(self) -> list[LogRecord]:
        """The log records received so far, in order."""
        return [record for batch in self._intake.batches(Signal.LOGS) for record in records(LogRecord, batch)]

    @property
    def traces_table(self) -> pa.Table:
        """The spans in the storage schema."""
        return self._intake.table(Signal.TRACES)

    @property
    def metrics_table(self) -> pa.Table:
        """The data points in the storage schema."""
        return self._intake.table(Signal.METRICS)

    @property
    def logs_table(self) -> pa.Table:
        """The log records in the storage schema."""
        return self._intake.table(Signal.LOGS)

    @property
    def grpc_calls_count(self) -> int:
        """Requests over OTLP/gRPC, those that were made to fail included."""
        return self._intake.calls["grpc"]

    @property
    def http_calls_count(self) -> int:
        """Requests over OTLP/HTTP, those that were made to fail included."""
        return self._intake.calls["http"]

    @property
    def flight_calls_count(self) -> int:
        """Batches over Flight, those that were made to fail included."""
        return self._intake.calls["flight"]

    @property
    def api_calls_count(self) -> int:
        """Calls of ``receive_trace``, ``receive_metric`` and ``receive_log``."""
        return self._intake.calls["inprocess"]

    def receive_trace(self, traces: Exportable | Any) -> Receipt:
        """Take spans without a connection: whatever ``OtlpLibrary.export_traces`` takes."""
        return self._receive(Signal.TRACES, traces)

    def receive_metric(self, metrics: Exportable | Any) -> Receipt:
        """Take metrics without a connection: whatever ``OtlpLibrary.export_metrics`` takes."""
        return self._receive(Signal.METRICS, metrics)

    def receive_log(self, logs: Exportable | Any) -> Receipt:
        """Take log records without a connection: whatever ``OtlpLibrary.export_logs`` takes."""
        return self._receive(Signal.LOGS, logs)

    def _receive(self, signal: Signal, exported: Any) -> Receipt:
        assert self._thread is not None, "use it inside `with`"
        batch = self._door.prepare(signal, as_request(signal, exported))
        return self._thread.submit(lambda: self._door.accept(batch)).result(_CALL_TIMEOUT_S)

    # -- what a test asks ----------------------------------------------------------------------------

    def assert_traces_received(self, n: int) -> None:
        """Exactly ``n`` spans were received. Raises ``AssertionError``."""
        self._assert_received(Signal.TRACES, n, "spans")

    def assert_metrics_received(self, n: int) -> None:
        """Exactly ``n`` data points were received. Raises ``AssertionError``."""
        self._assert_received(Signal.METRICS, n, "data points")

    def assert_logs_received(self, n: int) -> None:
        """Exactly ``n`` log records were received. Raises ``AssertionError``."""
        self._assert_received(Signal.LOGS, n, "log records")

    def _assert_received(self, signal: Signal, expected: int, words: str) -> None:
        received = self._intake.rows(signal)
        if received != expected:
            raise AssertionError(f"expected {expected} {words}, received {received}")

    def wait_for(
        self,
        condition: Callable[[MockCollector], bool] | None = None,
        *,
        spans: int = 0,
        data_points: int = 0,
        log_records: int = 0,
        timeout: float = 5.0,
    ) -> None:
        """Return once at least so many records are there and ``condition(self)`` holds.

        Raises ``AssertionError`` saying what was there after ``timeout`` seconds.
        """
        wanted = {Signal.TRACES: spans, Signal.METRICS: data_points, Signal.LOGS: log_records}

        def reached() -> bool:
            enough = all(self._intake.rows(signal) >= count for signal, count in wanted.items())
            return enough and (condition is None or condition(self))

        deadline = time.monotonic() + timeout
        while True:
            with self._intake.changed:
                if reached():
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._intake.changed.wait(left)
        there = ", ".join(f"{self._intake.rows(signal)} {signal.records.replace('_', ' ')}" for signal in Signal)
        asked = ", ".join(f"{count} {signal.records.replace('_', ' ')}" for signal, count in wanted.items() if count)
        raise AssertionError(f"waited {timeout} s for {asked or 'a condition'}; there are {there}")

    async def wait_for_async(
        self,
        condition: Callable[[MockCollector], bool] | None = None,
        *,
        spans: int = 0,
        data_points: int = 0,
        log_records: int = 0,
        timeout: float = 5.0,
    ) -> None:
        """``wait_for`` to be awaited."""
        await asyncio.to_thread(
            self.wait_for, condition, spans=spans, data_points=data_points, log_records=log_records, timeout=timeout
        )

    def reset(self) -> None:
        """Forget what was received, what was counted and what was planned."""
        self._intake.reset()

    # -- failures on demand ------------------------------------------------------------------------------

    def fail_next(
        self,
        n: int = 1,
        code: grpc.StatusCode | str | int = grpc.StatusCode.UNAVAILABLE,
        retry_after: float | None = None,
        message: str = "told to fail",
    ) -> None:
        """Refuse the next ``n`` requests, whichever door they come to, and keep nothing of them.

        ``code`` is one of gRPC's, its name, or an HTTP status; the other protocol gets its counterpart. ``retry_after``
        is sent in seconds: RetryInfo over gRPC, Retry-After over HTTP.
        """
        grpc_code, http_status = _codes(code)
        refusal = Refusal("planned", grpc_code, http_status, message, retry_after)
        self._intake.plan(Fault(refusal=refusal), n)

    def delay_next(self, n: int, seconds: float) -> None:
        """Let the next ``n`` requests wait before they are taken."""
        self._intake.plan(Fault(delay_s=seconds), n)

    def drop_next(self, n: int = 1) -> None:
        """Cut the connections of the door that each of the next ``n`` requests comes to, and keep nothing of them."""
        refusal = Refusal("planned", Code.UNAVAILABLE, 503, "the connection was cut")
        self._intake.plan(Fault(refusal=refusal, drop=True), n)

    @property
    def delay(self) -> float:
        """Seconds that every request waits before it is taken; ``delay_next`` has precedence."""
        return self._intake.delay_s

    @delay.setter
    def delay(self, seconds: float) -> None:
        self._intake.delay_s = seconds

    async def _drop(self, door: str) -> None:
        if door in self._proxies:
            await self._proxies[door].cut()


def _codes(code: grpc.StatusCode | str | int) -> tuple[Code, int]:
    if isinstance(code, int):
        return _GRPC_CODE.get(code, Code.UNKNOWN), code
    found = Code[code.upper() if isinstance(code, str) else code.name]
    return found, _HTTP_STATUS.get(found, 500)
