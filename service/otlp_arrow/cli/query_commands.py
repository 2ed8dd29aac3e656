"""The commands that ask: what each may be asked, and who answers. Imports wait until one runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otlp_arrow.cli import ask_options as o
from otlp_arrow.cli.ask import FOUND, NOTHING, Target, asking, filters, note, said_nothing, time_range

if TYPE_CHECKING:
    from otlp_arrow.query import SpanQuery, Table
    from otlp_arrow.query.results import Rows

_LAST_HOUR = "1h"


def register(app: typer.Typer) -> None:
    """Adds the commands that ask."""
    for name, function in (
        ("trace", trace),
        ("failures", failures),
        ("slow", slow),
        ("spans", spans),
        ("logs", logs),
        ("metrics", metrics),
        ("services", services),
        ("attributes", attributes),
        ("tail", tail),
        ("sql", sql),
        ("export", export),
    ):
        app.command(name)(asking(function))


def trace(
    target: Target,
    trace_id: Annotated[str, typer.Argument(metavar="ID", help="32 hex digits.")],
    attributes: Annotated[bool, typer.Option("--attributes", help="Show the attributes of spans, too.")] = False,
    brief: Annotated[bool, typer.Option("--brief", help="Only spans: no events, links, logs.")] = False,
    limit: Annotated[int, typer.Option("--limit", help="Spans drawn at most.", min=1)] = 1000,
) -> int:
    """Show a trace as a waterfall: spans, events, links, logs; errors, orphans and clock skew marked."""
    with target.open() as store:
        trace_id = trace_id.strip().lower()
        found = store.get_trace(trace_id)
        if not len(found):
            return said_nothing(target, f"no span of the trace {trace_id} is stored")
        if target.for_people or target.format is o.Format.JSON:
            logs = store.get_logs(trace_id)
        if target.for_people:
            from otlp_arrow.cli import waterfall
            from otlp_arrow.cli.screen import make_console
            from otlp_arrow.cli.trace_tree import build

            tree = build(found, logs)
            waterfall.show(make_console(), trace_id, tree, attributes=attributes, brief=brief, limit=limit)
        elif target.format is o.Format.JSON:
            from otlp_arrow.cli import written

            content = {"trace_id": trace_id, "spans": found.to_dicts(), "logs": logs.to_dicts()}
            written.write(written.dump(content) + "\n")
        else:
            _write_rows(target, found, "spans")
        if found.next_cursor:
            note(f"the first {len(found):,} spans")
    return FOUND


def failures(
    target: Target,
    since: o.Since = None,
    start: o.Start = None,
    end: o.End = None,
    service: o.Service = None,
    name: o.Name = None,
    error_type: Annotated[
        str | None, typer.Option("--error-type", help="error.type or exception.type is this.", show_default=False)
    ] = None,
    attr: o.Attr = None,
    limit: o.Limit = 100,
) -> int:
    """Show failed spans of the last hour (or --since, --start, --end), the latest first, and why they failed."""
    from otlp_arrow.query import SpanQuery

    first, last = time_range(since, start, end, _LAST_HOUR)
    return _spans(
        target,
        SpanQuery(
            status="ERROR",
            start_time_min=first,
            start_time_max=last,
            service_name=service,
            operation_name=name,
            error_type=error_type,
            attribute_filters=filters(attr),
            order_by="end_time",
            max_spans=limit,
        ),
        "no span failed" + _in_range(since, start, end, _LAST_HOUR),
    )


def slow(
    target: Target,
    since: o.Since = None,
    start: o.Start = None,
    end: o.End = None,
    service: o.Service = None,
    name: o.Name = None,
    kind: Annotated[o.Kind | None, typer.Option("--kind", show_default=False)] = None,
    min_duration: o.MinDuration = None,
    attr: o.Attr = None,
    limit: o.Limit = 20,
) -> int:
    """Show the slowest spans of the last hour (or --since, --start, --end)."""
    from otlp_arrow.query import SpanQuery

    first, last = time_range(since, start, end, _LAST_HOUR)
    return _spans(
        target,
        SpanQuery(
            start_time_min=first,
            start_time_max=last,
            service_name=service,
            operation_name=name,
            kind=None if kind is None else kind.value,
            duration_min=min_duration,
            attribute_filters=filters(attr),
            order_by="duration_ns",
            max_spans=limit,
        ),
        "no span" + _in_range(since, start, end, _LAST_HOUR),
    )


def spans(
    target: Target,
    service: o.Service = None,
    name: o.Name = None,
    kind: Annotated[o.Kind | None, typer.Option("--kind", show_default=False)] = None,
    status: Annotated[o.Status | None, typer.Option("--status", show_default=False)] = None,
    error_type: Annotated[
        str | None, typer.Option("--error-type", help="error.type or exception.type is this.", show_default=False)
    ] = None,
    min_duration: o.MinDuration = None,
    max_duration: o.MaxDuration = None,
    since: o.Since = None,
    start: o.Start = None,
    end: o.End = None,
    attr: o.Attr = None,
    trace_id: Annotated[str | None, typer.Option("--trace", metavar="ID", show_default=False)] = None,
    limit: o.Limit = 100,
    order: Annotated[o.SpanOrder, typer.Option("--order", help="The largest of it first.")] = o.SpanOrder.START,
    ascending: o.Ascending = False,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Go on where the JSON of a page said.", show_default=False)
    ] = None,
) -> int:
    """Show spans that fulfil all conditions."""
    from otlp_arrow.query import SpanQuery

    first, last = time_range(since, start, end)
    return _spans(
        target,
        SpanQuery(
            trace_id=trace_id,
            service_name=service,
            operation_name=name,
            kind=None if kind is None else kind.value,
            status=None if status is None else status.value,
            error_type=error_type,
            duration_min=min_duration,
            duration_max=max_duration,
            start_time_min=first,
            start_time_max=last,
            attribute_filters=filters(attr),
            max_spans=limit,
            order_by=order.field,
            order_direction="ASC" if ascending else "DESC",
            cursor=cursor,
        ),
        "no such span",
    )


def logs(
    target: Target,
    service: o.Service = None,
    severity: Annotated[
        o.Severity | None, typer.Option("--severity", help="This severe or more.", show_default=False)
    ] = None,
    body: Annotated[str | None, typer.Option("--body", help="The body contains this.", show_default=False)] = None,
    event: Annotated[str | None, typer.Option("--event", help="The event's name is this.", show_default=False)] = None,
    trace_id: Annotated[str | None, typer.Option("--trace", metavar="ID", show_default=False)] = None,
    span_id: Annotated[str | None, typer.Option("--span", metavar="ID", show_default=False)] = None,
    since: o.Since = None,
    start: o.Start = None,
    end: o.End = None,
    attr: o.Attr = None,
    limit: o.Limit = 100,
    ascending: o.Ascending = False,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Go on where the JSON of a page said.", show_default=False)
    ] = None,
) -> int:
    """Show log records that fulfil all conditions, the newest first."""
    from otlp_arrow.query import LogQuery

    first, last = time_range(since, start, end)
    query = LogQuery(
        trace_id=trace_id,
        span_id=span_id,
        service_name=service,
        severity_min=None if severity is None else severity.number,
        body=body,
        event_name=event,
        start_time_min=first,
        start_time_max=last,
        attribute_filters=filters(attr),
        max_logs=limit,
        order_direction="ASC" if ascending else "DESC",
        cursor=cursor,
    )
    with target.open() as store:
        found = store.logs(query)
        if target.for_people and len(found):
            from otlp_arrow.cli import listings
            from otlp_arrow.cli.screen import make_console

            listings.logs(make_console(), found)
            _say_more(found, limit)
    return _rows_or_nothing(target, found, "logs", "no such log record")


def metrics(
    target: Target,
    metric: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Its series; else all names.")] = None,
    service: o.Service = None,
    metric_type: Annotated[o.MetricType | None, typer.Option("--type", show_default=False)] = None,
    group_by: Annotated[
        list[str] | None,
        typer.Option("--group-by", metavar="KEY", help="A series per value of this attribute; repeatable."),
    ] = None,
    bucket: Annotated[
        str | None, typer.Option("--bucket", metavar="DURATION", help="As 1m; else by the range.", show_default=False)
    ] = None,
    value: Annotated[
        o.SeriesValue | None,
        typer.Option("--value", help="What is drawn; else last for sums, mean for others.", show_default=False),
    ] = None,
    since: o.Since = None,
    start: o.Start = None,
    end: o.End = None,
    attr: o.Attr = None,
) -> int:
    """Show which metrics there are, or a chart of one in the last hour (or --since, --start, --end)."""
    from otlp_arrow.cli import metric_command

    with target.open() as store:
        if metric is None:
            return metric_command.names(target, store, time_range(since, start, end))
        return metric_command.series(
            target,
            store,
            metric,
            time_range(since, start, end, _LAST_HOUR),
            service=service,
            metric_type=None if metric_type is None else metric_type.value,
            group_by=tuple(group_by or ()),
            bucket=bucket,
            value=None if value is None else value.value,
            attribute_filters=filters(attr),
        )


def services(
    target: Target,
    service: o.Service = None,
    since: o.Since = None,
    start: o.Start = None,
    end: o.End = None,
    operations: Annotated[
        bool, typer.Option("--operations/--no-operations", help="Each service's operations, too.")
    ] = True,
) -> int:
    """Show rate, errors and latencies per service and operation in the last hour (or --since, --start, --end)."""
    first, last = time_range(since, start, end, _LAST_HOUR)
    with target.open() as store:
        found = store.services(first, last, service)

        def show() -> None:
            from otlp_arrow.cli import listings
            from otlp_arrow.cli.screen import make_console

            listings.services(make_console(), found.to_dicts(), operations=operations)

        return _table(target, found, show, "no span" + _in_range(since, start, end, _LAST_HOUR))


def attributes(
    target: Target,
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin so.")] = "",
    signal: Annotated[o.SignalName, typer.Option("--signal")] = o.SignalName.TRACES,
    since: o.Since = None,
    start: o.Start = None,
    end: o.End = None,
) -> int:
    """Show which attribute keys there are, where, of which type, with examples."""
    first, last = time_range(since, start, end)
    with target.open() as store:
        found = store.attributes(signal.value, prefix, first, last)

        def show() -> None:
            from otlp_arrow.cli import listings
            from otlp_arrow.cli.screen import make_console

            listings.attributes(make_console(), found.to_dicts())

        return _table(target, found, show, "no attribute")


def tail(
    target: Target,
    signal: Annotated[o.SignalName, typer.Argument(help="What to watch.")] = o.SignalName.TRACES,
    service: o.Service = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The span's or metric's name is this.", show_default=False)
    ] = None,
    kind: Annotated[o.Kind | None, typer.Option("--kind", help="Of spans.", show_default=False)] = None,
    status: Annotated[o.Status | None, typer.Option("--status", help="Of spans.", show_default=False)] = None,
    min_duration: o.MinDuration = None,
    severity: Annotated[
        o.Severity | None, typer.Option("--severity", help="Of logs: this severe or more.", show_default=False)
    ] = None,
    body: Annotated[
        str | None, typer.Option("--body", help="Of logs: the body contains this.", show_default=False)
    ] = None,
    attr: o.Attr = None,
    limit: Annotated[int | None, typer.Option("--limit", help="End after so many.", min=1, show_default=False)] = None,
    for_duration: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="End after so long.", show_default=False)
    ] = None,
) -> int:
    """Show records as they arrive, until Ctrl-C."""
    from otlp_arrow.cli import tail_command

    return tail_command.run(
        target,
        signal.value,
        {"service_name": service, "attribute_filters": filters(attr)},
        {
            "name": name,
            "kind": None if kind is None else kind.value,
            "status": None if status is None else status.value,
            "min_duration": min_duration,
            "severity": None if severity is None else severity.number,
            "body": body,
        },
        limit=limit,
        for_duration=for_duration,
    )


def sql(
    target: Target,
    statement: Annotated[
        str | None, typer.Argument(metavar="[STATEMENT]", help="One SELECT; without it a prompt, or stdin.")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", metavar="TEXT", help="For each ? in it; repeatable.")
    ] = None,
    max_rows: Annotated[int, typer.Option("--max-rows", help="Rows at most.", min=1)] = 10_000,
) -> int:
    """Ask in SQL: one SELECT over the views traces, logs, metrics (docs/query.md), or a prompt for several."""
    from otlp_arrow.cli import sql_command

    with target.open() as store:
        if statement is None and sys.stdin.isatty():
            return sql_command.prompt(target, store, max_rows)
        return sql_command.run(target, store, statement or sys.stdin.read(), parameter or (), max_rows)


def export(
    target: Target,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; its suffix names the format.")],
    signal: Annotated[o.SignalName, typer.Option("--signal")] = o.SignalName.TRACES,
    format: Annotated[
        o.ExportFormat | None,
        typer.Option("--format", help="Else by the suffix: .parquet, .jsonl, .arrow, .csv.", show_default=False),
    ] = None,
    since: o.Since = None,
    start: o.Start = None,
    end: o.End = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> int:
    """Write all records of a signal into a file: Parquet, OTLP/JSON lines, Arrow or CSV."""
    from otlp_arrow.cli import export_command

    first, last = time_range(since, start, end)
    form = export_command.format_of(file, None if format is None else format.value, force=force)
    with target.open() as store:
        rows = export_command.export(store, signal.value, file, form, first, last)
    if not rows:
        note("no record" + _in_range(since, start, end, None) + "; no file written")
        return NOTHING
    note(f"{rows:,} records in {file}")
    return FOUND


# -- inside ------------------------------------------------------------------------------------------
def _spans(target: Target, query: SpanQuery, nothing: str) -> int:
    with target.open() as store:
        found = store.query_spans(query)
        if target.for_people and len(found):
            from otlp_arrow.cli import listings
            from otlp_arrow.cli.screen import make_console

            listings.spans(make_console(), found)
            _say_more(found, query.max_spans)
    return _rows_or_nothing(target, found, "spans", nothing)


def _rows_or_nothing(target: Target, found: Rows[Any], name: str, nothing: str) -> int:
    if not target.for_people:
        _write_rows(target, found, name)
    return FOUND if len(found) else said_nothing(target, nothing)


def _write_rows(target: Target, found: Rows[Any], name: str) -> None:
    from otlp_arrow.cli import written

    written.rows(found, name, target.format.value)


def _table(target: Target, found: Table, show: Any, nothing: str) -> int:
    if not target.for_people:
        from otlp_arrow.cli import written

        written.table(found, target.format.value)
    elif len(found):
        show()
    return FOUND if len(found) else said_nothing(target, nothing)


def _say_more(found: Rows[Any], limit: int) -> None:
    if found.next_cursor:
        note(f"the first {limit:,}; --limit shows more")


def _in_range(since: str | None, start: str | None, end: str | None, default: str | None) -> str:
    if start is None and end is None:
        length = since or default
        return f" in the last {length}" + ("; --since looks further back" if since is None else "") if length else ""
    return " in this range of time"
