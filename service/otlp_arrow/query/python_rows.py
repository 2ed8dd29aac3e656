"""Columns as lists of Python values, many at a time: a value of an attribute takes 0.1 µs, one of pyarrow's objects
beside it five times as much."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from otlp_arrow.codec.schema import BOOL, BYTES, DOUBLE, INT, MAP, SLICE, STR
from otlp_arrow.query.values import from_text


def numbers(column: pa.Array) -> list[Any]:
    """Integers, doubles or times (ns); None for null."""
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64())
    if column.null_count == 0:
        return column.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]
    found: list[Any] = column.fill_null(0).to_numpy(zero_copy_only=False).tolist()
    return _without_nulls(column, found)


def hex_ids(column: pa.Array) -> list[str | None]:
    """Ids in hex; None for null."""
    width = column.type.byte_width
    buffer = column.buffers()[1]
    digits = b"" if buffer is None else memoryview(buffer)[column.offset * width :][: len(column) * width]
    text = digits.hex()
    found: list[Any] = [text[at : at + 2 * width] for at in range(0, 2 * width * len(column), 2 * width)]
    return _without_nulls(column, found) if column.null_count else found


def words(column: pa.Array) -> list[str | None]:
    """Of a dictionary column; a plain column of strings does as well."""
    if not pa.types.is_dictionary(column.type):
        return _texts(column)
    codes = column.indices
    if len(column.dictionary) > len(codes):  # a dictionary of a segment may hold thousands
        column = column.dictionary.take(codes)
        return _texts(column)
    known = _texts(column.dictionary)
    if codes.null_count:
        return [None if code is None else known[code] for code in codes.to_pylist()]
    return [known[code] for code in codes.to_numpy().tolist()]


def texts(column: pa.Array) -> list[str | None]:
    """Of a column of strings; None for null."""
    return _texts(column)


def attributes(column: pa.Array) -> list[dict[str, Any]]:
    """Attributes as dictionaries; of a key that occurs twice the last value; a null row has none."""
    starts, first, count = _bounds(column)
    keys = words(column.keys.slice(first, count))
    values = values_of(column.items.slice(first, count))
    found: list[Any] = [dict(zip(keys[a:b], values[a:b], strict=True)) for a, b in pairwise(starts)]
    if column.null_count:
        found = [each if valid else {} for each, valid in zip(found, column.is_valid().to_pylist(), strict=True)]
    return found


def members(column: pa.Array) -> tuple[list[int], pa.StructArray]:
    """A column of lists as where each one's members begin and end, and all members."""
    starts, first, count = _bounds(column)
    return starts, column.values.slice(first, count)


def values_of(values: pa.StructArray) -> list[Any]:
    """Attribute values (``VALUE``) as Python has them: None, str, int, float, bool, bytes, list, dict."""
    types = _types(values)
    found: list[Any] = [None] * len(values)
    for type_number in np.flatnonzero(np.bincount(types, minlength=1)).tolist():
        name = _CHILDREN.get(type_number)
        if name is None:
            continue
        child = values.field(name)
        rows = np.flatnonzero(types == type_number)
        taken = _taken(child, type_number, rows)
        if len(rows) == len(found):
            found = taken
        else:
            for row, value in zip(rows.tolist(), taken, strict=True):
                found[row] = value
    return found


_CHILDREN = {STR: "str", INT: "int", DOUBLE: "double", BOOL: "bool", MAP: "str", SLICE: "str", BYTES: "bytes"}


def _taken(child: pa.Array, type_number: int, rows: np.ndarray) -> list[Any]:
    if type_number in (STR, MAP, SLICE, BYTES):
        found: list[Any] = _octets(child, rows, text=type_number != BYTES)
        if type_number in (MAP, SLICE):
            found = [None if text is None else from_text(text) for text in found]
        return found
    if child.null_count:
        return child.take(pa.array(rows)).to_pylist()  # type: ignore[no-any-return]
    return child.to_numpy(zero_copy_only=False)[rows].tolist()  # type: ignore[no-any-return]


def _types(values: pa.StructArray) -> np.ndarray:
    types = values.field("type")
    found = np.asarray((types.fill_null(0) if types.null_count else types).to_numpy(zero_copy_only=False))
    if values.null_count:
        found = np.where(values.is_valid().to_numpy(zero_copy_only=False), found, 0)
    return found


def _texts(column: pa.Array) -> list[str | None]:
    return _octets(column, np.arange(len(column)), text=True)


def _octets(column: pa.Array, rows: np.ndarray, *, text: bool) -> list[Any]:
    """Some strings (or bytes) of a column."""
    if not len(rows) or column.null_count == len(column):
        return [None] * len(rows)
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(column) + 1, column.offset * 4)
    first = int(bounds[0])
    octets: Any = b"" if data is None else bytes(memoryview(data)[first : int(bounds[-1])])
    pairs = zip((bounds[rows] - first).tolist(), (bounds[rows + 1] - first).tolist(), strict=True)
    if text and octets.isascii():
        octets, text = octets.decode(), False
    found: list[Any] = [octets[a:b].decode() for a, b in pairs] if text else [octets[a:b] for a, b in pairs]
    if column.null_count:
        valid = column.is_valid().to_numpy(zero_copy_only=False)[rows].tolist()
        found = [value if good else None for value, good in zip(found, valid, strict=True)]
    return found


def _bounds(column: pa.Array) -> tuple[list[int], int, int]:
    """Where the members of each row begin, counted from the first; and where this lies, and how many there are."""
    if not len(column):
        return [0], 0, 0
    offsets = column.offsets.to_numpy()
    first = int(offsets[0])
    return (offsets - first).tolist(), first, int(offsets[-1]) - first


def _without_nulls(column: pa.Array, found: list[Any]) -> list[Any]:
    return [value if valid else None for value, valid in zip(found, column.is_valid().to_pylist(), strict=True)]
