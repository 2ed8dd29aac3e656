"""One suite for every target: directory, process and URL answer alike, and as plain Python does."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import asked
from otlp_arrow.app.library import OtlpLibrary
from otlp_arrow.app.settings import Settings
from otlp_arrow.model import Signal
from otlp_arrow.query import AttributeFilter, BadQuery, LogQuery, MetricQuery, SpanQuery, SpanStore, Untyped

START = asked.START_NS
PORTS = {"protocols.protobuf_enabled": False, "protocols.http_enabled": False, "protocols.arrow_flight_enabled": False}
MS = 1_000_000


def library_at(directory: Path, **flags: object) -> OtlpLibrary:
    given_ = {"output_dir": directory, "admin_port": 0, "host": "127.0.0.1", **PORTS, **flags}
    return OtlpLibrary(Settings.load(flags=given_, environ={}).settings, admin=True)


class Asked(NamedTuple):
    """A target with what it holds."""

    store: SpanStore
    known: list[asked.Known]

    def __repr__(self) -> str:
        return f"{len(self.known)} spans at {self.store.target}"


class Filled(NamedTuple):
    """A running collector with rows in closed segments, in an open one and in memory; and what it holds."""

    library: OtlpLibrary
    directory: Path
    spans: asked.Spans


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    directory = tmp_path_factory.mktemp("asked") / "output"
    spans = asked.Spans(seed=7)
    for flags in ({}, {"write_interval_secs": 3600}):  # what the first one leaves is closed
        library = library_at(directory, **flags)
        for count in (150, 100):
            for _ in range(4):
                library.export_traces(spans.request(count // 4))
            if not flags:
                library.flush()
        library.export_logs(asked.log_request(40, 0 if not flags else 40, bytes.fromhex(spans.known[0].trace_id)))
        library.export_metrics(asked.metric_request(40, 0 if not flags else 40))
        if flags:
            library.flush()
            for _ in range(5):
                library.export_traces(spans.request(20))
            library.export_logs(asked.log_request(20, 80, bytes.fromhex(spans.known[0].trace_id)))
            library.export_metrics(asked.metric_request(20, 80))
            yield Filled(library, directory, spans)
        library.shutdown()


@pytest.fixture(scope="module", params=["directory", "process", "url", "memory"])
def target(request: pytest.FixtureRequest, filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """``memory``: a process that acknowledges before it writes."""
    closing: list[Callable[[], Any]] = []
    match request.param:
        case "directory":
            found: Any = filled.directory
        case "process":
            found = filled.library
        case "url":
            found = f"http://127.0.0.1:{filled.library.ports()['admin']}"
        case _:
            library = library_at(tmp_path_factory.mktemp("memory") / "output", ack="memory", write_interval_secs=3600)
            closing.append(library.shutdown)
            resend(library, filled)
            found = library
    with SpanStore.open(found) as store:
        yield Asked(store, filled.spans.known)
    for close in closing:
        close()


def resend(library: OtlpLibrary, filled: Filled) -> None:
    """The same telemetry to another collector."""
    with SpanStore.open(filled.directory) as store:
        for signal, export in (
            (Signal.TRACES, library.export_traces),
            (Signal.LOGS, library.export_logs),
            (Signal.METRICS, library.export_metrics),
        ):
            for number, batch in enumerate(store.read(signal)):
                export(batch)
                if number == 1:
                    library.flush()


def numbers(spans: Any) -> list[int]:
    """Which of the known spans these are."""
    return [span.attributes["n"] for span in spans]


# -- random questions ------------------------------------------------------------------------------
TRACES = sorted({span.trace_id for span in (lambda s: (s.request(500), s.known)[1])(asked.Spans(seed=7))})
TIMES = st.integers(-1, 201).map(lambda ms: START + ms * MS)
WANTED = st.sampled_from([each for each in asked.VALUES if each is not None]) | st.sampled_from(
    [
        Untyped("200"),
        Untyped("true"),
        Untyped("0.5"),
        Untyped("tim"),
        *(Untyped(json.dumps(each)) for each in asked.VALUES if isinstance(each, list | dict)),
        Untyped("[1,"),
        199.5,
        2**53,
        -0.5,
        float("nan"),
        10**30,
        -(10**30),
    ]
)


@st.composite
def filters(draw: st.DrawFn) -> AttributeFilter:
    operator: Any = draw(
        st.sampled_from(["EQUALS", "NOT_EQUALS", "CONTAINS", "STARTS_WITH", "GREATER_THAN", "LESS_THAN", "EXISTS"])
        | st.sampled_from(["GREATER_OR_EQUAL", "LESS_OR_EQUAL"])
    )
    key = draw(st.sampled_from(asked.KEYS))
    level = draw(st.sampled_from([None, None, "span", "resource", "scope", "event", "link"]))
    if operator == "EXISTS":
        return AttributeFilter(key, None, operator, level)
    values = WANTED
    if operator == "STARTS_WITH":
        values = WANTED.filter(lambda v: isinstance(v, str | Untyped))
    elif operator.startswith(("GREATER", "LESS")):
        values = WANTED.filter(lambda v: not isinstance(v, list | dict))
    return AttributeFilter(key, draw(values), operator, level)


QUERIES = st.builds(
    SpanQuery,
    trace_id=st.none() | st.sampled_from(TRACES),
    span_ids=st.none() | st.lists(st.sampled_from(["0" * 15 + "1", *TRACES[:3]]).map(lambda t: t[:16]), max_size=2),
    status=st.none() | st.sampled_from(["OK", "ERROR", "UNSET"]),
    kind=st.none() | st.sampled_from(["SERVER", "CLIENT"]),
    service_name=st.none() | st.sampled_from(["cart", "payment", "nobody"]),
    operation_name=st.none() | st.sampled_from([*asked.NAMES, "no such name"]),
    error_type=st.none() | st.sampled_from(["TimeoutError", "ValueError", "OSError"]),
    start_time_min=st.none() | TIMES,
    start_time_max=st.none() | TIMES,
    duration_min=st.none() | st.integers(0, 5 * MS),
    duration_max=st.none() | st.integers(0, 5 * MS),
    attribute_filters=st.lists(filters(), max_size=2).map(tuple),
    order_by=st.sampled_from(["start_time", "end_time", "duration_ns"]),
    order_direction=st.sampled_from(["ASC", "DESC"]),
    max_spans=st.sampled_from([1, 7, 100_000]),
)


@st.composite
def broad(draw: st.DrawFn) -> SpanQuery:
    """A question with few of its conditions, so that something is found."""
    query = draw(QUERIES)
    fields = [each.name for each in dataclasses.fields(SpanQuery) if each.name not in ("max_spans", "cursor")]
    kept = draw(st.sets(st.sampled_from(fields), max_size=3)) | {"order_by", "order_direction"}
    return SpanQuery(max_spans=query.max_spans, **{name: getattr(query, name) for name in kept})


@hypothesis_settings(max_examples=60)
@given(query=broad())
def test_a_question_is_answered_as_plain_python_answers_it(target: Asked, query: SpanQuery):
    expected = [span.number for span in asked.select(target.known, query)]
    page = target.store.query_spans(query)
    assert numbers(page) == expected[: query.max_spans]
    assert (page.next_cursor is not None) == (len(expected) > query.max_spans)


@hypothesis_settings(max_examples=20)
@given(wanted=filters())
def test_every_operator_means_the_same_for_every_type(target: Asked, wanted: AttributeFilter):
    query = SpanQuery(attribute_filters=[wanted], max_spans=100_000)
    assert numbers(target.store.query_spans(query)) == [span.number for span in asked.select(target.known, query)]
    again = AttributeFilter.parse(wanted.to_json())
    assert numbers(target.store.query_spans(SpanQuery(attribute_filters=[again], max_spans=100_000))) == numbers(
        target.store.query_spans(query)
    )


@pytest.mark.parametrize("order_by", ["start_time", "end_time", "duration_ns"])
@pytest.mark.parametrize("direction", ["ASC", "DESC"])
def test_pages_neither_skip_nor_repeat(target: Asked, order_by: str, direction: str):
    query = SpanQuery(order_by=order_by, order_direction=direction, max_spans=23)
    found = [number for page in target.store.pages(query) for number in numbers(page)]
    assert found == [span.number for span in asked.select(target.known, query)]


# -- the queries by name ---------------------------------------------------------------------------
def test_a_trace_comes_by_start_time_with_everything_that_was_sent(target: Asked):
    wanted = target.known[0]
    spans = target.store.get_trace(wanted.trace_id)
    query = SpanQuery(trace_id=wanted.trace_id, order_direction="ASC")
    assert numbers(spans) == [span.number for span in asked.select(target.known, query)]
    (span,) = [each for each in spans if each.attributes["n"] == wanted.number]
    assert (span.span_id, span.parent_span_id, span.name) == (wanted.span_id, wanted.parent, wanted.name)
    assert (span.start_time, span.end_time, span.service_name) == (wanted.start, wanted.end, wanted.service)
    assert span.resource_attributes == dict(wanted.entries["resource"])
    assert span.attributes == dict(wanted.entries["span"])


def test_a_trace_that_is_not_known_is_empty_and_what_is_no_id_is_refused(target: Asked):
    assert list(target.store.get_trace("0" * 31 + "1")) == []
    for wrong in ("", "12", "g" * 32, "0" * 33, "' OR 1=1 --", None, 7):
        with pytest.raises(ValueError, match="hex"):
            target.store.get_trace(wrong)


def test_the_integer_200_is_not_the_string(target: Asked):
    integers = numbers(target.store.filter_by_attribute("k", 200, max_results=1000))
    strings = numbers(target.store.filter_by_attribute("k", "200", max_results=1000))
    typed = numbers(target.store.query_spans(SpanQuery(attribute_filters=[AttributeFilter.parse("k=200")])))
    assert integers
    assert strings
    both = {s.number for s in target.known if any(k == "k" and v in ("200", 200) and not isinstance(v, bool)
            for level in ("span", "resource", "scope") for k, v in s.entries[level])}  # fmt: skip
    assert set(integers) | set(strings) == set(typed) == both


def test_failures_come_latest_end_first(target: Asked):
    assert list(target.store.recent_failures(hours=1)) == []  # all are older
    long_ago = (time.time_ns() - START) / 3.6e12 + 1
    query = SpanQuery(status="ERROR", order_by="end_time", start_time_min=0)
    expected = [span.number for span in asked.select(target.known, query)]
    assert numbers(target.store.recent_failures(hours=long_ago)) == expected[:100]
    with pytest.raises(BadQuery):
        target.store.recent_failures(hours=0)


def test_spans_are_found_by_error_type_status_and_time(target: Asked):
    by_type = SpanQuery(error_type="TimeoutError", order_by="end_time")
    assert (
        numbers(target.store.filter_by_error_type("TimeoutError"))
        == [s.number for s in asked.select(target.known, by_type)][:100]
    )
    start = datetime.datetime.fromtimestamp(START / 1e9, datetime.UTC)
    end = start + datetime.timedelta(milliseconds=100)
    by_status = SpanQuery(status="OK", start_time_min=START, start_time_max=START + 100 * MS)
    expected = [s.number for s in asked.select(target.known, by_status)]
    assert numbers(target.store.filter_by_status("ok", (start, end), 1000)) == expected
    by_time = dataclasses.replace(by_status, order_by="end_time")
    expected = [s.number for s in asked.select(target.known, by_time)]
    assert numbers(target.store.filter_by_time(start, duration="100ms", status="OK", max_results=1000)) == expected
    assert (
        numbers(target.store.filter_by_time(end_time=end, duration="100ms", status="OK", max_results=1000)) == expected
    )


def test_advice_on_retries_follows_the_errors_of_the_trace(target: Asked):
    for span in target.known[:20]:
        advice = target.store.should_retry(span.trace_id)
        errors = [s for s in target.known if s.trace_id == span.trace_id and s.status == 2]
        assert advice.decision in (("RETRY", "ABORT", "WAIT") if errors else ("ABORT",))
        assert (advice.span_id is None) == (not errors)


def test_traces_are_summed_up(target: Asked):
    traces = target.store.traces(SpanQuery(max_spans=100))
    assert {each.trace_id for each in traces} == {span.trace_id for span in target.known}
    for each in traces:
        mine = [span for span in target.known if span.trace_id == each.trace_id]
        assert (each.spans, each.errors) == (len(mine), sum(span.status == 2 for span in mine))
        assert each.services == sorted({span.service for span in mine if span.service})
        assert each.end_time == max(span.end for span in mine)


def test_services_count_every_span_once(target: Asked):
    rows = target.store.services().to_dicts()
    whole = {row["service"]: row for row in rows if row["operation"] is None}
    for service in asked.SERVICES:
        mine = [span for span in target.known if span.service == service]
        assert whole[service]["spans"] == len(mine)
        assert whole[service]["errors"] == sum(span.status == 2 for span in mine)
        durations = sorted(d for span in mine if (d := asked._duration(span)) is not None)
        assert whole[service]["max_ns"] == durations[-1]
        middle = durations[int(0.5 * (len(durations) - 1))]
        assert whole[service]["p50_ns"] == pytest.approx(middle, rel=0.02)
    operations = [row for row in rows if row["operation"] is not None]
    assert sum(row["spans"] for row in operations) == len(target.known)


def test_attribute_keys_are_listed_with_their_types_and_levels(target: Asked):
    rows = {(r["key"], r["level"], r["type"]): r for r in target.store.attributes().to_dicts()}
    expected: dict[tuple[str, str, str], int] = {}
    names = {bool: "bool", int: "int", float: "double", str: "string", bytes: "bytes", list: "list", dict: "map"}
    for span in target.known:
        for level, entries in span.entries.items():
            for key, value in entries:
                kind = "empty" if value is None else names[type(value)]
                expected[key, level, kind] = expected.get((key, level, kind), 0) + 1
    assert {key: row["count"] for key, row in rows.items()} == expected
    assert rows["n", "span", "int"]["examples"][0] == str(len(target.known) - 1)
    assert {r["key"] for r in target.store.attributes(prefix="http").to_dicts()} == {"http.status"}


# -- logs and metrics ------------------------------------------------------------------------------
def test_logs_are_found_by_trace_severity_body_and_time(target: Asked):
    store = target.store
    everything = store.logs(LogQuery(max_logs=1000, order_direction="ASC"))
    assert [log.attributes["number"] for log in everything] == list(range(100))
    assert [log.timestamp for log in everything] == [START + n * MS for n in range(100)]
    of_trace = store.get_logs(target.known[0].trace_id)
    assert [log.body for log in of_trace] == [f"message {n}" for n in range(1, 100, 2)]
    found = store.logs(LogQuery(severity_min=17, body="message 1", start_time_min=START + 10 * MS))
    assert [n.attributes["number"] for n in found] == [19, 18, 17, 16]
    paged = [log.attributes["number"] for page in store.pages(LogQuery(max_logs=30)) for log in page]
    assert paged == list(range(99, -1, -1))


def test_metrics_are_found_by_name_and_summed_up_in_buckets(target: Asked):
    store = target.store
    (name,) = store.metric_names().to_dicts()
    assert (name["name"], name["type"], name["unit"], name["points"]) == ("temperature", "gauge", "Cel", 100)
    points = store.metrics(MetricQuery(name="temperature", attribute_filters=[AttributeFilter("room", "b")]))
    assert [point.value for point in points] == list(range(99, 0, -2))
    assert list(store.metrics(MetricQuery(name="humidity"))) == []
    query = MetricQuery(name="temperature", start_time_max=START + 60 * 10**9)
    buckets = store.metric_series(query, bucket="20s", group_by=["room"]).to_dicts()
    assert sum(bucket["points"] for bucket in buckets) == 60
    for bucket in buckets:
        first = (bucket["time"] - START) // 10**9
        mine = [n for n in range(60) if first <= n < first + 20 and "ab"[n % 2] == bucket["room"]]
        assert (bucket["min"], bucket["max"], bucket["sum"], bucket["last"]) == (
            *(mine[0], mine[-1], sum(mine), mine[-1]),
        )


# -- SQL -------------------------------------------------------------------------------------------
def test_sql_counts_what_there_is(target: Asked):
    sql = target.store.sql
    assert sql("SELECT count(*), sum((status = 'ERROR')::INT) FROM traces").rows == [
        (len(target.known), sum(span.status == 2 for span in target.known))
    ]
    found = sql("SELECT attributes['n'] FROM traces WHERE trace_id = ? ORDER BY 1", [target.known[0].trace_id])
    mine = sorted(str(s.number) for s in target.known if s.trace_id == target.known[0].trace_id)
    assert [row[0] for row in found.rows] == mine
    assert sql("SELECT count(*) FROM otel_traces WHERE ServiceName = 'cart' AND StatusCode = 'Error'").rows == [
        (sum(span.service == "cart" and span.status == 2 for span in target.known),)
    ]
    assert sql("SELECT count(*), max(severity_number) FROM logs").rows == [(100, 24)]
    assert sql("SELECT sum(Value) FROM otel_metrics_gauge WHERE Attributes['room'] = 'a'").rows == [(2450.0,)]
    cut = sql("SELECT * FROM traces", max_rows=5)
    assert (len(cut), cut.truncated) == (5, True)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1; SELECT 2",
        "DROP VIEW traces",
        "CREATE TABLE t AS SELECT 1",
        "COPY (SELECT 1) TO '/tmp/otlp-arrow-test'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('http://localhost:1/x')",
        "ATTACH '/tmp/otlp-arrow-test.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET memory_limit = '10GB'",
        "PRAGMA database_list",
        "EXPORT DATABASE '/tmp/otlp-arrow-test'",
        "CALL pragma_version()",
        "SELEC 1",
        "",
        "SELECT * FROM target",
        "SELECT getenv('HOME')",
        "SELECT ?",
    ],
)
def test_sql_that_is_not_one_harmless_select_is_refused(target: Asked, statement: str):
    with pytest.raises(BadQuery):
        target.store.sql(statement)
    assert not Path("/tmp/otlp-arrow-test").exists()
