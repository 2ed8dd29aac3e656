"""The SDK's exporter classes over an ``OtlpLibrary``.

``export`` returns when the data is durable, and says so or ``FAILURE``; it never raises. In the child of a fork it says
``FAILURE`` and logs why: make the exporter after the fork there, with an ``output_dir`` of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.metrics.view import Aggregation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otlp_arrow.app.library import OtlpLibrary
from otlp_arrow.sdk.delivery import DEFAULT_TIMEOUT_S, Delivery
from otlp_arrow.sdk.preferences import aggregations, temporalities


class ArrowSpanExporter(SpanExporter):
    """Keeps spans in Arrow files.

    Give it an ``OtlpLibrary``, which stays yours to shut down, or an ``output_dir``; exporters with the same one share
    a library, which is shut down with the last of them. ``timeout_s`` bounds one export, retries included.
    """

    def __init__(
        self,
        library: OtlpLibrary | None = None,
        *,
        output_dir: Path | str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._delivery = Delivery(library, output_dir, timeout_s)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See ``SpanExporter.export``."""
        kept = self._delivery.deliver(lambda library: library.export_traces(spans))
        return SpanExportResult.SUCCESS if kept else SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Put what was exported into files that readers see; it was durable before."""
        return self._delivery.flush(timeout_millis)

    def shutdown(self) -> None:
        """Later exports fail."""
        self._delivery.shutdown()


class ArrowMetricExporter(MetricExporter):
    """Keeps metrics in Arrow files; arguments as those of ``ArrowSpanExporter``.

    Cumulative unless ``preferred_temporality`` or ``OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`` says otherwise;
    histograms have explicit buckets unless ``preferred_aggregation`` or
    ``OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION`` does.
    """

    def __init__(
        self,
        library: OtlpLibrary | None = None,
        *,
        output_dir: Path | str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        preferred_temporality: dict[type, AggregationTemporality] | None = None,
        preferred_aggregation: dict[type, Aggregation] | None = None,
    ) -> None:
        super().__init__(temporalities(preferred_temporality), aggregations(preferred_aggregation))
        self._delivery = Delivery(library, output_dir, timeout_s)

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """See ``MetricExporter.export``."""
        kept = self._delivery.deliver(lambda library: library.export_metrics(metrics_data), timeout_millis / 1000)
        return MetricExportResult.SUCCESS if kept else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Put what was exported into files that readers see; it was durable before."""
        return self._delivery.flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Later exports fail."""
        self._delivery.shutdown(timeout_millis)


class ArrowLogExporter(LogRecordExporter):
    """Keeps log records in Arrow files; arguments as those of ``ArrowSpanExporter``."""

    def __init__(
        self,
        library: OtlpLibrary | None = None,
        *,
        output_dir: Path | str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._delivery = Delivery(library, output_dir, timeout_s)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """See ``LogRecordExporter.export``."""
        kept = self._delivery.deliver(lambda library: library.export_logs(batch))
        return LogRecordExportResult.SUCCESS if kept else LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Put what was exported into files that readers see; it was durable before."""
        return self._delivery.flush(timeout_millis)

    def shutdown(self) -> None:
        """Later exports fail."""
        self._delivery.shutdown()
