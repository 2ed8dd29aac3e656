"""Every record accepted is stored, expired or lost with a reason, and the books say so: the sum is zero."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from otlp_arrow.app.telemetry import PrometheusMeter
from otlp_arrow.model import Batch, Signal, meter
from otlp_arrow.pipeline import Pipeline, PipelineSettings
from otlp_arrow.storage.store import StorageSettings
from samples import samples
from served import Served
from waiting import wait_until

SPANS, POINTS, LOGS = 20, 3, 15


def send_with_the_sdk(endpoint: str, transport: str) -> None:
    """Spans, metrics and logs by the SDK's own exporters; raises nothing, so the counts must show it."""
    if transport == "grpc":
        spans = GrpcSpans(endpoint=endpoint, insecure=True)
        metrics = GrpcMetrics(endpoint=endpoint, insecure=True)
        logs = GrpcLogs(endpoint=endpoint, insecure=True)
    else:
        spans = HttpSpans(endpoint=f"{endpoint}/v1/traces")
        metrics = HttpMetrics(endpoint=f"{endpoint}/v1/metrics")
        logs = HttpLogs(endpoint=f"{endpoint}/v1/logs")
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    meters = MeterProvider([PeriodicExportingMetricReader(metrics, export_interval_millis=3_600_000)])
    loggers = LoggerProvider()
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    for number in range(SPANS):
        with tracers.get_tracer("books").start_as_current_span(f"span {number}"):
            pass
    for number in range(POINTS):
        meters.get_meter("books").create_counter("requests").add(1, {"number": number})
    for number in range(LOGS):
        loggers.get_logger("books").emit(body=f"line {number}")
    for provider in (tracers, meters, loggers):
        provider.shutdown()


def rows_in_files(directory: Path, signal: Signal) -> int:
    return sum(
        pa.ipc.open_stream(path.read_bytes()).read_all().num_rows
        for path in (directory / "otlp" / signal.value).glob("*.arrows")
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("books"), "--set=write_interval_secs=1") as running:
        yield running


def test_sender_metrics_and_files_agree_on_every_record(served: Served) -> None:
    send_with_the_sdk(f"http://localhost:{served.grpc_port}", "grpc")
    send_with_the_sdk(f"http://localhost:{served.http_port}", "http")
    sent = {Signal.TRACES: 2 * SPANS, Signal.METRICS: 2 * POINTS, Signal.LOGS: 2 * LOGS}
    for signal, count in sent.items():
        wait_until(lambda s=signal, n=count: served.metric("otlp_arrow_stored_records_total", signal=s.value) == n)
        for transport in ("grpc", "http"):
            name = f"otelcol_receiver_accepted_{signal.records}_total"
            assert served.metric(name, transport=transport) == count / 2
        assert rows_in_files(served.output_dir, signal) == count


def balance(counter: PrometheusMeter, signal: Signal) -> float:
    """Accepted and replayed, less everything that became of it."""
    came = counter.value(meter.ACCEPTED[signal]) + counter.value(meter.REPLAYED, signal.value)
    waits = counter.value(meter.BUFFERED_RECORDS, signal.value)
    return came - counter.value(meter.STORED, signal.value) - waits


async def test_the_books_balance_while_writing_after_expiry_and_over_a_restart(tmp_path: Path) -> None:
    counter = PrometheusMeter()
    settings = StorageSettings(tmp_path, max_file_size=1, max_disk_bytes=1)
    async with Pipeline(PipelineSettings(settings, write_interval_secs=3600), meter=counter) as pipeline:
        for sample in samples():
            await pipeline.intake.accept(Batch(sample.signal, sample.payload))
        pipeline.report()
        assert {balance(counter, signal) for signal in Signal} == {0}
        await pipeline.flush()
        await pipeline.keep_house()
        pipeline.report()
        for signal in Signal:
            expired = counter.value(meter.EXPIRED, signal.value, "size")
            on_disk = counter.value(meter.SEGMENT_RECORDS, signal.value)
            assert balance(counter, signal) == 0
            assert counter.value(meter.STORED, signal.value) == expired + on_disk
            assert on_disk == rows_in_files(tmp_path, signal)
            assert expired > 0
        for sample in samples():
            await pipeline.intake.accept(Batch(sample.signal, sample.payload))
    async with Pipeline(PipelineSettings(settings), meter=PrometheusMeter()) as pipeline:
        pipeline.report()
        again = {s: rows_in_files(tmp_path, s) for s in Signal}
        assert again == {s: int(counter.value(meter.ACCEPTED[s]) / 2) for s in Signal}
