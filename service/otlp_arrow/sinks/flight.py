"""Arrow Flight: ``DoPut`` of batches in the storage schema, confirmed by the server's ``PutResult``.

Messages that stand in a builder's memory go out by our own HTTP/2. What is a batch already, TLS, proxies and
compression are pyarrow's: its client sends a batch's buffers without copying them, too, but wants Arrow's objects made
of 130 columns, and threads for its calls (docs/decisions/0014). They block, so that each has a thread of its own while
it lasts, and one that was cancelled here goes on until its timeout: it cannot be stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
from pyarrow import flight

from otlp_arrow.model import Batch, Encoding, Parts, Signal
from otlp_arrow.model.limits import FLIGHT_PUT_BYTES
from otlp_arrow.sinks import tls
from otlp_arrow.sinks.causes import Causes
from otlp_arrow.sinks.destination import Destination, is_direct
from otlp_arrow.sinks.plain_grpc import PlainGrpc
from otlp_arrow.sinks.put_messages import app_metadata
from otlp_arrow.sinks.retry import judge_grpc, one_line, retry_info
from otlp_arrow.sinks.sink import DeliveryError, DeliveryResult, Permanent, Transient

_DO_PUT = "/arrow.flight.protocol.FlightService/DoPut"

_RECONNECT_MS = 1_000
_MAX_RECONNECT_MS = 5_000

_CONTEXT = re.compile(r"\. gRPC client debug context: ([A-Z_]+):")
"""Where pyarrow's text of an error names the gRPC code; its classes lump several together."""

_CODES: tuple[tuple[type[BaseException], str], ...] = (
    (flight.FlightUnavailableError, "UNAVAILABLE"),
    (flight.FlightTimedOutError, "DEADLINE_EXCEEDED"),
    (flight.FlightCancelledError, "CANCELLED"),
    (flight.FlightUnauthenticatedError, "UNAUTHENTICATED"),
    (flight.FlightUnauthorizedError, "PERMISSION_DENIED"),
    (pa.ArrowNotImplementedError, "UNIMPLEMENTED"),
    (pa.ArrowKeyError, "NOT_FOUND"),
    (pa.ArrowInvalid, "INVALID_ARGUMENT"),
    (flight.FlightInternalError, "INTERNAL"),
)


class FlightSink:
    """One Flight client; each batch is a ``DoPut`` of its own, in parts if it is large."""

    encoding = Encoding.ARROW

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._plain = PlainGrpc(destination)
        self.takes_parts = is_direct(destination) and destination.compression == "none"
        self._causes = Causes(destination)
        self._trailers = _Trailers()
        self._tls_version = tls.version_of(destination.tls)
        self._tls = self._load_tls()
        self._client: flight.FlightClient | None = None
        self._write_options = pa.ipc.IpcWriteOptions(
            compression="zstd" if destination.compression == "zstd" else None, use_threads=False
        )
        self._threads = _Threads(f"otlp-flight-{destination.name}", destination.max_in_flight * len(Signal))

    async def __aenter__(self) -> Self:
        self._client = self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._client = None  # closes with its last call
        self._threads.close()
        await self._plain.close()

    async def send(self, batch: Batch) -> DeliveryResult:
        """See ``Sink.send``."""
        if isinstance(batch.payload, Parts):
            return _result(map(app_metadata, await self._plain.call(_DO_PUT, batch.payload.parts)), sys.maxsize)
        assert batch.columns is not None
        self._reconnect_if_rotated()
        client, columns = self._client, batch.columns
        try:
            result = await self._threads.run(lambda: self._put(client, batch.signal, columns))
        except Transient as error:
            raise await self._causes.explain(error) from None
        self._causes.worked()
        return result

    def _put(self, client: Any, signal: Signal, columns: pa.RecordBatch) -> DeliveryResult:
        headers = [(name.lower().encode(), value.encode()) for name, value in self._destination.request_headers()]
        options = flight.FlightCallOptions(
            timeout=self._destination.timeout_s, headers=headers, write_options=self._write_options
        )
        self._trailers.forget()
        try:
            return _result(_do_put(client, signal, columns, options), columns.num_rows)
        except (pa.ArrowException, flight.FlightError, OSError) as error:
            raise _judge(error, retry_info(self._trailers.of_this_thread())) from None

    # -- the client ------------------------------------------------------------------------------

    def _connect(self) -> flight.FlightClient:
        options = [
            ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MS),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        scheme = "grpc+tls" if self._destination.secure else "grpc+tcp"
        return flight.FlightClient(
            f"{scheme}://{self._destination.target()}",
            generic_options=options,
            middleware=[self._trailers],
            **self._tls,
        )

    def _load_tls(self) -> dict[str, Any]:
        if not self._destination.secure:
            return {}
        files = self._destination.tls
        chain, key = tls.client_certificate(files) or (None, None)
        return {"tls_root_certs": tls.root_certificates(files), "cert_chain": chain, "private_key": key}

    def _reconnect_if_rotated(self) -> None:
        files = self._destination.tls
        if not files.paths() or (version := tls.version_of(files)) == self._tls_version:
            return
        self._tls = self._load_tls()
        self._tls_version = version
        self._client = self._connect()  # the former one closes with its last call


def _do_put(client: Any, signal: Signal, columns: pa.RecordBatch, options: Any) -> list[bytes]:
    """The metadata of each ``PutResult``."""
    descriptor = flight.FlightDescriptor.for_path(signal.value)
    writer, reader = client.do_put(descriptor, columns.schema, options=options)
    answers: list[bytes] = []
    try:
        for part in _parts(columns):
            writer.write_batch(part)
        writer.done_writing()
        while (answer := reader.read()) is not None:
            answers.append(answer.to_pybytes())
    except (pa.ArrowException, flight.FlightError, OSError):
        writer.close()  # raises what the server said; a write only knows that it failed
        raise
    writer.close()
    return answers


def _parts(columns: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Slices of at most about ``FLIGHT_PUT_BYTES``; they share dictionaries, which are sent once."""
    count = max(1, -(-columns.nbytes // FLIGHT_PUT_BYTES))
    if count == 1:
        yield columns
        return
    rows = -(-columns.num_rows // count)
    for start in range(0, columns.num_rows, rows):
        yield columns.slice(start, rows)


def _result(answers: Iterable[bytes], rows: int) -> DeliveryResult:
    """Of the metadata that servers of ours send; others send what they like, or nothing."""
    rejected, message = 0, ""
    for answer in answers:
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            found = json.loads(answer)
            rejected += int(found.get("rejected", 0))
            message = str(found.get("message", "")) or message
    return DeliveryResult(min(max(0, rejected), rows), one_line(message))


def _judge(error: Exception, retry_after_s: float | None) -> DeliveryError:
    """By gRPC's code, as for OTLP."""
    text = str(error)
    found = _CONTEXT.search(text)
    if found:
        code: str | None = found[1]
    else:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    # pyarrow and gRPC tell the whole way to a failure; the cause comes last.
    cause = text.partition(". gRPC client debug context:")[0].rpartition("with message: ")[2]
    cause = cause.rpartition("last error: ")[2]
    if code is not None:
        return judge_grpc(code, cause, retry_after_s)
    return Transient(one_line(cause)) if isinstance(error, OSError) else Permanent(one_line(cause))


class _Trailers(flight.ClientMiddlewareFactory):  # type: ignore[misc]
    """Keeps what the server sent with its answer: pyarrow's errors leave it out. A call and its thread are one."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    def start_call(self, info: Any) -> flight.ClientMiddleware:
        return _Listener(self._local)

    def forget(self) -> None:
        self._local.found = []

    def of_this_thread(self) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = self._local.found
        return found


class _Listener(flight.ClientMiddleware):  # type: ignore[misc]
    def __init__(self, local: threading.local) -> None:
        super().__init__()
        self._local = local

    def received_headers(self, headers: dict[str, list[str | bytes]]) -> None:
        found = [(name, value) for name, values in headers.items() for value in values if isinstance(value, bytes)]
        self._local.found = found


class _Threads:
    """Threads that nobody waits for at the end: one that hangs in a call must not hold up the exit."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._count = self._idle = 0
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    async def run(self, call: Callable[[], DeliveryResult]) -> DeliveryResult:
        """The result of ``call``, made on a thread. A cancelled caller leaves it running."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[DeliveryResult] = loop.create_future()

        def settle(result: DeliveryResult | None, error: BaseException | None) -> None:
            self._idle += 1
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            elif result is not None:
                future.set_result(result)

        def work() -> None:
            result, error = None, None
            try:
                result = call()
            except BaseException as caught:
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, result, error)

        if self._idle:
            self._idle -= 1
        elif self._count < self._most:
            self._count += 1
            threading.Thread(target=self._serve, name=f"{self._name}-{self._count}", daemon=True).start()
        self._work.put(work)
        return await future

    def close(self) -> None:
        """Each thread ends after what it is doing."""
        for _ in range(self._count):
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
