"""Received telemetry as plain objects: one class for each signal, a field for each column.

Ids are hexadecimal text, times nanoseconds since 1970, attributes dictionaries of Python values (bytes, lists and
dictionaries among them); what is null in the row is None.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from otlp_arrow.codec import columns
from otlp_arrow.codec.schema import ATTRIBUTES, EVENT, EXEMPLAR, LINK, QUANTILE, SPAN_ID, TRACE_ID, VALUE
from otlp_arrow.codec.values import from_value

Attributes = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who sent it: fields that all records have."""

    service_name: str | None
    resource_attributes: Attributes
    resource_dropped_attributes_count: int
    resource_schema_url: str
    resource_entity_refs: list[Any]
    scope_name: str
    scope_version: str
    scope_attributes: Attributes
    scope_dropped_attributes_count: int
    scope_schema_url: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event of a span."""

    time_unix_nano: int | None
    name: str
    attributes: Attributes
    dropped_attributes_count: int


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link of a span."""

    trace_id: str | None
    span_id: str | None
    trace_state: str | None
    flags: int
    attributes: Attributes
    dropped_attributes_count: int


@dataclass(frozen=True, kw_only=True)
class Span(Origin):
    """A span."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    kind: int
    start_time_unix_nano: int | None
    end_time_unix_nano: int | None
    status_code: int
    status_message: str | None
    attributes: Attributes
    dropped_attributes_count: int
    trace_state: str | None
    flags: int
    events: list[Event]
    dropped_events_count: int
    links: list[Link]
    dropped_links_count: int


@dataclass(frozen=True, kw_only=True)
class Exemplar:
    """An exemplar of a data point."""

    time_unix_nano: int | None
    int_value: int | None
    double_value: float | None
    trace_id: str | None
    span_id: str | None
    filtered_attributes: Attributes


@dataclass(frozen=True, kw_only=True)
class Quantile:
    """A quantile of a summary."""

    quantile: float
    value: float


@dataclass(frozen=True, kw_only=True)
class DataPoint(Origin):
    """A data point, with what its metric says of it."""

    metric_name: str
    metric_type: str
    description: str
    unit: str
    metadata: Attributes
    start_time_unix_nano: int | None
    time_unix_nano: int | None
    int_value: int | None
    double_value: float | None
    attributes: Attributes
    flags: int
    aggregation_temporality: int | None
    is_monotonic: bool | None
    count: int | None
    sum: float | None
    min: float | None
    max: float | None
    bucket_counts: list[int] | None
    explicit_bounds: list[float] | None
    scale: int | None
    zero_count: int | None
    zero_threshold: float | None
    positive_offset: int | None
    positive_bucket_counts: list[int] | None
    negative_offset: int | None
    negative_bucket_counts: list[int] | None
    quantiles: list[Quantile] | None
    exemplars: list[Exemplar]

    @property
    def value(self) -> int | float | None:
        """Of a gauge or sum."""
        return self.int_value if self.int_value is not None else self.double_value


@dataclass(frozen=True, kw_only=True)
class LogRecord(Origin):
    """A log record."""

    time_unix_nano: int | None
    observed_time_unix_nano: int | None
    severity_number: int
    severity_text: str
    body: Any
    attributes: Attributes
    dropped_attributes_count: int
    event_name: str
    flags: int
    trace_id: str | None
    span_id: str | None


Record = TypeVar("Record", Span, DataPoint, LogRecord)

_STRUCTS = ((EVENT, Event), (LINK, Link), (EXEMPLAR, Exemplar), (QUANTILE, Quantile))


def records(kind: type[Record], batch: pa.RecordBatch) -> Iterator[Record]:
    """The rows of a batch as objects of ``kind``."""
    names = batch.schema.names
    values = [columns.read(batch.column(name)) for name in names]
    for row in zip(*values, strict=True):
        yield kind(
            **{name: _plain(field.type, value) for name, field, value in zip(names, batch.schema, row, strict=True)}
        )


def _plain(type_: pa.DataType, value: Any) -> Any:
    if value is None:
        return None
    if type_ == ATTRIBUTES:
        return {key: _python(from_value(member)) for key, member in value}
    if type_ == VALUE:
        return _python(from_value(value))
    if type_ in (TRACE_ID, SPAN_ID):
        return value.hex()
    if pa.types.is_list(type_):
        return [_plain(type_.value_type, member) for member in value]
    for struct, kind in _STRUCTS:
        if type_ == struct:
            return kind(**{f.name: _plain(f.type, v) for f, v in zip(struct, value, strict=True)})
    return value


def _python(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which is None:
        return None
    if which == "array_value":
        return [_python(member) for member in value.array_value.values]
    if which == "kvlist_value":
        return {member.key: _python(member.value) for member in value.kvlist_value.values}
    return getattr(value, which)
