"""Logs: ``ExportLogsServiceRequest`` to rows, one a log record, and back."""

from __future__ import annotations

from collections.abc import Iterator

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otlp_arrow.codec.checks import optional_id, time
from otlp_arrow.codec.origin import Regrouping, Row, Shared, origin
from otlp_arrow.codec.rejection import SPAN_ID_BYTES, TRACE_ID_BYTES, Check
from otlp_arrow.codec.values import from_attributes, from_value, to_attributes, to_value

Request = ExportLogsServiceRequest


def records(request: ExportLogsServiceRequest) -> Iterator[tuple[Shared, LogRecord]]:
    """The log records of a request in order, each with the columns that its scope shares."""
    for resource_logs in request.resource_logs:
        for scope_logs in resource_logs.scope_logs:
            shared = origin(resource_logs, scope_logs)
            for record in scope_logs.log_records:
                yield shared, record


def to_row(record: LogRecord) -> Row:
    """A log record's own columns. Raises ``Refused``; the order of checks is that of ``rejection``."""
    return {
        "time_unix_nano": time(record.time_unix_nano, Check.TIME),
        "observed_time_unix_nano": time(record.observed_time_unix_nano, Check.OBSERVED_TIME),
        "severity_number": record.severity_number,
        "severity_text": record.severity_text,
        "body": to_value(record.body),
        "attributes": to_attributes(record.attributes),
        "dropped_attributes_count": record.dropped_attributes_count,
        "event_name": record.event_name,
        "flags": record.flags,
        "trace_id": optional_id(record.trace_id, TRACE_ID_BYTES, Check.LOG_TRACE_ID_LENGTH),
        "span_id": optional_id(record.span_id, SPAN_ID_BYTES, Check.LOG_SPAN_ID_LENGTH),
    }


class Encoder:
    """Puts rows back as log records of ``request``."""

    def __init__(self) -> None:
        self.request = Request()
        self._groups = Regrouping(self.request)

    def add(self, row: Row) -> None:
        """One record more. Raises ``ValueError`` or ``TypeError`` for a value that no record has."""
        self._groups.scope_group(row).log_records.append(_log_record(row))


def _log_record(row: Row) -> LogRecord:
    # A None given to a message's constructor leaves the field unset.
    return LogRecord(
        time_unix_nano=row["time_unix_nano"],
        observed_time_unix_nano=row["observed_time_unix_nano"],
        severity_number=row["severity_number"],
        severity_text=row["severity_text"],
        body=from_value(row["body"]),
        attributes=from_attributes(row["attributes"]),
        dropped_attributes_count=row["dropped_attributes_count"],
        event_name=row["event_name"],
        flags=row["flags"],
        trace_id=row["trace_id"],
        span_id=row["span_id"],
    )
