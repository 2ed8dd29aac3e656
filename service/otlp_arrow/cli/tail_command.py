"""``tail``: records as they arrive."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from otlp_arrow.cli import listings, written
from otlp_arrow.cli.ask import FOUND, NOTHING, Target
from otlp_arrow.cli.ask_options import Format
from otlp_arrow.cli.screen import make_console, moment
from otlp_arrow.cli.waterfall import log_line
from otlp_arrow.model import OtlpConfigError
from otlp_arrow.query import (
    BadQuery,
    LogQuery,
    MetricQuery,
    SpanQuery,
    StoredLog,
    StoredPoint,
    StoredSpan,
    duration_to_nanoseconds,
)

Query = SpanQuery | LogQuery | MetricQuery

# What a condition is called in the question about each signal.
_FIELDS: dict[str, tuple[type[Any], dict[str, str]]] = {
    "traces": (
        SpanQuery,
        {"name": "operation_name", "kind": "kind", "status": "status", "min_duration": "duration_min"},
    ),
    "logs": (LogQuery, {"severity": "severity_min", "body": "body"}),
    "metrics": (MetricQuery, {"name": "name"}),
}


def question(signal: str, common: Mapping[str, Any], own: Mapping[str, Any]) -> Query:
    """Raises ``BadQuery`` for a condition that records of this signal cannot fulfil."""
    kind, fields = _FIELDS[signal]
    given = {name: value for name, value in own.items() if value is not None}
    for name in given:
        if name not in fields:
            raise BadQuery(f"--{name.replace('_', '-')} does not apply to {signal}")
    found: Query = kind(**common, **{fields[name]: value for name, value in given.items()}).checked()
    return found


def run(
    target: Target,
    signal: str,
    common: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    limit: int | None,
    for_duration: str | None,
) -> int:
    """Prints until the limit, the time, or Ctrl-C."""
    query = question(signal, common, own)
    if target.format not in (Format.TABLE, Format.JSONL, Format.JSON, Format.CSV):
        raise OtlpConfigError("--format", target.format.value, "table, jsonl or csv: what arrives has no end")
    show = _printer(target.format)
    stop = threading.Event()
    seen = 0
    with target.open() as store, _stopped_after(for_duration, stop):
        for record in store.tail(query, stop=stop):
            show(record)
            seen += 1
            if limit is not None and seen >= limit:
                break
    return FOUND if seen else NOTHING


@contextlib.contextmanager
def _stopped_after(text: str | None, stop: threading.Event) -> Iterator[None]:
    if text is None:
        yield
        return
    timer = threading.Timer(duration_to_nanoseconds(text) / 1e9, stop.set)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _line(record: StoredSpan | StoredLog | StoredPoint) -> Text:
    match record:
        case StoredSpan():
            return listings.span_line(record)
        case StoredPoint():
            return listings.point_line(record)
        case _:
            return log_line(record, moment(record.timestamp, date=False), service=True)


def _printer(form: Format) -> Any:
    """What prints a record, each at once."""
    head = True
    console = make_console()

    def show(record: Any) -> None:
        nonlocal head
        if form is Format.CSV:
            content = record.to_dict()
            written.write(written.csv_text(list(content), [content.values()], head=head))
            head = False
        elif form is not Format.TABLE:
            written.write(written.dump(record.to_dict()) + "\n")
        else:
            console.print(_line(record), no_wrap=True, overflow="ellipsis")
        sys.stdout.flush()

    return show
