"""Answers as bytes: JSON, JSON lines, CSV, Arrow, OTLP/JSON. Blocking; for worker threads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from otlp_arrow.codec import encode_json
from otlp_arrow.model import Signal
from otlp_arrow.query.errors import BadQuery
from otlp_arrow.query.results import Logs, Points, Rows, Spans, Table, jsonable

FORMATS = {
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
    "otlp": "application/json",
}

_NAMES = {Signal.TRACES: "spans", Signal.LOGS: "logs", Signal.METRICS: "points"}
_KINDS: dict[Signal, type[Rows[Any]]] = {Signal.TRACES: Spans, Signal.LOGS: Logs, Signal.METRICS: Points}


def choose(named: str | None, accept: str, offered: Sequence[str]) -> str:
    """The format that was asked for, by name or by ``Accept``; the first that is offered if it does not matter.

    Raises ``BadQuery`` for a name that is not offered.
    """
    if named is not None:
        if named not in offered:
            raise BadQuery(f"format is one of {', '.join(offered)}, not {named!r:.40}")
        return named
    for part in accept.split(","):
        wanted = part.partition(";")[0].strip().lower()
        for name in offered:
            if FORMATS[name] == wanted:
                return name
    return offered[0]


def rows(signal: Signal, batch: pa.RecordBatch, next_cursor: str | None, form: str) -> bytes:
    """A page of rows."""
    if form == "otlp":
        return encode_json(signal, batch).encode()
    if form == "arrow":
        return arrow([batch], batch.schema)
    dicts = _KINDS[signal](batch).to_dicts()
    if form == "json":
        return dump({_NAMES[signal]: dicts, "next_cursor": next_cursor})
    return lines(dicts) if form == "jsonl" else as_csv(_KINDS[signal].columns(), (each.values() for each in dicts))


def table(found: pa.Table, truncated: bool, form: str) -> bytes:
    """A table."""
    if form == "arrow":
        return arrow(found.to_batches(), found.schema)
    whole = Table(found, truncated)
    if form == "json":
        content = [[jsonable(value) for value in row] for row in whole.rows]
        return dump({"columns": whole.columns, "rows": content, "truncated": truncated})
    if form == "jsonl":
        return lines(jsonable(each) for each in whole)
    return as_csv(whole.columns, map(jsonable, whole.rows))


def lines(records: Iterable[dict[str, Any]]) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(each, ensure_ascii=False, separators=(",", ":")) + "\n" for each in records).encode()


def dump(value: Any) -> bytes:
    """JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def arrow(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> bytes:
    """An Arrow IPC stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def as_csv(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """CSV with a head, what is nested as JSON. What a spreadsheet would take for a formula gets a quote in front."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(map(_cell, row))
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value[:1] in "=+-@\t\r" and value:
        return "'" + value
    return value
