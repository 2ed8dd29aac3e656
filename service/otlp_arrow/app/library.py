"""A whole collector inside a synchronous program."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import pyarrow as pa

from otlp_arrow.app.collector import Collector
from otlp_arrow.app.loop_thread import LoopThread
from otlp_arrow.app.settings import Settings
from otlp_arrow.model import Busy, Closed, OtlpExportError, Receipt, Signal
from otlp_arrow.model.limits import CALL_TIMEOUT_S, CLOSE_TIMEOUT_S, DOOR_GRACE_S
from otlp_arrow.pipeline import Pipeline
from otlp_arrow.receivers import sdk_objects
from otlp_arrow.receivers.inprocess import Exportable

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger(__name__)

T = TypeVar("T")

_WRONG_PROCESS = (
    "this OtlpLibrary belongs to the process that forked this one; open another in each process, after the fork, "
    "with an output_dir of its own"
)


class OtlpLibrary:
    """A ``Collector`` with an event loop in a thread of its own; may be called from any thread.

    Open from the moment it is made until ``shutdown``; also a context manager. Every ``export_…`` returns a ``Receipt``
    when the data is durable, and takes, beside what ``Collector`` takes, the objects of OpenTelemetry's SDK (extra
    ``sdk``). The ``…_async`` variants may be awaited in any event loop.

    Opening raises ``OtlpConfigError``, ``OtlpServerError`` or ``OtlpIOError``; exports raise as those of ``Collector``.
    At the end of the process it is shut down, after everything that was registered with ``atexit`` later. After a
    fork it is of no use in the child, and its exports raise ``OtlpExportError`` there; the parent's goes on.
    """

    def __init__(self, settings: Settings | None = None, *, admin: bool = False) -> None:
        self._collector = Collector(settings, admin=admin)
        self.settings = self._collector.settings
        self._thread = LoopThread("otlp-arrow", self._collector)
        self._forked = False
        self._closed = False
        self._thread.start()
        self._ends_with_process = True
        _LIBRARIES.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        state = "of another process" if self._forked else "closed" if self._closed else "open"
        return f"OtlpLibrary({self.settings.output_dir}, {state})"

    # -- traces ----------------------------------------------------------------------------------

    def export_trace(self, span: ReadableSpan) -> Receipt:
        """Keep one span of the SDK."""
        return self.export_traces([span])

    def export_traces(self, traces: Exportable | Iterable[ReadableSpan]) -> Receipt:
        """Keep spans of the SDK, or whatever ``Collector.export_traces`` takes."""
        return self._wait(self._exporting(Signal.TRACES, traces))

    async def export_trace_async(self, span: ReadableSpan) -> Receipt:
        """``export_trace`` to be awaited."""
        return await self.export_traces_async([span])

    async def export_traces_async(self, traces: Exportable | Iterable[ReadableSpan]) -> Receipt:
        """``export_traces`` to be awaited."""
        return await self._await(self._exporting(Signal.TRACES, traces))

    # -- metrics ---------------------------------------------------------------------------------

    def export_metric(self, data: MetricsData) -> Receipt:
        """Keep one collection of the SDK's metrics."""
        return self.export_metrics([data])

    def export_metrics(self, metrics: Exportable | MetricsData | Iterable[MetricsData]) -> Receipt:
        """Keep collections of the SDK's metrics, or whatever ``Collector.export_metrics`` takes."""
        return self._wait(self._exporting(Signal.METRICS, metrics))

    async def export_metric_async(self, data: MetricsData) -> Receipt:
        """``export_metric`` to be awaited."""
        return await self.export_metrics_async([data])

    async def export_metrics_async(self, metrics: Exportable | MetricsData | Iterable[MetricsData]) -> Receipt:
        """``export_metrics`` to be awaited."""
        return await self._await(self._exporting(Signal.METRICS, metrics))

    # -- logs ------------------------------------------------------------------------------------

    def export_log(self, record: ReadableLogRecord) -> Receipt:
        """Keep one log record of the SDK."""
        return self.export_logs([record])

    def export_logs(self, logs: Exportable | Iterable[ReadableLogRecord]) -> Receipt:
        """Keep log records of the SDK, or whatever ``Collector.export_logs`` takes."""
        return self._wait(self._exporting(Signal.LOGS, logs))

    async def export_log_async(self, record: ReadableLogRecord) -> Receipt:
        """``export_log`` to be awaited."""
        return await self.export_logs_async([record])

    async def export_logs_async(self, logs: Exportable | Iterable[ReadableLogRecord]) -> Receipt:
        """``export_logs`` to be awaited."""
        return await self._await(self._exporting(Signal.LOGS, logs))

    # -- the rest --------------------------------------------------------------------------------

    def flush(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Everything exported before this call is in a synced segment when it returns. Raises ``Busy`` after the
        timeout; the data is durable all the same.
        """
        self._wait(self._submit(self._collector.flush), timeout_s)

    async def flush_async(self) -> None:
        """``flush`` to be awaited."""
        await self._await(self._submit(self._collector.flush))

    def keep_newest(self, signal: Signal, max_rows: int, max_bytes: int, timeout_s: float = CALL_TIMEOUT_S) -> int:
        """Delete the oldest segments of a signal until at most so many rows and bytes are left, by whole segments; what
        is open is flushed and closed before. Rows deleted.
        """
        return self._wait(
            self._submit(lambda: self._collector.pipeline.keep_newest(signal, max_rows, max_bytes)), timeout_s
        )

    def stats(self) -> dict[str, Any]:
        """See ``Collector.stats``."""
        return self._wait(self._submit(lambda: _call(self._collector.stats)))

    def health(self) -> dict[str, Any]:
        """What ``/health`` answers."""
        return self._wait(self._submit(lambda: _call(self._collector.health)))

    def ports(self) -> dict[str, int]:
        """The port of each listener that is open: otlp_grpc, otlp_http, flight, admin."""
        return self._wait(self._submit(lambda: _call(self._collector.ports)))

    def shutdown(self, timeout_s: float | None = None) -> bool:
        """Refuse, write what was accepted, close the files; whether that was done in time. Idempotent.

        Without ``timeout_s`` it takes ``shutdown_timeout_secs`` and a little more at most. What is not in a
        segment by then is taken from the WAL at the next start.
        """
        if self._forked:
            return True
        self._closed = True
        _LIBRARIES.discard(self)
        if timeout_s is None:
            timeout_s = self.settings.shutdown_timeout_secs + DOOR_GRACE_S + CLOSE_TIMEOUT_S
        return self._thread.stop(timeout_s)

    async def shutdown_async(self, timeout_s: float | None = None) -> bool:
        """``shutdown`` to be awaited."""
        return await asyncio.to_thread(self.shutdown, timeout_s)

    @property
    def pipeline(self) -> Pipeline:
        """Storage and the way into it, for whoever reads what the library holds."""
        self._require_open()
        return self._collector.pipeline

    # -- inside ----------------------------------------------------------------------------------

    def _exporting(self, signal: Signal, exported: Any) -> concurrent.futures.Future[Receipt]:
        """Encode in the caller's thread, hand over to the loop's."""
        self._require_open()
        batch = self._collector._prepare(signal, as_request(signal, exported))
        return self._submit(lambda: self._collector._accept(batch))

    def _submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
        self._require_open()
        return self._thread.submit(work)

    def _require_open(self) -> None:
        if self._forked:
            raise OtlpExportError(_WRONG_PROCESS)
        if self._closed:
            raise Closed("this OtlpLibrary was shut down; open another")

    def _wait(self, future: concurrent.futures.Future[T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        if self._thread.is_current:
            future.cancel()
            raise OtlpExportError("called in its own event loop, which would wait for itself")
        try:
            return future.result(timeout_s)
        except concurrent.futures.CancelledError:
            raise Closed("this OtlpLibrary was shut down meanwhile") from None
        except TimeoutError:
            future.cancel()
            raise Busy(f"no answer in {timeout_s:.0f} s; the data may have been kept") from None

    async def _await(self, future: concurrent.futures.Future[T]) -> T:
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.cancelled() and not _is_being_cancelled():
                raise Closed("this OtlpLibrary was shut down meanwhile") from None
            raise


def in_process_settings(output_dir: Path | str, **more: Any) -> Settings:
    """Settings without any listener: a store inside this process."""
    doors = {f"{name}_enabled": False for name in ("protobuf", "http", "arrow_flight")}
    return Settings(**{"output_dir": output_dir, "protocols": doors, **more})


def as_request(signal: Signal, exported: Any) -> Exportable:
    """What ``Collector`` takes, from what ``OtlpLibrary`` takes beside it."""
    if isinstance(exported, bytes | bytearray | memoryview | pa.RecordBatch | pa.Table) or hasattr(
        exported, "DESCRIPTOR"
    ):
        return exported
    if signal is Signal.METRICS:
        collections: Iterable[Any] = [exported] if hasattr(exported, "resource_metrics") else exported
        return b"".join(sdk_objects.metrics_request(data).SerializeToString() for data in collections)
    if not isinstance(exported, Iterable):
        raise TypeError(f"{type(exported).__name__} cannot be exported as {signal.value}")
    if signal is Signal.TRACES:
        return cast("Exportable", sdk_objects.trace_request(exported))
    return cast("Exportable", sdk_objects.logs_request(exported if isinstance(exported, Sequence) else list(exported)))


async def _call(function: Callable[[], T]) -> T:
    return function()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


# -- the end of the process, and forks -----------------------------------------------------------

_LIBRARIES: set[OtlpLibrary] = set()
"""Those that are open: held, so that one that nobody names any more is closed at the end all the same."""


def _after_fork() -> None:
    """In the child: the threads did not come along, and the files are the parent's."""
    for library in _LIBRARIES:
        library._forked = True
    _LIBRARIES.clear()


def _at_exit() -> None:
    for library in list(_LIBRARIES):
        try:
            if library._ends_with_process:
                library.shutdown()
        except Exception:
            log.exception("%r could not be closed cleanly; the next start mends it", library)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
