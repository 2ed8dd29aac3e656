"""Arrow arrays from plain values and back."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from otlp_arrow.codec import columns
from otlp_arrow.codec.schema import ATTRIBUTES, ENTITY_REF, EVENT, KEYWORD, QUANTILE, SPAN_ID, TIME, VALUE

NUMBER = (2, None, 7, None, None, None)
TEXT = (1, "x", None, None, None, None)

CASES: list[tuple[pa.DataType, list[Any]]] = [
    (KEYWORD, ["a", None, "b", "a", ""]),
    (TIME, [0, None, 2**63 - 1, 1_700_000_000_123_456_789]),
    (SPAN_ID, [b"12345678", None]),
    (pa.uint64(), [2**64 - 1, 0, None]),
    (VALUE, [NUMBER, TEXT, None, (0, None, None, None, None, None)]),
    (ATTRIBUTES, [[("a", NUMBER), ("a", TEXT)], [], [("", TEXT)]]),
    (pa.list_(pa.uint64()), [[1, 2], None, [], [2**64 - 1]]),
    (pa.list_(EVENT), [[], [(5, "e", [("k", NUMBER)], 1), (None, "f", [], 0)], [(6, "e", [], 2)]]),
    (pa.list_(QUANTILE), [None, [(0.5, 1.0)], None]),
    (pa.list_(ENTITY_REF), [[("u", "service", ["a", "b"], [])], []]),
]


@pytest.mark.parametrize(("type_", "values"), CASES, ids=[str(type_)[:30] for type_, _ in CASES])
def test_values_come_back_from_an_array_of_their_type(type_: pa.DataType, values: list[Any]) -> None:
    array = columns.build(type_, values)
    array.validate(full=True)
    assert array.type == type_
    assert array.null_count == values.count(None)
    assert columns.read(array) == values


@pytest.mark.parametrize(("type_", "values"), CASES, ids=[str(type_)[:30] for type_, _ in CASES])
def test_a_slice_reads_as_the_slice_of_the_values(type_: pa.DataType, values: list[Any]) -> None:
    array = columns.build(type_, values + values)
    for start in range(len(values) + 1):
        for length in range(len(values) + 1 - start):
            assert columns.read(array.slice(start, length)) == (values + values)[start : start + length]


@pytest.mark.parametrize(("type_", "values"), CASES, ids=[str(type_)[:30] for type_, _ in CASES])
def test_no_values_are_an_empty_array(type_: pa.DataType, values: list[Any]) -> None:
    array = columns.build(type_, [])
    array.validate(full=True)
    assert array.type == type_
    assert columns.read(array) == []


def test_an_array_without_nulls_has_no_validity_bits() -> None:
    array = columns.build(ATTRIBUTES, [[("a", NUMBER)], []])
    assert array.buffers()[0] is None
    assert array.items.buffers()[0] is None


def test_plain_strings_read_as_encoded_ones_do() -> None:
    plain = pa.map_(pa.utf8(), VALUE)
    assert columns.read(columns.build(plain, [[("a", TEXT)]])) == [[("a", TEXT)]]


def test_a_value_that_does_not_fit_raises() -> None:
    with pytest.raises(pa.ArrowInvalid):
        columns.build(pa.uint8(), [256])
