"""Questions as values: what is refused, and what a URL carries."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.codec.columns import build
from otlp_arrow.codec.schema import SLICE, STR, VALUE
from otlp_arrow.query import AttributeFilter, BadQuery, LogQuery, MetricQuery, SpanQuery, Untyped
from otlp_arrow.query.ask import from_parameters, to_parameters
from otlp_arrow.query.attributes import plain_equal, value_to_json
from otlp_arrow.query.values import matching

TEXT = st.text(max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(key=TEXT, value=VALUES | TEXT.map(Untyped), level=st.sampled_from([None, "span", "resource", "event"]))
def test_a_filter_survives_its_text_types_and_all(key: str, value: object, level: str | None):
    wanted = AttributeFilter(key, value, "EQUALS", level)
    again = AttributeFilter.parse(wanted.to_json())
    assert again == wanted
    assert type(again.value) is type(wanted.value)


@given(
    service=st.none() | TEXT,
    ids=st.none() | st.lists(st.binary(min_size=8, max_size=8).map(bytes.hex), max_size=3),
    start=st.none() | st.integers(0, 2**62),
    shortest=st.none() | st.integers(0, 2**62),
    limit=st.integers(1, 100_000),
    order=st.sampled_from(["start_time", "end_time", "duration_ns"]),
)
def test_a_question_survives_the_parameters_of_a_url(service, ids, start, shortest, limit, order):
    query = SpanQuery(
        service_name=service,
        span_ids=None if ids is None else tuple(ids),
        start_time_min=start,
        duration_min=shortest,
        max_spans=limit,
        order_by=order,
        attribute_filters=(AttributeFilter("a", 1), AttributeFilter("b", None, "EXISTS")),
    ).checked()
    assert from_parameters(SpanQuery, to_parameters(query)) == query


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http.route=/cart", AttributeFilter("http.route", Untyped("/cart"))),
        ('user="7"', AttributeFilter("user", "7")),
        ("code>=500", AttributeFilter("code", Untyped("500"), "GREATER_OR_EQUAL")),
        ("code != 500", AttributeFilter("code", Untyped("500"), "NOT_EQUALS")),
        ("query~orders", AttributeFilter("query", Untyped("orders"), "CONTAINS")),
        ("path^=/api", AttributeFilter("path", Untyped("/api"), "STARTS_WITH")),
        ("a<1=2", AttributeFilter("a", Untyped("1=2"), "LESS_THAN")),
        ("error.type", AttributeFilter("error.type", None, "EXISTS")),
    ],
)
def test_a_filter_is_read_as_a_person_types_it(text: str, expected: AttributeFilter):
    assert AttributeFilter.parse(text) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: AttributeFilter("k", 1, "LIKE"),
        lambda: AttributeFilter("k", 1, "EQUALS", "nowhere"),
        lambda: AttributeFilter("k", 1, "EXISTS"),
        lambda: AttributeFilter("k", object()),
        lambda: AttributeFilter("k", 5, "STARTS_WITH"),
        lambda: AttributeFilter("k", [1], "GREATER_THAN"),
        lambda: AttributeFilter(7, 1),
        lambda: AttributeFilter.parse(""),
        lambda: AttributeFilter.parse("{"),
        lambda: AttributeFilter.parse('{"key":"k","value":1,"more":2}'),
        lambda: AttributeFilter.parse('{"value":1}'),
        lambda: SpanQuery(trace_id="12").checked(),
        lambda: SpanQuery(span_ids="0" * 16).checked(),
        lambda: SpanQuery(status="BROKEN").checked(),
        lambda: SpanQuery(kind="SOMETHING").checked(),
        lambda: SpanQuery(max_spans=0).checked(),
        lambda: SpanQuery(max_spans=True).checked(),
        lambda: SpanQuery(max_spans=10**9).checked(),
        lambda: SpanQuery(order_by="name").checked(),
        lambda: SpanQuery(order_direction="SIDEWAYS").checked(),
        lambda: SpanQuery(start_time_min="soon").checked(),
        lambda: SpanQuery(service_name=7).checked(),
        lambda: SpanQuery(attribute_filters=["k=v"]).checked(),
        lambda: SpanQuery(error_type=7).checked(),
        lambda: LogQuery(span_id="x").checked(),
        lambda: LogQuery(severity_min="high").checked(),
        lambda: MetricQuery(metric_type="counter").checked(),
        lambda: from_parameters(SpanQuery, [("nope", "1")]),
        lambda: from_parameters(SpanQuery, [("limit", "many")]),
        lambda: from_parameters(SpanQuery, [("limit", "1"), ("limit", "2")]),
    ],
)
def test_what_cannot_be_meant_is_refused(make):
    with pytest.raises(BadQuery):
        make()


def test_ids_may_be_bytes_and_words_in_any_case():
    query = SpanQuery(trace_id=b"\xab" * 16, status="status_code_error", kind="span_kind_server").checked()
    assert (query.trace_id, query.status, query.kind) == ("ab" * 16, "ERROR", "SERVER")


@pytest.mark.parametrize(
    ("stored", "text", "equal"),
    [
        ([1, "a"], '[1, "a"]', True),
        ([1], '["1"]', False),
        (["1"], '["1"]', True),
        ([True], "[true]", True),
        ({"a": [1.5]}, '{"a":[1.5]}', True),
        ({"a": 1}, '{"a":2}', False),
        ([b"\0"], '[{"$bytes":"AA=="}]', True),
        ([], "[", False),
        ("[1]", "[1]", True),  # a string may look like one
        ("[1]", "[ 1 ]", False),
    ],
)
def test_a_value_of_a_command_line_may_be_a_list_or_a_map(stored: object, text: str, equal: bool):
    wanted = AttributeFilter.parse(f"k={text}")
    assert plain_equal(stored, wanted.value) is equal
    kind, content = (STR, stored) if isinstance(stored, str) else (SLICE, json.dumps(value_to_json(stored)))
    column = build(VALUE, [(kind, content, None, None, None, None)])
    assert matching(column, np.array([0]), wanted).tolist() == [equal]
