"""The OpenTelemetry SDK's own exporters against the doors: the senders that users have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc import _log_exporter as grpc_logs
from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc_metrics
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_traces
from opentelemetry.exporter.otlp.proto.http import Compression as HttpCompression
from opentelemetry.exporter.otlp.proto.http import _log_exporter as http_logs
from opentelemetry.exporter.otlp.proto.http import metric_exporter as http_metrics
from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_traces
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from doors import DIALECTS, OpenDoor, open_door, request_message, until
from otlp_arrow.model import Signal
from otlp_arrow.receivers import Authenticator

PROTOCOLS = ("grpc", "http-protobuf")
RESOURCE = Resource.create({"service.name": "shop"})
SPANS = 600  # more than one batch of the processor


def exporter(protocol: str, signal: Signal, port: int, **options: Any) -> Any:
    """The SDK's exporter for one signal, pointed at a door."""
    if protocol == "grpc":
        kinds: dict[Signal, Callable[..., Any]] = {
            Signal.TRACES: grpc_traces.OTLPSpanExporter,
            Signal.METRICS: grpc_metrics.OTLPMetricExporter,
            Signal.LOGS: grpc_logs.OTLPLogExporter,
        }
        return kinds[signal](endpoint=f"http://127.0.0.1:{port}", insecure=True, **options)
    kinds = {
        Signal.TRACES: http_traces.OTLPSpanExporter,
        Signal.METRICS: http_metrics.OTLPMetricExporter,
        Signal.LOGS: http_logs.OTLPLogExporter,
    }
    return kinds[signal](endpoint=f"http://127.0.0.1:{port}/v1/{signal.value}", **options)


def emit(signal: Signal, to: Any) -> None:
    """Telemetry of one kind through a whole SDK, flushed and shut down."""
    match signal:
        case Signal.TRACES:
            traces = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
            traces.add_span_processor(BatchSpanProcessor(to))
            for number in range(SPANS):
                with traces.get_tracer("test").start_as_current_span(f"span {number}") as span:
                    span.set_attribute("number", number)
            traces.shutdown()
        case Signal.METRICS:
            reader = PeriodicExportingMetricReader(to, export_interval_millis=3_600_000)
            metrics = MeterProvider([reader], resource=RESOURCE, shutdown_on_exit=False)
            metrics.get_meter("test").create_counter("orders").add(3, {"kind": "book"})
            metrics.get_meter("test").create_histogram("latency", unit="ms").record(7.5)
            metrics.shutdown()
        case Signal.LOGS:
            logs = LoggerProvider(resource=RESOURCE, shutdown_on_exit=False)
            logs.add_log_record_processor(SimpleLogRecordProcessor(to))
            logger = logging.Logger("shop")
            logger.addHandler(LoggingHandler(logger_provider=logs))
            for number in range(3):
                logger.warning("low stock %d", number)
            logs.shutdown()


def records(door: OpenDoor) -> int:
    """How many spans, points or log records are in the batches."""
    count = 0
    for batch in door.intake.batches:
        message: Any = request_message(batch.signal, batch.payload)
        match batch.signal:
            case Signal.TRACES:
                scopes = [scope for resource in message.resource_spans for scope in resource.scope_spans]
                count += sum(len(scope.spans) for scope in scopes)
            case Signal.METRICS:
                scopes = [scope for resource in message.resource_metrics for scope in resource.scope_metrics]
                count += sum(len(metric.sum.data_points) for scope in scopes for metric in scope.metrics)
                count += sum(len(metric.histogram.data_points) for scope in scopes for metric in scope.metrics)
            case Signal.LOGS:
                scopes = [scope for resource in message.resource_logs for scope in resource.scope_logs]
                count += sum(len(scope.log_records) for scope in scopes)
    return count


EXPECTED = {Signal.TRACES: SPANS, Signal.METRICS: 2, Signal.LOGS: 3}
GZIP = {"grpc": grpc.Compression.Gzip, "http-protobuf": HttpCompression.Gzip}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's logging bridge is about to move
@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("signal", Signal)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_everything_that_an_exporter_sends_arrives(protocol: str, signal: Signal, gzip: bool) -> None:
    async with open_door(protocol) as door:
        options = {"compression": GZIP[protocol]} if gzip else {}
        await asyncio.to_thread(emit, signal, exporter(protocol, signal, door.server.bound_port, **options))
        assert records(door) == EXPECTED[signal]
        assert set(door.meter.outcomes) == {"ok"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_exporter_comes_back_after_a_refusal_and_loses_nothing(protocol: str) -> None:
    async with open_door(protocol) as door:
        door.intake.max_bytes = 0
        door.intake.retry_after_s = 0.1
        to = exporter(protocol, Signal.TRACES, door.server.bound_port)
        sending = asyncio.create_task(asyncio.to_thread(emit, Signal.TRACES, to))
        await until(lambda: door.meter.outcomes["busy"] > 0)
        door.intake.max_bytes = 1 << 30
        await sending
        assert records(door) == SPANS


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_exporter_with_credentials_in_its_headers_is_let_in(protocol: str) -> None:
    async with open_door(protocol, auth=Authenticator(bearer_tokens=["s3cret"])) as door:
        headers = {"authorization": "Bearer s3cret"}
        to = exporter(protocol, Signal.TRACES, door.server.bound_port, headers=headers)
        await asyncio.to_thread(emit, Signal.TRACES, to)
        assert records(door) == SPANS


def test_every_dialect_of_the_contract_is_known_here() -> None:
    assert set(PROTOCOLS) < set(DIALECTS)
