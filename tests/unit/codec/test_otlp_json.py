"""OTLP/JSON: what the mapping takes, what it refuses and where, what it gives."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogramDataPoint, NumberDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otlp_arrow.codec import decode, decode_json, encode_json, json_to_protobuf
from otlp_arrow.codec.otlp_json import protobuf_to_json
from otlp_arrow.model import Rejected, Signal, limits
from samples import Sample, samples
from strategies import REQUESTS, normal, plain, requests, rows

TRACE_ID = bytes(range(0xA0, 0xB0))
SPAN_ID = bytes(range(0xA0, 0xA8))


def envelope(signal: Signal, record: Any) -> str:
    """A body with one record."""
    resource, scope, records = {
        Signal.TRACES: ("resourceSpans", "scopeSpans", "spans"),
        Signal.METRICS: ("resourceMetrics", "scopeMetrics", "metrics"),
        Signal.LOGS: ("resourceLogs", "scopeLogs", "logRecords"),
    }[signal]
    return json.dumps({resource: [{scope: [{records: [record]}]}]})


def span_of(**fields: Any) -> Span:
    payload = json_to_protobuf(Signal.TRACES, envelope(Signal.TRACES, fields))
    return ExportTraceServiceRequest.FromString(payload).resource_spans[0].scope_spans[0].spans[0]


def value_of(value: Any) -> AnyValue:
    return span_of(attributes=[{"key": "k", "value": value}]).attributes[0].value


def point_of(**fields: Any) -> NumberDataPoint:
    payload = json_to_protobuf(Signal.METRICS, envelope(Signal.METRICS, {"gauge": {"dataPoints": [fields]}}))
    request: Any = REQUESTS[Signal.METRICS].FromString(payload)
    point: NumberDataPoint = request.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0]
    return point


def refusal(signal: Signal, text: bytes | str) -> str:
    with pytest.raises(Rejected) as caught:
        json_to_protobuf(signal, text)
    return str(caught.value)


# -- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [TRACE_ID.hex(), TRACE_ID.hex().upper(), base64.b64encode(TRACE_ID).decode()])
def test_a_trace_id_is_hex_in_either_case_or_base64(text: str) -> None:
    assert span_of(traceId=text).trace_id == TRACE_ID


@pytest.mark.parametrize("text", [SPAN_ID.hex(), SPAN_ID.hex().upper(), base64.b64encode(SPAN_ID).decode()])
@pytest.mark.parametrize(("key", "field"), [("spanId", "span_id"), ("parentSpanId", "parent_span_id")])
def test_a_span_id_is_hex_in_either_case_or_base64(key: str, field: str, text: str) -> None:
    assert getattr(span_of(**{key: text}), field) == SPAN_ID


def test_ids_of_links_logs_and_exemplars_are_hex_too() -> None:
    ids = {"traceId": TRACE_ID.hex(), "spanId": SPAN_ID.hex()}
    (link,) = span_of(links=[ids]).links
    (exemplar,) = point_of(exemplars=[ids]).exemplars
    (log,) = rows(decode_json(Signal.LOGS, envelope(Signal.LOGS, ids)))
    assert (link.trace_id, link.span_id) == (exemplar.trace_id, exemplar.span_id) == (TRACE_ID, SPAN_ID)
    assert (log["trace_id"], log["span_id"]) == (TRACE_ID, SPAN_ID)


@pytest.mark.parametrize("text", ["", "abcd", "00" * 17])
def test_hex_of_a_wrong_length_is_left_to_the_data_model(text: str) -> None:
    assert span_of(traceId=text).trace_id == bytes.fromhex(text)


@pytest.mark.parametrize("value", [7, "7", 7.0, "007"])
def test_a_64_bit_integer_is_a_number_or_a_string(value: Any) -> None:
    assert span_of(startTimeUnixNano=value).start_time_unix_nano == 7
    assert value_of({"intValue": value}).int_value == 7


@pytest.mark.parametrize("number", [2**64 - 1, 0])
def test_the_limits_of_uint64_are_exact(number: int) -> None:
    assert span_of(endTimeUnixNano=number).end_time_unix_nano == number
    assert span_of(endTimeUnixNano=str(number)).end_time_unix_nano == number


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_the_limits_of_int64_are_exact(number: int) -> None:
    assert point_of(asInt=number).as_int == number
    assert value_of({"intValue": str(number)}).int_value == number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(1, 1.0), (-0.5, -0.5), ("1.5", 1.5), ("1e3", 1e3), (1e308, 1e308)],
        *[("NaN", math.nan), ("Infinity", math.inf), ("-Infinity", -math.inf)],
    ],
)
def test_a_double_is_a_number_or_a_string_or_a_word(value: Any, expected: float) -> None:
    found = point_of(asDouble=value).as_double
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize("value", [2, "2", "SPAN_KIND_SERVER"])
def test_an_enum_is_a_number_or_its_name(value: Any) -> None:
    assert span_of(kind=value).kind == Span.SPAN_KIND_SERVER


def test_an_enum_keeps_a_number_that_has_no_name() -> None:
    assert span_of(kind=77).kind == 77


@pytest.mark.parametrize("text", ["+/8=", "+/8", "-_8=", "-_8"])
def test_bytes_are_base64_in_either_alphabet(text: str) -> None:
    assert value_of({"bytesValue": text}).bytes_value == b"\xfb\xff"


@pytest.mark.parametrize(
    ("value", "member"),
    [
        ({"stringValue": ""}, "string_value"),
        ({"intValue": "0"}, "int_value"),
        ({"doubleValue": 0}, "double_value"),
        ({"boolValue": False}, "bool_value"),
        ({"bytesValue": ""}, "bytes_value"),
        ({"arrayValue": {}}, "array_value"),
        ({"kvlistValue": {}}, "kvlist_value"),
        ({"stringValue": None}, None),
        ({"stringValue": None, "intValue": 1}, "int_value"),
        ({}, None),
    ],
    ids=str,
)
def test_a_value_knows_which_member_was_given_even_if_empty(value: Any, member: str | None) -> None:
    assert value_of(value).WhichOneof("value") == member


def test_optional_fields_are_present_when_given_as_zero() -> None:
    point = {"sum": 0, "positive": {}}
    text = envelope(Signal.METRICS, {"exponentialHistogram": {"dataPoints": [point]}})
    request: Any = REQUESTS[Signal.METRICS].FromString(json_to_protobuf(Signal.METRICS, text))
    found: ExponentialHistogramDataPoint = (
        request.resource_metrics[0].scope_metrics[0].metrics[0].exponential_histogram.data_points[0]
    )
    assert (found.HasField("sum"), found.HasField("min"), found.HasField("positive")) == (True, False, True)


def test_unknown_keys_and_nulls_are_ignored_at_every_level() -> None:
    text = json.dumps(
        {
            "new": {"deep": [1]},
            "resourceSpans": [
                {
                    "resource": None,
                    "resource_attributes": 1,
                    "scopeSpans": [{"spans": [{"name": "a", "trace_id": "not camel", "kind": None, "x": None}]}],
                }
            ],
        }
    )
    request = ExportTraceServiceRequest.FromString(json_to_protobuf(Signal.TRACES, text))
    assert plain(request) == {"resource_spans": [{"scope_spans": [{"spans": [{"name": "a"}]}]}]}


def test_text_and_bytes_mean_the_same() -> None:
    text = envelope(Signal.LOGS, {"eventName": "żółw 🐢"})
    assert json_to_protobuf(Signal.LOGS, text) == json_to_protobuf(Signal.LOGS, text.encode())
    assert json_to_protobuf(Signal.LOGS, "{}") == b""


def test_values_may_nest_as_deep_as_protobuf_allows() -> None:
    def text(levels: int) -> str:
        body: Any = {}
        for _ in range(levels):
            body = {"arrayValue": {"values": [body]}}
        return envelope(Signal.LOGS, {"body": body})

    deepest = (limits.MAX_MESSAGE_DEPTH - 4) // 2
    assert decode_json(Signal.LOGS, text(deepest)).num_rows == 1
    message = refusal(Signal.LOGS, text(deepest + 1))
    assert message.startswith("resourceLogs[0].scopeLogs[0].logRecords[0].body.arrayValue.values[0].arrayValue")
    assert message.endswith(".values[0].arrayValue: nested deeper than 100 messages")
    assert len(message) <= limits.MAX_ERROR_MESSAGE_CHARS


# -- what is refused -----------------------------------------------------------------------------

SPAN_PATH = "resourceSpans[0].scopeSpans[0].spans[0]"
OF_64_BITS = "out of range, 0 to 18446744073709551615"
TRACE_ID_IN_BASE64 = base64.b64encode(TRACE_ID).decode()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"startTimeUnixNano": "soon"}, '.startTimeUnixNano: "soon" is no integer'),
        ({"startTimeUnixNano": 1.5}, ".startTimeUnixNano: 1.5 is no integer"),
        ({"startTimeUnixNano": True}, ".startTimeUnixNano: true is no integer"),
        ({"startTimeUnixNano": ""}, '.startTimeUnixNano: "" is no integer'),
        ({"startTimeUnixNano": " 1"}, '.startTimeUnixNano: " 1" is no integer'),
        ({"startTimeUnixNano": {"low": 1, "high": 2}}, ".startTimeUnixNano: an object is no integer"),
        ({"startTimeUnixNano": -1}, f".startTimeUnixNano: -1 is {OF_64_BITS}"),
        ({"endTimeUnixNano": 2**64}, f".endTimeUnixNano: 18446744073709551616 is {OF_64_BITS}"),
        ({"endTimeUnixNano": "9" * 400}, f'.endTimeUnixNano: "{"9" * 59}… is no integer'),
        ({"droppedLinksCount": 2**32}, ".droppedLinksCount: 4294967296 is out of range, 0 to 4294967295"),
        ({"kind": "SPAN_KIND_ODD"}, '.kind: "SPAN_KIND_ODD" is no integer'),
        ({"kind": 2**31}, ".kind: 2147483648 is out of range, -2147483648 to 2147483647"),
        ({"traceId": "zz"}, '.traceId: "zz" is no id; 32 hex digits expected'),
        ({"spanId": "abc"}, '.spanId: "abc" is no id; 16 hex digits expected'),
        ({"spanId": TRACE_ID_IN_BASE64}, f'.spanId: "{TRACE_ID_IN_BASE64}" is no id; 16 hex digits expected'),
        ({"spanId": 7}, ".spanId: a string expected, not 7"),
        ({"name": 7}, ".name: a string expected, not 7"),
        ({"name": ["x"]}, ".name: a string expected, not an array"),
        ({"name": "\ud800"}, '.name: "\\ud800" holds half of a surrogate pair'),
        ({"status": "ok"}, '.status: an object expected, not "ok"'),
        ({"status": []}, ".status: an object expected, not an array"),
        ({"attributes": {}}, ".attributes: an array expected, not an object"),
        ({"attributes": [None]}, ".attributes[0]: an object expected, not null"),
        ({"events": [{}, {"name": False}]}, ".events[1].name: a string expected, not false"),
    ],
    ids=str,
)
def test_a_wrong_field_is_rejected_with_its_path(fields: dict[str, Any], expected: str) -> None:
    assert refusal(Signal.TRACES, envelope(Signal.TRACES, fields)) == SPAN_PATH + expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"boolValue": "true"}, '.boolValue: true or false expected, not "true"'),
        ({"boolValue": 1}, ".boolValue: true or false expected, not 1"),
        ({"doubleValue": "x"}, '.doubleValue: "x" is no number'),
        ({"doubleValue": True}, ".doubleValue: true is no number"),
        ({"doubleValue": "nan"}, '.doubleValue: "nan" is no number'),
        ({"doubleValue": "1e999"}, '.doubleValue: "1e999" is out of range of a double'),
        ({"doubleValue": 10**400}, f".doubleValue: 1{'0' * 59}… is out of range of a double"),
        ({"bytesValue": "!"}, '.bytesValue: "!" is no base64'),
        ({"bytesValue": "A"}, '.bytesValue: "A" is no base64'),
        (
            {"intValue": 1, "stringValue": "1"},
            ".stringValue: int_value is given as well; only one of them can be",
        ),
    ],
    ids=str,
)
def test_a_wrong_value_is_rejected_with_its_path(value: Any, expected: str) -> None:
    text = envelope(Signal.TRACES, {"attributes": [{"value": value}]})
    assert refusal(Signal.TRACES, text) == f"{SPAN_PATH}.attributes[0].value{expected}"


def test_the_path_counts_positions_in_each_list() -> None:
    text = '{"resourceSpans":[{},{"scopeSpans":[{},{},{"spans":[{},{"startTimeUnixNano":"x"}]}]}]}'
    path = "resourceSpans[1].scopeSpans[2].spans[1].startTimeUnixNano"
    assert refusal(Signal.TRACES, text) == f'{path}: "x" is no integer'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "the body: not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"{", "the body: not JSON: Expecting property name enclosed in double quotes"),
        (b'{"a":1}x', "the body: not JSON: Extra data"),
        (b"[]", "the body: an object expected, not an array"),
        (b"null", "the body: an object expected, not null"),
        (b'"x"', 'the body: an object expected, not "x"'),
        (b'{"a":"\xff"}', "the body: not UTF-8: invalid start byte at byte 6"),
        ("{}".encode("utf-16"), "the body: not UTF-8"),
        (b'{"a":NaN}', 'the body: not JSON: NaN stands bare; JSON has it as the string "NaN"'),
        (b'{"a":' + b"9" * 5_000 + b"}", "the body: not JSON: Exceeds the limit"),
        (b"[" * 200_000, "the body: nested too deeply"),
        (b'{"a":' * 200_000, "the body: nested too deeply"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_body_that_is_no_request_is_rejected_with_the_reason(text: bytes, expected: str) -> None:
    assert refusal(Signal.TRACES, text).startswith(expected)


# -- what is given -------------------------------------------------------------------------------


def test_json_of_rows_has_hex_ids_strings_for_64_bits_and_numbers_for_enums() -> None:
    span = {
        "traceId": TRACE_ID.hex(),
        "spanId": SPAN_ID.hex(),
        "name": "żółw",
        "kind": 2,
        "startTimeUnixNano": "1700000000000000001",
        "attributes": [
            {"key": "i", "value": {"intValue": "-9223372036854775808"}},
            {"key": "d", "value": {"doubleValue": "NaN"}},
            {"key": "e", "value": {"doubleValue": "-Infinity"}},
            {"key": "f", "value": {"doubleValue": 0.5}},
            {"key": "b", "value": {"bytesValue": "AP8="}},
            {"key": "t", "value": {"boolValue": False}},
            {"key": "a", "value": {"arrayValue": {"values": [{"stringValue": ""}, {}]}}},
        ],
        "droppedAttributesCount": 7,
        "status": {"message": "no", "code": 2},
        "flags": 257,
    }
    text = encode_json(Signal.TRACES, decode_json(Signal.TRACES, envelope(Signal.TRACES, span)))
    assert json.loads(text)["resourceSpans"][0]["scopeSpans"][0]["spans"] == [span]
    assert "żółw" in text


def test_a_json_sample_has_the_rows_of_its_protobuf(sample: Sample) -> None:
    batch = decode(sample.signal, sample.payload)
    assert rows(decode_json(sample.signal, encode_json(sample.signal, batch))) == rows(batch)


@pytest.mark.parametrize("found", [s for s in samples() if s.json], ids=lambda found: str(found.name))
def test_the_examples_of_the_specification_lose_nothing(found: Sample) -> None:
    def leaves(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [f"{key}.{leaf}" for key, member in value.items() for leaf in leaves(member)]
        if isinstance(value, list):
            return [leaf for member in value for leaf in leaves(member)]
        try:
            return [str(float(value))] if float(value) else []  # zero is as good as absent
        except ValueError:
            return [str(value).lower()]  # ids: in either case

    assert found.json
    given_leaves = leaves(json.loads(found.json))
    kept_leaves = leaves(json.loads(protobuf_to_json(found.signal, found.payload)))
    assert [leaf for leaf in given_leaves if leaf not in kept_leaves] == []


@pytest.mark.parametrize("signal", Signal)
def test_any_request_comes_back_from_json(signal: Signal) -> None:
    @settings(max_examples=40)
    @given(requests(signal))
    def check(message: Any) -> None:
        again = json_to_protobuf(signal, protobuf_to_json(signal, message.SerializeToString()))
        assert normal(REQUESTS[signal].FromString(again)) == normal(message)

    check()
