"""The Arrow schema of each signal: what segments hold and what Flight clients put and get.

One row per span, per metric data point, per log record; each row is complete in itself. Names follow
the OTLP protos (opentelemetry-proto 1.x). How OTLP values map to the columns:

=====================  ======================================================================
times                  ``timestamp[ns, UTC]``; 0, which OTLP calls unset, is null
ids                    ``fixed_size_binary``; an absent or all-zero *optional* id is null
optional text          empty is null where the column may be null (``status_message``, ``trace_state``)
repeated strings       dictionary-encoded (keys, names, units, URLs, severity text)
attribute values       ``VALUE``: ``type`` says which child holds the value, the others are null
arrays, key-value      JSON text in ``str`` (see ``codec.values``)
lists                  null where the metric type has no such field, else empty or filled
=====================  ======================================================================
"""

from __future__ import annotations

import pyarrow as pa

from otlp_arrow.model import Signal

SCHEMA_VERSION = 1
VERSION_KEY = b"otlp_arrow.schema_version"
SIGNAL_KEY = b"otlp_arrow.signal"

TIME = pa.timestamp("ns", "UTC")
TRACE_ID = pa.binary(16)
SPAN_ID = pa.binary(8)
KEYWORD = pa.dictionary(pa.int32(), pa.utf8())

# OTAP's numbers for the kinds of attribute values.
EMPTY, STR, INT, DOUBLE, BOOL, MAP, SLICE, BYTES = range(8)

VALUE = pa.struct(
    [
        pa.field("type", pa.uint8()),
        pa.field("str", pa.utf8()),
        pa.field("int", pa.int64()),
        pa.field("double", pa.float64()),
        pa.field("bool", pa.bool_()),
        pa.field("bytes", pa.binary()),
    ]
)
ATTRIBUTES = pa.map_(KEYWORD, VALUE)

EVENT = pa.struct(
    [
        pa.field("time_unix_nano", TIME),
        pa.field("name", KEYWORD),
        pa.field("attributes", ATTRIBUTES),
        pa.field("dropped_attributes_count", pa.uint32()),
    ]
)
LINK = pa.struct(
    [
        pa.field("trace_id", TRACE_ID),
        pa.field("span_id", SPAN_ID),
        pa.field("trace_state", pa.utf8()),
        pa.field("flags", pa.uint32()),
        pa.field("attributes", ATTRIBUTES),
        pa.field("dropped_attributes_count", pa.uint32()),
    ]
)
EXEMPLAR = pa.struct(
    [
        pa.field("time_unix_nano", TIME),
        pa.field("int_value", pa.int64()),
        pa.field("double_value", pa.float64()),
        pa.field("trace_id", TRACE_ID),
        pa.field("span_id", SPAN_ID),
        pa.field("filtered_attributes", ATTRIBUTES),
    ]
)
QUANTILE = pa.struct([pa.field("quantile", pa.float64()), pa.field("value", pa.float64())])
ENTITY_REF = pa.struct(
    [
        pa.field("schema_url", pa.utf8()),
        pa.field("type", pa.utf8()),
        pa.field("id_keys", pa.list_(pa.utf8())),
        pa.field("description_keys", pa.list_(pa.utf8())),
    ]
)


def _required(name: str, type_: pa.DataType) -> pa.Field:
    return pa.field(name, type_, nullable=False)


_ORIGIN = [
    pa.field("service_name", KEYWORD),
    _required("resource_attributes", ATTRIBUTES),
    _required("resource_dropped_attributes_count", pa.uint32()),
    _required("resource_schema_url", KEYWORD),
    _required("resource_entity_refs", pa.list_(ENTITY_REF)),
    _required("scope_name", KEYWORD),
    _required("scope_version", KEYWORD),
    _required("scope_attributes", ATTRIBUTES),
    _required("scope_dropped_attributes_count", pa.uint32()),
    _required("scope_schema_url", KEYWORD),
]


def _schema(signal: Signal, fields: list[pa.Field]) -> pa.Schema:
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode(), SIGNAL_KEY: signal.value.encode()}
    return pa.schema(fields + _ORIGIN, metadata=metadata)


TRACES = _schema(
    Signal.TRACES,
    [
        _required("trace_id", TRACE_ID),
        _required("span_id", SPAN_ID),
        pa.field("parent_span_id", SPAN_ID),
        _required("name", KEYWORD),
        _required("kind", pa.int32()),
        pa.field("start_time_unix_nano", TIME),
        pa.field("end_time_unix_nano", TIME),
        _required("status_code", pa.int32()),
        pa.field("status_message", pa.utf8()),
        _required("attributes", ATTRIBUTES),
        _required("dropped_attributes_count", pa.uint32()),
        pa.field("trace_state", pa.utf8()),
        _required("flags", pa.uint32()),
        _required("events", pa.list_(EVENT)),
        _required("dropped_events_count", pa.uint32()),
        _required("links", pa.list_(LINK)),
        _required("dropped_links_count", pa.uint32()),
    ],
)

METRICS = _schema(
    Signal.METRICS,
    [
        _required("metric_name", KEYWORD),
        _required("metric_type", KEYWORD),
        _required("description", KEYWORD),
        _required("unit", KEYWORD),
        _required("metadata", ATTRIBUTES),
        pa.field("start_time_unix_nano", TIME),
        pa.field("time_unix_nano", TIME),
        pa.field("int_value", pa.int64()),
        pa.field("double_value", pa.float64()),
        _required("attributes", ATTRIBUTES),
        _required("flags", pa.uint32()),
        pa.field("aggregation_temporality", pa.int32()),
        pa.field("is_monotonic", pa.bool_()),
        pa.field("count", pa.uint64()),
        pa.field("sum", pa.float64()),
        pa.field("min", pa.float64()),
        pa.field("max", pa.float64()),
        pa.field("bucket_counts", pa.list_(pa.uint64())),
        pa.field("explicit_bounds", pa.list_(pa.float64())),
        pa.field("scale", pa.int32()),
        pa.field("zero_count", pa.uint64()),
        pa.field("zero_threshold", pa.float64()),
        pa.field("positive_offset", pa.int32()),
        pa.field("positive_bucket_counts", pa.list_(pa.uint64())),
        pa.field("negative_offset", pa.int32()),
        pa.field("negative_bucket_counts", pa.list_(pa.uint64())),
        pa.field("quantiles", pa.list_(QUANTILE)),
        _required("exemplars", pa.list_(EXEMPLAR)),
    ],
)

LOGS = _schema(
    Signal.LOGS,
    [
        pa.field("time_unix_nano", TIME),
        pa.field("observed_time_unix_nano", TIME),
        _required("severity_number", pa.int32()),
        _required("severity_text", KEYWORD),
        _required("body", VALUE),
        _required("attributes", ATTRIBUTES),
        _required("dropped_attributes_count", pa.uint32()),
        _required("event_name", KEYWORD),
        _required("flags", pa.uint32()),
        pa.field("trace_id", TRACE_ID),
        pa.field("span_id", SPAN_ID),
    ],
)

SCHEMAS = {Signal.TRACES: TRACES, Signal.METRICS: METRICS, Signal.LOGS: LOGS}

TIME_COLUMN = {
    Signal.TRACES: "start_time_unix_nano",
    Signal.METRICS: "time_unix_nano",
    Signal.LOGS: "time_unix_nano",
}
"""The column a reader prunes by. Log records may lack it: then ``observed_time_unix_nano`` counts."""


def fields_of(type_: pa.DataType) -> list[pa.Field]:
    """The fields of a nested type; key and item of a map."""
    if pa.types.is_map(type_):
        return [type_.key_field, type_.item_field]
    return [type_.field(index) for index in range(type_.num_fields)] if pa.types.is_nested(type_) else []
