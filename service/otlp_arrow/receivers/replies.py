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

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsPartialSuccess, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from otlp_arrow.model import Busy, Receipt, Rejected, Signal, TooLarge, Unauthenticated, limits
from otlp_arrow.receivers.unpack import Media

FULL_SUCCESS = {Media.PROTOBUF: b"", Media.JSON: b"{}"}
"""The body of an answer with nothing to report: ``partial_success`` is unset, not zero."""

UNEXPECTED = "the collector made a mistake; its log says more"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a sender is told. ``outcome`` is the label of ``meter.REQUESTS``."""

    outcome: str
    grpc_code: grpc.StatusCode
    http_status: int
    message: str
    retry_after_s: float | None = None

    @property
    def rpc_code(self) -> int:
        """The number of ``google.rpc.Code``."""
        return int(self.grpc_code.value[0])


class Answered(Exception):
    """An error that knows its answer: for intakes that are told what to say (the mock collector's)."""

    def __init__(self, refused: Refusal) -> None:
        super().__init__(refused.message)
        self.refused = refused


_TABLE: tuple[tuple[type[Exception], str, grpc.StatusCode, int], ...] = (
    (TooLarge, "rejected", grpc.StatusCode.RESOURCE_EXHAUSTED, 413),
    (Rejected, "rejected", grpc.StatusCode.INVALID_ARGUMENT, 400),
    (Busy, "busy", grpc.StatusCode.UNAVAILABLE, 503),
    (Unauthenticated, "unauthenticated", grpc.StatusCode.UNAUTHENTICATED, 401),
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
    return Refusal("failed", grpc.StatusCode.INTERNAL, 500, UNEXPECTED)


# -- both doors ----------------------------------------------------------------------------------------
def status(refused: Refusal) -> Status:
    """``google.rpc.Status`` with the details that the code calls for."""
    answer = Status(code=refused.rpc_code, message=refused.message)
    if refused.retry_after_s is not None:
        answer.details.append(_packed(retry_info(refused.retry_after_s)))
    elif refused.rpc_code == code_pb2.INVALID_ARGUMENT:
        violation = BadRequest.FieldViolation(field="body", description=refused.message)
        answer.details.append(_packed(BadRequest(field_violations=[violation])))
    return answer


def partial_success(signal: Signal, receipt: Receipt) -> bytes:
    """The answer that some records were refused, or, with none refused, that there is a warning."""
    message = receipt.message[: limits.MAX_ERROR_MESSAGE_CHARS]
    match signal:
        case Signal.TRACES:
            spans = ExportTracePartialSuccess(rejected_spans=receipt.rejected, error_message=message)
            return ExportTraceServiceResponse(partial_success=spans).SerializeToString()
        case Signal.METRICS:
            points = ExportMetricsPartialSuccess(rejected_data_points=receipt.rejected, error_message=message)
            return ExportMetricsServiceResponse(partial_success=points).SerializeToString()
        case Signal.LOGS:
            records = ExportLogsPartialSuccess(rejected_log_records=receipt.rejected, error_message=message)
            return ExportLogsServiceResponse(partial_success=records).SerializeToString()


def retry_info(delay_s: float) -> RetryInfo:
    """``google.rpc.RetryInfo`` with the delay in whole milliseconds."""
    seconds, milliseconds = divmod(round(delay_s * 1000), 1000)
    return RetryInfo(retry_delay=Duration(seconds=seconds, nanos=milliseconds * 1_000_000))


def _packed(detail: RetryInfo | BadRequest) -> Any:
    packed = Any()
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
