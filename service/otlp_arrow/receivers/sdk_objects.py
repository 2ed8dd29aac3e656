"""What OpenTelemetry's SDK hands to exporters, as OTLP requests.

The SDK's own encoder does the work. What it leaves out is put in here: the trace flags of spans and links and the
trace state of links, the start of a gauge's points, the offset of empty buckets, and of several groups with the
same resource and scope all but one. The SDK is an extra: it is imported when the first object comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from otlp_arrow.model import OtlpExportError, Rejected

if TYPE_CHECKING:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan

_TRACE_FLAGS = 0xFF  # the lowest byte of ``flags`` are W3C's trace flags


def trace_request(spans: Iterable[ReadableSpan]) -> ExportTraceServiceRequest:
    """The request of spans, grouped by resource and scope. Raises ``Rejected`` for what is no span."""
    encode = _encoder("trace_encoder", "encode_spans")
    groups: dict[Any, list[ReadableSpan]] = {}
    for span in spans:
        if not hasattr(span, "get_span_context"):
            raise TypeError(f"{type(span).__name__} is no span of the SDK")
        groups.setdefault((span.resource, span.instrumentation_scope), []).append(span)
    request: ExportTraceServiceRequest = encode([])
    for group in groups.values():
        encoded = _encoded(encode, group)
        for message, span in zip(encoded.resource_spans[0].scope_spans[0].spans, group, strict=True):
            message.flags |= span.context.trace_flags & _TRACE_FLAGS
            for link_message, link in zip(message.links, span.links, strict=True):
                link_message.flags |= link.context.trace_flags & _TRACE_FLAGS
                if link.context.trace_state:
                    link_message.trace_state = link.context.trace_state.to_header()
        request.MergeFrom(encoded)
    return request


def metrics_request(data: MetricsData) -> ExportMetricsServiceRequest:
    """The request of all metrics of one collection. Raises ``Rejected`` for what OTLP has no form for."""
    encode = _encoder("metrics_encoder", "encode_metrics")
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics

    if not isinstance(data, MetricsData):
        raise TypeError(f"{type(data).__name__} is no MetricsData of the SDK")
    request: ExportMetricsServiceRequest = encode(MetricsData([]))
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            alone = MetricsData([ResourceMetrics(resource.resource, [scope], resource.schema_url)])
            encoded = _encoded(encode, alone)
            messages = encoded.resource_metrics[0].scope_metrics[0].metrics
            for message, metric in zip(messages, scope.metrics, strict=True):
                _complete_metric(message, metric)
            request.MergeFrom(encoded)
    return request


def logs_request(records: Sequence[ReadableLogRecord]) -> ExportLogsServiceRequest:
    """The request of log records. Raises ``Rejected`` for what is none."""
    request: ExportLogsServiceRequest = _encoded(_encoder("_log_encoder", "encode_logs"), list(records))
    return request


def _encoder(module: str, function: str) -> Any:
    import importlib

    try:
        return getattr(importlib.import_module(f"opentelemetry.exporter.otlp.proto.common.{module}"), function)
    except ImportError as error:
        raise OtlpExportError(
            "objects of OpenTelemetry's SDK need its encoders: pip install 'otlp-arrow[sdk]'"
        ) from error


def _encoded(encode: Any, objects: Any) -> Any:
    try:
        return encode(objects)
    except Exception as error:  # whatever the encoder stumbles over, the objects are at fault
        raise Rejected(f"the SDK's objects cannot be encoded: {error}") from error


def _complete_metric(message: Any, metric: Any) -> None:
    kind = message.WhichOneof("data")
    if kind is None:
        return
    points = zip(getattr(message, kind).data_points, metric.data.data_points, strict=True)
    if kind == "gauge":
        for encoded, point in points:
            encoded.start_time_unix_nano = point.start_time_unix_nano or 0
    elif kind == "exponential_histogram":
        for encoded, point in points:
            encoded.positive.offset = point.positive.offset
            encoded.negative.offset = point.negative.offset
