"""The specification's rules for sending again."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.model.limits import MAX_REMOTE_MESSAGE_CHARS, MAX_RETRY_AFTER_S
from otlp_arrow.sinks.retry import (
    RetrySettings,
    is_retryable,
    judge_grpc,
    judge_http,
    next_delay,
    one_line,
    retry_after,
    retry_info,
)
from otlp_arrow.sinks.sink import Fault, Permanent, Transient

ALL_CODES = {
    "CANCELLED": True,
    "UNKNOWN": False,
    "INVALID_ARGUMENT": False,
    "DEADLINE_EXCEEDED": True,
    "NOT_FOUND": False,
    "ALREADY_EXISTS": False,
    "PERMISSION_DENIED": False,
    "UNAUTHENTICATED": False,
    "RESOURCE_EXHAUSTED": False,
    "FAILED_PRECONDITION": False,
    "ABORTED": True,
    "OUT_OF_RANGE": True,
    "UNIMPLEMENTED": False,
    "INTERNAL": False,
    "UNAVAILABLE": True,
    "DATA_LOSS": True,
}


@pytest.mark.parametrize(("code", "retryable"), ALL_CODES.items())
def test_the_table_of_grpc_codes_is_the_specifications(code: str, retryable: bool):
    assert is_retryable(code) is retryable
    assert is_retryable(code, told_when=True) is (retryable or code == "RESOURCE_EXHAUSTED")


def test_exactly_four_http_statuses_are_retryable():
    assert [status for status in range(100, 600) if is_retryable(status)] == [429, 502, 503, 504]


def test_data_that_nobody_looked_at_is_not_thrown_away():
    for error in (judge_grpc("UNAUTHENTICATED", "who"), judge_grpc("PERMISSION_DENIED", ""), judge_http(401, "")):
        assert isinstance(error, Transient)
        assert error.fault is Fault.CREDENTIALS
    for error in (judge_grpc("UNIMPLEMENTED", ""), judge_http(404, ""), judge_http(405, ""), judge_http(301, "moved")):
        assert isinstance(error, Transient)
        assert error.fault is Fault.ADDRESS


def test_data_that_was_refused_is_not_sent_again():
    for error in (
        judge_grpc("INVALID_ARGUMENT", "bad"),
        judge_grpc("INTERNAL", ""),
        judge_http(400, ""),
        judge_http(500, ""),
    ):
        assert isinstance(error, Permanent)
        assert not error.too_large
    for error in (judge_grpc("RESOURCE_EXHAUSTED", ""), judge_http(413, "")):
        assert isinstance(error, Permanent)
        assert error.too_large


def test_a_stream_that_was_reset_is_no_verdict_on_the_data():
    assert isinstance(judge_grpc("INTERNAL", "Received RST_STREAM with error code 2"), Transient)
    assert isinstance(judge_grpc("UNKNOWN", "Stream removed"), Transient)


# -- how long to wait ----------------------------------------------------------------------------------
@given(attempt=st.integers(0, 10_000), initial=st.floats(0.01, 60), longest=st.floats(0.01, 3600))
def test_the_pause_doubles_up_to_the_longest_and_is_random_below(attempt: int, initial: float, longest: float):
    bounds = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    settings = RetrySettings(initial, longest)
    assert next_delay(settings, attempt, uniform) == min(longest, initial * 2.0 ** min(attempt, 20))
    assert bounds[0][0] == 0.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("7", 7.0),
        (" 2.5 ", 2.5),
        ("-3", 0.0),
        ("1e99", MAX_RETRY_AFTER_S),
        ("Thu, 01 Jan 1970 00:16:50 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thursday, 01-Jan-70 00:16:50 GMT", 10.0),
        ("Fri, 99 Foo 2026", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None):
    assert retry_after(header, 1000.0) == seconds


def status(*details: RetryInfo | BadRequest) -> bytes:
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return Status(code=8, details=packed).SerializeToString()


INFO = RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))


def test_retry_info_is_found_in_either_trailer():
    assert retry_info([("grpc-status-details-bin", status(BadRequest(), INFO))]) == 1.5
    assert retry_info([("google.rpc.retryinfo-bin", INFO.SerializeToString())]) == 1.5


def test_trailers_without_retry_info_say_nothing():
    assert retry_info([]) is None
    assert retry_info([("grpc-status-details-bin", status(BadRequest()))]) is None
    assert retry_info([("grpc-status-details-bin", b"\xff\xff")]) is None
    assert retry_info([("grpc-status-details-bin", "text")]) is None
    assert retry_info([("something-else", INFO.SerializeToString())]) is None


def test_a_remotes_words_fit_a_log_line():
    assert one_line("two\nlines\tand\x1b[31m colour") == "two lines and [31m colour"
    assert len(one_line("x" * 10_000)) == MAX_REMOTE_MESSAGE_CHARS
