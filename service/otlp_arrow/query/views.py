"""The views that SQL sees: ours, and those with the names that the ClickHouse exporter gives.

``_t``, ``_l`` and ``_m`` are what the engine feeds in, a prefix per signal, so that a plan tells which columns of which
are wanted.
"""

from __future__ import annotations

import re

from otlp_arrow.model import Signal

PREFIX = {Signal.TRACES: "t_", Signal.LOGS: "l_", Signal.METRICS: "m_"}
BASE = {Signal.TRACES: "_t", Signal.LOGS: "_l", Signal.METRICS: "_m"}

_ORIGIN = """
    {p}service_name AS service_name, {p}resource_attributes AS resource_attributes,
    {p}resource_dropped_attributes_count AS resource_dropped_attributes_count,
    {p}resource_schema_url AS resource_schema_url, {p}scope_name AS scope_name, {p}scope_version AS scope_version,
    {p}scope_attributes AS scope_attributes, {p}scope_dropped_attributes_count AS scope_dropped_attributes_count,
    {p}scope_schema_url AS scope_schema_url"""

_TRACES = """
CREATE VIEW traces AS SELECT
    lower(hex(t_trace_id)) AS trace_id, lower(hex(t_span_id)) AS span_id,
    lower(hex(t_parent_span_id)) AS parent_span_id,
    t_name AS name,
    t_kind_name AS kind, t_status AS status, t_status_message AS status_message,
    t_time AS start_time, t_end AS end_time,
    t_start_time_unix_nano AS start_time_unix_nano, t_end_time_unix_nano AS end_time_unix_nano,
    t_end_time_unix_nano - t_start_time_unix_nano AS duration_nano,
    t_attributes AS attributes, t_attribute_types AS attribute_types,
    t_dropped_attributes_count AS dropped_attributes_count,
    t_events AS events, t_dropped_events_count AS dropped_events_count,
    t_links AS links, t_dropped_links_count AS dropped_links_count, t_trace_state AS trace_state,
    t_flags AS flags, {origin}
FROM _t;
CREATE VIEW otel_traces AS SELECT
    t_time AS "Timestamp", lower(hex(t_trace_id)) AS "TraceId", lower(hex(t_span_id)) AS "SpanId",
    coalesce(lower(hex(t_parent_span_id)), '') AS "ParentSpanId", coalesce(t_trace_state, '') AS "TraceState",
    t_name AS "SpanName",
    t_kind_word AS "SpanKind",
    coalesce(t_service_name, '') AS "ServiceName", t_resource_attributes AS "ResourceAttributes",
    t_scope_name AS "ScopeName", t_scope_version AS "ScopeVersion", t_attributes AS "SpanAttributes",
    coalesce(t_end_time_unix_nano - t_start_time_unix_nano, 0) AS "Duration",
    t_status_word AS "StatusCode",
    coalesce(t_status_message, '') AS "StatusMessage",
    [e.time FOR e IN t_events] AS "Events.Timestamp", [e.name FOR e IN t_events] AS "Events.Name",
    [e.attributes FOR e IN t_events] AS "Events.Attributes",
    [k.trace_id FOR k IN t_links] AS "Links.TraceId", [k.span_id FOR k IN t_links] AS "Links.SpanId",
    [coalesce(k.trace_state, '') FOR k IN t_links] AS "Links.TraceState",
    [k.attributes FOR k IN t_links] AS "Links.Attributes"
FROM _t;
"""

_LOGS = """
CREATE VIEW logs AS SELECT
    l_time AS time, l_unix_nano AS unix_nano, l_time_unix_nano AS time_unix_nano,
    l_observed_time_unix_nano AS observed_time_unix_nano,
    l_severity_number AS severity_number, l_severity_text AS severity_text, l_body AS body,
    l_attributes AS attributes, l_attribute_types AS attribute_types,
    l_dropped_attributes_count AS dropped_attributes_count,
    l_event_name AS event_name, l_flags AS flags, lower(hex(l_trace_id)) AS trace_id,
    lower(hex(l_span_id)) AS span_id, {origin}
FROM _l;
CREATE VIEW otel_logs AS SELECT
    l_time AS "Timestamp", date_trunc('second', l_time) AS "TimestampTime",
    coalesce(lower(hex(l_trace_id)), '') AS "TraceId", coalesce(lower(hex(l_span_id)), '') AS "SpanId",
    l_flags AS "TraceFlags", l_severity_text AS "SeverityText", l_severity_number AS "SeverityNumber",
    coalesce(l_service_name, '') AS "ServiceName", coalesce(l_body, '') AS "Body",
    l_resource_schema_url AS "ResourceSchemaUrl", l_resource_attributes AS "ResourceAttributes",
    l_scope_schema_url AS "ScopeSchemaUrl", l_scope_name AS "ScopeName", l_scope_version AS "ScopeVersion",
    l_scope_attributes AS "ScopeAttributes", l_attributes AS "LogAttributes", l_event_name AS "EventName"
FROM _l;
"""

_METRIC_COLUMNS = """
    m_metric_name AS name, m_metric_type AS metric_type, m_description AS description, m_unit AS unit,
    m_time AS time, m_start AS start_time, m_time_unix_nano AS time_unix_nano,
    m_start_time_unix_nano AS start_time_unix_nano, m_attributes AS attributes, m_attribute_types AS attribute_types,
    m_flags AS flags, {origin}"""

_BY_TYPE = {
    "gauge": ("value", "int_value", "double_value", "exemplars"),
    "sum": ("value", "int_value", "double_value", "aggregation_temporality", "is_monotonic", "exemplars"),
    "histogram": (
        *("aggregation_temporality", "count", "sum", "min", "max", "bucket_counts", "explicit_bounds", "exemplars"),
    ),
    "exponential_histogram": (
        *("aggregation_temporality", "count", "sum", "min", "max", "scale", "zero_count", "zero_threshold"),
        *("positive_offset", "positive_bucket_counts", "negative_offset", "negative_bucket_counts", "exemplars"),
    ),
    "summary": ("count", "sum", "quantiles"),
}
_PLURAL = {
    "gauge": "metrics_gauge",
    "sum": "metrics_sum",
    "histogram": "metrics_histogram",
    "exponential_histogram": "metrics_exponential_histogram",
    "summary": "metrics_summary",
}

_EXPORTER_METRIC = """
    m_resource_attributes AS "ResourceAttributes", m_resource_schema_url AS "ResourceSchemaUrl",
    m_scope_name AS "ScopeName", m_scope_version AS "ScopeVersion", m_scope_attributes AS "ScopeAttributes",
    m_scope_dropped_attributes_count AS "ScopeDroppedAttrCount", m_scope_schema_url AS "ScopeSchemaUrl",
    coalesce(m_service_name, '') AS "ServiceName", m_metric_name AS "MetricName",
    m_description AS "MetricDescription", m_unit AS "MetricUnit", m_attributes AS "Attributes",
    m_start AS "StartTimeUnix", m_time AS "TimeUnix", m_flags AS "Flags\""""

_EXEMPLARS = """
    [e.attributes FOR e IN m_exemplars] AS "Exemplars.FilteredAttributes",
    [e.time FOR e IN m_exemplars] AS "Exemplars.TimeUnix",
    [e.value FOR e IN m_exemplars] AS "Exemplars.Value", [e.span_id FOR e IN m_exemplars] AS "Exemplars.SpanId",
    [e.trace_id FOR e IN m_exemplars] AS "Exemplars.TraceId\""""

_EXPORTER_BY_TYPE = {
    "gauge": f'coalesce(m_value, 0) AS "Value", {_EXEMPLARS}',
    "sum": f"""coalesce(m_value, 0) AS "Value", m_aggregation_temporality AS "AggregationTemporality",
        m_aggregation_temporality AS "AggTemp", m_is_monotonic AS "IsMonotonic", {_EXEMPLARS}""",
    "histogram": f"""m_count AS "Count", coalesce(m_sum, 0) AS "Sum", m_bucket_counts AS "BucketCounts",
        m_explicit_bounds AS "ExplicitBounds", coalesce(m_min, 0) AS "Min", coalesce(m_max, 0) AS "Max",
        m_aggregation_temporality AS "AggregationTemporality", m_aggregation_temporality AS "AggTemp", {_EXEMPLARS}""",
    "exponential_histogram": f"""m_count AS "Count", coalesce(m_sum, 0) AS "Sum", m_scale AS "Scale",
        m_zero_count AS "ZeroCount",
        m_zero_threshold AS "ZeroThreshold", m_positive_offset AS "PositiveOffset",
        m_positive_bucket_counts AS "PositiveBucketCounts", m_negative_offset AS "NegativeOffset",
        m_negative_bucket_counts AS "NegativeBucketCounts", coalesce(m_min, 0) AS "Min", coalesce(m_max, 0) AS "Max",
        m_aggregation_temporality AS "AggregationTemporality", m_aggregation_temporality AS "AggTemp", {_EXEMPLARS}""",
    "summary": """m_count AS "Count", m_sum AS "Sum", [q.quantile FOR q IN m_quantiles] AS "ValueAtQuantiles.Quantile",
        [q.value FOR q IN m_quantiles] AS "ValueAtQuantiles.Value\"""",
}

# ClickHouse's words that dashboards use most; the rest of its dialect is not spoken here.
_MACROS = """
CREATE MACRO countIf(condition) AS count(*) FILTER (WHERE condition);
CREATE MACRO toStartOfMinute(t) AS date_trunc('minute', t);
CREATE MACRO toStartOfFiveMinutes(t) AS time_bucket(INTERVAL 5 MINUTE, t);
CREATE MACRO toStartOfHour(t) AS date_trunc('hour', t);
CREATE MACRO toStartOfDay(t) AS date_trunc('day', t);
CREATE MACRO toUnixTimestamp(t) AS epoch(t)::BIGINT;
CREATE MACRO mapContains(m, k) AS map_contains(m, k);
CREATE MACRO mapKeys(m) AS map_keys(m);
CREATE MACRO mapValues(m) AS map_values(m);
CREATE MACRO has(l, x) AS list_contains(l, x);
"""


_NESTED = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    | \b(?P<name>(?:Events|Links|Exemplars|ValueAtQuantiles)
        \.(?:TimeUnix|Timestamp|Name|Attributes|TraceId|SpanId|TraceState|FilteredAttributes|Value|Quantile))\b""",
    re.VERBOSE | re.DOTALL,
)


def with_nested_names(statement: str) -> str:
    """ClickHouse has ``Events.Name`` without quotes, which is a column of the table ``Events`` elsewhere."""
    return _NESTED.sub(lambda found: f'"{found["name"]}"' if found["name"] else found[0], statement)


def statements(now: str) -> str:
    """What makes the views. ``now`` (ISO, UTC) is what ``now()`` says: a plain TIMESTAMP, as the views' times are."""
    origins = {signal: _ORIGIN.format(p=prefix) for signal, prefix in PREFIX.items()}
    made = [_TRACES.replace("{origin}", origins[Signal.TRACES]), _LOGS.replace("{origin}", origins[Signal.LOGS])]
    columns = _METRIC_COLUMNS.replace("{origin}", origins[Signal.METRICS])
    every = list(dict.fromkeys(name for names in _BY_TYPE.values() for name in names))
    made.append(f"CREATE VIEW metrics AS SELECT {columns}, {_own(every)} FROM _m;")
    for kind, names in _BY_TYPE.items():
        made.append(
            f"CREATE VIEW {_PLURAL[kind]} AS SELECT {columns}, {_own(names)} FROM _m WHERE m_metric_type = '{kind}';"
        )
        made.append(
            f"CREATE VIEW otel_{_PLURAL[kind]} AS SELECT {_EXPORTER_METRIC}, {_EXPORTER_BY_TYPE[kind]} "
            f"FROM _m WHERE m_metric_type = '{kind}';"
        )
    made.append(_EXPORTER_NAMES)
    return "\n".join([*made, _MACROS, f"CREATE MACRO now() AS TIMESTAMP '{now}';"])


# The exporter's own table is called so.
_EXPORTER_NAMES = """CREATE VIEW otel_metrics_exp_histogram AS SELECT * FROM otel_metrics_exponential_histogram;
CREATE VIEW otel_metrics_exponentialhistogram AS SELECT * FROM otel_metrics_exponential_histogram;"""


def _own(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f'm_{name} AS "{name}"' for name in names)
