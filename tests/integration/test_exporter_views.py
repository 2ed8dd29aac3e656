"""SQL written for the tables of the ClickHouse exporter runs over the views of the same names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import shop
from otlp_arrow.query import SpanStore
from otlp_arrow.query.views import with_nested_names


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpanStore]:
    with SpanStore.open(shop.fill(tmp_path_factory.mktemp("shop"))) as opened:
        yield opened


METRIC = (
    *("ResourceAttributes", "ResourceSchemaUrl", "ScopeName", "ScopeVersion", "ScopeAttributes"),
    *("ScopeDroppedAttrCount", "ScopeSchemaUrl", "ServiceName", "MetricName", "MetricDescription", "MetricUnit"),
    *("Attributes", "StartTimeUnix", "TimeUnix", "Flags"),
)
EXEMPLARS = (
    *("Exemplars.FilteredAttributes", "Exemplars.TimeUnix", "Exemplars.Value", "Exemplars.SpanId"),
    "Exemplars.TraceId",
)
TABLES = {
    "otel_traces": (
        *("Timestamp", "TraceId", "SpanId", "ParentSpanId", "TraceState", "SpanName", "SpanKind", "ServiceName"),
        *("ResourceAttributes", "ScopeName", "ScopeVersion", "SpanAttributes", "Duration", "StatusCode"),
        *("StatusMessage", "Events.Timestamp", "Events.Name", "Events.Attributes", "Links.TraceId", "Links.SpanId"),
        *("Links.TraceState", "Links.Attributes"),
    ),
    "otel_logs": (
        *("Timestamp", "TimestampTime", "TraceId", "SpanId", "TraceFlags", "SeverityText", "SeverityNumber"),
        *("ServiceName", "Body", "ResourceSchemaUrl", "ResourceAttributes", "ScopeSchemaUrl", "ScopeName"),
        *("ScopeVersion", "ScopeAttributes", "LogAttributes", "EventName"),
    ),
    "otel_metrics_gauge": (*METRIC, "Value", *EXEMPLARS),
    "otel_metrics_sum": (*METRIC, "Value", "AggregationTemporality", "IsMonotonic", *EXEMPLARS),
    "otel_metrics_histogram": (
        *(*METRIC, "Count", "Sum", "BucketCounts", "ExplicitBounds", "Min", "Max", "AggregationTemporality"),
        *EXEMPLARS,
    ),
    "otel_metrics_exponential_histogram": (
        *(*METRIC, "Count", "Sum", "Scale", "ZeroCount", "PositiveOffset", "PositiveBucketCounts", "NegativeOffset"),
        *("NegativeBucketCounts", "Min", "Max", "AggregationTemporality", *EXEMPLARS),
    ),
    "otel_metrics_summary": (*METRIC, "Count", "Sum", "ValueAtQuantiles.Quantile", "ValueAtQuantiles.Value"),
}
"""As the exporter creates them."""


@pytest.mark.parametrize("table", TABLES)
def test_a_view_has_the_columns_of_the_exporters_table(store: SpanStore, table: str):
    for names in (", ".join(f'"{name}"' for name in TABLES[table]), ", ".join(TABLES[table])):
        assert store.sql(f"SELECT {names} FROM {table}").columns == list(TABLES[table])


def test_the_exporters_other_name_for_exponential_histograms(store: SpanStore):
    assert store.sql("SELECT count() FROM otel_metrics_exp_histogram").rows == [(0,)]


STATEMENTS = {
    "spans with an attribute": (
        "SELECT Timestamp, TraceId, SpanId, SpanName, SpanAttributes FROM otel_traces "
        "WHERE ServiceName = 'payment' AND SpanAttributes['card.brand'] = 'visa' "
        "AND Timestamp > NOW() - INTERVAL 100000 HOUR LIMIT 100",
        1,
    ),
    "spans that lasted": ("SELECT SpanName, Duration FROM otel_traces WHERE Duration > 1e9 LIMIT 100", 2),
    "spans with an exception": (
        "SELECT t.SpanName, t.Events.Name FROM otel_traces t WHERE has(t.Events.Name, 'exception')",
        1,
    ),
    "links": ("SELECT TraceId FROM otel_traces WHERE length(Links.TraceId) > 0", 1),
    "log records a minute": (
        "SELECT toUnixTimestamp(toStartOfMinute(TimestampTime)) AS time, SeverityText, count() AS count FROM otel_logs "
        "WHERE SeverityText = 'WARN' GROUP BY SeverityText, time ORDER BY time",
        1,
    ),
    "a text in the body": ("SELECT Body FROM otel_logs WHERE Body LIKE '%bank%'", 2),
    "keys": ("SELECT TraceId FROM otel_logs WHERE mapContains(LogAttributes, 'attempt')", 2),
    "a sum": ("SELECT countIf(IsMonotonic), max(Value) FROM otel_metrics_sum WHERE MetricName = 'orders'", 1),
}


@pytest.mark.parametrize(("statement", "rows"), STATEMENTS.values(), ids=STATEMENTS)
def test_a_statement_for_the_exporters_tables_runs_unchanged(store: SpanStore, statement: str, rows: int):
    assert len(store.sql(statement)) == rows


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 'Events.Name', 'it''s Events.Name'",
        'SELECT "Events.Name" FROM otel_traces',
        "SELECT 1 -- Events.Name",
        "SELECT /* Events.Name */ $$Events.Name$$, $x$ Events.Name $$ $x$",
        "SELECT Events.NameOfOthers, MyEvents.Name",
    ],
)
def test_names_in_quotes_and_comments_stay_as_they_are(statement: str):
    assert with_nested_names(statement) == statement
