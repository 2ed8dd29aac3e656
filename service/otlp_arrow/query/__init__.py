"""Asking what is stored: spans, logs, metrics, SQL; see docs/query.md.

DuckDB is imported by the first SQL statement, numpy and pyarrow with this package.
"""

from otlp_arrow.query.ask import LogQuery, MetricQuery, SpanQuery
from otlp_arrow.query.attributes import AttributeFilter, Untyped
from otlp_arrow.query.errors import BadQuery, QueryCancelled, QueryError, QueryTimeout
from otlp_arrow.query.results import (
    Logs,
    Points,
    SpanEvent,
    SpanLink,
    Spans,
    StoredLog,
    StoredPoint,
    StoredSpan,
    Table,
    TraceSummary,
)
from otlp_arrow.query.retry import RetryAdvice
from otlp_arrow.query.store import SpanStore, Traces
from otlp_arrow.query.times import duration_to_nanoseconds, time_to_nanoseconds

__all__ = [
    "AttributeFilter",
    "BadQuery",
    "LogQuery",
    "Logs",
    "MetricQuery",
    "Points",
    "QueryCancelled",
    "QueryError",
    "QueryTimeout",
    "RetryAdvice",
    "SpanEvent",
    "SpanLink",
    "SpanQuery",
    "SpanStore",
    "Spans",
    "StoredLog",
    "StoredPoint",
    "StoredSpan",
    "Table",
    "TraceSummary",
    "Traces",
    "Untyped",
    "duration_to_nanoseconds",
    "time_to_nanoseconds",
]
