"""Our errors as answers, in one table; and the answers themselves, for gRPC and for HTTP.

====================  ====================  ======  ==========================================================
error                 gRPC                  HTTP    what a conforming sender does
====================  ====================  ======  ==========================================================
``TooLarge``          RESOURCE_EXHAUSTED    413     drops the data (no RetryInfo: without it not retryable)
``Rejected``          INVALID_ARGUMENT      400     drops the data
``Busy``, ``Closed``  UNAVAILABLE           503     sends again after the delay
``Unauthenticated``   UNAUTHENTICATED       401     drops the data, reports
anything else         INTERNAL              500     drops the data, reports
====================  ====================  ======  ==========================================================

503 and never 429: released Python exporters retry every 5xx and no 429. The delay stays at a second or two:
they drop a batch at once if it is longer than what is left of their ten seconds.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otlp_arrow.model import Busy, Receipt, Rejected, Signal, TooLarge, Unauthenticated, limits
from otlp_arrow.receivers.services import Code
from otlp_arrow.receivers.unpack import Media

if TYPE_CHECKING:
    from google.protobuf import any_pb2, duration_pb2
    from google.rpc import error_details_pb2, status_pb2
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
else:  # 5 MB that a collector needs once it has to refuse something
    from otlp_arrow.model.lazy import LazyModule

    any_pb2 = LazyModule("google.protobuf.any_pb2")
    duration_pb2 = LazyModule("google.protobuf.duration_pb2")
    error_details_pb2 = LazyModule("google.rpc.error_details_pb2")
    status_pb2 = LazyModule("google.rpc.status_pb2")
    logs_service_pb2 = LazyModule("opentelemetry.proto.collector.logs.v1.logs_service_pb2")
    metrics_service_pb2 = LazyModule("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    trace_service_pb2 = LazyModule("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

FULL_SUCCESS = {Media.PROTOBUF: b"", Media.JSON: b"{}"}
"""The body of an answer with nothing to report: ``partial_success`` is unset, not zero."""

UNEXPECTED = "the collector made a mistake; its log says more"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a sender is told. ``outcome`` is the label of ``meter.REQUESTS``."""

    outcome: str
    grpc_code: Code
    http_status: int
    message: str
    retry_after_s: float | None = None

    @property
    def rpc_code(self) -> int:
        """The number of ``google.rpc.Code``."""
        return int(self.grpc_code)


class Answered(Exception):
    """An error that knows its answer: for intakes that are told what to say (the mock collector's)."""

    def __init__(self, refused: Refusal) -> None:
        super().__init__(refused.message)
        self.refused = refused


_TABLE: tuple[tuple[type[Exception], str, Code, int], ...] = (
    (TooLarge, "rejected", Code.RESOURCE_EXHAUSTED, 413),
    (Rejected, "rejected", Code.INVALID_ARGUMENT, 400),
    (Busy, "busy", Code.UNAVAILABLE, 503),
    (Unauthenticated, "unauthenticated", Code.UNAUTHENTICATED, 401),
)


def refusal(error: Exception) -> Refusal:
    """The row of the table for ``error``."""
    if isinstance(error, Answered):
        return error.refused
    for kind, outcome, code, http_status in _TABLE:
        if isinstance(error, kind):
            # Parts of headers that are no UTF-8 arrive as surrogates, which no message can carry.
            message = str(error)[: limits.MAX_ERROR_MESSAGE_CHARS].encode(errors="backslashreplace").decode()
            retry_after_s = error.retry_after_s if isinstance(error, Busy) else None
            return Refusal(outcome, code, http_status, message, retry_after_s)
    return Refusal("failed", Code.INTERNAL, 500, UNEXPECTED)


# -- both doors ----------------------------------------------------------------------------------------
def status(refused: Refusal) -> status_pb2.Status:
    """``google.rpc.Status`` with the details that the code calls for."""
    answer = status_pb2.Status(code=refused.rpc_code, message=refused.message)
    if refused.retry_after_s is not None:
        answer.details.append(_packed(retry_info(refused.retry_after_s)))
    elif refused.grpc_code is Code.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(field="body", description=refused.message)
        answer.details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    return answer


def partial_success(signal: Signal, receipt: Receipt) -> bytes:
    """The answer that some records were refused, or, with none refused, that there is a warning."""
    message = receipt.message[: limits.MAX_ERROR_MESSAGE_CHARS]
    match signal:
        case Signal.TRACES:
            spans = trace_service_pb2.ExportTracePartialSuccess(rejected_spans=receipt.rejected, error_message=message)
            return trace_service_pb2.ExportTraceServiceResponse(partial_success=spans).SerializeToString()
        case Signal.METRICS:
            points = metrics_service_pb2.ExportMetricsPartialSuccess(
                rejected_data_points=receipt.rejected, error_message=message
            )
            return metrics_service_pb2.ExportMetricsServiceResponse(partial_success=points).SerializeToString()
        case Signal.LOGS:
            records = logs_service_pb2.ExportLogsPartialSuccess(
                rejected_log_records=receipt.rejected, error_message=message
            )
            return logs_service_pb2.ExportLogsServiceResponse(partial_success=records).SerializeToString()


def retry_info(delay_s: float) -> error_details_pb2.RetryInfo:
    """``google.rpc.RetryInfo`` with the delay in whole milliseconds."""
    seconds, milliseconds = divmod(round(delay_s * 1000), 1000)
    return error_details_pb2.RetryInfo(
        retry_delay=duration_pb2.Duration(seconds=seconds, nanos=milliseconds * 1_000_000)
    )


def _packed(detail: error_details_pb2.RetryInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


# -- gRPC ----------------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=32)  # under overload the same refusal goes out thousands of times a second
def trailers(refused: Refusal) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """The status message and the trailing metadata of a refused call.

    Python's exporter reads the delay from ``google.rpc.retryinfo-bin`` only, the others from
    ``grpc-status-details-bin`` only; so it goes out in both.
    """
    message = refused.message.encode()[: limits.MAX_TRAILER_MESSAGE_BYTES].decode(errors="ignore")
    short = Refusal(refused.outcome, refused.grpc_code, refused.http_status, message, refused.retry_after_s)
    metadata = [("grpc-status-details-bin", status(short).SerializeToString())]
    if refused.retry_after_s is not None:
        metadata.append(("google.rpc.retryinfo-bin", retry_info(refused.retry_after_s).SerializeToString()))
    return message, tuple(metadata)


# -- HTTP ----------------------------------------------------------------------------------------------
def http_status_body(refused: Refusal, media: Media) -> bytes:
    """``google.rpc.Status`` in the request's encoding."""
    if media is Media.PROTOBUF:
        encoded: bytes = status(refused).SerializeToString()
        return encoded
    return json.dumps({"code": refused.rpc_code, "message": refused.message}, ensure_ascii=False).encode()


def http_partial_success_body(signal: Signal, receipt: Receipt, media: Media) -> bytes:
    """``partial_success`` in the request's encoding (in JSON, 64-bit integers are strings)."""
    if media is Media.PROTOBUF:
        return partial_success(signal, receipt)
    partial = {"errorMessage": receipt.message[: limits.MAX_ERROR_MESSAGE_CHARS]}
    if receipt.rejected:
        partial[_JSON_COUNTS[signal]] = str(receipt.rejected)
    return json.dumps({"partialSuccess": partial}, ensure_ascii=False).encode()


_JSON_COUNTS = {
    Signal.TRACES: "rejectedSpans",
    Signal.METRICS: "rejectedDataPoints",
    Signal.LOGS: "rejectedLogRecords",
}


def retry_after(delay_s: float) -> str:
    """``Retry-After`` in whole seconds, rounded up, so that nobody comes back too early."""
    return str(max(1, math.ceil(delay_s)))
