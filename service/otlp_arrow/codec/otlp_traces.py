"""Traces: ``ExportTraceServiceRequest`` to rows, one a span, and back."""

from __future__ import annotations

from collections.abc import Iterator

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from otlp_arrow.codec.checks import optional_id, required_id, time
from otlp_arrow.codec.origin import Regrouping, Row, Shared, origin
from otlp_arrow.codec.rejection import SPAN_ID_BYTES, TRACE_ID_BYTES, Check
from otlp_arrow.codec.values import from_attributes, to_attributes

Request = ExportTraceServiceRequest


def records(request: ExportTraceServiceRequest) -> Iterator[tuple[Shared, Span]]:
    """The spans of a request in order, each with the columns that its scope shares."""
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            shared = origin(resource_spans, scope_spans)
            for span in scope_spans.spans:
                yield shared, span


def to_row(span: Span) -> Row:
    """A span's own columns. Raises ``Refused``; the order of checks is that of ``rejection``."""
    return {
        "trace_id": required_id(
            span.trace_id, TRACE_ID_BYTES, length=Check.SPAN_TRACE_ID_LENGTH, zero=Check.SPAN_TRACE_ID_ZERO
        ),
        "span_id": required_id(span.span_id, SPAN_ID_BYTES, length=Check.SPAN_ID_LENGTH, zero=Check.SPAN_ID_ZERO),
        "parent_span_id": optional_id(span.parent_span_id, SPAN_ID_BYTES, Check.PARENT_SPAN_ID_LENGTH),
        "name": span.name,
        "kind": span.kind,
        "start_time_unix_nano": time(span.start_time_unix_nano, Check.START_TIME),
        "end_time_unix_nano": time(span.end_time_unix_nano, Check.END_TIME),
        "status_code": span.status.code,
        "status_message": span.status.message or None,
        "attributes": to_attributes(span.attributes),
        "dropped_attributes_count": span.dropped_attributes_count,
        "trace_state": span.trace_state or None,
        "flags": span.flags,
        "events": [
            (
                time(event.time_unix_nano, Check.EVENT_TIME, member),
                event.name,
                to_attributes(event.attributes),
                event.dropped_attributes_count,
            )
            for member, event in enumerate(span.events)
        ],
        "dropped_events_count": span.dropped_events_count,
        "links": [
            (
                optional_id(link.trace_id, TRACE_ID_BYTES, Check.LINK_TRACE_ID_LENGTH, member),
                optional_id(link.span_id, SPAN_ID_BYTES, Check.LINK_SPAN_ID_LENGTH, member),
                link.trace_state or None,
                link.flags,
                to_attributes(link.attributes),
                link.dropped_attributes_count,
            )
            for member, link in enumerate(span.links)
        ],
        "dropped_links_count": span.dropped_links_count,
    }


class Encoder:
    """Puts rows back as spans of ``request``."""

    def __init__(self) -> None:
        self.request = Request()
        self._groups = Regrouping(self.request)

    def add(self, row: Row) -> None:
        """One span more. Raises ``ValueError`` or ``TypeError`` for a value that no span has."""
        self._groups.scope_group(row).spans.append(_span(row))


def _span(row: Row) -> Span:
    # A None given to a message's constructor leaves the field unset.
    return Span(
        trace_id=row["trace_id"],
        span_id=row["span_id"],
        parent_span_id=row["parent_span_id"],
        name=row["name"],
        kind=row["kind"],
        start_time_unix_nano=row["start_time_unix_nano"],
        end_time_unix_nano=row["end_time_unix_nano"],
        status=Status(code=row["status_code"], message=row["status_message"]),
        attributes=from_attributes(row["attributes"]),
        dropped_attributes_count=row["dropped_attributes_count"],
        trace_state=row["trace_state"],
        flags=row["flags"],
        events=[
            Span.Event(
                time_unix_nano=time_unix_nano,
                name=name,
                attributes=from_attributes(attributes),
                dropped_attributes_count=dropped,
            )
            for time_unix_nano, name, attributes, dropped in row["events"]
        ],
        dropped_events_count=row["dropped_events_count"],
        links=[
            Span.Link(
                trace_id=trace_id,
                span_id=span_id,
                trace_state=trace_state,
                flags=flags,
                attributes=from_attributes(attributes),
                dropped_attributes_count=dropped,
            )
            for trace_id, span_id, trace_state, flags, attributes, dropped in row["links"]
        ],
        dropped_links_count=row["dropped_links_count"],
    )
