"""The OpenAPI document, made from the questions themselves."""

from __future__ import annotations

import functools
import json
from typing import Any

from otlp_arrow.query.ask import (
    KINDS,
    MAX_PAGE,
    METRIC_TYPES,
    SPAN_ORDERS,
    STATUSES,
    LogQuery,
    MetricQuery,
    Query,
    SpanQuery,
    parameter_names,
)

MAX_GROUPS = 8

_TIME = "ISO 8601, nanoseconds since 1970, `now`, or how long ago: `30m`"
# Narrower than what is taken (any ISO 8601, any case, spaces): what a client may be made from.
_DURATION_TEXT = r"[0-9]{1,3}(ns|us|ms|s|m|h|d|w)([0-9]{1,3}(ns|us|ms|s|m|h|d)){0,2}"
_ISO_TEXT = (
    r"(19[7-9][0-9]|20[0-9]{2})-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-][01][0-9]:[0-5][0-9])?"
)
_TIME_SCHEMA = {"type": "string", "pattern": rf"^(now|[0-9]{{1,18}}|{_DURATION_TEXT}|{_ISO_TEXT})$"}
_DURATION_SCHEMA = {"type": "string", "pattern": rf"^([0-9]{{1,18}}|{_DURATION_TEXT})$"}
_BUCKET_SCHEMA = {"type": "string", "pattern": r"^([1-9][0-9]{0,17}|[1-9][0-9]{0,3}(ns|us|ms|s|m|h|d|w))$"}
_TEXT = {"type": "string", "pattern": r"^[^\u0000]*$"}
_MEANINGS: dict[str, tuple[dict[str, Any], str]] = {
    "trace_id": ({"type": "string", "pattern": "^[0-9a-fA-F]{32}$"}, "32 hex digits"),
    "span_id": ({"type": "string", "pattern": "^[0-9a-fA-F]{16}$"}, "16 hex digits"),
    "span_ids": ({"type": "array", "items": {"type": "string", "pattern": "^[0-9a-fA-F]{16}$"}}, "Any of these spans"),
    "start": (_TIME_SCHEMA, f"From here on, included: {_TIME}"),
    "end": (_TIME_SCHEMA, f"Up to here, not included: {_TIME}"),
    "service": (_TEXT, "`service.name` of the resource"),
    "operation": (_TEXT, "Name of the span"),
    "status": ({"type": "string", "enum": [*STATUSES]}, "Status of the span"),
    "kind": ({"type": "string", "enum": [*KINDS]}, "Kind of the span"),
    "error_type": (_TEXT, "Failed spans with this `error.type` or `exception.type`"),
    "duration_min": (_DURATION_SCHEMA, "Lasting at least: `100ms`, `1s`"),
    "duration_max": (_DURATION_SCHEMA, "Lasting at most"),
    "order_by": ({"type": "string", "enum": [*SPAN_ORDERS]}, "What the rows are ordered by"),
    "direction": ({"type": "string", "enum": ["DESC", "ASC"]}, "Newest or largest first, or last"),
    "limit": ({"type": "integer", "minimum": 1, "maximum": MAX_PAGE}, "Rows of a page"),
    "cursor": (_TEXT, "`next_cursor` of the page before"),
    "attribute": (
        {"type": "array", "items": {"type": "string", "pattern": r"^[^\s{\u0000-\u0020\u007f-\u00a0][^\u0000]*$"}},
        "A condition on an attribute: `http.route=/cart`, `http.response.status_code>=500`, `db.query.text~orders`, "
        '`user.id="7"`, '
        "`error.type` alone (exists), or a JSON object with key, operator, value and level",
    ),
    "severity_min": ({"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}, "Severity number, 17 is ERROR"),
    "severity_text": (_TEXT, "Severity as its source named it"),
    "body": (_TEXT, "A text that the body contains"),
    "event_name": (_TEXT, "Name of the event"),
    "name": (_TEXT, "Name of the metric"),
    "metric_type": ({"type": "string", "enum": [*METRIC_TYPES]}, "Type of the metric"),
    "hours": ({"type": "number", "exclusiveMinimum": 0, "maximum": 10**6}, "Started within so many hours"),
    "prefix": (_TEXT, "What the keys begin with"),
    "signal": ({"type": "string", "enum": ["traces", "metrics", "logs"]}, "Whose attributes"),
    "bucket": (_BUCKET_SCHEMA, "Length of a bucket of time: `1m`"),
    "group_by": ({"type": "array", "items": _TEXT, "maxItems": MAX_GROUPS}, "Attribute keys"),
}

_FORMATS = {
    "format": ["json", "jsonl", "csv", "arrow", "otlp"],
    "table_format": ["json", "jsonl", "csv", "arrow"],
    "trace_format": ["json", "jsonl"],
}

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_TABLE = {
    "type": "object",
    "required": ["columns", "rows", "truncated"],
    "properties": {
        "columns": {"type": "array", "items": {"type": "string"}},
        "rows": {"type": "array", "items": {"type": "array"}},
        "truncated": {"type": "boolean"},
    },
}
_CONTENT: dict[str, tuple[str, dict[str, Any]]] = {
    "jsonl": ("application/x-ndjson", {"type": "string"}),
    "csv": ("text/csv", {"type": "string"}),
    "arrow": ("application/vnd.apache.arrow.stream", {"type": "string", "format": "binary"}),
}
"""What else than JSON an answer is, by format."""


def document_bytes(auth: bool) -> bytes:
    """The document as JSON."""
    return json.dumps(document(auth), indent=1).encode() + b"\n"


@functools.cache
def document(auth: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document; ``auth``: credentials are asked for."""
    spans, logs, points = (_object(name, required=False) for name in ("spans", "resourceLogs", "points"))
    rows: dict[str, Any] = {
        "/traces": _get(
            "listTraces",
            "Traces that have a matching span",
            [*_names(SpanQuery), "trace_format"],
            _object("traces"),
        ),
        "/spans": _get("listSpans", "Spans", _row_parameters(SpanQuery), spans),
        "/logs": _get("listLogs", "Log records, OTLP/JSON", _row_parameters(LogQuery), logs),
        "/metrics": _get("listPoints", "Data points", _row_parameters(MetricQuery), points),
    }
    for each in rows.values():
        each["get"]["responses"]["200"]["links"] = {"next page": _next_page(each["get"]["operationId"])}
    rows["/traces"]["get"]["responses"]["200"]["links"]["trace"] = {
        "operationId": "getTrace",
        "parameters": {"trace_id": "$response.body#/traces/0/trace_id"},
    }
    series = [*_names(MetricQuery), "bucket", "group_by", "table_format"]
    paths: dict[str, Any] = {
        "/traces/{trace_id}": _one_trace(),
        **rows,
        "/failures": _get("listFailures", "Failed spans of late", ["hours", "limit", "format"], spans),
        "/metrics/names": _get("listMetrics", "Metrics that there are", ["start", "end", "table_format"], _TABLE),
        "/metrics/series": _get("getSeries", "Data points in buckets of time", series, _TABLE),
        "/services": _get(
            "listServices", "Rates, errors and durations", ["start", "end", "service", "table_format"], _TABLE
        ),
        "/attributes": _get(
            "listAttributes",
            "Attribute keys that there are",
            ["signal", "prefix", "start", "end", "table_format"],
            _TABLE,
        ),
        "/sql": {"post": _sql()},
        "/openapi.json": _get("getDocument", "This document", [], {"type": "object"}),
    }
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "otlp-arrow", "version": "1", "description": "Asking a collector what it has stored."},
        "servers": [{"url": "/api/v1"}],
        "paths": paths,
        "components": {"schemas": {"Problem": _PROBLEM}},
    }
    if auth:
        found["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "basic": {"type": "http", "scheme": "basic"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        found["security"] = [{"bearer": []}, {"basic": []}, {"key": []}]
    return found


def _row_parameters(kind: type[Query]) -> list[str]:
    return [*_names(kind), "format", "follow"]


def _names(kind: type[Query]) -> list[str]:
    """The keys of ``_MEANINGS``: spans may be several, a log record has one."""
    names = parameter_names(kind)
    return ["span_ids" if name == "span_id" and kind is SpanQuery else name for name in names]


def _get(operation: str, summary: str, names: list[str], schema: dict[str, Any]) -> dict[str, Any]:
    parameters = [_parameter(name) for name in names]
    return {
        "get": {
            "operationId": operation,
            "summary": summary,
            "parameters": parameters,
            "responses": _responses(schema, names),
        }
    }


def _next_page(operation: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "parameters": {"cursor": "$response.header.X-Next-Cursor"},
        "description": "With the same other parameters",
    }


def _one_trace() -> dict[str, Any]:
    found = _get("getTrace", "One trace as OTLP/JSON", ["format"], _object("resourceSpans", required=False))
    schema, meaning = _MEANINGS["trace_id"]
    parameter = {"name": "trace_id", "in": "path", "required": True, "schema": schema, "description": meaning}
    found["get"]["parameters"].append(parameter)
    found["get"]["responses"]["404"] = _problem("No such trace")
    return found


def _parameter(name: str) -> dict[str, Any]:
    schema: dict[str, Any]
    if name in _FORMATS:
        schema = {"type": "string", "enum": _FORMATS[name]}
        name, meaning = "format", "Instead of the `Accept` header"
    elif name == "follow":
        schema, meaning = {"type": "string", "enum": ["true", "false"]}, "A live stream, one JSON object a line"
    else:
        schema, meaning = _MEANINGS[name]
    if name == "span_ids":
        name = "span_id"
    found: dict[str, Any] = {"name": name, "in": "query", "schema": schema, "description": meaning}
    if schema.get("type") == "array":
        found |= {"style": "form", "explode": True}
    return found


def _object(member: str, required: bool = True) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {member: {"type": "array"}}}
    return schema | {"required": [member]} if required else schema


def _responses(schema: dict[str, Any], names: list[str]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    formats = [each for name in names for each in _FORMATS.get(name, ())]
    content |= {type_: {"schema": text} for name, (type_, text) in _CONTENT.items() if name in formats}
    answer: dict[str, Any] = {"description": "The answer", "content": content}
    if "cursor" in names:
        answer["headers"] = {
            "X-Next-Cursor": {"schema": {"type": "string"}, "description": "`cursor` of the next page"}
        }
    found: dict[str, Any] = {"200": answer}
    for status, meaning in (
        ("400", "The question is wrong"),
        ("401", "Credentials are needed"),
        ("403", "Refused"),
        ("503", "Busy, or the data cannot be read"),
        ("504", "It took too long"),
    ):
        found[status] = _problem(meaning)
    return found


def _problem(meaning: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": meaning, "content": {"application/problem+json": {"schema": schema}}}


def _sql() -> dict[str, Any]:
    body = {
        "type": "object",
        "required": ["statement"],
        "additionalProperties": False,
        "properties": {
            "statement": {"type": "string", "minLength": 1, "description": "One SELECT"},
            "parameters": {"type": "array", "description": "For each `?`"},
            "max_rows": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
        },
    }
    responses = _responses(_TABLE, ["table_format"])
    cut = {"schema": {"type": "string", "enum": ["true"]}, "description": "There were more rows than `max_rows`"}
    responses["200"]["headers"] = {"X-Truncated": cut}
    responses["413"] = _problem("The statement is too large")
    responses["415"] = _problem("Not JSON")
    return {
        "operationId": "askSql",
        "summary": "SQL over the views; on localhost or with credentials only",
        "parameters": [_parameter("table_format")],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": responses,
    }
