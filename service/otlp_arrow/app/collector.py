"""A whole collector inside an asynchronous program."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self

from otlp_arrow.app.settings import Settings
from otlp_arrow.app.wiring import Collector as OpenCollector
from otlp_arrow.app.wiring import open_collector
from otlp_arrow.model import Batch, Closed, Receipt, Signal, limits, meter
from otlp_arrow.pipeline import Pipeline
from otlp_arrow.receivers.inprocess import Exportable, InProcessDoor


class Collector:
    """Everything that ``otlp-arrow serve`` runs, open inside ``async with``.

    Opens the doors that ``settings`` enable (with all of them disabled it is a store and no more), and the admin
    port only if ``admin`` is true. Leaving refuses, drains, and closes the files.

    Opening raises ``OtlpConfigError``, ``OtlpServerError`` (a port) or ``OtlpIOError`` (the output directory; one
    process at a time). Every ``export_…`` raises ``Rejected`` or ``TooLarge`` (change the data), ``Busy`` (try again
    after ``retry_after_s``), ``Closed`` (it is stopping), all of them ``OtlpExportError``, or ``TypeError``.
    """

    def __init__(self, settings: Settings | None = None, *, admin: bool = False) -> None:
        self.settings = settings if settings is not None else Settings()
        self._admin = admin
        self._context: AbstractAsyncContextManager[OpenCollector] | None = None
        self._open: OpenCollector | None = None

    async def __aenter__(self) -> Self:
        self._context = open_collector(self.settings, admin=self._admin)
        opened = await self._context.__aenter__()
        self._door = InProcessDoor(opened.pipeline.intake, opened.meter, self.settings.max_request_bytes)
        self._open = opened
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._context is not None
        try:
            await self._context.__aexit__(kind, error, at)
        finally:
            self._open = None

    @property
    def _opened(self) -> OpenCollector:
        if self._open is None:
            raise Closed("the collector is not open; use it inside `async with`")
        return self._open

    # -- in --------------------------------------------------------------------------------------

    async def export_traces(self, traces: Exportable) -> Receipt:
        """Keep spans: an ExportTraceServiceRequest, its bytes, or rows. Returns when they are durable."""
        return await self._export(Signal.TRACES, traces)

    async def export_metrics(self, metrics: Exportable) -> Receipt:
        """Keep data points: an ExportMetricsServiceRequest, its bytes, or rows. Returns when they are durable."""
        return await self._export(Signal.METRICS, metrics)

    async def export_logs(self, logs: Exportable) -> Receipt:
        """Keep log records: an ExportLogsServiceRequest, its bytes, or rows. Returns when they are durable."""
        return await self._export(Signal.LOGS, logs)

    async def _export(self, signal: Signal, exported: Exportable) -> Receipt:
        _ = self._opened
        if getattr(exported, "nbytes", 0) > limits.FLIGHT_INLINE_BYTES:
            batch = await asyncio.to_thread(self._door.prepare, signal, exported)
        else:
            batch = self._door.prepare(signal, exported)
        return await self._accept(batch)

    def _prepare(self, signal: Signal, exported: Exportable) -> Batch:
        """On any thread."""
        _ = self._opened
        return self._door.prepare(signal, exported)

    async def _accept(self, batch: Batch) -> Receipt:
        _ = self._opened
        return await self._door.accept(batch)

    # -- the rest --------------------------------------------------------------------------------

    @property
    def pipeline(self) -> Pipeline:
        """Storage and the way into it, for whoever reads what the collector holds."""
        return self._opened.pipeline

    async def flush(self) -> None:
        """Everything exported before this call is in a synced segment when it returns."""
        await self._opened.pipeline.flush()

    def ports(self) -> dict[str, int]:
        """The port of each listener that is open: otlp_grpc, otlp_http, flight, admin."""
        return self._opened.ports()

    def health(self) -> dict[str, Any]:
        """What ``/health`` answers."""
        return self._opened.health.report().as_json()

    def stats(self) -> dict[str, Any]:
        """What went through since the start, and what is held now, by signal (docs/metrics.md has all of it)."""
        opened = self._opened
        opened.pipeline.report()
        counter = opened.meter
        signals: dict[str, Any] = {}
        for signal in Signal:
            name = signal.value
            signals[name] = {
                "accepted": int(counter.value(meter.ACCEPTED[signal])),
                "refused": int(counter.value(meter.REFUSED[signal])),
                "replayed": int(counter.value(meter.REPLAYED, name)),
                "stored": int(counter.value(meter.STORED, name)),
                "buffered": int(counter.value(meter.BUFFERED_RECORDS, name)),
                "segments": int(counter.value(meter.SEGMENT_FILES, name)),
                "segment_records": int(counter.value(meter.SEGMENT_RECORDS, name)),
                "segment_bytes": int(counter.value(meter.SEGMENT_BYTES, name)),
            }
        return {
            **signals,
            "buffer_bytes": int(counter.value(meter.BUFFER_BYTES)),
            "wal_bytes": int(counter.value(meter.WAL_BYTES)),
            "wal_sequence": int(counter.value(meter.WAL_SEQUENCE)),
        }
