"""Every recipe of docs/recipes.md runs, and says what is true."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import time
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from typer.testing import CliRunner

import otlp_arrow.query
from asked import _add as add_attributes
from otlp_arrow import OtlpLibrary
from otlp_arrow.app.library import in_process_settings
from otlp_arrow.cli.commands import app
from otlp_arrow.query import SpanStore

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
FAILED = "4bf92f3577b34da6a3ce929d0e0e4736"

PYTHON = {
    "Which requests failed in the last hour, and why?": ["shop: GET /cart failed after 80 ms: no answer", FAILED],
    "What happened in this trace?": ["GET /cart", "SELECT items", "again?"],
    "Which endpoints are slowest?": ["shop GET /cart: p99 80 ms, 50% failed"],
    "All logs of a trace": ["ERROR the bank did not answer"],
    "Did the new deployment make it worse?": ["1.0: 10 requests, 0.0% failed", "1.1: 10 requests, 100.0% failed"],
    "Which attribute keys are there?": ["http.route string span 20"],
    "Spans of one tenant, page by page": ["5 ", "5 "],
    "A metric over time": ["queue.length 3.0 4.0"],
    "As a table for pandas or Polars": ["{'GET /cart': 20, 'SELECT items': 20}"],
}
SQL = {
    "Which requests failed in the last hour, and why?": [("shop", "GET /cart", "TimeoutError", 10)],
    "Which endpoints are slowest?": [("/cart", 20)],
    "All logs of a trace": [],
    "Did the new deployment make it worse?": [("1.0", "GET /cart", 10, 0.0), ("1.1", "GET /cart", 10, 100.0)],
    "Who calls whom?": [("shop", "db", 20, 0)],
}


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recipes")
    now = time.time_ns()
    traces, logs, metrics = ExportTraceServiceRequest(), ExportLogsServiceRequest(), ExportMetricsServiceRequest()
    for version in ("1.0", "1.1"):
        shop, db = traces.resource_spans.add(), traces.resource_spans.add()
        add_attributes(shop.resource.attributes, [("service.name", "shop"), ("service.version", version)])
        add_attributes(db.resource.attributes, [("service.name", "db")])
        served, queried = shop.scope_spans.add().spans, db.scope_spans.add().spans
        for number in range(10):
            failed = version == "1.1"
            trace_id = bytes.fromhex(FAILED) if failed and number == 9 else bytes([1 + failed, number] * 8)
            start = now - 60 * 10**9 + number * 10**9
            span = served.add(trace_id=trace_id, span_id=b"parent-1", name="GET /cart", kind=2)
            span.start_time_unix_nano, span.end_time_unix_nano = start, start + 80_000_000
            add_attributes(span.attributes, [("http.route", "/cart"), ("tenant.id", "t7" if number % 2 else "t8")])
            if failed:
                span.status.code, span.status.message = 2, "no answer"
                add_attributes(span.attributes, [("error.type", "TimeoutError")])
            child = queried.add(trace_id=trace_id, span_id=b"child--1", parent_span_id=b"parent-1", name="SELECT items")
            child.start_time_unix_nano, child.end_time_unix_nano = start + 10**7, start + 2 * 10**7
    record = (
        logs.resource_logs.add()
        .scope_logs.add()
        .log_records.add(time_unix_nano=now, severity_text="ERROR", severity_number=17, trace_id=bytes.fromhex(FAILED))
    )
    record.body.string_value = "the bank did not answer"
    gauge = metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="queue.length").gauge
    for value in (2, 4):
        gauge.data_points.add(time_unix_nano=now - 1, as_int=value)
    with OtlpLibrary(in_process_settings(directory)) as library:
        library.export_traces(traces)
        library.export_logs(logs)
        library.export_metrics(metrics)
    return directory


def pieces(kind: str) -> list[tuple[str, str]]:
    return [
        (title, piece)
        for title, text in SECTIONS.items()
        for piece in re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    ]


@pytest.mark.parametrize(("title", "source"), pieces("python"), ids=[title for title, _ in pieces("python")])
def test_the_python_of_a_recipe_prints_what_is_true(output_dir: Path, title: str, source: str) -> None:
    printed = io.StringIO()
    with SpanStore.open(output_dir) as store, contextlib.redirect_stdout(printed):
        exec(source, {**vars(otlp_arrow.query), "store": store})
    for wanted in PYTHON[title]:
        assert wanted in printed.getvalue()


@pytest.mark.parametrize(("title", "statement"), pieces("sql"), ids=[title for title, _ in pieces("sql")])
def test_the_sql_of_a_recipe_answers_what_is_true(output_dir: Path, title: str, statement: str) -> None:
    with SpanStore.open(output_dir) as store:
        rows = store.sql(statement).rows
    assert rows
    for found, wanted in zip(rows, SQL[title], strict=False):
        assert tuple(found[: len(wanted)]) == wanted


@pytest.mark.parametrize(("title", "lines"), pieces("console"), ids=[title for title, _ in pieces("console")])
def test_the_commands_of_a_recipe_find_something(output_dir: Path, title: str, lines: str) -> None:
    for line in lines.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "otlp-arrow"
        result = CliRunner().invoke(app, [*arguments, "--dir", str(output_dir)])
        assert result.exit_code == 0, (line, result.output)


def test_every_recipe_has_its_expectation() -> None:
    assert {title for title, _ in pieces("python")} == set(PYTHON)
    assert {title for title, _ in pieces("sql")} == set(SQL)
