"""Arrow arrays from plain row values and back, for every type that the schemas use.

The values of a row are Python's own: a struct is a tuple in field order, a map a list of
``(key, value)`` tuples, a list a list, a time an ``int`` of nanoseconds since 1970, a dictionary-encoded
string a ``str``; null is ``None``. ``pa.array`` cannot make a map with dictionary-encoded keys inside a
list, and ``to_pylist`` turns nanoseconds into datetimes: hence these two.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pyarrow as pa


def build(type_: pa.DataType, values: Sequence[Any]) -> pa.Array:
    """An array of ``type_`` holding ``values``. Raises ``pa.ArrowInvalid`` if one does not fit."""
    if pa.types.is_dictionary(type_):
        return pa.array(values, type_.value_type).dictionary_encode().cast(type_)
    if pa.types.is_struct(type_):
        return _build_struct(type_, values)
    if pa.types.is_map(type_):
        entries = list(itertools.chain.from_iterable(value or () for value in values))
        keys = build(type_.key_type, [key for key, _ in entries])
        items = build(type_.item_type, [item for _, item in entries])
        return pa.MapArray.from_arrays(_offsets(values), keys, items, type=type_, mask=_nulls(values))
    if pa.types.is_list(type_):
        members = list(itertools.chain.from_iterable(value or () for value in values))
        return pa.ListArray.from_arrays(
            _offsets(values), build(type_.value_type, members), type=type_, mask=_nulls(values)
        )
    return pa.array(values, type_)


def read(array: pa.Array) -> list[Any]:
    """The row values of ``array``; the reverse of ``build``. Plain strings do for encoded ones."""
    type_ = array.type
    if pa.types.is_timestamp(type_):
        return array.view(pa.int64()).to_pylist()  # type: ignore[no-any-return]
    if pa.types.is_struct(type_):
        rows: list[Any] = list(zip(*(read(child) for child in array.flatten()), strict=True))
        return _with_nulls(array, rows)
    if pa.types.is_map(type_):
        start, ends = _bounds(array)
        keys = read(array.keys.slice(start, ends[-1] - start))
        items = read(array.items.slice(start, ends[-1] - start))
        return _with_nulls(array, _cut(list(zip(keys, items, strict=True)), start, ends))
    if pa.types.is_list(type_):
        start, ends = _bounds(array)
        members = read(array.values.slice(start, ends[-1] - start))
        return _with_nulls(array, _cut(members, start, ends))
    return array.to_pylist()  # type: ignore[no-any-return]


def _build_struct(type_: pa.DataType, values: Sequence[Any]) -> pa.Array:
    absent = (None,) * type_.num_fields
    rows = [absent if value is None else value for value in values]
    columns = zip(*rows, strict=True) if rows else [()] * type_.num_fields
    children = [build(field.type, list(column)) for field, column in zip(type_, columns, strict=True)]
    return pa.StructArray.from_arrays(children, fields=list(type_), mask=_nulls(values))


def _offsets(values: Sequence[Sequence[Any] | None]) -> pa.Array:
    return pa.array(itertools.accumulate((len(value or ()) for value in values), initial=0), pa.int32())


def _nulls(values: Sequence[Any]) -> pa.Array | None:
    """A mask of the nulls, or None where there are none: then the array needs no validity bits."""
    if not any(value is None for value in values):
        return None
    return pa.array([value is None for value in values], pa.bool_())


def _bounds(array: pa.Array) -> tuple[int, list[int]]:
    """Where the members of the first row begin, and where those of each row end."""
    start, *ends = array.offsets.to_pylist() or [0]
    return start, ends or [start]


def _cut(members: list[Any], start: int, ends: list[int]) -> list[Any]:
    return [members[begin - start : end - start] for begin, end in itertools.pairwise([start, *ends])]


def _with_nulls(array: pa.Array, rows: list[Any]) -> list[Any]:
    rows = rows[: len(array)]  # no rows still have one end
    if not array.null_count:
        return rows
    return [row if valid else None for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)]
