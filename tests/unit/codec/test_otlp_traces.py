"""Spans: what each field becomes, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, EntityRef, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from otlp_arrow.codec import reference
from otlp_arrow.model import Signal
from strategies import rows

TRACE_ID = bytes(range(1, 17))
SPAN_ID = bytes(range(1, 9))
TOO_LATE = 2**63
LATE = "is later than 2^63-1 ns"


def text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def request_of(*spans: Span) -> bytes:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(spans)
    return request.SerializeToString()


def decoded(payload: bytes) -> list[dict[str, Any]]:
    batch = reference.decode(Signal.TRACES, payload)
    batch.validate(full=True)
    return rows(batch)


def string(value: str) -> tuple[Any, ...]:
    return (1, value, None, None, None, None)


def test_every_field_of_a_span_has_its_column() -> None:
    span = Span(
        trace_id=TRACE_ID,
        span_id=SPAN_ID,
        trace_state="a=1",
        parent_span_id=b"parent__",
        flags=0xFFFFFFFF,
        name="GET /",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=1_700_000_000_000_000_001,
        end_time_unix_nano=1_700_000_000_000_000_002,
        attributes=[text("a", "x")],
        dropped_attributes_count=1,
        events=[
            Span.Event(time_unix_nano=7, name="e", attributes=[text("b", "y")], dropped_attributes_count=2),
            Span.Event(),
        ],
        dropped_events_count=3,
        links=[
            Span.Link(
                trace_id=TRACE_ID,
                span_id=SPAN_ID,
                trace_state="b=2",
                attributes=[text("c", "z")],
                dropped_attributes_count=4,
                flags=5,
            ),
            Span.Link(),
        ],
        dropped_links_count=6,
        status=Status(message="no", code=Status.STATUS_CODE_ERROR),
    )
    resource = Resource(
        attributes=[text("service.name", "shop"), text("service.name", "later")],
        dropped_attributes_count=8,
        entity_refs=[EntityRef(schema_url="u", type="service", id_keys=["k"], description_keys=["d", "e"])],
    )
    scope = InstrumentationScope(name="lib", version="1", attributes=[text("s", "t")], dropped_attributes_count=9)
    scope_spans = ScopeSpans(scope=scope, spans=[span], schema_url="scope-url")
    request = ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=resource, scope_spans=[scope_spans], schema_url="resource-url")]
    )

    assert decoded(request.SerializeToString()) == [
        {
            "trace_id": TRACE_ID,
            "span_id": SPAN_ID,
            "parent_span_id": b"parent__",
            "name": "GET /",
            "kind": 2,
            "start_time_unix_nano": 1_700_000_000_000_000_001,
            "end_time_unix_nano": 1_700_000_000_000_000_002,
            "status_code": 2,
            "status_message": "no",
            "attributes": [("a", string("x"))],
            "dropped_attributes_count": 1,
            "trace_state": "a=1",
            "flags": 0xFFFFFFFF,
            "events": [(7, "e", [("b", string("y"))], 2), (None, "", [], 0)],
            "dropped_events_count": 3,
            "links": [(TRACE_ID, SPAN_ID, "b=2", 5, [("c", string("z"))], 4), (None, None, None, 0, [], 0)],
            "dropped_links_count": 6,
            "service_name": "shop",
            "resource_attributes": [("service.name", string("shop")), ("service.name", string("later"))],
            "resource_dropped_attributes_count": 8,
            "resource_schema_url": "resource-url",
            "resource_entity_refs": [("u", "service", ["k"], ["d", "e"])],
            "scope_name": "lib",
            "scope_version": "1",
            "scope_attributes": [("s", string("t"))],
            "scope_dropped_attributes_count": 9,
            "scope_schema_url": "scope-url",
        }
    ]


def test_what_a_span_leaves_out_is_null_empty_or_zero() -> None:
    (row,) = decoded(request_of(Span(trace_id=TRACE_ID, span_id=SPAN_ID)))
    assert row == {
        "trace_id": TRACE_ID,
        "span_id": SPAN_ID,
        "parent_span_id": None,
        "name": "",
        "kind": 0,
        "start_time_unix_nano": None,
        "end_time_unix_nano": None,
        "status_code": 0,
        "status_message": None,
        "attributes": [],
        "dropped_attributes_count": 0,
        "trace_state": None,
        "flags": 0,
        "events": [],
        "dropped_events_count": 0,
        "links": [],
        "dropped_links_count": 0,
        "service_name": None,
        "resource_attributes": [],
        "resource_dropped_attributes_count": 0,
        "resource_schema_url": "",
        "resource_entity_refs": [],
        "scope_name": "",
        "scope_version": "",
        "scope_attributes": [],
        "scope_dropped_attributes_count": 0,
        "scope_schema_url": "",
    }


def test_an_optional_id_of_zeros_is_absent() -> None:
    link = Span.Link(trace_id=bytes(16), span_id=bytes(8))
    (row,) = decoded(request_of(Span(trace_id=TRACE_ID, span_id=SPAN_ID, parent_span_id=bytes(8), links=[link])))
    assert row["parent_span_id"] is None
    assert row["links"] == [(None, None, None, 0, [], 0)]


def test_a_service_name_that_is_no_string_is_passed_over() -> None:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name", value=AnyValue(int_value=1))
    group.resource.attributes.add(key="service.name", value=AnyValue(string_value=""))
    group.scope_spans.add().spans.add(trace_id=TRACE_ID, span_id=SPAN_ID)
    (row,) = decoded(request.SerializeToString())
    assert row["service_name"] == ""


def test_numbers_that_no_enum_names_are_kept() -> None:
    (row,) = decoded(request_of(Span(trace_id=TRACE_ID, span_id=SPAN_ID, kind=-7, status=Status(code=99))))  # type: ignore[arg-type]
    assert (row["kind"], row["status_code"]) == (-7, 99)


def test_envelopes_without_spans_make_no_rows() -> None:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().resource.attributes.add(key="a")
    request.resource_spans.add().scope_spans.add().scope.name = "s"
    assert decoded(request.SerializeToString()) == []
    assert decoded(b"") == []


BAD_PARENT = "spans[1]: parent_span_id has 1 bytes, 0 or 8 expected"
GOOD = {"trace_id": TRACE_ID, "span_id": SPAN_ID}
LATE_EVENTS = [Span.Event(), Span.Event(time_unix_nano=TOO_LATE)]
BAD_LINKS = [Span.Link(), Span.Link(trace_id=b"1", span_id=b"1")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"trace_id": b"12345"}, "spans[1]: trace_id has 5 bytes, 16 expected"),
        ({"trace_id": b""}, "spans[1]: trace_id has 0 bytes, 16 expected"),
        ({"trace_id": bytes(16)}, "spans[1]: trace_id is all zero"),
        ({"trace_id": bytes(15)}, "spans[1]: trace_id has 15 bytes, 16 expected"),
        ({"span_id": b"123456789"}, "spans[1]: span_id has 9 bytes, 8 expected"),
        ({"span_id": bytes(8)}, "spans[1]: span_id is all zero"),
        ({"parent_span_id": b"1"}, BAD_PARENT),
        ({"start_time_unix_nano": TOO_LATE}, f"spans[1]: start_time_unix_nano {LATE}"),
        ({"end_time_unix_nano": 2**64 - 1}, f"spans[1]: end_time_unix_nano {LATE}"),
        ({"events": LATE_EVENTS}, f"spans[1].events[1]: time_unix_nano {LATE}"),
        ({"links": BAD_LINKS}, "spans[1].links[1]: trace_id has 1 bytes, 0 or 16 expected"),
        ({"links": [Span.Link(span_id=b"1")]}, "spans[1].links[0]: span_id has 1 bytes, 0 or 8 expected"),
        # Several faults: the first in the order of codec.rejection is named.
        ({"trace_id": bytes(16), "span_id": b""}, "spans[1]: trace_id is all zero"),
        ({"span_id": b"", "parent_span_id": b"1"}, "spans[1]: span_id has 0 bytes, 8 expected"),
        (
            {"parent_span_id": b"1", "start_time_unix_nano": TOO_LATE},
            BAD_PARENT,
        ),
        (
            {"start_time_unix_nano": TOO_LATE, "end_time_unix_nano": TOO_LATE},
            f"spans[1]: start_time_unix_nano {LATE}",
        ),
        (
            {"end_time_unix_nano": TOO_LATE, "events": LATE_EVENTS},
            f"spans[1]: end_time_unix_nano {LATE}",
        ),
        ({"events": LATE_EVENTS, "links": BAD_LINKS}, f"spans[1].events[1]: time_unix_nano {LATE}"),
        ({"links": [Span.Link(span_id=b"1"), *BAD_LINKS]}, "spans[1].links[0]: span_id has 1 bytes, 0 or 8 expected"),
    ],
)
def test_a_span_that_breaks_the_data_model_is_left_out_and_named(fields: dict[str, Any], expected: str) -> None:
    payload = request_of(Span(**GOOD, name="a"), Span(**(GOOD | fields), name="b"), Span(**GOOD, name="c"))  # type: ignore[arg-type]
    batch, outcome = reference.decode_with_outcome(Signal.TRACES, payload)
    assert [row["name"] for row in rows(batch)] == ["a", "c"]
    assert (outcome.rows, outcome.rejected, outcome.message, outcome.error) == (2, 1, expected, None)


def test_the_last_representable_time_is_kept() -> None:
    (row,) = decoded(request_of(Span(**GOOD, start_time_unix_nano=2**63 - 1)))  # type: ignore[arg-type]
    assert row["start_time_unix_nano"] == 2**63 - 1


def test_records_are_counted_across_resources_and_scopes() -> None:
    request = ExportTraceServiceRequest()
    for _ in range(2):
        group = request.resource_spans.add()
        for _ in range(2):
            group.scope_spans.add().spans.extend([Span(**GOOD), Span()])  # type: ignore[arg-type]
    _, outcome = reference.decode_with_outcome(Signal.TRACES, request.SerializeToString())
    assert (outcome.rows, outcome.rejected) == (4, 4)
    assert [reason.partition(":")[0] for reason in outcome.message.split("; ")] == [
        *("spans[1]", "spans[3]", "spans[5]", "spans[7]")
    ]


def test_rows_are_grouped_again_in_the_order_first_seen() -> None:
    request = ExportTraceServiceRequest()
    for resource, scope, name in [("r1", "s1", "a"), ("r2", "s1", "b"), ("r1", "s2", "c"), ("r1", "s1", "d")]:
        group = request.resource_spans.add(resource=Resource(attributes=[text("service.name", resource)]))
        group.scope_spans.add(scope=InstrumentationScope(name=scope)).spans.add(**GOOD, name=name)  # type: ignore[arg-type]
    payload = reference.encode(Signal.TRACES, reference.decode(Signal.TRACES, request.SerializeToString()))
    found = [
        [
            group.resource.attributes[0].value.string_value,
            [[scope.scope.name, [span.name for span in scope.spans]] for scope in group.scope_spans],
        ]
        for group in ExportTraceServiceRequest.FromString(payload).resource_spans
    ]
    assert found == [["r1", [["s1", ["a", "d"]], ["s2", ["c"]]]], ["r2", [["s1", ["b"]]]]]


@pytest.mark.parametrize("difference", ["url", "dropped", "attributes", "zero sign"])
def test_resources_that_differ_anywhere_stay_apart(difference: str) -> None:
    request = ExportTraceServiceRequest()
    for changed in (False, True):
        group = request.resource_spans.add(schema_url="u" if changed and difference == "url" else "")
        group.resource.dropped_attributes_count = int(changed and difference == "dropped")
        if changed and difference == "attributes":
            group.resource.attributes.add(key="k")
        group.resource.attributes.add(
            key="zero", value=AnyValue(double_value=-0.0 if changed and difference == "zero sign" else 0.0)
        )
        group.scope_spans.add().spans.add(**GOOD)  # type: ignore[arg-type]
    payload = request.SerializeToString()
    again = reference.encode(Signal.TRACES, reference.decode(Signal.TRACES, payload))
    assert len(ExportTraceServiceRequest.FromString(again).resource_spans) == 2
