"""Inside the nested columns: attribute entries as flat arrays, rows that repeat, words that occur."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otlp_arrow.model import Signal

EVENT_LEVELS = ("event", "link", "exemplar")

_COLUMNS = {
    Signal.TRACES: {
        "record": "attributes",
        "resource": "resource_attributes",
        "scope": "scope_attributes",
        "event": "events",
        "link": "links",
    },
    Signal.LOGS: {"record": "attributes", "resource": "resource_attributes", "scope": "scope_attributes"},
    Signal.METRICS: {"record": "attributes", "resource": "resource_attributes", "scope": "scope_attributes"},
}


def attribute_columns(signal: Signal) -> dict[str, str]:
    """The columns that attributes stand in, by level."""
    return _COLUMNS[signal]


@dataclass(frozen=True)
class Entries:
    """Attribute entries of many rows: entry i has the key ``names[codes[i]]`` and the value ``values[i]``.

    ``ends``: for each level of nesting the offsets, outermost first.
    """

    count: int
    codes: np.ndarray
    names: pa.Array
    values: pa.StructArray
    ends: tuple[np.ndarray, ...]

    @functools.cached_property
    def types(self) -> np.ndarray:
        """The type of each value, 0 (empty) where the value is null."""
        return _types(self.values)

    def rows_of(self, positions: np.ndarray) -> np.ndarray:
        """The rows that some entries belong to; -1 for those outside a slice."""
        found = positions
        for offsets in reversed(self.ends):
            first = offsets[0] if len(offsets) else 0
            inside = np.searchsorted(offsets, found, "right") - 1
            found = np.where((found < first) | (inside >= len(offsets) - 1), -1, inside)
        return found

    def codes_of(self, key: str) -> np.ndarray:
        """The codes that stand for a key."""
        if not len(self.names):
            return np.empty(0, np.int64)
        return np.flatnonzero(pc.equal(self.names, key).to_numpy(zero_copy_only=False))

    def positions(self, key: str) -> np.ndarray:
        """The entries with a key."""
        codes = self.codes_of(key)
        if len(codes) == 1:
            return np.flatnonzero(self.codes == codes[0])
        return np.flatnonzero(np.isin(self.codes, codes)) if len(codes) else codes


def entries_of(column: pa.Array, level: str) -> Entries:
    """The entries of an attribute column, or of the attributes in its events or links."""
    ends: tuple[np.ndarray, ...] = ()
    maps = column
    if level in EVENT_LEVELS:
        ends = (_offsets(column),)
        members = column.values
        maps = members.field("attributes")
    keys, items = maps.keys, maps.items
    ends = (*ends, _offsets(maps))
    codes = keys.indices
    return Entries(
        len(keys), (codes.fill_null(0) if codes.null_count else codes).to_numpy(), keys.dictionary, items, ends
    )


def _offsets(column: pa.Array) -> np.ndarray:
    """Offsets into the values; an empty row stands for null ones."""
    offsets = column.offsets
    if not len(offsets):
        return np.zeros(1, np.int32)
    return np.asarray(offsets.to_numpy(zero_copy_only=False))


def _types(values: pa.StructArray) -> np.ndarray:
    types = values.field("type")
    if values.null_count:
        types = pc.if_else(values.is_valid(), types, 0)
    return np.asarray((types.fill_null(0) if types.null_count else types).to_numpy(zero_copy_only=False))


def distinct_words(column: pa.Array) -> frozenset[str | None]:
    """The words that occur in a dictionary column; None if there is a null."""
    used = pc.unique(column.indices)
    words: set[str | None] = set(column.dictionary.take(used.drop_null()).to_pylist())
    if used.null_count:
        words.add(None)
    return frozenset(words)


def row_codes(column: pa.Array) -> np.ndarray | None:
    """Equal numbers for equal rows of an attribute column (now and then unequal ones too); None if it has nulls."""
    keys, items = column.keys, column.items
    offsets = _offsets(column).astype(np.int64)
    if column.null_count or items.null_count or not len(column):
        return None
    codes = np.diff(offsets)
    if not codes.any():
        return codes * 0
    types = items.field("type")
    type_bytes = _types(items)
    parts = [_bytes_codes(keys.indices, offsets, 4), _bytes_codes(types, offsets, 1)]
    for name, type_number, width in (("int", 2, 8), ("double", 3, 8)):
        if (type_bytes == type_number).any():
            filled = items.field(name).fill_null(0)
            parts.append(_bytes_codes(filled, offsets, width))
    if (type_bytes == 4).any():
        parts.append(_bytes_codes(items.field("bool").fill_null(False).cast(pa.uint8()), offsets, 1))
    for name, present in (("str", np.isin(type_bytes, (1, 5, 6)).any()), ("bytes", (type_bytes == 7).any())):
        if present:
            text = items.field(name)
            text_offsets = text.buffers()[1]
            starts = np.frombuffer(text_offsets, np.int32, len(text) + 1, text.offset * 4)
            lengths = pa.array(np.diff(starts))
            parts.append(_bytes_codes(lengths, offsets, 4))
            data = text.buffers()[2]
            if data is not None:
                parts.append(_encoded(starts[offsets].astype(np.int32), data))
    return combine(parts)


def combine(parts: list[np.ndarray]) -> np.ndarray:
    """One number per row for several."""
    found = parts[0].astype(np.int64)
    for part in parts[1:]:
        top = int(part.max(initial=0)) + 1
        if top > 1:
            found = found * top + part
            found = _dense(found).astype(np.int64)
    return found


def _dense(values: np.ndarray) -> np.ndarray:
    return np.asarray(pa.array(values).dictionary_encode().indices)


def _bytes_codes(array: pa.Array, offsets: np.ndarray, width: int) -> np.ndarray:
    """Numbers of the rows' bytes in a fixed-width child."""
    bounds = ((offsets + array.offset) * width).astype(np.int32)
    return _encoded(bounds, array.buffers()[1])


def _encoded(bounds: np.ndarray, data: pa.Buffer) -> np.ndarray:
    rows = pa.Array.from_buffers(pa.binary(), len(bounds) - 1, [None, pa.py_buffer(bounds), data])
    return np.asarray(rows.dictionary_encode().indices)
