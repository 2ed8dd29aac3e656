"""Log records: what each field becomes, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from otlp_arrow.codec import reference
from otlp_arrow.codec.schema import LOGS, TRACES
from otlp_arrow.model import Signal
from strategies import rows

TRACE_ID = bytes(range(1, 17))
SPAN_ID = bytes(range(1, 9))
TOO_LATE = 2**63
ORIGIN = [
    name for name in LOGS.names if name in TRACES.names and name.split("_")[0] in ("service", "resource", "scope")
]


def request_of(*records: LogRecord) -> bytes:
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.extend(records)
    return request.SerializeToString()


def own_columns(payload: bytes) -> list[dict[str, Any]]:
    batch = reference.decode(Signal.LOGS, payload)
    batch.validate(full=True)
    return [{name: value for name, value in row.items() if name not in ORIGIN} for row in rows(batch)]


def test_every_field_of_a_log_record_has_its_column() -> None:
    members = [KeyValue(key="n", value=AnyValue(int_value=1))]
    record = LogRecord(
        time_unix_nano=1,
        observed_time_unix_nano=2,
        severity_number=SeverityNumber.SEVERITY_NUMBER_ERROR,
        severity_text="ERROR",
        body=AnyValue(kvlist_value=KeyValueList(values=members)),
        attributes=[KeyValue(key="a", value=AnyValue(bytes_value=b"\x00"))],
        dropped_attributes_count=3,
        flags=0x80000001,
        trace_id=TRACE_ID,
        span_id=SPAN_ID,
        event_name="click",
    )
    assert own_columns(request_of(record)) == [
        {
            "time_unix_nano": 1,
            "observed_time_unix_nano": 2,
            "severity_number": 17,
            "severity_text": "ERROR",
            "body": (5, '{"n":1}', None, None, None, None),
            "attributes": [("a", (7, None, None, None, None, b"\x00"))],
            "dropped_attributes_count": 3,
            "event_name": "click",
            "flags": 0x80000001,
            "trace_id": TRACE_ID,
            "span_id": SPAN_ID,
        }
    ]


@pytest.mark.parametrize("record", [LogRecord(), LogRecord(trace_id=bytes(16), span_id=bytes(8), body=AnyValue())])
def test_what_a_log_record_leaves_out_is_null_empty_or_zero(record: LogRecord) -> None:
    assert own_columns(request_of(record)) == [
        {
            "time_unix_nano": None,
            "observed_time_unix_nano": None,
            "severity_number": 0,
            "severity_text": "",
            "body": (0, None, None, None, None, None),
            "attributes": [],
            "dropped_attributes_count": 0,
            "event_name": "",
            "flags": 0,
            "trace_id": None,
            "span_id": None,
        }
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"time_unix_nano": TOO_LATE}, "log_records[1]: time_unix_nano is later than 2^63-1 ns"),
        ({"observed_time_unix_nano": TOO_LATE}, "log_records[1]: observed_time_unix_nano is later than 2^63-1 ns"),
        ({"trace_id": bytes(3)}, "log_records[1]: trace_id has 3 bytes, 0 or 16 expected"),
        ({"span_id": b"x" * 16}, "log_records[1]: span_id has 16 bytes, 0 or 8 expected"),
        (
            {"time_unix_nano": TOO_LATE, "observed_time_unix_nano": TOO_LATE, "trace_id": b"1"},
            "log_records[1]: time_unix_nano is later than 2^63-1 ns",
        ),
        (
            {"observed_time_unix_nano": TOO_LATE, "trace_id": b"1"},
            "log_records[1]: observed_time_unix_nano is later than 2^63-1 ns",
        ),
        ({"trace_id": b"1", "span_id": b"1"}, "log_records[1]: trace_id has 1 bytes, 0 or 16 expected"),
    ],
)
def test_a_log_record_that_breaks_the_data_model_is_left_out_and_named(fields: dict[str, Any], expected: str) -> None:
    payload = request_of(LogRecord(event_name="a"), LogRecord(**fields), LogRecord(event_name="c"))
    batch, outcome = reference.decode_with_outcome(Signal.LOGS, payload)
    assert [row["event_name"] for row in rows(batch)] == ["a", "c"]
    assert (outcome.rows, outcome.rejected, outcome.message, outcome.error) == (2, 1, expected, None)
