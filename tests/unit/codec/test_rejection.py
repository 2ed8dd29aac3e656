"""The exact words of refusals: the compiled kernel says the same."""

from __future__ import annotations

import pytest

from otlp_arrow.codec import rejection
from otlp_arrow.codec.rejection import Check
from otlp_arrow.model import Signal, limits

REASONS = [
    (Signal.TRACES, Check.SPAN_TRACE_ID_LENGTH, 5, 0, "spans[3]: trace_id has 5 bytes, 16 expected"),
    (Signal.TRACES, Check.SPAN_TRACE_ID_ZERO, 0, 0, "spans[3]: trace_id is all zero"),
    (Signal.TRACES, Check.SPAN_ID_LENGTH, 0, 0, "spans[3]: span_id has 0 bytes, 8 expected"),
    (Signal.TRACES, Check.SPAN_ID_ZERO, 0, 0, "spans[3]: span_id is all zero"),
    (Signal.TRACES, Check.PARENT_SPAN_ID_LENGTH, 9, 0, "spans[3]: parent_span_id has 9 bytes, 0 or 8 expected"),
    (Signal.TRACES, Check.START_TIME, 0, 0, "spans[3]: start_time_unix_nano is later than 2^63-1 ns"),
    (Signal.TRACES, Check.END_TIME, 0, 0, "spans[3]: end_time_unix_nano is later than 2^63-1 ns"),
    (Signal.TRACES, Check.EVENT_TIME, 0, 2, "spans[3].events[2]: time_unix_nano is later than 2^63-1 ns"),
    (Signal.TRACES, Check.LINK_TRACE_ID_LENGTH, 1, 2, "spans[3].links[2]: trace_id has 1 bytes, 0 or 16 expected"),
    (Signal.TRACES, Check.LINK_SPAN_ID_LENGTH, 1, 0, "spans[3].links[0]: span_id has 1 bytes, 0 or 8 expected"),
    (Signal.METRICS, Check.START_TIME, 0, 0, "data_points[3]: start_time_unix_nano is later than 2^63-1 ns"),
    (Signal.METRICS, Check.TIME, 0, 0, "data_points[3]: time_unix_nano is later than 2^63-1 ns"),
    (Signal.METRICS, Check.EXEMPLAR_TIME, 0, 1, "data_points[3].exemplars[1]: time_unix_nano is later than 2^63-1 ns"),
    (
        Signal.METRICS,
        Check.EXEMPLAR_TRACE_ID_LENGTH,
        7,
        1,
        "data_points[3].exemplars[1]: trace_id has 7 bytes, 0 or 16 expected",
    ),
    (
        Signal.METRICS,
        Check.EXEMPLAR_SPAN_ID_LENGTH,
        7,
        1,
        "data_points[3].exemplars[1]: span_id has 7 bytes, 0 or 8 expected",
    ),
    (Signal.LOGS, Check.TIME, 0, 0, "log_records[3]: time_unix_nano is later than 2^63-1 ns"),
    (Signal.LOGS, Check.OBSERVED_TIME, 0, 0, "log_records[3]: observed_time_unix_nano is later than 2^63-1 ns"),
    (Signal.LOGS, Check.LOG_TRACE_ID_LENGTH, 15, 0, "log_records[3]: trace_id has 15 bytes, 0 or 16 expected"),
    (Signal.LOGS, Check.LOG_SPAN_ID_LENGTH, 16, 0, "log_records[3]: span_id has 16 bytes, 0 or 8 expected"),
]


@pytest.mark.parametrize(("signal", "check", "length", "member", "expected"), REASONS)
def test_a_reason_names_record_field_and_what_was_expected(
    signal: Signal, check: Check, length: int, member: int, expected: str
) -> None:
    assert rejection.reason(signal, 3, check, length, member) == expected
    assert rejection.reason(signal, 3, int(check), length, member) == expected


def test_every_check_has_its_words() -> None:
    assert {check for _, check, *_ in REASONS} == set(Check)


def test_nothing_refused_says_nothing() -> None:
    assert rejection.message([], 0) == ""


def test_the_first_reasons_are_named_and_the_rest_counted() -> None:
    reasons = [f"r{index}" for index in range(limits.MAX_REJECTION_REASONS)]
    assert rejection.message(reasons[:1], 1) == "r0"
    assert rejection.message(reasons, len(reasons)) == "r0; r1; r2; r3; r4"
    assert rejection.message(reasons, len(reasons) + 7) == "r0; r1; r2; r3; r4; and 7 more"
    assert rejection.message([*reasons, "r5", "r6"], 7) == "r0; r1; r2; r3; r4; and 2 more"


def test_a_message_never_outgrows_its_bound() -> None:
    assert len(rejection.message(["x" * 1_000] * 5, 5)) == limits.MAX_ERROR_MESSAGE_CHARS
