"""What a remote says of a batch that it took, or why it did not, out of OTLP's answers."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otlp_arrow.model import Signal
from otlp_arrow.sinks.retry import one_line
from otlp_arrow.sinks.sink import DeliveryResult

_RESPONSES: dict[Signal, tuple[Any, str]] = {
    Signal.TRACES: (ExportTraceServiceResponse, "rejected_spans"),
    Signal.METRICS: (ExportMetricsServiceResponse, "rejected_data_points"),
    Signal.LOGS: (ExportLogsServiceResponse, "rejected_log_records"),
}


def partial_success(signal: Signal, reply: bytes) -> DeliveryResult:
    """Of an Export…ServiceResponse. What cannot be read counts as full success: the status said so."""
    if not reply:
        return DeliveryResult()
    response, field = _RESPONSES[signal]
    try:
        partial = response.FromString(reply).partial_success
    except DecodeError:
        return DeliveryResult()
    return DeliveryResult(max(0, int(getattr(partial, field))), one_line(partial.error_message))


def partial_success_json(reply: bytes) -> DeliveryResult:
    """The same for a remote that answers in JSON whatever it was asked in."""
    try:
        partial = json.loads(reply)["partialSuccess"]
        rejected = [int(partial[name]) for name in partial if name.startswith("rejected")]
        return DeliveryResult(max([0, *rejected]), one_line(str(partial.get("errorMessage", ""))))
    except (ValueError, KeyError, TypeError, AttributeError):
        return DeliveryResult()


def failure_message(body: bytes, content_type: str) -> str:
    """The words of a refusal: ``google.rpc.Status`` in protobuf or JSON, or plain text; none of a web page."""
    if content_type == "application/x-protobuf":
        try:
            return one_line(Status.FromString(body).message)
        except DecodeError:
            return ""
    if content_type == "application/json":
        try:
            found = json.loads(body)
            return one_line(str(found.get("message") or found.get("error") or ""))
        except (ValueError, AttributeError):
            return ""
    if content_type == "text/plain":
        return one_line(body.decode(errors="replace"))
    return ""
