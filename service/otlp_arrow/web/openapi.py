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
_DURATION_TEXT = r"([0-9]{1,4}(ns|us|ms|s|m|h|d|w))+"
_ISO_TEXT = (
    r"(19[7-9][0-9]|20[0-9]{2})-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-][01][0-9]:[0-5][0-9])?"
)
_TIME_SCHEMA = {"type": "string", "pattern": rf"^(now|[0-9]{{1,18}}|{_DURATION_TEXT}|{_ISO_TEXT})$"}
_DURATION_SCHEMA = {"type": "string", "pattern": rf"^([0-9]{{1,18}}|{_DURATION_TEXT})$"}
_MEANINGS: dict[str, tuple[dict[str, Any], str]] = {
    "trace_id": ({"type": "string", "pattern": "^[0-9a-fA-F]{32}$"}, "32 hex digits"),
    "span_id": ({"type": "string", "pattern": "^[0-9a-fA-F]{16}$"}, "16 hex digits"),
    "start": (_TIME_SCHEMA, f"From here on, included: {_TIME}"),
    "end": (_TIME_SCHEMA, f"Up to here, not included: {_TIME}"),
    "service": ({"type": "string"}, "`service.name` of the resource"),
    "operation": ({"type": "string"}, "Name of the span"),
    "status": ({"type": "string", "enum": [*STATUSES]}, "Status of the span"),
    "kind": ({"type": "string", "enum": [*KINDS]}, "Kind of the span"),
    "error_type": ({"type": "string"}, "Failed spans with this `error.type` or `exception.type`"),
    "duration_min": (_DURATION_SCHEMA, "Lasting at least: `100ms`, `1s`"),
    "duration_max": (_DURATION_SCHEMA, "Lasting at most"),
    "order_by": ({"type": "string", "enum": [*SPAN_ORDERS]}, "What the rows are ordered by"),
    "direction": ({"type": "string", "enum": ["DESC", "ASC"]}, "Newest or largest first, or last"),
    "limit": ({"type": "integer", "minimum": 1, "maximum": MAX_PAGE}, "Rows of a page"),
    "cursor": ({"type": "string"}, "`next_cursor` of the page before"),
    "attribute": (
        {"type": "array", "items": {"type": "string", "pattern": r"^[^\s{]"}},
        "A condition on an attribute: `http.route=/cart`, `http.response.status_code>=500`, `db.query.text~orders`, "
        '`user.id="7"`, '
        "`error.type` alone (exists), or a JSON object with key, operator, value and level",
    ),
    "severity_min": ({"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}, "Severity number, 17 is ERROR"),
    "severity_text": ({"type": "string"}, "Severity as its source named it"),
    "body": ({"type": "string"}, "A text that the body contains"),
    "event_name": ({"type": "string"}, "Name of the event"),
    "name": ({"type": "string"}, "Name of the metric"),
    "metric_type": ({"type": "string", "enum": [*METRIC_TYPES]}, "Type of the metric"),
    "hours": ({"type": "number", "exclusiveMinimum": 0, "maximum": 10**6}, "Started within so many hours"),
    "prefix": ({"type": "string"}, "What the keys begin with"),
    "signal": ({"type": "string", "enum": ["traces", "metrics", "logs"]}, "Whose attributes"),
    "bucket": (_DURATION_SCHEMA, "Length of a bucket of time: `1m`"),
    "group_by": ({"type": "array", "items": {"type": "string"}, "maxItems": MAX_GROUPS}, "Attribute keys"),
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
_BINARY = {"type": "string", "format": "binary"}
_TEXTS = {"application/x-ndjson": {"schema": {"type": "string"}}, "text/csv": {"schema": {"type": "string"}}}
_ARROW = {"application/vnd.apache.arrow.stream": {"schema": _BINARY}}


def document_bytes(auth: bool) -> bytes:
    """The document as JSON."""
    return json.dumps(document(auth), indent=1).encode() + b"\n"


@functools.cache
def document(auth: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document; ``auth``: credentials are asked for."""
    paths: dict[str, Any] = {
        "/traces/{trace_id}": _one_trace(),
        "/traces": _get(
            "Traces that have a matching span", [*parameter_names(SpanQuery), "table_format"], _object("traces")
        ),
        "/spans": _get("Spans", _row_parameters(SpanQuery), _object("spans", required=False)),
        "/failures": _get("Failed spans of late", ["hours", "limit", "format"], _object("spans", required=False)),
        "/logs": _get("Log records, OTLP/JSON", _row_parameters(LogQuery), _object("resourceLogs", required=False)),
        "/metrics": _get("Data points", _row_parameters(MetricQuery), _object("points", required=False)),
        "/metrics/names": _get("Metrics that there are", ["start", "end", "table_format"], _TABLE),
        "/metrics/series": _get(
            "Data points in buckets of time",
            [*parameter_names(MetricQuery), "bucket", "group_by", "table_format"],
            _TABLE,
        ),
        "/services": _get("Rates, errors and durations", ["start", "end", "service", "table_format"], _TABLE),
        "/attributes": _get(
            "Attribute keys that there are", ["signal", "prefix", "start", "end", "table_format"], _TABLE
        ),
        "/sql": {"post": _sql()},
        "/openapi.json": _get("This document", [], {"type": "object"}),
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
    return [*parameter_names(kind), "format", "follow"]


def _get(summary: str, names: list[str], schema: dict[str, Any]) -> dict[str, Any]:
    parameters = [_parameter(name) for name in names]
    return {"get": {"summary": summary, "parameters": parameters, "responses": _responses(schema)}}


def _one_trace() -> dict[str, Any]:
    found = _get("One trace as OTLP/JSON", ["format"], _object("resourceSpans", required=False))
    schema, meaning = _MEANINGS["trace_id"]
    parameter = {"name": "trace_id", "in": "path", "required": True, "schema": schema, "description": meaning}
    found["get"]["parameters"].append(parameter)
    found["get"]["responses"]["404"] = _problem("No such trace")
    return found


def _parameter(name: str) -> dict[str, Any]:
    if name in ("format", "table_format"):
        forms = ["json", "jsonl", "csv", "arrow", *(["otlp"] if name == "format" else [])]
        schema: dict[str, Any] = {"type": "string", "enum": forms}
        name, meaning = "format", "Instead of the `Accept` header"
    elif name == "follow":
        schema, meaning = {"type": "string", "enum": ["true", "false"]}, "A live stream, one JSON object a line"
    else:
        schema, meaning = _MEANINGS[name]
    if name == "span_id":
        schema = {"type": "array", "items": schema}
    found: dict[str, Any] = {"name": name, "in": "query", "schema": schema, "description": meaning}
    if schema.get("type") == "array":
        found |= {"style": "form", "explode": True}
    return found


def _object(member: str, required: bool = True) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {member: {"type": "array"}}}
    return schema | {"required": [member]} if required else schema


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}, **_TEXTS, **_ARROW}
    headers = {"X-Next-Cursor": {"schema": {"type": "string"}, "description": "`cursor` of the next page"}}
    found: dict[str, Any] = {"200": {"description": "The answer", "content": content, "headers": headers}}
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
    responses = _responses(_TABLE)
    responses["413"] = _problem("The statement is too large")
    responses["415"] = _problem("Not JSON")
    return {
        "summary": "SQL over the views; on localhost or with credentials only",
        "parameters": [_parameter("table_format")],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": responses,
    }
