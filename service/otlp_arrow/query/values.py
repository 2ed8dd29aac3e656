"""Comparing stored attribute values with a wanted one, many at a time, types and exact numbers respected."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otlp_arrow.codec.schema import BOOL, BYTES, DOUBLE, EMPTY, INT, MAP, SLICE, STR
from otlp_arrow.query.attributes import AttributeFilter, Untyped, is_member, plain_equal, value_from_json

_INT64 = (-(2**63), 2**63 - 1)
_ORDERED = {
    "GREATER_THAN": (pc.greater, True, False),
    "GREATER_OR_EQUAL": (pc.greater_equal, True, True),
    "LESS_THAN": (pc.less, False, False),
    "LESS_OR_EQUAL": (pc.less_equal, False, True),
}


def matching(values: pa.StructArray, positions: np.ndarray, wanted: AttributeFilter) -> np.ndarray:
    """Which of the values (``VALUE``) at some positions fulfil a filter, as booleans."""
    if wanted.operator == "EXISTS":
        return np.ones(len(positions), bool)
    if wanted.operator == "NOT_EQUALS":
        equal = AttributeFilter(wanted.key, wanted.value, "EQUALS")
        return ~matching(values, positions, equal)
    places = pa.array(positions)
    types = values.field("type").take(places)
    if values.null_count:
        types = pc.if_else(values.is_valid().take(places), types, EMPTY)
    numbers = types.fill_null(EMPTY).to_numpy(zero_copy_only=False)
    found = np.zeros(len(positions), bool)
    # Only the child that holds a type's values is looked at: to take all of them costs five times as much.
    for type_number in np.flatnonzero(np.bincount(numbers)).tolist():
        at = np.flatnonzero(numbers == type_number)
        child = _child(values, type_number)
        if child is None:
            found[at] = wanted.operator == "EQUALS" and wanted.value is None
        else:
            found[at] = _compare(type_number, child.take(pa.array(positions[at])), wanted)
    return found


def from_text(text: str) -> Any:
    """The list or dict that is stored as JSON text; of keys that occur twice the last one counts."""
    return value_from_json(json.loads(text))


def _child(values: pa.StructArray, type_number: int) -> pa.Array | None:
    name = {STR: "str", INT: "int", DOUBLE: "double", BOOL: "bool", MAP: "str", SLICE: "str", BYTES: "bytes"}.get(
        type_number
    )
    return None if name is None else values.field(name)


def _compare(type_number: int, child: pa.Array, wanted: AttributeFilter) -> np.ndarray:
    value, operator = wanted.value, wanted.operator
    nothing = np.zeros(len(child), bool)
    if type_number == STR:
        text = value.text if isinstance(value, Untyped) else value
        return _text(child, text, operator) if isinstance(text, str) else nothing
    if type_number in (MAP, SLICE):
        return _nested(child, wanted, type_number)
    if operator in ("CONTAINS", "STARTS_WITH"):
        if type_number == BYTES and isinstance(value, bytes) and operator == "CONTAINS":
            return _booleans(pc.match_substring(child.cast(pa.binary()), value))
        return nothing
    if type_number == BYTES:
        if not isinstance(value, bytes):
            return nothing
        compare = pc.equal if operator == "EQUALS" else _ORDERED[operator][0]
        return _booleans(compare(child, pa.scalar(value, pa.binary())))
    if type_number == BOOL:
        flag = value.boolean() if isinstance(value, Untyped) else value
        if not isinstance(flag, bool):
            return nothing
        bits = child.fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
        return _numpy_compare(bits.astype(np.int8), int(flag), operator)
    number = value.number() if isinstance(value, Untyped) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        return nothing
    stored = child.fill_null(0).to_numpy(zero_copy_only=False)
    return _integers(stored, number, operator) if type_number == INT else _doubles(stored, number, operator)


def _text(child: pa.Array, text: str, operator: str) -> np.ndarray:
    match operator:
        case "EQUALS":
            return _booleans(pc.equal(child, text))
        case "CONTAINS":
            return _booleans(pc.match_substring(child, text))
        case "STARTS_WITH":
            return _booleans(pc.starts_with(child, text))
        case _:
            return _booleans(_ORDERED[operator][0](child, text))


def _nested(child: pa.Array, wanted: AttributeFilter, type_number: int) -> np.ndarray:
    value = wanted.value.nested() if isinstance(wanted.value, Untyped) else wanted.value
    if isinstance(value, list | tuple | dict) and wanted.operator == "EQUALS":
        return np.array([plain_equal(from_text(text), value) for text in child.to_pylist()], bool)
    if wanted.operator == "CONTAINS" and type_number == SLICE:
        return np.array([is_member(from_text(text), wanted.value) for text in child.to_pylist()], bool)
    return np.zeros(len(child), bool)


def _integers(stored: np.ndarray, number: int | float, operator: str) -> np.ndarray:
    """int64 against a number, exactly."""
    nothing = np.zeros(len(stored), bool)
    if isinstance(number, float):
        if math.isnan(number):
            return nothing
        if math.isinf(number):
            return np.full(len(stored), operator.startswith("LESS") == (number > 0) and operator != "EQUALS")
        if not number.is_integer():
            if operator == "EQUALS":
                return nothing
            # Between two integers it makes no difference whether equality counts.
            return stored > math.floor(number) if operator.startswith("GREATER") else stored < math.ceil(number)
        number = int(number)
    if not _INT64[0] <= number <= _INT64[1]:
        return np.full(len(stored), operator != "EQUALS" and operator.startswith("LESS") == (number > 0))
    return _numpy_compare(stored, np.int64(number), operator)


def _doubles(stored: np.ndarray, number: int | float, operator: str) -> np.ndarray:
    """Doubles against a number, exactly: an integer that no double is lies between two of them."""
    try:
        nearest = float(number)
    except OverflowError:
        nearest = math.inf if number > 0 else -math.inf
    if nearest == number:
        return _numpy_compare(stored, nearest, operator)
    if operator == "EQUALS":
        return np.zeros(len(stored), bool)
    above = nearest > number
    if operator.startswith("GREATER"):
        return stored >= nearest if above else stored > nearest
    return stored < nearest if above else stored <= nearest


def _numpy_compare(stored: np.ndarray, number: Any, operator: str) -> np.ndarray:
    match operator:
        case "EQUALS":
            found = stored == number
        case "GREATER_THAN":
            found = stored > number
        case "GREATER_OR_EQUAL":
            found = stored >= number
        case "LESS_THAN":
            found = stored < number
        case _:
            found = stored <= number
    return np.asarray(found, bool)


def _booleans(array: pa.Array) -> np.ndarray:
    return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False), bool)
