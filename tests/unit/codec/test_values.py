"""AnyValue and its columns: every kind, the exact JSON text, and the way back."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from otlp_arrow.codec import columns
from otlp_arrow.codec.schema import ATTRIBUTES, VALUE
from otlp_arrow.codec.values import from_attributes, from_value, to_attributes, to_value
from strategies import any_values, comparable, plain


def array(*members: AnyValue) -> AnyValue:
    return AnyValue(array_value=ArrayValue(values=members))


def kvlist(*members: tuple[str, AnyValue]) -> AnyValue:
    return AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=key, value=value) for key, value in members]))


def text(value: str) -> AnyValue:
    return AnyValue(string_value=value)


def integer(value: int) -> AnyValue:
    return AnyValue(int_value=value)


def double(value: float) -> AnyValue:
    return AnyValue(double_value=value)


def row(type_: int, **child: Any) -> tuple[Any, ...]:
    return (type_, *(child.get(name) for name in ("str", "int", "double", "bool", "bytes")))


SCALARS = [
    (AnyValue(), row(0)),
    (text(""), row(1, str="")),
    (text("żółw\x00🐢"), row(1, str="żółw\x00🐢")),
    (integer(0), row(2, int=0)),
    (integer(2**63 - 1), row(2, int=2**63 - 1)),
    (integer(-(2**63)), row(2, int=-(2**63))),
    (double(0.0), row(3, double=0.0)),
    (double(-0.0), row(3, double=-0.0)),
    (double(math.nan), row(3, double=math.nan)),
    (double(-math.inf), row(3, double=-math.inf)),
    (double(5e-324), row(3, double=5e-324)),
    (AnyValue(bool_value=False), row(4, bool=False)),
    (AnyValue(bool_value=True), row(4, bool=True)),
    (AnyValue(bytes_value=b""), row(7, bytes=b"")),
    (AnyValue(bytes_value=b"\x00\xff"), row(7, bytes=b"\x00\xff")),
]

NESTED = [
    (array(), 6, "[]"),
    (kvlist(), 5, "{}"),
    (array(AnyValue(), AnyValue(bool_value=True), AnyValue(bool_value=False)), 6, "[null,true,false]"),
    (array(text("a"), integer(1), double(1.0)), 6, '["a",1,1.0]'),
    (array(integer(2**63 - 1), integer(-(2**63))), 6, "[9223372036854775807,-9223372036854775808]"),
    (array(double(-0.0), double(1e16), double(1e22), double(5e-324)), 6, "[-0.0,1e+16,1e+22,5e-324]"),
    (array(double(0.1), double(1e15), double(0.0001), double(1e-5)), 6, "[0.1,1000000000000000.0,0.0001,1e-05]"),
    (
        array(double(math.nan), double(math.inf), double(-math.inf)),
        6,
        '[{"$double":"NaN"},{"$double":"Infinity"},{"$double":"-Infinity"}]',
    ),
    (
        array(AnyValue(bytes_value=b""), AnyValue(bytes_value=b"\xff\xfe\xfd>")),
        6,
        '[{"$bytes":""},{"$bytes":"//79Pg=="}]',
    ),
    (kvlist(("a", integer(1)), ("b", AnyValue()), ("a", integer(2))), 5, '{"a":1,"b":null,"a":2}'),
    (kvlist(("", text(""))), 5, '{"":""}'),
    (
        kvlist(("$", text("$")), ("$bytes", text("AA==")), ("$$x", AnyValue()), ("a$", AnyValue())),
        5,
        '{"$$":"$","$$bytes":"AA==","$$$x":null,"a$":null}',
    ),
    (kvlist(("$double", text("NaN"))), 5, '{"$$double":"NaN"}'),
    (array(kvlist(("k", array(kvlist(("n", integer(1))))))), 6, '[{"k":[{"n":1}]}]'),
    (array(text('"\\/')), 6, '["\\"\\\\/"]'),
    (array(text("\b\t\n\f\r\x00\x1f\x7f\u2028")), 6, '["\\b\\t\\n\\f\\r\\u0000\\u001f\x7f\u2028"]'),
    (array(text("żółw 🐢")), 6, '["żółw 🐢"]'),
]


@pytest.mark.parametrize(("value", "expected"), SCALARS, ids=[repr(expected) for _, expected in SCALARS])
def test_a_scalar_has_a_child_of_its_own_and_comes_back(value: AnyValue, expected: Any) -> None:
    assert comparable(to_value(value)) == comparable(expected)
    assert plain(from_value(to_value(value))) == plain(value)


@pytest.mark.parametrize(("value", "type_", "expected"), NESTED, ids=[expected for _, _, expected in NESTED])
def test_arrays_and_key_value_lists_are_json_text_and_come_back(value: AnyValue, type_: int, expected: str) -> None:
    assert to_value(value) == row(type_, str=expected)
    assert plain(from_value(to_value(value))) == plain(value)
    json.loads(expected)


@given(any_values())
def test_any_value_comes_back_from_its_column(value: AnyValue) -> None:
    column = columns.build(VALUE, [to_value(value)])
    column.validate(full=True)
    (found,) = columns.read(column)
    assert plain(from_value(found)) == plain(value)


def test_attributes_keep_their_order_and_duplicates() -> None:
    attributes = [KeyValue(key=key, value=integer(n)) for n, key in enumerate(["b", "a", "b", ""])]
    (found,) = columns.read(columns.build(ATTRIBUTES, [to_attributes(attributes)]))
    assert found == [(key, row(2, int=n)) for n, key in enumerate(["b", "a", "b", ""])]
    assert from_attributes(found) == attributes


def test_references_into_the_string_table_of_profiles_are_absent() -> None:
    assert to_value(AnyValue(string_value_strindex=3)) == row(0)
    assert to_value(array(AnyValue(string_value_strindex=3))) == row(6, str="[null]")
    assert to_attributes([KeyValue(key_strindex=3, value=integer(1))]) == [("", row(2, int=1))]


def test_the_bits_of_a_nan_stay_outside_of_json_text() -> None:
    (odd,) = struct.unpack("<d", bytes.fromhex("010000000000f87f"))
    (found,) = columns.read(columns.build(VALUE, [to_value(double(odd))]))
    assert from_value(found).SerializeToString().endswith(bytes.fromhex("010000000000f87f"))


@pytest.mark.parametrize(
    "value",
    [None, (None,) * 6, row(1), row(2), row(3), row(4), row(5), row(6), row(7), row(1, int=3)],
    ids=repr,
)
def test_a_null_where_the_value_should_be_is_an_empty_value(value: Any) -> None:
    assert from_value(value) == AnyValue()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (row(8), "type 8"),
        (row(6, str=""), "Expecting value"),
        (row(6, str="{}"), "wants a JSON array"),
        (row(5, str="[]"), "wants a JSON object"),
        (row(5, str='{"$double":"NaN"}'), "wants a JSON object"),
        (row(6, str="[NaN]"), "bare NaN"),
        (row(6, str="[Infinity]"), "bare Infinity"),
        (row(6, str="[9223372036854775808]"), "out of range"),
        (row(6, str='["\\ud800"]'), "surrogates"),
        (row(5, str='{"$x":1}'), "single \\$"),
        (row(5, str='{"$double":"nan"}'), "single \\$"),
        (row(6, str='[{"$bytes":"?"}]'), "base64|padding|Only"),
        (row(6, str="[" * 60 + "]" * 60), "nested deeper than 50 levels"),
        (row(6, str="[" * 100_000 + "]" * 100_000), "nested deeper than 50 levels"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_column_that_holds_no_value_is_refused_with_the_reason(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_value(value)
