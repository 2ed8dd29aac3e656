"""A trace as a waterfall: a line per span with its bar, and below it what happened in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from otlp_arrow.cli.screen import DIM, ERROR, WIDE, cell, duration, moment, one_line, pairs, plain, value_text
from otlp_arrow.cli.trace_tree import Node, TraceTree
from otlp_arrow.query import SpanEvent, StoredLog, StoredSpan

_DURATION_COLUMNS = 9
_LEAST_BAR = 12
_DEEPEST = 12
"""Levels that are indented; deeper ones say their depth, so that the name stays in sight."""

_SERVICE_STYLES = ("cyan", "green", "blue", "magenta", "yellow", "bright_cyan", "bright_green", "bright_blue")
_SEVERITY_STYLES = ((17, ERROR), (13, "yellow"), (9, ""), (0, DIM))


def show(
    console: Console,
    trace_id: str,
    tree: TraceTree,
    *,
    attributes: bool = False,
    brief: bool = False,
    limit: int = 1000,
) -> None:
    """Prints a trace in the width of the console."""
    nodes = list(tree.walk())
    services = list(dict.fromkeys(node.span.service_name for node, _ in nodes))
    styles = {name: _SERVICE_STYLES[i % len(_SERVICE_STYLES)] for i, name in enumerate(services)}
    _print_heading(console, trace_id, tree, [node.span for node, _ in nodes], services)
    labels = [_label(node, path, styles) for node, path in nodes[:limit]]
    name_columns = max((label.cell_len for label in labels), default=0)
    name_columns = max(8, min(name_columns, console.width * 2 // 5 if console.width < 120 else 70))
    bar_columns = max(_LEAST_BAR, console.width - name_columns - _DURATION_COLUMNS - 2)
    console.print(_scale(tree, name_columns, bar_columns))
    for (node, path), label in zip(nodes[:limit], labels, strict=True):
        line = one_line(label, name_columns)
        line.pad_right(name_columns - line.cell_len)
        line.append(" ")
        line.append(_bar(node.span, tree, bar_columns), _bar_style(node.span, styles))
        line.append(f" {_lasted(node.span):>{_DURATION_COLUMNS}}", ERROR if node.span.is_error else "")
        console.print(line)
        for detail in _details(node, tree, attributes=attributes, brief=brief):
            below = Text().append(_rails(path, bool(node.children)), DIM)
            below.append_text(detail)
            console.print(one_line(below, console.width))
    if len(nodes) > limit:
        console.print(Text(f"… and {len(nodes) - limit:,} more spans; --limit shows more", DIM))
    if tree.loose_logs and not brief:
        console.print(Text("logs of the trace that belong to none of these spans:", DIM))
        for log in tree.loose_logs:
            console.print(one_line(Text("  ").append_text(log_line(log, moment(log.timestamp))), console.width))


def _print_heading(
    console: Console, trace_id: str, tree: TraceTree, spans: Sequence[StoredSpan], services: Sequence[str | None]
) -> None:
    errors = sum(span.is_error for span in spans)
    logs = sum(len(node.logs) for node, _ in tree.walk()) + len(tree.loose_logs)
    heading = Text("trace ").append(trace_id, "bold")
    if tree.start:
        heading.append(f"  {moment(tree.start)} UTC", DIM)
    counts = [_counted(len(spans), "span"), _counted(len(services), "service")]
    counts += [_counted(logs, "log record")] if logs else []
    counts += [duration(tree.end - tree.start)] if tree.start else []
    facts = Text(", ".join(counts))
    if errors:
        facts.append("  " + _counted(errors, "error"), ERROR)
    if console.width >= WIDE:
        console.print(one_line(heading.append("  ").append_text(facts), console.width))
    else:
        console.print(one_line(heading, console.width))
        console.print(one_line(facts, console.width))


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _scale(tree: TraceTree, name_columns: int, bar_columns: int) -> Text:
    total, parts = tree.end - tree.start, 4 if bar_columns >= 60 else 2
    line = ""
    for part in range(parts if total else 0):
        line = line.ljust(bar_columns * part // parts) + "│" + duration(total * part / parts)
    return Text(" " * (name_columns + 1) + line[:bar_columns], DIM)


def _label(node: Node, path: Sequence[bool], styles: dict[str | None, str]) -> Text:
    span = node.span
    label = Text().append(_branch(path), DIM)
    if span.is_error:
        label.append("✗ ", ERROR)
    if span.service_name:
        label.append(plain(span.service_name), styles[span.service_name])
        label.append(" ")
    label.append(plain(span.name) or "(no name)", ERROR if span.is_error else "")
    return label


def _branch(path: Sequence[bool]) -> str:
    if not path:
        return ""
    if len(path) > _DEEPEST:
        return f"…{len(path)} {'└ ' if path[-1] else '├ '}"
    return "".join("  " if last else "│ " for last in path[:-1]) + ("└ " if path[-1] else "├ ")


def _rails(path: Sequence[bool], has_children: bool) -> str:
    """What stands left of a detail, so that the branches go on past it."""
    if len(path) > _DEEPEST:
        return " " * (len(_branch(path)) + 2)
    return "".join("  " if last else "│ " for last in path) + ("│ " if has_children else "  ")


def _bar(span: StoredSpan, tree: TraceTree, columns: int) -> str:
    """Blocks for the time that a span took, to half a column at its start and an eighth at its end."""
    total = tree.end - tree.start
    if not span.start_time or total <= 0:
        return " " * columns if not span.start_time else "█" * columns
    first = min(max(0.0, (span.start_time - tree.start) / total * columns), columns - 0.125)
    last = max(first, min(columns, (max(span.end_time, span.start_time) - tree.start) / total * columns))
    begin, end = int(first), int(last)
    if last - first < 1:  # what lasted less than a column
        begin = min(begin, columns - 1)
        shape = "│" if last == first else " ▏▎▍▌▋▊▉"[max(1, int((last - first) * 8))]
        return (" " * begin + shape).ljust(columns)
    head = "▐" if first - begin >= 0.5 else "█"
    tail = " ▏▎▍▌▋▊▉"[int((last - end) * 8)] if end < columns else ""
    return (" " * begin + head + "█" * (end - begin - 1) + tail).ljust(columns)[:columns]


def _bar_style(span: StoredSpan, styles: dict[str | None, str]) -> str:
    return "red" if span.is_error else styles.get(span.service_name, "")


def _lasted(span: StoredSpan) -> str:
    if not span.start_time or not span.end_time:
        return "no end" if span.start_time else "no time"
    return duration(span.duration_ns)


def _details(node: Node, tree: TraceTree, *, attributes: bool, brief: bool) -> Iterator[Text]:
    span = node.span
    for mark in node.marks:
        yield Text(f"⚠ {mark}", "yellow")
    if span.is_error:
        reason = failure(span)
        if reason:
            yield cell(f"✗ {reason}", "red")
    if attributes and span.attributes:
        yield Text("  ").append_text(pairs(span.attributes))
    if attributes and span.resource_attributes:
        yield Text().append("  resource ", DIM).append_text(pairs(span.resource_attributes))
    if brief:
        return
    happened: list[tuple[int, int, Text]] = []
    for number, event in enumerate(span.events):
        happened.append((event.timestamp, number, _event(event, _at(event.timestamp, tree))))
    for number, log in enumerate(node.logs):
        happened.append((log.timestamp, number, log_line(log, _at(log.timestamp, tree))))
    yield from (line for _, _, line in sorted(happened, key=lambda each: each[:2]))
    for link in span.links:
        line = Text("→ link to ").append(f"{link.trace_id}/{link.span_id}", "bold")
        if link.attributes:
            line.append("  ").append_text(pairs(link.attributes))
        yield line


def failure(span: StoredSpan) -> str:
    """Why a span failed, in a line: the kind of error and what was said about it."""
    thrown = next((event.attributes for event in span.events if event.name == "exception"), {})
    kind = span.attributes.get("error.type") or thrown.get("exception.type") or ""
    said = span.status_description or span.attributes.get("error.message") or thrown.get("exception.message") or ""
    kind, said = (value_text(each) for each in (kind, said))
    if kind and said.startswith(kind):
        return said
    return ": ".join(each for each in (kind, said) if each)


def _at(time: int, tree: TraceTree) -> str:
    if not time or not tree.start:
        return "no time"
    return f"{'+' if time >= tree.start else ''}{duration(time - tree.start)}"


def _event(event: SpanEvent, at: str) -> Text:
    thrown = event.name == "exception"
    line = Text().append("! " if thrown else "● ", "red" if thrown else "")
    line.append(f"{at} ", DIM).append(plain(event.name), "red" if thrown else "bold")
    rest = {key: value for key, value in event.attributes.items() if key != "exception.stacktrace"}
    if rest:
        line.append("  ").append_text(pairs(rest))
    return line


def log_line(log: StoredLog, at: str, *, service: bool = False) -> Text:
    """A log record in a line."""
    style = next(style for least, style in _SEVERITY_STYLES if log.severity_number >= least)
    line = Text("≡ " if not service else "").append(f"{at} ", DIM)
    line.append(f"{plain(log.severity_text) or severity_name(log.severity_number):<5} ", style)
    if service and log.service_name:
        line.append(f"{plain(log.service_name)} ", "cyan")
    said = value_text(log.body) if log.body is not None else ""
    line.append(said or plain(log.event_name), style if log.severity_number >= 13 else "")
    if log.attributes:
        line.append("  ").append_text(pairs(log.attributes))
    return line


def severity_name(number: int) -> str:
    """OTLP's name of a severity number; nothing for 0."""
    if not 1 <= number <= 24:
        return "" if number == 0 else str(number)
    name = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")[(number - 1) // 4]
    return name + (str((number - 1) % 4 + 1) if (number - 1) % 4 else "")
