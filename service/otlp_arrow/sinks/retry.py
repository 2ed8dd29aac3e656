"""When to send again, and what an answer means: the OTLP specification's rules as plain functions.

============================================================  ==========================================
answer                                                        outcome
============================================================  ==========================================
CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE,          ``Transient``
UNAVAILABLE, DATA_LOSS; 429, 502, 503, 504
RESOURCE_EXHAUSTED with RetryInfo                             ``Transient`` after that delay
RESOURCE_EXHAUSTED without, 413                               ``Permanent``, too large
UNAUTHENTICATED, PERMISSION_DENIED; 401, 403, 407             ``Transient``: credentials (not the spec's letter)
UNIMPLEMENTED, NOT_FOUND; 3xx, 404, 405                       ``Transient``: address (not the spec's letter)
everything else                                               ``Permanent``
============================================================  ==========================================

The two rows that leave the letter keep data that a remote cannot judge: it did not look at it.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from otlp_arrow.model.limits import MAX_REMOTE_MESSAGE_CHARS, MAX_RETRY_AFTER_S
from otlp_arrow.sinks.sink import DeliveryError, Fault, Permanent, Transient

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

STATUS_TRAILER = "grpc-status-details-bin"
RETRY_TRAILER = "google.rpc.retryinfo-bin"

_GRPC_RETRYABLE = {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
_GRPC_CREDENTIALS = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
_GRPC_ADDRESS = {"UNIMPLEMENTED", "NOT_FOUND"}
_HTTP_RETRYABLE = {429, 502, 503, 504}
_HTTP_CREDENTIALS = {401, 403, 407}
_HTTP_ADDRESS = {404, 405}

# What gRPC itself says when a proxy or a dying server resets a stream; no verdict on the data.
_RESET = re.compile(r"RST_STREAM|Stream removed|[Cc]onnection reset|Socket closed|GOAWAY")


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """The pause before try *n* is random, up to ``initial_s`` times 2^n and never above ``max_s``."""

    initial_s: float = 0.5
    max_s: float = 30.0


def next_delay(
    settings: RetrySettings, attempt: int, uniform: Callable[[float, float], float] = random.uniform
) -> float:
    """Seconds to wait after the try number ``attempt`` (0 is the first): exponential, full jitter."""
    return uniform(0.0, min(settings.max_s, settings.initial_s * 2.0 ** min(attempt, 20)))


def is_retryable(code: str | int, *, told_when: bool = False) -> bool:
    """Whether the specification lets a client send again after a gRPC code (by name) or an HTTP status.

    ``told_when``: the answer held RetryInfo.
    """
    if isinstance(code, int):
        return code in _HTTP_RETRYABLE
    return code in _GRPC_RETRYABLE or (code == "RESOURCE_EXHAUSTED" and told_when)


def judge_grpc(code: str, message: str, retry_after_s: float | None = None) -> DeliveryError:
    """The error for a gRPC answer other than OK; ``code`` is the code's name."""
    text = one_line(f"{code}: {message}" if message else code)
    if is_retryable(code, told_when=retry_after_s is not None):
        busy = retry_after_s is not None or code == "RESOURCE_EXHAUSTED"
        return Transient(text, retry_after_s, Fault.BUSY if busy else Fault.UNREACHABLE)
    if code == "RESOURCE_EXHAUSTED":
        return Permanent(text, too_large=True)
    if code in _GRPC_CREDENTIALS:
        return Transient(text, retry_after_s, Fault.CREDENTIALS)
    if code in _GRPC_ADDRESS:
        return Transient(text, retry_after_s, Fault.ADDRESS)
    if code in ("INTERNAL", "UNKNOWN") and _RESET.search(message):
        return Transient(text, retry_after_s)
    return Permanent(text)


def judge_http(status: int, message: str, retry_after_s: float | None = None) -> DeliveryError:
    """The error for an HTTP answer that is no success."""
    text = one_line(f"HTTP {status}: {message}" if message else f"HTTP {status}")
    if is_retryable(status):
        busy = retry_after_s is not None or status == 429
        return Transient(text, retry_after_s, Fault.BUSY if busy else Fault.UNREACHABLE)
    if status == 413:
        return Permanent(text, too_large=True)
    if status in _HTTP_CREDENTIALS:
        return Transient(text, retry_after_s, Fault.CREDENTIALS)
    if status in _HTTP_ADDRESS or 300 <= status < 400:
        return Transient(text, retry_after_s, Fault.ADDRESS)
    return Permanent(text)


def retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number, or a date against ``now_s`` (since 1970).

    None if there is none or it makes no sense.
    """
    if value is None:
        return None
    text = value.strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now_s
        except (ValueError, TypeError, OverflowError):
            return None
    return bounded_delay(seconds)


def retry_info(trailers: Iterable[tuple[str, str | bytes]]) -> float | None:
    """Seconds that RetryInfo in gRPC's trailing metadata asks for: in the status details, or by itself."""
    # Not above: a collector that forwards nothing imports this module, too.
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status

    for key, value in trailers:
        if not isinstance(value, bytes):
            continue
        try:
            if key == STATUS_TRAILER:
                for detail in Status.FromString(value).details:
                    if detail.Is(RetryInfo.DESCRIPTOR):
                        return _seconds(RetryInfo.FromString(detail.value).retry_delay)
            elif key == RETRY_TRAILER:
                return _seconds(RetryInfo.FromString(value).retry_delay)
        except DecodeError:
            continue
    return None


def _seconds(delay: Duration) -> float | None:
    return bounded_delay(delay.seconds + delay.nanos / 1e9)


def bounded_delay(seconds: float) -> float | None:
    """A delay that a remote asks for, within ours; None for what is no number."""
    return None if math.isnan(seconds) else min(max(0.0, seconds), MAX_RETRY_AFTER_S)


def one_line(text: str) -> str:
    """A remote's words, fit for a log line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MAX_REMOTE_MESSAGE_CHARS else line[: MAX_REMOTE_MESSAGE_CHARS - 1] + "…"
