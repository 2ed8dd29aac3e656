"""The mock collector as those use it who test programs that send telemetry."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from arrow_forms import batch_of
from doors import GrpcSender, HttpSender, request_message, span_request
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Signal
from otlp_arrow.testing import MockCollector
from otlp_arrow.testing.records import DataPoint, Event, Exemplar, Link, LogRecord, Quantile, Span
from samples import samples
from sdk_telemetry import telemetry
from strategies import rows

MADE = telemetry()


@pytest.fixture
def collector() -> Iterator[MockCollector]:
    with MockCollector() as opened:
        yield opened


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def put(collector: MockCollector, batch: pa.RecordBatch) -> None:
    with flight.connect(collector.flight_endpoint) as client:
        options = flight.FlightCallOptions(timeout=10)
        writer, reader = client.do_put(flight.FlightDescriptor.for_path("traces"), batch.schema, options)
        writer.write_batch(batch)
        writer.done_writing()
        while reader.read() is not None:
            pass
        writer.close()


async def send(collector: MockCollector, *payloads: bytes, over: str = "grpc") -> list[Any]:
    sender: GrpcSender | HttpSender
    if over == "grpc":
        sender = GrpcSender(port_of(collector.grpc_endpoint))
    else:
        sender = HttpSender(port_of(collector.http_endpoint), over)
    try:
        return [await sender.send(Signal.TRACES, payload) for payload in payloads]
    finally:
        await sender.close()


# -- what is received ------------------------------------------------------------------------------


def test_real_exporters_are_received_by_every_door(collector: MockCollector):
    exporters: list[SpanExporter] = [
        GrpcSpanExporter(collector.grpc_endpoint),
        HttpSpanExporter(f"{collector.http_endpoint}/v1/traces"),
    ]
    for exporter in exporters:
        assert exporter.export(MADE.spans) is SpanExportResult.SUCCESS
        exporter.shutdown()
    metrics = OTLPMetricExporter(f"{collector.http_endpoint}/v1/metrics")
    metrics.export(MADE.metrics)
    metrics.shutdown()
    logs = OTLPLogExporter(f"{collector.http_endpoint}/v1/logs")
    logs.export(MADE.logs)
    logs.shutdown()
    put(collector, batch_of(Signal.TRACES))

    n = len(MADE.spans)
    collector.wait_for(spans=2 * n + batch_of(Signal.TRACES).num_rows, data_points=1, log_records=2)
    collector.assert_traces_received(2 * n + batch_of(Signal.TRACES).num_rows)
    collector.assert_logs_received(2)
    assert (collector.grpc_calls_count, collector.http_calls_count, collector.flight_calls_count) == (1, 3, 1)
    assert collector.api_calls_count == 0
    assert [span.name for span in collector.spans[:n]] == [span.name for span in MADE.spans]
    assert {point.metric_name for point in collector.data_points} >= {"requests", "duration"}
    assert [record.body for record in collector.log_records][1] == "plain"
    assert collector.traces_table.num_rows == len(collector.spans)


def test_every_recorded_request_becomes_objects_with_a_field_for_every_column(collector: MockCollector):
    for sample in samples():
        message = request_message(sample.signal, sample.payload)
        receive = {
            Signal.TRACES: collector.receive_trace,
            Signal.METRICS: collector.receive_metric,
            Signal.LOGS: collector.receive_log,
        }[sample.signal]
        assert receive(message).rejected == 0
    assert collector.api_calls_count == len(samples())
    tables = {
        Signal.TRACES: (collector.traces_table, collector.spans),
        Signal.METRICS: (collector.metrics_table, collector.data_points),
        Signal.LOGS: (collector.logs_table, collector.log_records),
    }
    for signal, (table, found) in tables.items():
        assert table.schema.equals(SCHEMAS[signal], check_metadata=True)
        assert [row for batch in table.to_batches() for row in rows(batch)] == rows(batch_of(signal))
        assert table.num_rows == len(found) > 0
    collector.assert_metrics_received(len(collector.data_points))


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        (Span, pa.struct(list(SCHEMAS[Signal.TRACES]))),
        (DataPoint, pa.struct(list(SCHEMAS[Signal.METRICS]))),
        (LogRecord, pa.struct(list(SCHEMAS[Signal.LOGS]))),
        (Event, SCHEMAS[Signal.TRACES].field("events").type.value_type),
        (Link, SCHEMAS[Signal.TRACES].field("links").type.value_type),
        (Exemplar, SCHEMAS[Signal.METRICS].field("exemplars").type.value_type),
        (Quantile, SCHEMAS[Signal.METRICS].field("quantiles").type.value_type),
    ],
)
def test_the_objects_have_the_fields_of_the_schema(kind: type, type_: pa.StructType):
    assert {field.name for field in fields(kind)} == {field.name for field in type_}


def test_direct_calls_take_what_the_library_takes(collector: MockCollector):
    collector.receive_trace(MADE.spans)
    collector.receive_trace(span_request("bytes"))
    collector.receive_trace(batch_of(Signal.TRACES).slice(0, 2))
    collector.receive_metric(MADE.metrics)
    collector.receive_log(MADE.logs)
    assert collector.api_calls_count == 5
    collector.assert_traces_received(len(MADE.spans) + 3)
    with pytest.raises(AssertionError, match="expected 1 spans, received 7"):
        collector.assert_traces_received(1)
    with pytest.raises(AssertionError, match="expected 0 data points, received"):
        collector.assert_metrics_received(0)
    with pytest.raises(AssertionError, match="expected 3 log records, received 2"):
        collector.assert_logs_received(3)


def test_waiting_ends_when_it_is_there_or_with_what_was_there_instead(collector: MockCollector):
    timer = threading.Timer(0.05, lambda: collector.receive_trace(span_request("late")))
    timer.start()
    collector.wait_for(spans=1)
    collector.wait_for(lambda c: c.spans[0].name == "late")
    timer.join()
    with pytest.raises(AssertionError, match=r"waited 0.01 s for 2 spans; there are 1 spans, 0 metric points"):
        collector.wait_for(spans=2, timeout=0.01)
    with pytest.raises(AssertionError, match="for a condition"):
        collector.wait_for(lambda _: False, timeout=0.01)


def test_a_reset_forgets_everything(collector: MockCollector):
    collector.receive_trace(span_request("x"))
    collector.fail_next(5)
    collector.delay = 3600
    collector.reset()
    assert collector.spans == []
    assert collector.api_calls_count == 0
    assert collector.delay == 0
    collector.receive_trace(span_request("y"))
    collector.assert_traces_received(1)


async def test_it_is_an_asynchronous_context_manager_too():
    async with MockCollector() as collector:
        answers = await send(collector, span_request("x"))
        assert answers[0].ok
        await collector.wait_for_async(spans=1)
        with pytest.raises(AssertionError):
            await collector.wait_for_async(spans=2, timeout=0.01)
    assert collector.spans[0].name == "x"  # what was received stays


async def test_what_flight_reads_is_what_was_received(collector: MockCollector):
    await send(collector, span_request("a"), span_request("b"))

    def read() -> tuple[list[str], int, list[bytes]]:
        with flight.connect(collector.flight_endpoint) as client:
            table = client.do_get(flight.Ticket(b'{"signal": "traces"}')).read_all()
            info = client.get_flight_info(flight.FlightDescriptor.for_path("traces"))
            flushed = [result.body.to_pybytes() for result in client.do_action("flush")]
            return table["name"].to_pylist(), info.total_records, flushed

    assert await asyncio.to_thread(read) == (["a", "b"], 2, [b"{}"])


async def test_invalid_records_are_refused_as_the_collector_does(collector: MockCollector):
    bad = span_request("bad", "good", trace_ids=[bytes(16), bytes([1] * 16)])
    answers = await send(collector, bad, b"\xff")
    assert answers[0].response.partial_success.rejected_spans == 1
    assert answers[1].code == "INVALID_ARGUMENT"
    assert [span.name for span in collector.spans] == ["good"]


# -- failures on demand ------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["grpc", "protobuf", "json"])
async def test_the_next_requests_fail_as_told_and_then_no_more(collector: MockCollector, over: str):
    collector.fail_next(2, "UNAVAILABLE", retry_after=2)
    payload = span_request("x")
    first, second, third = await send(collector, payload, payload, payload, over=over)
    for answer in (first, second):
        assert (answer.code, answer.message, answer.retry_after_s) == ("UNAVAILABLE", "told to fail", 2.0)
    assert third.ok
    collector.assert_traces_received(1)
    assert collector.grpc_calls_count + collector.http_calls_count == 3


@pytest.mark.parametrize(
    ("code", "grpc_code", "http_status"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED", 429),
        ("permission_denied", "PERMISSION_DENIED", 403),
        (502, "UNAVAILABLE", 502),
        (418, "UNKNOWN", 418),
        (grpc.StatusCode.DATA_LOSS, "DATA_LOSS", 500),
    ],
)
async def test_a_failure_may_have_any_code(collector: MockCollector, code: Any, grpc_code: str, http_status: int):
    collector.fail_next(2, code, message="because")
    (answer,) = await send(collector, span_request("x"))
    assert (answer.code, answer.message, answer.retry_after_s) == (grpc_code, "because", None)
    async with aiohttp.ClientSession() as session:
        headers = {"Content-Type": "application/x-protobuf"}
        async with session.post(
            f"{collector.http_endpoint}/v1/traces", data=span_request("x"), headers=headers
        ) as http:
            assert http.status == http_status
            assert "Retry-After" not in http.headers


def test_flight_fails_as_told_too(collector: MockCollector):
    collector.fail_next(1, "UNAVAILABLE")
    with pytest.raises(flight.FlightUnavailableError, match="told to fail"):
        put(collector, batch_of(Signal.TRACES))
    put(collector, batch_of(Signal.TRACES))


def test_an_sdk_that_meets_a_failure_sends_again(collector: MockCollector):
    collector.fail_next(1, retry_after=1)
    exporter = GrpcSpanExporter(collector.grpc_endpoint)
    assert exporter.export(MADE.spans) is SpanExportResult.SUCCESS
    exporter.shutdown()
    collector.assert_traces_received(len(MADE.spans))
    assert collector.grpc_calls_count == 2


async def test_a_delayed_request_is_answered_later_and_one_that_cannot_wait_is_not(collector: MockCollector):
    collector.delay_next(1, 0.2)
    began = time.monotonic()
    await send(collector, span_request("x"))
    assert time.monotonic() - began >= 0.2
    collector.delay = 3600
    sender = GrpcSender(port_of(collector.grpc_endpoint))
    answer = await sender.send(Signal.TRACES, span_request("y"), timeout=0.1)
    await sender.close()
    assert answer.code == "DEADLINE_EXCEEDED"
    collector.assert_traces_received(1)


async def test_a_dropped_connection_is_a_broken_one_and_nothing_is_kept(collector: MockCollector):
    collector.drop_next(2)
    (answer,) = await send(collector, span_request("x"))
    assert answer.code == "UNAVAILABLE"
    assert "told to fail" not in answer.message
    async with aiohttp.ClientSession() as session:
        headers = {"Content-Type": "application/x-protobuf"}
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.post(f"{collector.http_endpoint}/v1/traces", data=span_request("x"), headers=headers)
    (answer,) = await send(collector, span_request("again"))
    assert answer.ok
    assert [span.name for span in collector.spans] == ["again"]


def test_an_sdk_whose_connection_is_dropped_sends_again(collector: MockCollector):
    collector.drop_next(1)
    exporter = HttpSpanExporter(f"{collector.http_endpoint}/v1/traces")
    assert exporter.export(MADE.spans) is SpanExportResult.SUCCESS
    exporter.shutdown()
    collector.assert_traces_received(len(MADE.spans))


def test_stopping_twice_is_fine_and_a_test_that_left_a_request_hanging_ends(collector: MockCollector):
    collector.delay = 3600
    thread = threading.Thread(target=lambda: asyncio.run(send(collector, span_request("x"))))
    thread.start()
    collector.wait_for(lambda c: c.grpc_calls_count == 1)
    collector.stop()
    collector.stop()
    thread.join(20)
    assert not thread.is_alive()


# -- the fixture -----------------------------------------------------------------------------------


def test_the_fixture_comes_with_the_package(mock_collector: MockCollector):
    mock_collector.receive_log(MADE.logs)
    mock_collector.assert_logs_received(2)


def test_the_plugin_costs_a_test_run_that_does_not_use_it_nothing(tmp_path: Path):
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            import sys

            def test_nothing_is_imported():
                assert "pyarrow" not in sys.modules and "grpc" not in sys.modules

            def test_the_fixture(mock_collector):
                assert mock_collector.grpc_endpoint.startswith("http://127.0.0.1:")
            """
        )
    )
    plugins = ["-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:anyio"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
