"""The spans of a trace as a tree, whatever is missing, doubled or late in it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from otlp_arrow.query import StoredLog, StoredSpan


@dataclass(slots=True, eq=False)
class Node:
    """A span in its place. ``marks``: what is odd about it, in words."""

    span: StoredSpan
    children: list[Node] = field(default_factory=list)
    logs: list[StoredLog] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)


@dataclass(slots=True)
class TraceTree:
    """A trace. ``loose_logs`` belong to none of its spans; ``start`` and ``end`` are 0 if nothing has a time."""

    roots: list[Node]
    loose_logs: list[StoredLog]
    start: int
    end: int

    def walk(self) -> Iterator[tuple[Node, tuple[bool, ...]]]:
        """Every span, parents first. Beside it, from the root down, whether each ancestor and itself is the last child;
        empty for roots."""
        # No recursion: a chain of calls may be deeper than Python's stack.
        stack: list[tuple[Node, tuple[bool, ...]]] = [(node, ()) for node in reversed(self.roots)]
        while stack:
            node, path = stack.pop()
            yield node, path
            last = len(node.children) - 1
            stack += [(child, (*path, i == last)) for i, child in reversed(list(enumerate(node.children)))]


def build(spans: Sequence[StoredSpan], logs: Iterable[StoredLog] = ()) -> TraceTree:
    """The tree. A span whose parent is not there, or is among its own descendants, becomes a root and is marked."""
    nodes = [Node(span) for span in sorted(spans, key=_by_time)]
    by_id: dict[str, Node] = {}
    for node in nodes:
        if node.span.span_id in by_id:
            node.marks.append("stored more than once")
        by_id.setdefault(node.span.span_id, node)
    roots = []
    for node in nodes:
        parent_id = node.span.parent_span_id
        parent = by_id.get(parent_id) if parent_id else None
        if parent is not None and parent is not node:
            parent.children.append(node)
        else:
            if parent_id:
                node.marks.append("is its own parent" if parent is node else f"orphan: parent {parent_id} is missing")
            roots.append(node)
    _cut_circles(nodes, roots)
    for node in nodes:
        _mark_clock(node)
    by_span: defaultdict[str | None, list[StoredLog]] = defaultdict(list)
    for log in sorted(logs, key=lambda each: each.timestamp):
        by_span[log.span_id if log.span_id in by_id else None].append(log)
    for span_id, node in by_id.items():
        node.logs = by_span.get(span_id, [])
    starts = [span.start_time for span in spans if span.start_time]
    ends = [max(span.start_time, span.end_time) for span in spans if span.start_time or span.end_time]
    return TraceTree(roots, by_span.get(None, []), min(starts, default=0), max(ends, default=0))


def _by_time(span: StoredSpan) -> tuple[int, int, str]:
    return span.start_time, -span.end_time, span.span_id


def _cut_circles(nodes: Sequence[Node], roots: list[Node]) -> None:
    """Spans that no root leads to are each other's ancestors: the earliest of them becomes a root."""
    seen: set[int] = set()

    def visit(start: Node) -> None:
        stack = [start]
        while stack:
            node = stack.pop()
            seen.add(id(node))
            node.children = [child for child in node.children if id(child) not in seen]
            stack += node.children

    for root in list(roots):
        visit(root)
    for node in nodes:
        if id(node) not in seen:
            node.marks.append("orphan: is among its own ancestors")
            roots.append(node)
            visit(node)


def _mark_clock(node: Node) -> None:
    from otlp_arrow.cli.screen import duration

    span = node.span
    if span.start_time and span.end_time and span.end_time < span.start_time:
        node.marks.append(f"clock skew: ends {duration(span.start_time - span.end_time)} before it starts")
    for child in node.children:
        early = span.start_time - child.span.start_time
        if span.start_time and child.span.start_time and early > 0:
            child.marks.append(f"clock skew: starts {duration(early)} before its parent")
