"""Numbered records: requests whose every record carries an id, and the ids that lie in segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from otlp_arrow.codec import decode
from otlp_arrow.model import Batch, Encoding, Signal

TIME_NS = 1_700_000_000 * 10**9

Ids = Counter[tuple[Signal, int]]


def request(signal: Signal, ids: Iterable[int], *, service: str = "shop", padding: int = 0) -> bytes:
    """One Export…ServiceRequest: a span, a data point or a log record for each id (1 or more)."""
    name = AnyValue(string_value=service)
    text = "x" * padding
    if signal is Signal.TRACES:
        traces = ExportTraceServiceRequest()
        resource_spans = traces.resource_spans.add()
        resource_spans.resource.attributes.append(KeyValue(key="service.name", value=name))
        scope_spans = resource_spans.scope_spans.add()
        for number in ids:
            span = scope_spans.spans.add(name="GET /", kind=2, start_time_unix_nano=TIME_NS + number)
            span.trace_id, span.span_id = (number + 2**100).to_bytes(16, "big"), number.to_bytes(8, "big")
            span.status.message = text
        return traces.SerializeToString()
    if signal is Signal.METRICS:
        metrics = ExportMetricsServiceRequest()
        resource_metrics = metrics.resource_metrics.add()
        resource_metrics.resource.attributes.append(KeyValue(key="service.name", value=name))
        metric = resource_metrics.scope_metrics.add().metrics.add(name="requests" + text)
        for number in ids:
            metric.gauge.data_points.add(time_unix_nano=TIME_NS + number, as_int=number)
        return metrics.SerializeToString()
    logs = ExportLogsServiceRequest()
    resource_logs = logs.resource_logs.add()
    resource_logs.resource.attributes.append(KeyValue(key="service.name", value=name))
    scope_logs = resource_logs.scope_logs.add()
    for number in ids:
        scope_logs.log_records.add(time_unix_nano=TIME_NS + number, severity_text=text, body=AnyValue(int_value=number))
    return logs.SerializeToString()


def batch(signal: Signal, ids: Iterable[int], *, padding: int = 0) -> Batch:
    """The request as a door hands it over."""
    return Batch(signal, request(signal, ids, padding=padding))


def arrow_batch(signal: Signal, ids: Iterable[int], *, service: str = "shop") -> Batch:
    """The same as a Flight door hands it over: an Arrow IPC stream, and its columns."""
    columns = decode(signal, request(signal, ids, service=service))
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, columns.schema) as writer:
        writer.write_batch(columns)
    return Batch(signal, stream.getvalue().to_pybytes(), Encoding.ARROW, columns=columns)


def ids_of(signal: Signal, rows: pa.Table | pa.RecordBatch) -> list[int]:
    """The ids of rows, in order."""
    if signal is Signal.TRACES:
        return [int.from_bytes(value, "big") for value in rows.column("span_id").to_pylist()]
    if signal is Signal.METRICS:
        return list(rows.column("int_value").to_pylist())
    return [body["int"] for body in rows.column("body").to_pylist()]


def read(path: Path) -> pa.Table:
    """A segment, as the documentation tells users to read it."""
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_stream(file).read_all()


def segments(output_dir: Path, signal: Signal) -> list[Path]:
    """The segment files of a signal."""
    return sorted((output_dir / "otlp" / signal.value).glob("*.arrows"))


def stored(output_dir: Path) -> Ids:
    """How often each record lies in the segments of an output directory; every file must be readable."""
    return Counter(
        (signal, number)
        for signal in Signal
        for path in segments(output_dir, signal)
        for number in ids_of(signal, read(path))
    )
