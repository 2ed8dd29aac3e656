"""Answers for programs, on stdout: JSON, JSON lines, CSV, Arrow. The shapes are those of the HTTP API (docs/api.md)."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa

from otlp_arrow.cli.screen import plain
from otlp_arrow.model import OtlpConfigError
from otlp_arrow.query.results import Rows, Table, jsonable

# JSON leaves these as they are; some terminals obey them.
_UNESCAPED = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def rows(found: Rows[Any], name: str, form: str) -> None:
    """Spans, log records or data points, under ``name`` in JSON."""
    if form == "arrow":
        arrow([found.to_batch()], found.to_batch().schema)
    elif form == "json":
        write(dump({name: found.to_dicts(), "next_cursor": found.next_cursor}) + "\n")
    elif form == "jsonl":
        for each in found:
            write(dump(each.to_dict()) + "\n")
    else:
        write(csv_text(found.columns(), (each.values() for each in found.to_dicts())))


def table(found: Table, form: str) -> None:
    """A table. In JSON its rows are lists, because SQL may name two columns alike."""
    if form == "arrow":
        arrow(found.to_arrow().to_batches(), found.to_arrow().schema)
    elif form == "json":
        content = [[jsonable(value) for value in row] for row in found.rows]
        write(dump({"columns": found.columns, "rows": content, "truncated": found.truncated}) + "\n")
    elif form == "jsonl":
        for each in found:
            write(dump(jsonable(each)) + "\n")
    else:
        write(csv_text(found.columns, map(jsonable, found.rows)))


def dump(value: Any) -> str:
    """JSON in one line, nothing in it that a terminal would obey."""
    return escaped(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def escaped(text: str) -> str:
    """JSON without what a terminal would obey."""
    return _UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def csv_text(columns: Sequence[str], rows: Iterable[Iterable[Any]], *, head: bool = True) -> str:
    """CSV, what is nested as JSON. What a spreadsheet would take for a formula gets a quote in front."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shown = plain if sys.stdout.isatty() else str
    if head:
        writer.writerow([shown(name) for name in columns])
    for row in rows:
        writer.writerow([csv_cell(value, shown) for value in row])
    return text.getvalue()


def csv_cell(value: Any, shown: Callable[[str], str] = str) -> Any:
    """A value that JSON has as a cell."""
    if isinstance(value, dict | list):
        return dump(value)
    if isinstance(value, str):
        return shown("'" + value if value.startswith(_FORMULA) else value)
    return value


def arrow(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """An Arrow IPC stream."""
    require_no_terminal()
    with pa.ipc.new_stream(sys.stdout.buffer, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def require_no_terminal() -> None:
    """Raises ``OtlpConfigError`` if bytes would go to a terminal."""
    if sys.stdout.isatty():
        raise OtlpConfigError("--format", "arrow", "a file or a pipe as stdout, or another format")


def write(text: str) -> None:
    """To stdout, whatever its encoding can show."""
    sys.stdout.write(text)
