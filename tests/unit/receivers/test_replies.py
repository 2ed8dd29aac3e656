"""The table of answers."""

from __future__ import annotations

import json

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

from otlp_arrow.model import Busy, Closed, OtlpIOError, Receipt, Rejected, Signal, TooLarge, Unauthenticated
from otlp_arrow.receivers import replies
from otlp_arrow.receivers.services import Code
from otlp_arrow.receivers.unpack import Media


def test_the_codes_are_grpcs():
    assert {code.name: code.value for code in Code} == {code.name: code.value[0] for code in grpc.StatusCode}


@pytest.mark.parametrize(
    ("error", "outcome", "code", "http_status"),
    [
        (TooLarge("x"), "rejected", Code.RESOURCE_EXHAUSTED, 413),
        (Rejected("x"), "rejected", Code.INVALID_ARGUMENT, 400),
        (Busy("x"), "busy", Code.UNAVAILABLE, 503),
        (Closed("x"), "busy", Code.UNAVAILABLE, 503),
        (Unauthenticated("x"), "unauthenticated", Code.UNAUTHENTICATED, 401),
        (OtlpIOError("secret path"), "failed", Code.INTERNAL, 500),
        (KeyError("secret"), "failed", Code.INTERNAL, 500),
    ],
)
def test_each_error_has_one_answer(error: Exception, outcome: str, code: Code, http_status: int) -> None:
    refused = replies.refusal(error)
    assert (refused.outcome, refused.grpc_code, refused.http_status) == (outcome, code, http_status)
    assert (refused.retry_after_s is not None) == isinstance(error, Busy)
    assert "secret" not in refused.message


def test_the_delay_is_in_both_trailers_and_short_enough_for_exporters() -> None:
    message, trailers = replies.trailers(replies.refusal(Busy("full")))
    found = dict(trailers)
    assert message == "full"
    bare = RetryInfo.FromString(found["google.rpc.retryinfo-bin"])
    detail = RetryInfo()
    assert Status.FromString(found["grpc-status-details-bin"]).details[0].Unpack(detail)
    assert bare == detail
    assert bare.retry_delay.ToTimedelta().total_seconds() <= 2


def test_a_refusal_for_good_carries_no_delay_anywhere() -> None:
    _, trailers = replies.trailers(replies.refusal(TooLarge("over")))
    assert [name for name, _ in trailers] == ["grpc-status-details-bin"]
    assert not Status.FromString(trailers[0][1]).details


def test_bad_data_is_described_in_a_bad_request_detail() -> None:
    status = replies.status(replies.refusal(Rejected("resourceSpans[0]: no")))
    detail = BadRequest()
    assert status.details[0].Unpack(detail)
    assert detail.field_violations[0].description == "resourceSpans[0]: no"


def test_trailers_stay_below_what_clients_take() -> None:
    message, trailers = replies.trailers(replies.refusal(Rejected("€" * 100_000)))
    percent_encoded = len(message.encode()) * 3
    base64_encoded = sum(len(value) for _, value in trailers) * 4 // 3
    assert percent_encoded + base64_encoded < 8 * 1024
    assert set(message) == {"€"}


def test_bytes_that_are_no_text_do_not_break_an_answer() -> None:
    refused = replies.refusal(Rejected("header \udcff"))
    for media in Media:
        assert replies.http_status_body(refused, media)
    assert replies.trailers(refused)


@pytest.mark.parametrize(("delay_s", "header"), [(0.2, "1"), (1.0, "1"), (1.2, "2"), (30, "30")])
def test_retry_after_is_whole_seconds_and_never_early(delay_s: float, header: str) -> None:
    assert replies.retry_after(delay_s) == header


@pytest.mark.parametrize(
    ("signal", "key"),
    [
        (Signal.TRACES, "rejectedSpans"),
        (Signal.METRICS, "rejectedDataPoints"),
        (Signal.LOGS, "rejectedLogRecords"),
    ],
)
def test_json_counts_are_strings_under_their_own_names(signal: Signal, key: str) -> None:
    body = replies.http_partial_success_body(signal, Receipt(1, 2, "why"), Media.JSON)
    assert json.loads(body) == {"partialSuccess": {key: "2", "errorMessage": "why"}}
