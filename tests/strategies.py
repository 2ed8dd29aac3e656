"""Hypothesis strategies for OTLP requests, made by walking the message descriptors, and a normal form.

A field that a later opentelemetry-proto adds is filled without a change here, and the round-trip tests
fail until the codec knows it.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import pyarrow as pa
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from otlp_arrow.codec import columns
from otlp_arrow.model import Signal

REQUESTS: dict[Signal, type[Message]] = {
    Signal.TRACES: ExportTraceServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
}

# -- requests ------------------------------------------------------------------------------------


def requests(signal: Signal, *, filled: bool = False) -> st.SearchStrategy[Any]:
    """Valid requests of ``signal``: no record of them is refused.

    ``filled``: every field is set to something that is not its default, each list has a member, and
    metrics have one metric of every type. Otherwise anything may be absent, empty or zero.
    """
    return _message(REQUESTS[signal].DESCRIPTOR, filled, 0)


def any_values(*, filled: bool = False) -> st.SearchStrategy[Any]:
    """Attribute values and bodies, nested some levels deep."""
    return _message(AnyValue.DESCRIPTOR, filled, 0)


_TRACE_ID = st.binary(min_size=16, max_size=16).filter(any)
_SPAN_ID = st.binary(min_size=8, max_size=8).filter(any)
_ID = {"trace_id": _TRACE_ID, "span_id": _SPAN_ID, "parent_span_id": _SPAN_ID}
_ZERO_ID = {"trace_id": bytes(16), "span_id": bytes(8), "parent_span_id": bytes(8)}
_REQUIRED = {"opentelemetry.proto.trace.v1.Span.trace_id", "opentelemetry.proto.trace.v1.Span.span_id"}

_TEXT = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["service.name", "$", "$$a", "$bytes", "$double", "\x00\x1f\x7f\u2028", '"\\/', "żółw 🐢"]),
)
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}
_MAX_VALUE_DEPTH = 3


@functools.cache
def _scalar(field: FieldDescriptor, filled: bool) -> st.SearchStrategy[Any]:
    if field.name in _ID:
        if filled or field.full_name in _REQUIRED:
            return _ID[field.name]
        return st.one_of(_ID[field.name], st.just(b""), st.just(_ZERO_ID[field.name]))
    if field.name.endswith("time_unix_nano"):
        return st.integers(int(filled), 2**63 - 1)
    if field.cpp_type in _INTEGERS:
        lowest, highest = _INTEGERS[field.cpp_type]
        numbers = st.integers(lowest, highest) | st.integers(max(lowest, -8), 8) | st.sampled_from([lowest, highest])
        return numbers.filter(bool) if filled else numbers
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return st.floats().filter(bool) if filled else st.floats()
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.just(True) if filled else st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(min_size=int(filled), max_size=8)
    return _TEXT.filter(bool) if filled else _TEXT


def _repeated(field: FieldDescriptor) -> bool:
    return bool(field.default_value == [])


@st.composite
def _message(draw: st.DrawFn, descriptor: Descriptor, filled: bool, depth: int) -> Message:
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.containing_oneof and len(field.containing_oneof.fields) > 1:
            continue
        list_of_messages = _repeated(field) and field.message_type  # says itself how many, 0 included
        if filled or list_of_messages or field.full_name in _REQUIRED or draw(st.booleans()):
            _set(draw, message, field, filled, depth)
    for oneof in descriptor.oneofs:
        if len(oneof.fields) > 1:
            members = [
                field
                for field in oneof.fields
                if not field.name.endswith("strindex") or not filled
                if depth < _MAX_VALUE_DEPTH or field.name not in ("array_value", "kvlist_value")
            ]
            member = draw(st.sampled_from(members if filled else [None, *members]))
            if member is not None:
                _set(draw, message, member, filled, depth)
    return message


def _set(draw: st.DrawFn, message: Message, field: FieldDescriptor, filled: bool, depth: int) -> None:
    if field.message_type is None:
        value = _scalar(field, filled)
        if _repeated(field):
            getattr(message, field.name).extend(draw(st.lists(value, min_size=int(filled), max_size=3)))
        else:
            setattr(message, field.name, draw(value))
    elif field.message_type is Metric.DESCRIPTOR and filled:
        _add_metric_of_each_type(draw, getattr(message, field.name))
    else:
        inner = depth + (message.DESCRIPTOR is AnyValue.DESCRIPTOR)
        child = _message(field.message_type, filled, inner)
        if _repeated(field):
            # One member, now and then two: nested lists grow by multiplication.
            count = draw(st.sampled_from([1, 1, 1, 2] if filled else [1, 1, 1, 2, 0]))
            for _ in range(count):
                getattr(message, field.name).add().CopyFrom(draw(child))
        else:
            getattr(message, field.name).SetInParent()
            getattr(message, field.name).CopyFrom(draw(child))


def _add_metric_of_each_type(draw: st.DrawFn, metrics: Any) -> None:
    for member in Metric.DESCRIPTOR.oneofs_by_name["data"].fields:
        metric = metrics.add()
        for field in Metric.DESCRIPTOR.fields:
            if field is member or field.containing_oneof is None:
                _set(draw, metric, field, filled=True, depth=0)


# -- normal form ---------------------------------------------------------------------------------


def normal(request: Any) -> dict[str, list[Any]]:
    """What two requests must have in common to mean the same.

    Records by resource, scope and (metrics) metric, in order: grouping apart. Envelopes without
    records are dropped, an all-zero id is an absent one, an empty message outside a oneof is an absent
    one, references into the string table of profiles are ignored, NaN equals NaN, 0.0 differs from -0.0.
    """
    groups: dict[str, list[Any]] = {}
    (resource_field,) = request.DESCRIPTOR.fields
    for resource_group in getattr(request, resource_field.name):
        scope_field = resource_group.DESCRIPTOR.fields_by_number[2]
        for scope_group in getattr(resource_group, scope_field.name):
            record_field = scope_group.DESCRIPTOR.fields_by_number[2]
            origin = (
                *(plain(resource_group.resource), resource_group.schema_url),
                *(plain(scope_group.scope), scope_group.schema_url),
            )
            for record in getattr(scope_group, record_field.name):
                if isinstance(record, Metric):
                    header, records = _metric(record)
                else:
                    header, records = {}, [plain(record)]
                if records:
                    groups.setdefault(repr((*origin, header)), []).extend(records)
    return groups


def _metric(metric: Metric) -> tuple[Any, list[Any]]:
    metric_type = metric.WhichOneof("data")
    if metric_type is None:
        return {}, []
    header = plain(metric)
    return header, header[metric_type].pop("data_points", [])


def plain(message: Message) -> dict[str, Any]:
    """A message as a dictionary that compares by meaning (see ``normal``)."""
    found = {}
    for field, value in message.ListFields():
        if field.name in ("key_strindex", "string_value_strindex"):
            continue
        if _repeated(field):
            found[field.name] = [_plain_value(field, member) for member in value]
        elif field.message_type:
            child = plain(value)
            if child or field.containing_oneof:
                found[field.name] = child
        elif field.name not in _ID or any(value):
            found[field.name] = _plain_value(field, value)
    return found


def _plain_value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type:
        return plain(value)
    return comparable(value)


def rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch, so that they compare by meaning: dictionaries resolved, NaN equal to NaN."""
    values = {name: comparable(columns.read(batch.column(name))) for name in batch.schema.names}
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def comparable(value: Any) -> Any:
    """The same value with each double as its text."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else repr(value)
    if isinstance(value, list | tuple):
        return type(value)(map(comparable, value))
    return value
