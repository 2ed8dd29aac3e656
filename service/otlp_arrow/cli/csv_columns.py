"""Records as cells of CSV, column by column: an object a span, and its JSON, would take 155 µs of each.

The cells are those that ``written.csv_text`` makes of the records' ``to_dict``.
"""

from __future__ import annotations

import base64
import csv
import itertools
import math
from collections.abc import Callable, Sequence
from json import JSONEncoder
from typing import IO, Any

import numpy as np
import pyarrow as pa

from otlp_arrow.cli.written import csv_cell, dump, escaped
from otlp_arrow.codec.columns import read
from otlp_arrow.codec.schema import BOOL, BYTES, DOUBLE, INT, MAP, SLICE, STR
from otlp_arrow.model import Signal
from otlp_arrow.query import Logs, Points, Spans
from otlp_arrow.query.ask import KINDS, STATUSES
from otlp_arrow.query.nested import row_codes
from otlp_arrow.query.python_rows import values_of
from otlp_arrow.query.results import jsonable
from otlp_arrow.query.values import from_text

Cells = Sequence[Any]

_KINDS: dict[Signal, Any] = {Signal.TRACES: Spans, Signal.LOGS: Logs, Signal.METRICS: Points}
_json = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def write_head(signal: Signal, file: IO[str]) -> None:
    """The names of the columns."""
    csv.writer(file, lineterminator="\n").writerow(_KINDS[signal].columns())


def write_rows(signal: Signal, batch: pa.RecordBatch, file: IO[str]) -> None:
    """A row for each record."""
    cells = _CELLS[signal]
    columns = [cells[name](batch) if name in cells else _plain(batch, name) for name in _KINDS[signal].columns()]
    csv.writer(file, lineterminator="\n").writerows(zip(*columns, strict=True))


# -- columns ---------------------------------------------------------------------------------------------
def _plain(batch: pa.RecordBatch, name: str) -> Cells:
    """Words, numbers and lists of numbers."""
    column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        return _taken([csv_cell(each) for each in column.dictionary.to_pylist()], column.indices)
    found = column.to_pylist()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        if pa.types.is_floating(column.type):
            return [each if each is None or math.isfinite(each) else csv_cell(jsonable(each)) for each in found]
        return found  # type: ignore[no-any-return]
    return [csv_cell(jsonable(each)) for each in found]


def _taken(words: list[Any], indices: pa.Array) -> Cells:
    return [None if index is None else words[index] for index in indices.to_pylist()]


def _hex(name: str, missing: str | None = None) -> Callable[[pa.RecordBatch], Cells]:
    def cells(batch: pa.RecordBatch) -> Cells:
        return [missing if each is None else each.hex() for each in batch.column(name).to_pylist()]

    return cells


def _or(name: str, otherwise: Any) -> Callable[[pa.RecordBatch], Cells]:
    """What is null has another word in records."""

    def cells(batch: pa.RecordBatch) -> Cells:
        return [csv_cell(each) if each else otherwise for each in read(batch.column(name))]

    return cells


def _named(name: str, numbers: dict[str, int]) -> Callable[[pa.RecordBatch], Cells]:
    words = {number: word for word, number in numbers.items()}

    def cells(batch: pa.RecordBatch) -> Cells:
        return [words.get(each) or csv_cell(str(each)) for each in batch.column(name).to_pylist()]

    return cells


def _as(name: str) -> Callable[[pa.RecordBatch], Cells]:
    """A column of another name."""
    return lambda batch: _plain(batch, name)


def _duration(batch: pa.RecordBatch) -> Cells:
    starts, ends = (read(batch.column(name)) for name in ("start_time_unix_nano", "end_time_unix_nano"))
    return [0 if start is None or end is None else end - start for start, end in zip(starts, ends, strict=True)]


# -- attributes -----------------------------------------------------------------------------------------
def _attributes(batch: pa.RecordBatch) -> Cells:
    return escaped_all(_objects(batch.column("attributes")))


def _repeated(name: str) -> Callable[[pa.RecordBatch], Cells]:
    """Attributes that many rows have in common: each once."""

    def cells(batch: pa.RecordBatch) -> Cells:
        column = batch.column(name)
        codes = row_codes(column)
        if codes is None:
            return escaped_all(_objects(column))
        _, first, places = np.unique(codes, return_index=True, return_inverse=True)
        texts = escaped_all(_objects(column.take(pa.array(first))))
        return [texts[place] for place in places.tolist()]

    return cells


def escaped_all(texts: list[str]) -> list[str]:
    """What a terminal might obey as escapes; hardly any text has it."""
    return [text if text.isascii() and "\x7f" not in text else escaped(text) for text in texts]


def _objects(column: pa.Array) -> list[str]:
    """Each map as a JSON object, not escaped; of keys that occur twice the last value in the first's place."""
    start, *ends = column.offsets.to_pylist() or [0]
    last = ends[-1] if ends else start
    keys = column.keys.slice(start, last - start)
    words = [f"{_json(each)}:" for each in keys.dictionary.to_pylist()]
    codes = keys.indices.to_pylist()
    values = _values(column.items.slice(start, last - start))
    entries = [words[code] + value for code, value in zip(codes, values, strict=True)]
    found = []
    begin = 0
    for each in ends:
        end = each - start
        mine = codes[begin:end]
        if len(set(mine)) < len(mine):
            found.append("{" + ",".join(dict(zip(mine, entries[begin:end], strict=True)).values()) + "}")
        else:
            found.append("{" + ",".join(entries[begin:end]) + "}")
        begin = end
    return found


def _values(values: pa.StructArray) -> list[str]:
    """Each value as JSON."""
    types = values.field("type").to_pylist()
    if values.null_count:
        types = [number if valid else 0 for number, valid in zip(types, values.is_valid().to_pylist(), strict=True)]
    children: dict[int, list[Any]] = {}
    for number in set(types):
        if number in _WRITTEN:
            children[number] = values.field(_WRITTEN[number][0]).to_pylist()
    return [
        _WRITTEN[number][1](children[number][row]) if number in children else "null" for row, number in enumerate(types)
    ]


_WRITTEN: dict[int, tuple[str, Callable[[Any], str]]] = {
    STR: ("str", _json),
    INT: ("int", str),
    DOUBLE: ("double", lambda value: repr(value) if math.isfinite(value) else f'"{jsonable(value)}"'),
    BOOL: ("bool", lambda value: "true" if value else "false"),
    BYTES: ("bytes", lambda value: f'"{base64.b64encode(value).decode()}"'),
    MAP: ("str", lambda text: _json(jsonable(from_text(text)))),
    SLICE: ("str", lambda text: _json(jsonable(from_text(text)))),
}


# -- lists of structs -------------------------------------------------------------------------------------
def _listed(name: str, members: Callable[[pa.StructArray], list[str]]) -> Callable[[pa.RecordBatch], Cells]:
    def cells(batch: pa.RecordBatch) -> Cells:
        column = batch.column(name)
        start, *ends = column.offsets.to_pylist() or [0]
        inside = members(column.values.slice(start, (ends[-1] if ends else start) - start))
        bounds = itertools.pairwise([start, *ends])
        return escaped_all(["[" + ",".join(inside[a - start : b - start]) + "]" for a, b in bounds])

    return cells


def _members(parts: dict[str, Callable[[pa.StructArray], list[str]]]) -> Callable[[pa.StructArray], list[str]]:
    """Structs as JSON objects."""

    def texts(values: pa.StructArray) -> list[str]:
        columns = [[f'"{name}":{each}' for each in part(values)] for name, part in parts.items()]
        return ["{" + ",".join(each) + "}" for each in zip(*columns, strict=True)]

    return texts


def _part(name: str, otherwise: Any) -> Callable[[pa.StructArray], list[str]]:
    def texts(values: pa.StructArray) -> list[str]:
        return [_json((each.hex() if isinstance(each, bytes) else each) or otherwise) for each in _read(values, name)]

    return texts


def _read(values: pa.StructArray, name: str) -> list[Any]:
    return read(values.field(name))


def _objects_of(name: str) -> Callable[[pa.StructArray], list[str]]:
    return lambda values: _objects(values.field(name))


def _exemplar_values(values: pa.StructArray) -> list[str]:
    both = zip(_read(values, "int_value"), _read(values, "double_value"), strict=True)
    return [_json(jsonable(double if integer is None else integer)) for integer, double in both]


_EVENTS = {
    "name": _part("name", ""),
    "timestamp": _part("time_unix_nano", 0),
    "attributes": _objects_of("attributes"),
    "dropped_attributes_count": _part("dropped_attributes_count", 0),
}
_LINKS = {
    "trace_id": _part("trace_id", ""),
    "span_id": _part("span_id", ""),
    "attributes": _objects_of("attributes"),
    "trace_state": _part("trace_state", ""),
    "flags": _part("flags", 0),
    "dropped_attributes_count": _part("dropped_attributes_count", 0),
}
_EXEMPLARS = {
    "timestamp": _part("time_unix_nano", 0),
    "value": _exemplar_values,
    "trace_id": _part("trace_id", None),
    "span_id": _part("span_id", None),
    "attributes": _objects_of("filtered_attributes"),
}


# -- records ------------------------------------------------------------------------------------------------
def _body(batch: pa.RecordBatch) -> Cells:
    return [csv_cell(jsonable(each)) for each in values_of(batch.column("body"))]


def _log_time(batch: pa.RecordBatch) -> Cells:
    times, observed = (read(batch.column(name)) for name in ("time_unix_nano", "observed_time_unix_nano"))
    return [a or b or 0 for a, b in zip(times, observed, strict=True)]


def _point_value(batch: pa.RecordBatch) -> Cells:
    integers, doubles = (batch.column(name).to_pylist() for name in ("int_value", "double_value"))
    both = zip(integers, doubles, strict=True)
    return [csv_cell(jsonable(double if integer is None else integer)) for integer, double in both]


def _quantiles(batch: pa.RecordBatch) -> Cells:
    return [None if each is None else dump(jsonable(each)) for each in read(batch.column("quantiles"))]


_ORIGIN: dict[str, Callable[[pa.RecordBatch], Cells]] = {
    "resource_attributes": _repeated("resource_attributes"),
    "scope_attributes": _repeated("scope_attributes"),
    "attributes": _attributes,
}
_CELLS: dict[Signal, dict[str, Callable[[pa.RecordBatch], Cells]]] = {
    Signal.TRACES: {
        **_ORIGIN,
        "trace_id": _hex("trace_id"),
        "span_id": _hex("span_id"),
        "parent_span_id": _hex("parent_span_id"),
        "kind": _named("kind", KINDS),
        "status": _named("status_code", STATUSES),
        "status_description": _as("status_message"),
        "start_time": _or("start_time_unix_nano", 0),
        "end_time": _or("end_time_unix_nano", 0),
        "duration_ns": _duration,
        "events": _listed("events", _members(_EVENTS)),
        "links": _listed("links", _members(_LINKS)),
        "trace_state": _or("trace_state", ""),
    },
    Signal.LOGS: {
        **_ORIGIN,
        "timestamp": _log_time,
        "time": _or("time_unix_nano", 0),
        "observed_time": _or("observed_time_unix_nano", 0),
        "body": _body,
        "trace_id": _hex("trace_id"),
        "span_id": _hex("span_id"),
    },
    Signal.METRICS: {
        **_ORIGIN,
        "name": _as("metric_name"),
        "start_time": _or("start_time_unix_nano", 0),
        "timestamp": _or("time_unix_nano", 0),
        "value": _point_value,
        "quantiles": _quantiles,
        "exemplars": _listed("exemplars", _members(_EXEMPLARS)),
    },
}
