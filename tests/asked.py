"""Telemetry to ask about, and answers worked out row by row in plain Python: what queries are checked against."""

from __future__ import annotations

import contextlib
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from otlp_arrow.query import AttributeFilter, SpanQuery, Untyped

START_NS = 1_790_000_000_000_000_000
SERVICES = ("cart", "checkout", "payment", None)
NAMES = ("GET /", "POST /orders", "SELECT", "żółw")
KEYS = ("k", "http.status", "user", "tags", "missing")
VALUES: tuple[Any, ...] = (
    *(200, "200", 200.0, 404, -1, 0, 2**53 + 1, 2**63 - 1, -(2**63), 0.5, float(2**53), math.inf, -math.inf),
    *("", "tim", "timeout", "Timeout", "żółw", True, False, "true", b"", b"\x00\xff", None),
    *([1, "a", [2.5]], [], ["200", 200], {"a": 1, "b": ["x"]}, {}),
)


def any_value(value: Any) -> AnyValue:
    """A Python value as OTLP has it."""
    match value:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
        case bytes():
            return AnyValue(bytes_value=value)
        case list():
            return AnyValue(array_value=ArrayValue(values=[any_value(each) for each in value]))
        case dict():
            pairs = [KeyValue(key=key, value=any_value(each)) for key, each in value.items()]
            return AnyValue(kvlist_value=KeyValueList(values=pairs))
    raise AssertionError(value)


@dataclass(frozen=True)
class Known:
    """A span that was sent. ``entries``: attributes by level, in order; ``number``: of its arrival."""

    number: int
    trace_id: str
    span_id: str
    parent: str | None
    name: str
    kind: int
    status: int
    start: int
    end: int
    service: str | None
    entries: dict[str, list[tuple[str, Any]]]
    fields: dict[str, Any] = field(default_factory=dict)


class Spans:
    """Random spans, and the requests that carry them."""

    def __init__(self, seed: int) -> None:
        self.known: list[Known] = []
        self._random = random.Random(seed)
        self._traces = [self._random.randbytes(16) for _ in range(25)]
        self._ids = [self._random.randbytes(8) for _ in range(40)]

    def request(self, spans: int) -> bytes:
        """An Export…ServiceRequest of so many new spans."""
        pick = self._random
        request = ExportTraceServiceRequest()
        while spans > 0:
            size = min(spans, pick.randrange(1, 12))
            spans -= size
            service = pick.choice(SERVICES)
            resource = [("service.name", service)] if service else []
            resource += self._attributes(1)
            scope = self._attributes(1)
            group = request.resource_spans.add()
            _add(group.resource.attributes, resource)
            inner = group.scope_spans.add()
            _add(inner.scope.attributes, scope)
            for _ in range(size):
                self._span(inner.spans.add(), service, resource, scope)
        return request.SerializeToString()

    def _span(self, span: Any, service: str | None, resource: list[Any], scope: list[Any]) -> None:
        pick = self._random
        start = 0 if pick.random() < 0.05 else START_NS + pick.randrange(200) * 1_000_000
        end = 0 if pick.random() < 0.05 else (start or START_NS) + pick.randrange(50) * 100_000
        own = [("n", len(self.known)), *self._attributes(3)]
        span.trace_id, span.span_id = pick.choice(self._traces), pick.choice(self._ids)
        span.parent_span_id = pick.choice([b"", pick.choice(self._ids)])
        span.name, span.kind = pick.choice(NAMES), pick.randrange(6)
        span.start_time_unix_nano, span.end_time_unix_nano = start, end
        span.status.code = pick.choice([0, 1, 2])
        _add(span.attributes, own)
        events: list[tuple[str, Any]] = []
        for _ in range(pick.choice([0, 0, 1, 2])):
            event = span.events.add(name="exception", time_unix_nano=start)
            attributes = [("exception.type", pick.choice(["TimeoutError", "ValueError"])), *self._attributes(1)]
            _add(event.attributes, attributes)
            events += attributes
        if pick.random() < 0.2:
            own.append(("error.type", "TimeoutError"))
            _add(span.attributes, own[-1:])
        self.known.append(
            Known(
                len(self.known),
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex() or None,
                span.name,
                span.kind,
                span.status.code,
                start,
                end,
                service,
                {"span": own, "resource": resource, "scope": scope, "event": events, "link": []},
            )
        )

    def _attributes(self, most: int) -> list[tuple[str, Any]]:
        pick = self._random
        return [(pick.choice(KEYS[:-1]), pick.choice(VALUES)) for _ in range(pick.randrange(most + 1))]


def _add(attributes: Any, pairs: list[tuple[str, Any]]) -> None:
    attributes.extend(KeyValue(key=key, value=any_value(value)) for key, value in pairs)


# -- the oracle ------------------------------------------------------------------------------------
STATUS = {"UNSET": 0, "OK": 1, "ERROR": 2}
KIND = {"UNSPECIFIED": 0, "INTERNAL": 1, "SERVER": 2, "CLIENT": 3, "PRODUCER": 4, "CONSUMER": 5}


def select(known: list[Known], query: SpanQuery) -> list[Known]:
    """What a question selects, in order, its limit aside. Times and durations in it are nanoseconds."""
    found = [span for span in known if _fits(span, query)]
    ranks: dict[str, Callable[[Known], int | None]] = {
        "start_time": lambda span: span.start or None,
        "end_time": lambda span: span.end or None,
        "duration_ns": _duration,
    }
    rank = ranks[query.order_by]
    sign = -1 if query.order_direction == "DESC" else 1

    def key(span: Known) -> tuple[Any, ...]:
        value = rank(span)
        return value is None, sign * (value or 0), span.trace_id, span.span_id, span.number

    return sorted(found, key=key)


def _duration(span: Known) -> int | None:
    return span.end - span.start if span.start and span.end else None


def _fits(span: Known, query: SpanQuery) -> bool:
    low, high = query.start_time_min, query.start_time_max
    shortest, longest = query.duration_min, query.duration_max
    lasted = _duration(span)
    return all(
        (
            query.trace_id is None or span.trace_id == query.trace_id,
            query.span_ids is None or span.span_id in query.span_ids,
            query.status is None or span.status == STATUS[query.status],
            query.kind is None or span.kind == KIND[query.kind],
            query.service_name is None or span.service == query.service_name,
            query.operation_name is None or span.name == query.operation_name,
            (low is None and high is None) or bool(span.start),
            low is None or span.start >= low,
            high is None or span.start < high,
            (shortest is None and longest is None) or lasted is not None,
            shortest is None or lasted is None or lasted >= shortest,
            longest is None or lasted is None or lasted <= longest,
            query.error_type is None or (span.status == 2 and _failed_with(span, query.error_type)),
            *(fulfils(span, each) for each in query.attribute_filters),
        )
    )


def _failed_with(span: Known, name: str) -> bool:
    own, events = span.entries["span"], span.entries["event"]
    return ("error.type", name) in own or ("exception.type", name) in own + events


def fulfils(span: Known, wanted: AttributeFilter) -> bool:
    """Whether one of a span's attributes fulfils a filter."""
    levels = ("span", "resource", "scope") if wanted.level is None else (wanted.level,)
    return any(
        key == wanted.key and holds(value, wanted.operator, wanted.value)
        for level in levels
        for key, value in span.entries[level]
    )


def holds(stored: Any, operator: str, wanted: Any) -> bool:
    """One stored value against one wanted."""
    candidates = list(_readings(wanted))
    match operator:
        case "EXISTS":
            return True
        case "NOT_EQUALS":
            return not any(same(stored, each) for each in candidates)
        case "EQUALS":
            return any(same(stored, each) for each in candidates)
        case "STARTS_WITH":
            return isinstance(stored, str) and any(isinstance(c, str) and stored.startswith(c) for c in candidates)
        case "CONTAINS":
            if isinstance(stored, list):
                return any(same(member, each) for member in stored for each in candidates)
            return any(type(c) is type(stored) and isinstance(c, str | bytes) and c in stored for c in candidates)
    for each in candidates:
        if comparable(stored, each):
            larger, smaller = operator.startswith("GREATER"), operator.startswith("LESS")
            if (larger and stored > each) or (smaller and stored < each):
                return True
            if operator.endswith("OR_EQUAL") and stored == each:
                return True
    return False


def _readings(wanted: Any) -> Iterator[Any]:
    """What an untyped value may mean."""
    if not isinstance(wanted, Untyped):
        yield wanted
        return
    yield wanted.text
    if wanted.text in ("true", "false"):
        yield wanted.text == "true"
    if wanted.text[:1] in "[{":
        with contextlib.suppress(ValueError):
            yield json.loads(wanted.text)
    for kind in (int, float):
        try:
            yield kind(wanted.text)
            return
        except ValueError:
            continue


def comparable(a: Any, b: Any) -> bool:
    """Whether one of two values can be larger."""
    if isinstance(a, bool) or isinstance(b, bool):
        return isinstance(a, bool) and isinstance(b, bool)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return True
    return type(a) is type(b) and isinstance(a, str | bytes)


def same(a: Any, b: Any) -> bool:
    """Equality with types: True is not 1, "200" is not 200, 200 is 200.0."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if a is None or b is None:
        return a is b
    return comparable(a, b) and bool(a == b)


# -- other signals ---------------------------------------------------------------------------------
def log_request(records: int, first: int, trace_id: bytes = b"") -> bytes:
    """Log records "message <number>", one a millisecond; every third has no time but was observed."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    _add(group.resource.attributes, [("service.name", "cart")])
    inner = group.scope_logs.add()
    for number in range(first, first + records):
        record = inner.log_records.add(severity_number=1 + number % 24, severity_text=f"S{number % 3}")
        at = START_NS + number * 1_000_000
        if number % 3:
            record.time_unix_nano = at
        record.observed_time_unix_nano = at
        record.body.string_value = f"message {number}"
        record.trace_id = trace_id if number % 2 else b""
        _add(record.attributes, [("number", number)])
    return request.SerializeToString()


def metric_request(points: int, first: int) -> bytes:
    """A gauge "temperature" whose points are worth their number, one a second, with the attribute room."""
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    _add(group.resource.attributes, [("service.name", "cart")])
    metric = group.scope_metrics.add().metrics.add(name="temperature", unit="Cel", description="how warm it is")
    for number in range(first, first + points):
        point = metric.gauge.data_points.add(time_unix_nano=START_NS + number * 1_000_000_000)
        if number % 2:
            point.as_int = number
        else:
            point.as_double = float(number)
        _add(point.attributes, [("room", "ab"[number % 2])])
    return request.SerializeToString()
