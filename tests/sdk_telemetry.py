"""Telemetry made with OpenTelemetry's SDK, with everything in it that the SDK can say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

RESOURCE = Resource({"service.name": "shop", "host.cpus": 4}, "https://example.com/resource")
ATTRIBUTES: dict[str, Any] = {"text": "żółw", "number": 7, "double": 1.5, "yes": True, "list": ["a", "b"], "empty": ""}
REMOTE = SpanContext(
    0x0102030405060708090A0B0C0D0E0F10,
    0x1112131415161718,
    True,
    TraceFlags(1),
    TraceState([("vendor", "x"), ("b", "y")]),
)


@dataclass
class Telemetry:
    """What an exporter is handed."""

    spans: list[ReadableSpan]
    metrics: MetricsData
    logs: list[ReadableLogRecord]


def telemetry() -> Telemetry:
    """Spans of two scopes, metrics of every kind, log records with and without a span."""
    return Telemetry(_spans(), _metrics(), _logs())


@contextmanager
def tracing(*processors: Any) -> Iterator[TracerProvider]:
    """A provider that ends with the block."""
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    try:
        yield provider
    finally:
        provider.shutdown()


def _spans() -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    with tracing(SimpleSpanProcessor(exporter)) as provider:
        tracer = provider.get_tracer("shop.http", "1.2", "https://example.com/scope", {"scope": "attribute"})
        remote = trace.set_span_in_context(trace.NonRecordingSpan(REMOTE))
        with tracer.start_as_current_span(
            "GET /cart", remote, SpanKind.SERVER, ATTRIBUTES, [Link(REMOTE, {"why": "retry"})]
        ) as span:
            span.add_event("cache miss", {"key": "cart:7"})
            span.set_status(Status(StatusCode.ERROR, "no stock"))
            other = provider.get_tracer("shop.db")
            for number in range(3):
                with other.start_as_current_span(f"query {number}", kind=SpanKind.CLIENT):
                    pass
    return list(exporter.get_finished_spans())


def _metrics() -> MetricsData:
    reader = InMemoryMetricReader()
    view = View(instrument_name="exponential", aggregation=ExponentialBucketHistogramAggregation())
    provider = MeterProvider([reader], RESOURCE, views=[view], shutdown_on_exit=False)
    for name in ("shop.http", "shop.db"):
        meter = provider.get_meter(name, "1", attributes={"a": 1})
        meter.create_counter("requests", "1", "Requests.").add(3, ATTRIBUTES)
        meter.create_up_down_counter("active").add(-2)
        meter.create_gauge("temperature", "Cel").set(21.5)
        meter.create_observable_gauge("level", [lambda _: [_observation(5)]])
        for value in (0.0, 3.0, 400.0):
            meter.create_histogram("duration", "ms").record(value, {"route": "/cart"})
            meter.create_histogram("exponential").record(value)
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    return data


def _observation(value: int) -> Any:
    from opentelemetry.metrics import Observation

    return Observation(value, {"tank": "a"})


def _logs() -> list[ReadableLogRecord]:
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(RESOURCE, shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    logger = provider.get_logger("shop.log", "2", attributes={"a": 1})
    inside = trace.set_span_in_context(trace.NonRecordingSpan(REMOTE))
    logger.emit(
        LogRecord(
            timestamp=1_700_000_000_000_000_000,
            observed_timestamp=1_700_000_000_000_000_001,
            context=inside,
            severity_number=SeverityNumber.WARN,
            severity_text="WARN",
            body={"nested": ["list", 1, 2.5, None, {"bytes": b"\x00"}]},
            attributes=ATTRIBUTES,
            event_name="cart.abandoned",
        )
    )
    logger.emit(LogRecord(body="plain", attributes={}))
    provider.shutdown()
    return list(exporter.get_finished_logs())
