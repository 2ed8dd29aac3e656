"""Which records are refused, why, and the exact words: one table for both decoders.

A record (span, data point, log record) is checked in the order of its list below; the first check
that fails refuses it and the rest are not made. Members of ``events``, ``links`` and ``exemplars``
are taken one after the other, each through all of its own checks.

* span: ``SPAN_TRACE_ID_LENGTH``, ``SPAN_TRACE_ID_ZERO``, ``SPAN_ID_LENGTH``, ``SPAN_ID_ZERO``,
  ``PARENT_SPAN_ID_LENGTH``, ``START_TIME``, ``END_TIME``; each event: ``EVENT_TIME``;
  each link: ``LINK_TRACE_ID_LENGTH``, ``LINK_SPAN_ID_LENGTH``
* data point: ``START_TIME``, ``TIME``; each exemplar: ``EXEMPLAR_TIME``,
  ``EXEMPLAR_TRACE_ID_LENGTH``, ``EXEMPLAR_SPAN_ID_LENGTH``
* log record: ``TIME``, ``OBSERVED_TIME``, ``LOG_TRACE_ID_LENGTH``, ``LOG_SPAN_ID_LENGTH``

One reason reads ``{records}[{index}]{.list[index]}: {field} {what}``. ``records`` is ``spans``,
``data_points`` or ``log_records``; ``index`` counts the records of the whole payload in order,
refused ones included (data points: only those of the member of ``Metric.data`` that is set).
The message of a payload is the first ``MAX_REJECTION_REASONS`` reasons joined by ``"; "``, then
``"; and {N} more"`` if there were more, cut to ``MAX_ERROR_MESSAGE_CHARS``.

A payload is in error as a whole, with ``malformed(signal)`` for its text, if it is no valid protobuf
message, holds text that is no UTF-8 or nests deeper than ``MAX_MESSAGE_DEPTH`` (also inside a record
that would be refused); and with ``TOO_LARGE_TO_REPEAT`` if it is well-formed but the sum over its
rows (refused records are none) of the bytes repeated for that row is above ``MAX_REPEATED_BYTES``.
Repeated for a row are: the encoded ``Resource`` and ``InstrumentationScope`` message (contents,
without tag and length; several occurrences add up) and, for data points, the UTF-8 bytes of the
metric's name, description and unit and its encoded ``metadata`` members (contents).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from otlp_arrow.model import Signal, limits

TRACE_ID_BYTES = 16
SPAN_ID_BYTES = 8


class Check(enum.IntEnum):
    """Why a record is refused. The compiled kernel knows these numbers."""

    SPAN_TRACE_ID_LENGTH = 0
    SPAN_TRACE_ID_ZERO = 1
    SPAN_ID_LENGTH = 2  # of a span: required
    SPAN_ID_ZERO = 3
    PARENT_SPAN_ID_LENGTH = 4
    START_TIME = 5
    END_TIME = 6
    EVENT_TIME = 7
    LINK_TRACE_ID_LENGTH = 8
    LINK_SPAN_ID_LENGTH = 9
    TIME = 10
    OBSERVED_TIME = 11
    LOG_TRACE_ID_LENGTH = 12  # of a log record: may be absent
    LOG_SPAN_ID_LENGTH = 13
    EXEMPLAR_TIME = 14
    EXEMPLAR_TRACE_ID_LENGTH = 15
    EXEMPLAR_SPAN_ID_LENGTH = 16


_LATE = "{field} is later than 2^63-1 ns"
_ZERO = "{field} is all zero"
_LENGTH = "{field} has {length} bytes, {expected} expected"
_OPTIONAL_LENGTH = "{field} has {length} bytes, 0 or {expected} expected"

# (list that the member stands in or "", field, wording, expected length)
_WORDS: dict[Check, tuple[str, str, str, int]] = {
    Check.SPAN_TRACE_ID_LENGTH: ("", "trace_id", _LENGTH, TRACE_ID_BYTES),
    Check.SPAN_TRACE_ID_ZERO: ("", "trace_id", _ZERO, 0),
    Check.SPAN_ID_LENGTH: ("", "span_id", _LENGTH, SPAN_ID_BYTES),
    Check.SPAN_ID_ZERO: ("", "span_id", _ZERO, 0),
    Check.PARENT_SPAN_ID_LENGTH: ("", "parent_span_id", _OPTIONAL_LENGTH, SPAN_ID_BYTES),
    Check.START_TIME: ("", "start_time_unix_nano", _LATE, 0),
    Check.END_TIME: ("", "end_time_unix_nano", _LATE, 0),
    Check.EVENT_TIME: ("events", "time_unix_nano", _LATE, 0),
    Check.LINK_TRACE_ID_LENGTH: ("links", "trace_id", _OPTIONAL_LENGTH, TRACE_ID_BYTES),
    Check.LINK_SPAN_ID_LENGTH: ("links", "span_id", _OPTIONAL_LENGTH, SPAN_ID_BYTES),
    Check.TIME: ("", "time_unix_nano", _LATE, 0),
    Check.OBSERVED_TIME: ("", "observed_time_unix_nano", _LATE, 0),
    Check.LOG_TRACE_ID_LENGTH: ("", "trace_id", _OPTIONAL_LENGTH, TRACE_ID_BYTES),
    Check.LOG_SPAN_ID_LENGTH: ("", "span_id", _OPTIONAL_LENGTH, SPAN_ID_BYTES),
    Check.EXEMPLAR_TIME: ("exemplars", "time_unix_nano", _LATE, 0),
    Check.EXEMPLAR_TRACE_ID_LENGTH: ("exemplars", "trace_id", _OPTIONAL_LENGTH, TRACE_ID_BYTES),
    Check.EXEMPLAR_SPAN_ID_LENGTH: ("exemplars", "span_id", _OPTIONAL_LENGTH, SPAN_ID_BYTES),
}

_RECORDS = {Signal.TRACES: "spans", Signal.METRICS: "data_points", Signal.LOGS: "log_records"}
_REQUESTS = {
    Signal.TRACES: "ExportTraceServiceRequest",
    Signal.METRICS: "ExportMetricsServiceRequest",
    Signal.LOGS: "ExportLogsServiceRequest",
}

TOO_LARGE_TO_REPEAT = (
    "request too large to repeat its resources, scopes and metric headers on every row: "
    f"more than {limits.MAX_REPEATED_BYTES} bytes; send fewer records a request or smaller resources"
)


def malformed(signal: Signal) -> str:
    """The error of a payload that is no valid message."""
    return f"malformed protobuf: the body is no valid {_REQUESTS[signal]}"


def reason(signal: Signal, record: int, check: Check | int, length: int = 0, member: int = 0) -> str:
    """Why record ``record`` of a payload is refused.

    ``length`` is the bytes that an id has (length checks only), ``member`` the position in
    ``events``, ``links`` or ``exemplars`` (their checks only).
    """
    inside, field, words, expected = _WORDS[Check(check)]
    where = f"{_RECORDS[signal]}[{record}]" + (f".{inside}[{member}]" if inside else "")
    return f"{where}: {words.format(field=field, length=length, expected=expected)}"


def message(reasons: Sequence[str], rejected: int) -> str:
    """The message of a payload of which ``rejected`` records were refused, ``""`` if none.

    ``reasons`` holds those of the first records at least as far as they are named.
    """
    named = list(reasons[: limits.MAX_REJECTION_REASONS])
    if rejected > len(named):
        named.append(f"and {rejected - len(named)} more")
    return "; ".join(named)[: limits.MAX_ERROR_MESSAGE_CHARS]
