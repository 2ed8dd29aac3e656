"""Lists of Python values made of whole columns are what each value by itself is."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import strategies
from otlp_arrow.codec import decode
from otlp_arrow.codec.columns import build, read
from otlp_arrow.codec.schema import ATTRIBUTES, BOOL, BYTES, DOUBLE, EMPTY, INT, KEYWORD, MAP, SLICE, SPAN_ID, STR
from otlp_arrow.model import Signal
from otlp_arrow.query.python_rows import attributes, hex_ids, numbers, texts, words
from otlp_arrow.query.results import spans_of
from otlp_arrow.query.values import from_text


def by_itself(entries: Any) -> dict[str, Any]:
    found = {}
    for key, value in entries or ():
        kind, text, integer, double, flag, octets = value or (EMPTY,) + (None,) * 5
        nested = from_text(text) if kind in (MAP, SLICE) and text is not None else None
        values = {STR: text, INT: integer, DOUBLE: double, BOOL: flag, BYTES: octets, MAP: nested, SLICE: nested}
        found[key] = values.get(kind)
    return found


def typed(value: Any) -> str:
    """Text that tells 1 from 1.0 and True."""
    return json.dumps(value, default=repr, allow_nan=True)


@hypothesis_settings(max_examples=40)
@given(data=st.data())
def test_attributes_of_any_request_and_of_slices_of_it(data: st.DataObject):
    batch = decode(Signal.TRACES, data.draw(strategies.requests(Signal.TRACES)).SerializeToString())
    first = data.draw(st.integers(0, batch.num_rows))
    length = data.draw(st.integers(0, batch.num_rows - first))
    for name in ("attributes", "resource_attributes", "scope_attributes"):
        column = batch.column(name).slice(first, length)
        assert typed(attributes(column)) == typed([by_itself(each) for each in read(column)])
    for name in ("name", "service_name", "scope_version"):
        assert words(batch.column(name).slice(first, length)) == read(batch.column(name).slice(first, length))
    whole, some = spans_of(batch), spans_of(batch.slice(first, length))
    assert [repr(span) for span in some] == [repr(span) for span in whole[first : first + length]]


def value(kind: int, **fields: Any) -> tuple[Any, ...]:
    return (kind, *(fields.get(name) for name in ("str", "int", "double", "bool", "bytes")))


ROWS: list[Any] = [
    [("a", value(STR, str="é")), ("b", value(INT, int=-(2**63))), ("a", value(STR, str="")), ("c", value(EMPTY))],
    [],
    None,
    [("d", value(BOOL, bool=False)), ("e", value(BYTES, bytes=b"\0\xff")), ("f", value(DOUBLE, double=1.0))],
    [("g", value(SLICE, str='[1,1.0,"x",null]')), ("h", value(MAP, str='{"k":{"$bytes":"AA=="}}')), ("i", None)],
    [("j", value(INT)), ("k", value(STR)), ("l", value(BYTES)), ("m", value(SLICE))],  # foreign: the child is null
]


@pytest.mark.parametrize("first", range(len(ROWS)))
def test_every_type_null_and_empty_ones_twice_the_same_key_and_null_rows(first: int):
    column = build(ATTRIBUTES, ROWS)
    expected = [by_itself(row) for row in ROWS]
    assert typed(attributes(column.slice(first))) == typed(expected[first:])


def test_plain_columns_with_and_without_nulls():
    assert numbers(pa.array([3, None, 5])[1:]) == [None, 5]
    assert numbers(pa.array([2**63 - 1], pa.timestamp("ns", "UTC"))) == [2**63 - 1]
    assert hex_ids(pa.array([b"12345678", None, b"\0" * 8], SPAN_ID)[1:]) == [None, "00" * 8]
    assert texts(pa.array(["é", None, "", "z"])[1:]) == [None, "", "z"]
    large = pa.array([f"w{n}" for n in range(100)]).dictionary_encode().cast(KEYWORD)
    assert words(large[97:]) == ["w97", "w98", "w99"]
    assert words(pa.array([None, "x"]).dictionary_encode().cast(KEYWORD)) == [None, "x"]
    assert words(pa.array([None, "x"])) == [None, "x"]
    assert attributes(build(ATTRIBUTES, [])) == []
