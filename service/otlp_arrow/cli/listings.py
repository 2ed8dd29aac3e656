"""Answers as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from otlp_arrow.cli import charts
from otlp_arrow.cli.screen import (
    DIM,
    ERROR,
    WIDE,
    cell,
    duration,
    fit,
    fit_columns,
    grid,
    length,
    moment,
    number,
    of_one_day,
    pairs,
    plain,
    value_text,
)
from otlp_arrow.cli.waterfall import failure, log_line
from otlp_arrow.query import StoredLog, StoredPoint, StoredSpan

_MAX_SERIES = 40
_COLUMNS_OF_A_VALUE = 3
_TABLE_CELL = 240
_LEAST_CELL = 12
_NUMBER = "not bold"  # looks like nothing; tells numbers from text


def spans(console: Console, found: Sequence[StoredSpan]) -> None:
    """A line per span; where it is narrow, the trace id and the error stand below the name."""
    wide = console.width >= WIDE
    date = not of_one_day(*(span.start_time for span in found))
    _say_day(console, date, (span.start_time for span in found))
    columns = ["time", "service", "name", "kind", "status", "duration", "trace", "error"]
    if not wide:
        columns = ["time", "service", "name", "status", "duration"]
    table = grid(*columns, right=("duration",))
    table.columns[1].max_width = 20 if wide else 10 if date else 12
    for span in found:
        status = cell(span.status.lower(), ERROR if span.is_error else DIM)
        name, error = cell(span.name), cell(failure(span) if span.is_error else "", "red")
        time = moment(span.start_time, date=date)
        # Without year and milliseconds a trace id still fits into 80 columns.
        cells: list[Any] = [time if wide or not date else time[5:19], cell(span.service_name or "", "cyan")]
        if wide:
            kind = cell(span.kind.lower(), DIM)
            cells += [name, kind, status, duration(span.duration_ns), span.trace_id, error]
        else:
            lines = [name, Text(span.trace_id, DIM), *([error] if error else [])]
            cells += [Text("\n").join(lines), status, duration(span.duration_ns)]
        table.add_row(*cells)
    console.print(fit(table, console.width, "name", "error"))


def logs(console: Console, found: Sequence[StoredLog]) -> None:
    """A line per record, cut at the width."""
    date = not of_one_day(*(log.timestamp for log in found))
    _say_day(console, date, (log.timestamp for log in found))
    for log in found:
        line = log_line(log, moment(log.timestamp, date=date), service=True)
        console.print(line, no_wrap=True, overflow="ellipsis")


def _say_day(console: Console, date: bool, times: Iterable[int]) -> None:
    first = next((time for time in times if time), None)
    if first is not None:
        console.print(Text("times in UTC" if date else f"{moment(first)[:10]}, times in UTC", DIM))


def services(console: Console, rows: Sequence[dict[str, Any]], *, operations: bool) -> None:
    """Each service, and below it its operations."""
    latencies = ["p50", "p95", "p99", *(["max"] if console.width >= WIDE else [])]
    names = ["service", "spans", "rate", "errors", *latencies]
    table = grid(*names, right=tuple(names[1:]))
    by_service: dict[str | None, list[dict[str, Any]]] = {}
    for row in rows:
        by_service.setdefault(row["service"], []).append(row)
    for service, members in by_service.items():
        members.sort(key=lambda row: (row["operation"] is not None, -row["spans"], row["operation"] or ""))
        for row in members:
            whole = row["operation"] is None
            if not whole and not operations:
                continue
            label = cell(service or "(no service)", "bold") if whole else cell(f"  {row['operation']}")
            share = f"{row['errors']:,} ({row['error_rate']:.1%})" if row["errors"] else "0"
            errors = Text(share, ERROR if row["errors"] else DIM)
            times = [duration(row[f"{name}_ns"]) for name in latencies]
            table.add_row(label, number(row["spans"]), _rate(row["rate"]), errors, *times)
    console.print(fit(table, console.width, "service"))


def _rate(a_second: float | None) -> str:
    if a_second is None:
        return ""
    for seconds, unit in ((1, "s"), (60, "m"), (3600, "h")):
        if a_second * seconds >= 0.1:
            return f"{number(float(f'{a_second * seconds:.3g}'))}/{unit}"
    return f"{number(float(f'{a_second * 86_400:.3g}'))}/d"


def attributes(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """Which keys there are, where, of which type, and examples of values."""
    table = grid("key", "level", "type", "count", "examples", right=("count",))
    table.columns[0].max_width = max(16, console.width // 3)
    for row in rows:
        examples = ", ".join(plain(example) for example in row["examples"] or ())
        table.add_row(
            cell(row["key"], "cyan"), cell(row["level"]), cell(row["type"]), number(row["count"]), cell(examples, DIM)
        )
    console.print(fit(table, console.width, "examples"))


def metric_names(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """Which metrics there are."""
    wide = console.width >= WIDE
    more = ["services", "description"] if wide else []
    table = grid("name", "type", "unit", "points", "last", *more, right=("points",))
    table.columns[0].max_width = max(20, console.width // 3)
    table.columns[2].max_width = 16 if wide else 10
    for row in rows:
        cells: list[Any] = [cell(row["name"], "cyan"), cell(row["type"]), cell(row["unit"] or "")]
        cells += [number(row["points"]), moment(row["last_time"])]
        if wide:
            cells += [
                cell(", ".join(name or "" for name in row["services"] or ())),
                cell(row["description"] or "", DIM),
            ]
        table.add_row(*cells)
    console.print(fit(table, console.width, "name", "services", "description"))


def metric_series(
    console: Console, rows: Sequence[dict[str, Any]], keys: Sequence[str], value: str, unit: str, bucket_ns: int
) -> None:
    """A chart if there is one series, else a sparkline for each."""
    series: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for row in rows:
        series.setdefault((row["service"], *(row[key] for key in keys)), {})[row["time"]] = row
    first, last = min(row["time"] for row in rows), max(row["time"] for row in rows)
    buckets = range(first, last + 1, bucket_ns)
    heading = Text().append(plain(rows[0]["name"]), "bold")
    heading.append(f"  {value}{f' in {plain(unit)}' if unit else ''} per {length(bucket_ns)}")
    heading.append(f"  {moment(first)} to {moment(last + bucket_ns)} UTC", DIM)
    console.print(heading, no_wrap=True, overflow="ellipsis")
    shown = list(series.items())[:_MAX_SERIES]
    if len(shown) == 1:
        ((labels, points),) = shown
        _one_series(console, _named(labels, keys), [_value(points.get(time), value) for time in buckets])
        return
    table = grid("series", "", "min", "max", "last", right=("min", "max", "last"))
    columns = max(10, min(len(buckets), console.width - 45))
    for labels, points in shown:
        values = [_value(points.get(time), value) for time in buckets]
        numbers = [each for each in values if each is not None]
        low, high, newest = (min(numbers), max(numbers), numbers[-1]) if numbers else (None, None, None)
        table.add_row(
            _named(labels, keys),
            Text(charts.sparkline(values, columns), "cyan"),
            number(low),
            number(high),
            number(newest),
        )
    console.print(fit(table, console.width, "series"))
    if len(series) > len(shown):
        console.print(Text(f"… and {len(series) - len(shown):,} more series; --attr and --service narrow it down", DIM))


def _value(row: dict[str, Any] | None, value: str) -> float | None:
    found = None if row is None else row[value]
    return None if found is None else float(found)


def _named(labels: Sequence[Any], keys: Sequence[str]) -> Text:
    line = Text().append(plain(labels[0] or "(no service)"), "cyan")
    for key, label in zip(keys, labels[1:], strict=True):
        line.append(f"  {plain(key)}={'' if label is None else plain(label)}")
    return line


def _one_series(console: Console, label: Text, values: list[float | None]) -> None:
    numbers = [value for value in values if value is not None]
    console.print(label, no_wrap=True, overflow="ellipsis")
    if not numbers:
        return
    low, high = number(min(numbers)), number(max(numbers))
    margin = max(len(low), len(high))
    columns = max(10, console.width - margin - 2)
    wide = max(1, min(_COLUMNS_OF_A_VALUE, columns // len(values)))
    lines = charts.column_chart([value for value in values for _ in range(wide)], columns)
    for row, line in enumerate(lines):
        axis = high if row == 0 else low if row == len(lines) - 1 else ""
        chart = Text().append(f"{axis:>{margin}} ", DIM).append(line.rstrip(), "cyan")
        console.print(chart, no_wrap=True, overflow="crop")
    mean = sum(value / len(numbers) for value in numbers)
    console.print(Text(f"min {low}  mean {number(mean)}  max {high}  last {number(numbers[-1])}"))


def table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """What SQL found; where it is too wide for a table, a line for each value."""
    content = [[_sql_cell(value) for value in row] for row in rows]
    numeric = [all(_is_number(row[i]) for row in content) for i in range(len(columns))]
    least = [max((cell.cell_len for cell in (row[i] for row in content)), default=0) for i in range(len(columns))]
    least = [width if is_number else min(width, _LEAST_CELL) for width, is_number in zip(least, numeric, strict=True)]
    if sum(least) + 2 * (len(columns) - 1) > console.width:
        _one_by_one(console, columns, content)
        return
    # Two columns may have one name; by number they have not.
    names = [str(i) for i in range(len(columns))]
    shown = grid(*names, right=tuple(name for name, is_number in zip(names, numeric, strict=True) if is_number))
    for row in content:
        shown.add_row(*row)
    for name, column in zip(columns, shown.columns, strict=True):
        column.header = cell(name)
    loose = [i for i, is_number in enumerate(numeric) if not is_number]
    console.print(fit_columns(shown, console.width, loose or range(len(columns))))


def _is_number(shown: Text) -> bool:
    return shown.style in (_NUMBER, DIM)


def _one_by_one(console: Console, columns: Sequence[str], content: Sequence[Sequence[Text]]) -> None:
    names = [plain(column) for column in columns]
    margin = min(max(map(len, names)), console.width // 2)
    for number_, row in enumerate(content, 1):
        console.print(Text(f"-- row {number_}", DIM))
        for name, value in zip(names, row, strict=True):
            line = Text().append(f"{name[:margin]:>{margin}} ", "bold").append_text(value)
            console.print(line, no_wrap=True, overflow="ellipsis")


def _sql_cell(value: Any) -> Text:
    if value is None:
        return Text("null", DIM)
    if isinstance(value, float | int) and not isinstance(value, bool):
        return Text(str(value), _NUMBER)
    text = value_text(value)
    return Text(text if len(text) <= _TABLE_CELL else text[:_TABLE_CELL] + "…")


def span_line(span: StoredSpan) -> Text:
    """A span in one line, for a live view."""
    line = Text().append(f"{moment(span.start_time, date=False):<12} ", DIM)
    line.append(f"{duration(span.duration_ns):>8} ")
    line.append("✗ " if span.is_error else "  ", ERROR)
    line.append(f"{plain(span.service_name or '')} ", "cyan").append(plain(span.name), ERROR if span.is_error else "")
    if span.is_error and (reason := failure(span)):
        line.append(f"  {reason}", "red")
    return line.append(f"  {span.trace_id}", DIM)


def point_line(point: StoredPoint) -> Text:
    """A data point in one line, for a live view."""
    value = point.value if point.value is not None else point.sum
    line = Text().append(f"{moment(point.timestamp, date=False):<12} ", DIM)
    line.append(f"{plain(point.service_name or '')} ", "cyan").append(f"{plain(point.name)} ", "bold")
    if point.count is not None:
        line.append(f"count {number(point.count)} sum ")
    line.append(f"{number(value)} {plain(point.unit)}".rstrip())
    if point.attributes:
        line.append("  ").append_text(pairs(point.attributes))
    return line
