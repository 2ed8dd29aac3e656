"""What remotes answer, in every shape that is met."""

from __future__ import annotations

import json

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsPartialSuccess, ExportLogsServiceResponse

from otlp_arrow.model import Signal
from otlp_arrow.sinks.replies import failure_message, partial_success, partial_success_json
from otlp_arrow.sinks.sink import DeliveryResult


def test_full_success_is_an_empty_answer():
    assert partial_success(Signal.TRACES, b"") == DeliveryResult()
    assert partial_success_json(b"{}") == DeliveryResult()
    assert partial_success_json(b'{"partialSuccess":{}}') == DeliveryResult()


def test_a_warning_without_rejected_records_is_kept():
    reply = ExportLogsServiceResponse(partial_success=ExportLogsPartialSuccess(error_message="be\nbrief"))
    assert partial_success(Signal.LOGS, reply.SerializeToString()) == DeliveryResult(0, "be brief")


def test_json_counts_are_strings_or_numbers():
    for count in (3, "3"):
        body = json.dumps({"partialSuccess": {"rejectedSpans": count, "errorMessage": "no"}}).encode()
        assert partial_success_json(body) == DeliveryResult(3, "no")


@pytest.mark.parametrize(
    "reply", [b"\xff\xff", b"not json", b"[]", b'{"partialSuccess": null}', b'{"partialSuccess":{"rejectedSpans":"x"}}']
)
def test_an_answer_that_cannot_be_read_after_a_success_is_a_success(reply: bytes):
    assert partial_success(Signal.LOGS, reply).rejected == 0
    assert partial_success_json(reply) == DeliveryResult()


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (Status(message="no\nway").SerializeToString(), "application/x-protobuf", "no way"),
        (b"\xff", "application/x-protobuf", ""),
        (b'{"message": "no"}', "application/json", "no"),
        (b'{"error": "no"}', "application/json", "no"),
        (b"[1]", "application/json", ""),
        (b"{", "application/json", ""),
        (b"plain words", "text/plain", "plain words"),
        (b"<html>", "text/html", ""),
    ],
)
def test_the_words_of_a_refusal_are_found_in_its_body(body: bytes, kind: str, message: str):
    assert failure_message(body, kind) == message
