"""Trees out of spans that are missing, doubled, in circles, or of another clock."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
from rich.console import Console

from otlp_arrow.cli import listings, waterfall
from otlp_arrow.cli.trace_tree import TraceTree, build
from otlp_arrow.query import StoredLog, StoredSpan

S = 10**9
_EMPTY: dict[type, Any] = {StoredSpan: {}, StoredLog: {}}


def record(kind: type[Any], **given: Any) -> Any:
    """A record whose other fields are empty."""
    empty = {"str": "", "int": 0, "dict[str, Any]": {}, "list[SpanEvent]": [], "list[SpanLink]": []}
    values = {each.name: empty.get(str(each.type)) for each in dataclasses.fields(kind)}
    return kind(**{**values, **given})


def span(number: int, parent: int = 0, start: int = 1, end: int = 2, **more: Any) -> StoredSpan:
    return record(
        StoredSpan,
        **{
            "span_id": f"{number:016x}",
            "parent_span_id": f"{parent:016x}" if parent else None,
            "name": f"s{number}",
            "start_time": start * S,
            "end_time": end * S,
            "duration_ns": (end - start) * S,
            "status": "UNSET",
            **more,
        },
    )


def shape(tree: TraceTree) -> list[tuple[int, str]]:
    return [(len(path), node.span.name) for node, path in tree.walk()]


def marks(tree: TraceTree) -> dict[str, list[str]]:
    return {node.span.name: node.marks for node, _ in tree.walk() if node.marks}


def drawn(tree: TraceTree, width: int = 80, **options: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    waterfall.show(console, "f" * 32, tree, **options)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text.splitlines()


def test_children_stand_below_their_parent_by_start():
    tree = build([span(3, 1, 5, 6), span(1, 0, 1, 9), span(2, 1, 2, 4), span(4, 2, 3, 4)])
    assert shape(tree) == [(0, "s1"), (1, "s2"), (2, "s4"), (1, "s3")]
    assert marks(tree) == {}
    assert (tree.start, tree.end) == (1 * S, 9 * S)


def test_a_span_whose_parent_is_missing_is_an_orphan_beside_the_root():
    tree = build([span(1), span(2, 9), span(3, 2)])
    assert shape(tree) == [(0, "s1"), (0, "s2"), (1, "s3")]
    assert marks(tree) == {"s2": ["orphan: parent 0000000000000009 is missing"]}


def test_circles_of_spans_are_cut_and_every_span_is_there_once():
    tree = build([span(1, 3), span(2, 1), span(3, 2), span(4, 4), span(5, 3)])
    assert sorted(name for _, name in shape(tree)) == ["s1", "s2", "s3", "s4", "s5"]
    assert marks(tree) == {"s1": ["orphan: is among its own ancestors"], "s4": ["is its own parent"]}


def test_a_span_that_was_stored_twice_is_marked_and_has_its_children_once():
    tree = build([span(1), span(2, 1), span(2, 1), span(3, 2)])
    assert [name for _, name in shape(tree)] == ["s1", "s2", "s3", "s2"]
    assert marks(tree) == {"s2": ["stored more than once"]}


def test_clocks_that_disagree_are_marked():
    tree = build([span(1, 0, 5, 9), span(2, 1, 3, 4), span(3, 1, 6, 5)])
    assert marks(tree) == {
        "s2": ["clock skew: starts 2.00 s before its parent"],
        "s3": ["clock skew: ends 1.00 s before it starts"],
    }


def test_logs_stand_with_their_span_and_the_others_at_the_end():
    logs = [
        record(StoredLog, timestamp=time * S, span_id=f"{owner:016x}", body=text)
        for time, owner, text in ((3, 1, "b"), (2, 1, "a"), (4, 9, "c"))
    ]
    tree = build([span(1, 0, 1, 5)], logs)
    assert [log.body for log in tree.roots[0].logs] == ["a", "b"]
    assert [log.body for log in tree.loose_logs] == ["c"]
    lines = drawn(tree)
    assert [line.strip()[0] for line in lines if line.strip()[0] == "≡"] == ["≡"] * 3


def test_a_chain_deeper_than_pythons_stack_is_drawn():
    tree = build([span(number, number - 1) for number in range(1, 3001)])
    lines = drawn(tree, limit=3000)
    assert len(lines) == 3 + 3000
    assert "…2999 └ s3000" in lines[-1]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_odd_spans_are_drawn_in_any_width(width: int):
    tree = build(
        [
            span(1, 0, 1, 100),
            span(2, 1, 0, 0),
            span(3, 1, 100, 0),
            span(4, 1, 50, 50),
            span(5, 1, 100, 100),
            span(6, 0, 99, 100, name="", service_name="ein sehr langer Name für einen Dienst " * 5),
        ]
    )
    text = "\n".join(drawn(tree, width))
    assert "no time" in text
    assert "no end" in text


def test_a_trace_without_times_and_one_of_no_length_have_no_scale():
    assert "│0 ns" not in "\n".join(drawn(build([span(1, 0, 0, 0)])))
    assert "█" in "\n".join(drawn(build([span(1, 0, 5, 5, name="")])))
    assert "(no name)" in "\n".join(drawn(build([span(1, name="")])))


def test_more_spans_than_wanted_are_counted():
    assert (
        drawn(build([span(number) for number in range(1, 11)]), limit=3)[-1] == "… and 7 more spans; --limit shows more"
    )


@pytest.mark.parametrize(
    ("number", "name"), [(0, ""), (1, "TRACE"), (9, "INFO"), (12, "INFO4"), (17, "ERROR"), (24, "FATAL4"), (99, "99")]
)
def test_severities_have_otlps_names(number: int, name: str):
    assert waterfall.severity_name(number) == name


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"status_description": "down"}, "down"),
        ({"attributes": {"error.type": "E"}, "status_description": "E: down"}, "E: down"),
        ({"attributes": {"error.type": "E", "error.message": "m"}}, "E: m"),
        ({"attributes": {"error.type": 503}}, "503"),
        ({}, ""),
    ],
)
def test_why_a_span_failed_is_said_once(more: dict[str, Any], said: str):
    assert waterfall.failure(span(1, **more)) == said


def test_trace_ids_of_several_days_fit_into_80_columns():
    console = Console(file=io.StringIO(), width=80, highlight=False)
    found = [
        span(1, 0, day * 86_400, trace_id=f"{day:032x}", service_name="a service of a long name") for day in (1, 2)
    ]
    listings.spans(console, found)
    text = console.file.getvalue()
    assert all(each.trace_id in text for each in found)
    assert "01-03 00:00:00" in text
    assert max(map(len, text.splitlines())) <= 80
