"""The exporters as the SDK uses them."""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter, UpDownCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, ExponentialBucketHistogramAggregation
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from otlp_arrow import Busy, OtlpConfigError, OtlpLibrary
from otlp_arrow.app.library import in_process_settings
from otlp_arrow.codec import reference
from otlp_arrow.model import Signal
from otlp_arrow.receivers import sdk_objects
from otlp_arrow.sdk import ArrowLogExporter, ArrowMetricExporter, ArrowSpanExporter
from otlp_arrow.testing.records import DataPoint, LogRecord, Span, records
from sdk_telemetry import ATTRIBUTES, REMOTE, telemetry, tracing
from served import clean_environment

MADE = telemetry()
KINDS: dict[Signal, Any] = {Signal.TRACES: Span, Signal.METRICS: DataPoint, Signal.LOGS: LogRecord}


def stored(directory: Path, signal: Signal) -> list[Any]:
    """The records in the files of a directory."""
    found = []
    for path in sorted((directory / "otlp" / signal.value).glob("*.arrows")):
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            found += [record for batch in reader for record in records(KINDS[signal], batch)]
    return found


@pytest.fixture
def library(tmp_path: Path) -> Iterator[OtlpLibrary]:
    with OtlpLibrary(in_process_settings(tmp_path)) as opened:
        yield opened


# -- what is kept ----------------------------------------------------------------------------------


def test_nothing_of_a_span_is_lost():
    (batch,) = [reference.decode(Signal.TRACES, sdk_objects.trace_request(MADE.spans).SerializeToString())]
    spans = {span.name: span for span in records(Span, batch)}
    (sdk_span,) = (span for span in MADE.spans if span.name == "GET /cart")
    span = spans["GET /cart"]
    assert span.trace_id == f"{REMOTE.trace_id:032x}"
    assert span.parent_span_id == f"{REMOTE.span_id:016x}"
    assert span.kind == 2  # server, by OTLP's numbers
    assert span.start_time_unix_nano == sdk_span.start_time
    assert span.end_time_unix_nano == sdk_span.end_time
    assert span.attributes == ATTRIBUTES
    assert (span.status_code, span.status_message) == (2, "no stock")
    assert span.flags == 0x301  # sampled; the parent is remote
    assert span.trace_state == "vendor=x,b=y"
    (event,) = span.events
    assert (event.name, event.attributes) == ("cache miss", {"key": "cart:7"})
    assert event.time_unix_nano == sdk_span.events[0].timestamp
    (link,) = span.links
    assert (link.trace_id, link.span_id) == (f"{REMOTE.trace_id:032x}", f"{REMOTE.span_id:016x}")
    assert (link.trace_state, link.flags, link.attributes) == ("vendor=x,b=y", 0x301, {"why": "retry"})
    assert (span.scope_name, span.scope_version, span.scope_attributes) == ("shop.http", "1.2", {"scope": "attribute"})
    assert span.scope_schema_url == "https://example.com/scope"
    assert (span.service_name, span.resource_attributes["host.cpus"]) == ("shop", 4)
    assert span.resource_schema_url == "https://example.com/resource"
    child = spans["query 0"]
    assert (child.kind, child.parent_span_id, child.flags) == (3, span.span_id, 0x101)


def test_nothing_of_a_data_point_is_lost():
    payload = sdk_objects.metrics_request(MADE.metrics).SerializeToString()
    points = list(records(DataPoint, reference.decode(Signal.METRICS, payload)))
    scopes = {point.scope_name for point in points}
    assert scopes == {"shop.http", "shop.db"}
    http = {point.metric_name: point for point in points if point.scope_name == "shop.http"}
    assert {point.metric_type for point in points} == {"sum", "gauge", "histogram", "exponential_histogram"}
    requests = http["requests"]
    assert (requests.value, requests.unit, requests.description) == (3, "1", "Requests.")
    assert (requests.is_monotonic, requests.aggregation_temporality, requests.attributes) == (True, 2, ATTRIBUTES)
    assert (http["active"].value, http["active"].is_monotonic) == (-2, False)
    assert (http["temperature"].value, http["level"].value) == (21.5, 5)
    duration = http["duration"]
    assert (duration.count, duration.sum, duration.min, duration.max) == (3, 403.0, 0.0, 400.0)
    assert duration.bucket_counts is not None
    assert sum(duration.bucket_counts) == 3
    exponential = http["exponential"]
    assert (exponential.count, exponential.zero_count) == (3, 1)
    assert exponential.positive_bucket_counts is not None
    assert sum(exponential.positive_bucket_counts) == 2


def test_of_two_groups_with_the_same_resource_both_are_kept():
    twice = type(MADE.metrics)([*MADE.metrics.resource_metrics, *MADE.metrics.resource_metrics])
    batch = reference.decode(Signal.METRICS, sdk_objects.metrics_request(twice).SerializeToString())
    once = reference.decode(Signal.METRICS, sdk_objects.metrics_request(MADE.metrics).SerializeToString())
    assert batch.num_rows == 2 * once.num_rows


def test_nothing_of_a_log_record_is_lost():
    payload = sdk_objects.logs_request(MADE.logs).SerializeToString()
    record, plain = records(LogRecord, reference.decode(Signal.LOGS, payload))
    assert record.body == {"nested": ["list", 1, 2.5, None, {"bytes": b"\x00"}]}
    assert (record.time_unix_nano, record.observed_time_unix_nano) == (
        1_700_000_000_000_000_000,
        1_700_000_000_000_000_001,
    )
    assert (record.severity_number, record.severity_text, record.event_name) == (13, "WARN", "cart.abandoned")
    assert (record.trace_id, record.span_id, record.flags) == (f"{REMOTE.trace_id:032x}", f"{REMOTE.span_id:016x}", 1)
    assert record.attributes == ATTRIBUTES
    assert (plain.body, plain.trace_id, plain.time_unix_nano) == ("plain", None, None)


# -- as the SDK uses them --------------------------------------------------------------------------


def test_they_are_the_sdks_classes_with_the_sdks_signatures(library: OtlpLibrary):
    for ours, theirs in [
        (ArrowSpanExporter, SpanExporter),
        (ArrowMetricExporter, MetricExporter),
        (ArrowLogExporter, LogRecordExporter),
    ]:
        assert issubclass(ours, theirs)
        for name in ("export", "force_flush", "shutdown"):
            assert list(inspect.signature(getattr(ours, name)).parameters) == list(
                inspect.signature(getattr(theirs, name)).parameters
            )


def test_providers_with_batching_processors_keep_everything(library: OtlpLibrary):
    with tracing(BatchSpanProcessor(ArrowSpanExporter(library))) as provider:
        tracer = provider.get_tracer("x")
        for number in range(1000):
            with tracer.start_as_current_span(f"span {number}"):
                pass
        assert provider.force_flush()
        library.flush()
        names = [span.name for span in stored(library.settings.output_dir, Signal.TRACES)]
        assert names == [f"span {number}" for number in range(1000)]
    meters = MeterProvider([PeriodicExportingMetricReader(ArrowMetricExporter(library))], shutdown_on_exit=False)
    meters.get_meter("x").create_counter("c").add(5)
    meters.shutdown()
    logs = LoggerProvider(shutdown_on_exit=False)
    logs.add_log_record_processor(BatchLogRecordProcessor(ArrowLogExporter(library)))
    logs.get_logger("x").emit(body="hello")
    logs.shutdown()
    library.flush()  # the library outlives the exporters that were given it
    assert [point.value for point in stored(library.settings.output_dir, Signal.METRICS)] == [5]
    assert [record.body for record in stored(library.settings.output_dir, Signal.LOGS)] == ["hello"]


def test_exporters_of_one_directory_share_a_library_that_ends_with_the_last_of_them(tmp_path: Path):
    spans = ArrowSpanExporter(output_dir=tmp_path)
    metrics = ArrowMetricExporter(output_dir=str(tmp_path))
    logs = ArrowLogExporter(output_dir=tmp_path / "x" / "..")
    assert spans._delivery.library is metrics._delivery.library is logs._delivery.library
    spans.shutdown()
    spans.shutdown()
    assert metrics.export(MADE.metrics) is MetricExportResult.SUCCESS
    metrics.shutdown()
    assert logs.export(MADE.logs) is LogRecordExportResult.SUCCESS
    logs.shutdown()
    with OtlpLibrary(in_process_settings(tmp_path)) as library:
        assert library.stats()["logs"]["segment_records"] == len(MADE.logs)
    again = ArrowSpanExporter(output_dir=tmp_path)
    assert again.export(MADE.spans) is SpanExportResult.SUCCESS
    again.shutdown()


def test_a_library_or_a_directory_is_needed_and_not_both(library: OtlpLibrary, tmp_path: Path):
    for arguments in ({}, {"library": library, "output_dir": tmp_path}):
        with pytest.raises(OtlpConfigError, match="exactly one"):
            ArrowSpanExporter(**arguments)  # type: ignore[arg-type]


# -- failures --------------------------------------------------------------------------------------


def test_a_failure_is_returned_and_said_once_and_nothing_is_raised(
    library: OtlpLibrary, caplog: pytest.LogCaptureFixture
):
    exporters = ArrowSpanExporter(library), ArrowMetricExporter(library), ArrowLogExporter(library)
    spans, metrics, logs = exporters
    library.shutdown()
    with caplog.at_level(logging.ERROR, logger="otlp_arrow.sdk"):
        for _ in range(3):
            assert spans.export(MADE.spans) is SpanExportResult.FAILURE
            assert metrics.export(MADE.metrics) is MetricExportResult.FAILURE
            assert logs.export(MADE.logs) is LogRecordExportResult.FAILURE
    lines = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert len(lines) == 3  # one for each exporter
    assert "was shut down" in lines[0]
    assert all(not exporter.force_flush() for exporter in exporters)
    for exporter in exporters:
        exporter.shutdown()
        assert exporter.force_flush() is True
    assert spans.export(MADE.spans) is SpanExportResult.FAILURE


def test_what_is_no_telemetry_is_a_failure(library: OtlpLibrary):
    assert ArrowSpanExporter(library).export([object()]) is SpanExportResult.FAILURE  # type: ignore[list-item]
    assert ArrowLogExporter(library).export([object()]) is LogRecordExportResult.FAILURE  # type: ignore[list-item]
    assert ArrowSpanExporter(library).export([]) is SpanExportResult.SUCCESS


def test_while_the_buffer_is_full_it_tries_again_and_in_the_end_gives_up(
    library: OtlpLibrary, monkeypatch: pytest.MonkeyPatch
):
    real = OtlpLibrary.export_traces
    refusals: list[int] = []

    def full(self: OtlpLibrary, spans: Any) -> Any:
        if len(refusals) < times:
            refusals.append(1)
            raise Busy("the buffer is full", 0.01)
        return real(self, spans)

    monkeypatch.setattr(OtlpLibrary, "export_traces", full)
    times = 3
    assert ArrowSpanExporter(library).export(MADE.spans) is SpanExportResult.SUCCESS
    assert len(refusals) == 3
    times = 10**9
    assert ArrowSpanExporter(library, timeout_s=0.05).export(MADE.spans) is SpanExportResult.FAILURE


def test_a_shutdown_ends_the_waiting_for_room(library: OtlpLibrary, monkeypatch: pytest.MonkeyPatch):
    asked = threading.Event()

    def full(self: OtlpLibrary, spans: Any) -> Any:
        asked.set()
        raise Busy("the buffer is full", 3600)

    monkeypatch.setattr(OtlpLibrary, "export_traces", full)
    exporter = ArrowSpanExporter(library, timeout_s=10_000)
    results: list[SpanExportResult] = []
    thread = threading.Thread(target=lambda: results.append(exporter.export(MADE.spans)))
    thread.start()
    assert asked.wait(10)
    exporter.shutdown()
    thread.join(10)
    assert results == [SpanExportResult.FAILURE]


def test_records_that_are_refused_are_said_and_the_rest_is_kept(
    library: OtlpLibrary, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    request = sdk_objects.trace_request(MADE.spans)
    request.resource_spans[0].scope_spans[0].spans[0].trace_id = bytes(16)
    monkeypatch.setattr(sdk_objects, "trace_request", lambda _: request)
    with caplog.at_level(logging.ERROR, logger="otlp_arrow.sdk"):
        assert ArrowSpanExporter(library).export(MADE.spans) is SpanExportResult.SUCCESS
    assert "records were refused" in caplog.text
    assert "all zero" in caplog.text
    library.flush()
    assert len(stored(library.settings.output_dir, Signal.TRACES)) == len(MADE.spans) - 1


# -- preferences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "delta"),
    [
        ("", set()),
        ("cumulative", set()),
        ("delta", {Counter, Histogram, ObservableCounter}),
        ("LowMemory", {Counter, Histogram}),
        ("nonsense", set()),
    ],
)
def test_the_temporality_is_cumulative_unless_the_environment_or_the_program_says_otherwise(
    library: OtlpLibrary, monkeypatch: pytest.MonkeyPatch, word: str, delta: set[type]
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", word)
    found = ArrowMetricExporter(library)._preferred_temporality
    assert found is not None
    assert {kind for kind, temporality in found.items() if temporality is AggregationTemporality.DELTA} == delta
    preferred = ArrowMetricExporter(library, preferred_temporality={UpDownCounter: AggregationTemporality.DELTA})
    assert preferred._preferred_temporality is not None
    assert preferred._preferred_temporality[UpDownCounter] is AggregationTemporality.DELTA


def test_the_aggregation_of_histograms_may_be_chosen(library: OtlpLibrary, monkeypatch: pytest.MonkeyPatch):
    plain = ArrowMetricExporter(library)._preferred_aggregation
    assert plain is not None
    assert isinstance(plain[Histogram], ExplicitBucketHistogramAggregation)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram")
    exponential = ArrowMetricExporter(library)._preferred_aggregation
    assert exponential is not None
    assert isinstance(exponential[Histogram], ExponentialBucketHistogramAggregation)
    own = ExplicitBucketHistogramAggregation([1, 2])
    chosen = ArrowMetricExporter(library, preferred_aggregation={Histogram: own})._preferred_aggregation
    assert chosen is not None
    assert chosen[Histogram] is own


def test_delta_is_what_arrives_where_delta_is_preferred(library: OtlpLibrary):
    exporter = ArrowMetricExporter(library, preferred_temporality={Counter: AggregationTemporality.DELTA})
    provider = MeterProvider([PeriodicExportingMetricReader(exporter)], shutdown_on_exit=False)
    counter = provider.get_meter("x").create_counter("c")
    for amount in (5, 7):
        counter.add(amount)
        provider.force_flush()
    provider.shutdown()
    library.flush()
    points = stored(library.settings.output_dir, Signal.METRICS)
    assert [(point.value, point.aggregation_temporality) for point in points if point.value] == [(5, 1), (7, 1)]


# -- the process -----------------------------------------------------------------------------------


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
        check=False,
    )


def test_five_lines_are_enough_and_what_is_in_the_queue_at_the_end_is_kept(tmp_path: Path):
    done = run(
        """
        import sys
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider()  # registers its end with atexit before ours is even imported
        from otlp_arrow.sdk import ArrowSpanExporter
        provider.add_span_processor(BatchSpanProcessor(ArrowSpanExporter(output_dir=sys.argv[1])))
        for number in range(100):
            with provider.get_tracer("x").start_as_current_span(f"span {number}"):
                pass
        """,
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [span.name for span in stored(tmp_path, Signal.TRACES)] == [f"span {number}" for number in range(100)]


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_in_the_child_of_a_fork_an_exporter_fails_with_one_line_and_a_new_one_works(tmp_path: Path):
    done = run(
        """
        import logging, os, sys, warnings
        warnings.simplefilter("ignore")
        logging.basicConfig()
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from otlp_arrow.sdk import ArrowSpanExporter

        def span(provider, name):
            with provider.get_tracer("x").start_as_current_span(name):
                pass

        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(ArrowSpanExporter(output_dir=sys.argv[1] + "/parent")))
        span(provider, "before")
        child = os.fork()
        if not child:
            span(provider, "lost"), span(provider, "lost too")
            print(provider.force_flush(), flush=True)
            own = TracerProvider()
            own.add_span_processor(SimpleSpanProcessor(ArrowSpanExporter(output_dir=sys.argv[1] + "/child")))
            span(own, "child")
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        span(provider, "after")
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("telemetry is dropped") == 1
    assert "after the fork, with an output_dir of its own" in done.stderr
    assert [span.name for span in stored(tmp_path / "parent", Signal.TRACES)] == ["before", "after"]
    assert [span.name for span in stored(tmp_path / "child", Signal.TRACES)] == ["child"]
