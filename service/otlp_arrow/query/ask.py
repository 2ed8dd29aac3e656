"""The questions, as values: what a person fills in, what a URL carries, what the engine answers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Signal
from otlp_arrow.query.attributes import AttributeFilter
from otlp_arrow.query.errors import BadQuery, require_text
from otlp_arrow.query.times import Duration, Time, duration_to_nanoseconds, time_to_nanoseconds

STATUSES = {"UNSET": 0, "OK": 1, "ERROR": 2}
KINDS = {"UNSPECIFIED": 0, "INTERNAL": 1, "SERVER": 2, "CLIENT": 3, "PRODUCER": 4, "CONSUMER": 5}
METRIC_TYPES = ("gauge", "sum", "histogram", "exponential_histogram", "summary")
SPAN_ORDERS = ("start_time", "end_time", "duration_ns")
MAX_PAGE = 100_000
"""Rows of one page; a million spans as objects take more than a gigabyte. Who wants them all takes page by page."""

assert set(SCHEMAS) == set(Signal)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Query:
    """What all questions for rows have in common."""

    signal: ClassVar[Signal]
    limit_field: ClassVar[str]

    start_time_min: Time | None = None
    start_time_max: Time | None = None
    service_name: str | None = None
    attribute_filters: Sequence[AttributeFilter] = ()
    order_direction: str = "DESC"
    cursor: str | None = None

    def checked(self) -> Self:
        """The same with times in nanoseconds, ids and words in one spelling. Raises ``BadQuery``."""
        changes: dict[str, Any] = {}
        for name in ("start_time_min", "start_time_max"):
            if (value := getattr(self, name)) is not None:
                changes[name] = time_to_nanoseconds(value)
        if (trace_id := getattr(self, "trace_id", None)) is not None:
            changes["trace_id"] = hex_id("trace_id", trace_id, 32)
        direction = str(self.order_direction).upper()
        if direction not in ("ASC", "DESC"):
            raise BadQuery(f"order_direction is ASC or DESC, not {self.order_direction!r:.40}")
        changes["order_direction"] = direction
        filters = tuple(self.attribute_filters)
        if not all(isinstance(each, AttributeFilter) for each in filters):
            raise BadQuery("attribute_filters is a list of AttributeFilter")
        changes["attribute_filters"] = filters
        limit = getattr(self, self.limit_field)
        if type(limit) is not int or not 1 <= limit <= MAX_PAGE:
            raise BadQuery(f"{self.limit_field} is 1 to {MAX_PAGE}, not {limit!r:.40}")
        for name in ("service_name", "operation_name", "severity_text", "body", "event_name", "name", "cursor"):
            value = getattr(self, name, None)
            if value is not None and not isinstance(value, str):
                raise BadQuery(f"{name} is text, not {value!r:.40}")
            if value is not None:
                require_text(name, value)
        return dataclasses.replace(self, **changes)

    @property
    def limit(self) -> int:
        """Rows wanted."""
        found: int = getattr(self, self.limit_field)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanQuery(_Query):
    """Which spans; see docs/query.md. All conditions hold together."""

    signal: ClassVar[Signal] = Signal.TRACES
    limit_field: ClassVar[str] = "max_spans"

    trace_id: str | None = None
    span_ids: Sequence[str] | None = None
    status: str | None = None
    operation_name: str | None = None
    kind: str | None = None
    error_type: str | None = None
    duration_min: Duration | None = None
    duration_max: Duration | None = None
    max_spans: int = 100
    order_by: str = "start_time"

    def checked(self) -> SpanQuery:
        """As documented above."""
        base = _Query.checked(self)
        changes: dict[str, Any] = {}
        if self.span_ids is not None:
            if isinstance(self.span_ids, str):
                raise BadQuery("span_ids is a list of ids")
            changes["span_ids"] = tuple(hex_id("span_ids", each, 16) for each in self.span_ids)
        if self.status is not None:
            changes["status"] = word("status", self.status, STATUSES)
        if self.kind is not None:
            changes["kind"] = word("kind", self.kind, KINDS)
        for name in ("duration_min", "duration_max"):
            if (value := getattr(self, name)) is not None:
                changes[name] = duration_to_nanoseconds(value)
        if self.error_type is not None:
            if not isinstance(self.error_type, str):
                raise BadQuery("error_type is text")
            require_text("error_type", self.error_type)
        if self.order_by not in SPAN_ORDERS:
            raise BadQuery(f"order_by is one of {', '.join(SPAN_ORDERS)}, not {self.order_by!r:.40}")
        return dataclasses.replace(base, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery(_Query):
    """Which log records. Their time is ``time_unix_nano``, or when they were observed if they have none."""

    signal: ClassVar[Signal] = Signal.LOGS
    limit_field: ClassVar[str] = "max_logs"

    trace_id: str | None = None
    span_id: str | None = None
    severity_min: int | None = None
    severity_text: str | None = None
    body: str | None = None
    event_name: str | None = None
    max_logs: int = 100

    def checked(self) -> LogQuery:
        """As documented above."""
        base = _Query.checked(self)
        changes: dict[str, Any] = {}
        if self.span_id is not None:
            changes["span_id"] = hex_id("span_id", self.span_id, 16)
        if self.severity_min is not None and (
            type(self.severity_min) is not int or not -(2**31) <= self.severity_min < 2**31
        ):
            raise BadQuery("severity_min is a severity number, 1 to 24")
        return dataclasses.replace(base, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricQuery(_Query):
    """Which data points."""

    signal: ClassVar[Signal] = Signal.METRICS
    limit_field: ClassVar[str] = "max_points"

    name: str | None = None
    metric_type: str | None = None
    max_points: int = 1000

    def checked(self) -> MetricQuery:
        """As documented above."""
        base = _Query.checked(self)
        if self.metric_type is not None and self.metric_type not in METRIC_TYPES:
            raise BadQuery(f"metric_type is one of {', '.join(METRIC_TYPES)}, not {self.metric_type!r:.40}")
        return base


Query = SpanQuery | LogQuery | MetricQuery
QUERIES: dict[Signal, type[SpanQuery] | type[LogQuery] | type[MetricQuery]] = {
    Signal.TRACES: SpanQuery,
    Signal.LOGS: LogQuery,
    Signal.METRICS: MetricQuery,
}


def hex_id(name: str, value: object, digits: int) -> str:
    """An id in lower case. Raises ``BadQuery``."""
    if isinstance(value, bytes) and len(value) * 2 == digits:
        return value.hex()
    if isinstance(value, str) and len(value) == digits and value.isascii():
        try:
            return bytes.fromhex(value).hex() if " " not in value else _refuse(name, value, digits)
        except ValueError:
            pass
    return _refuse(name, value, digits)


def _refuse(name: str, value: object, digits: int) -> str:
    raise BadQuery(f"{name}: {value!r:.60} is no id of {digits} hex digits")


def word(name: str, value: object, allowed: Mapping[str, int]) -> str:
    """One of some words, in capitals. Raises ``BadQuery``."""
    found = str(value).upper().removeprefix("STATUS_CODE_").removeprefix("SPAN_KIND_")
    if found not in allowed:
        raise BadQuery(f"{name} is one of {', '.join(allowed)}, not {value!r:.40}")
    return found


# -- as the parameters of a URL ------------------------------------------------------------------------
_LISTS = ("span_ids", "attribute_filters")


def to_parameters(query: Query) -> list[tuple[str, str]]:
    """A question as the parameters of a URL; ``from_parameters`` reads it back."""
    asked = query.checked()
    found: list[tuple[str, str]] = []
    for each in dataclasses.fields(asked):
        value = getattr(asked, each.name)
        if each.name == "attribute_filters":
            found += [("attribute", member.to_json()) for member in value]
        elif each.name == "span_ids":
            found += [("span_id", member) for member in value or ()]
            if value is not None and not value:
                found.append(("span_id", ""))
        elif value is not None and (value != each.default or each.name == query.limit_field):
            found.append((_SHORT.get(each.name, each.name), str(value)))
    return found


_SHORT = {
    "start_time_min": "start",
    "start_time_max": "end",
    "service_name": "service",
    "operation_name": "operation",
    "max_spans": "limit",
    "max_logs": "limit",
    "max_points": "limit",
    "order_direction": "direction",
}
_LONG = {short: tuple(k for k, v in _SHORT.items() if v == short) for short in _SHORT.values()}
_DIGITS = re.compile(r"-?[0-9]{1,12}")  # int() takes "1_0", " 1" and digits of other scripts too
_INTEGERS = ("limit", "max_spans", "max_logs", "max_points", "severity_min")


def parameter_names(kind: type[Query]) -> list[str]:
    """The parameters that a question of this kind may have in a URL."""
    names = []
    for each in dataclasses.fields(kind):
        names.append(
            {"attribute_filters": "attribute", "span_ids": "span_id"}.get(each.name, _SHORT.get(each.name, each.name))
        )
    return names


def from_parameters(kind: type[Any], parameters: Sequence[tuple[str, str]]) -> Any:
    """The question that the parameters of a URL are. Raises ``BadQuery`` naming the parameter."""
    fields = {each.name for each in dataclasses.fields(kind)}
    arguments: dict[str, Any] = {}
    filters: list[AttributeFilter] = []
    span_ids: list[str] = []
    allowed = parameter_names(kind)
    for name, text in parameters:
        if name not in allowed:
            raise BadQuery(f"no parameter {name!r:.40}; there are {', '.join(allowed)}")
        if name == "attribute":
            filters.append(AttributeFilter.parse(text))
            continue
        if name == "span_id" and "span_ids" in fields:
            span_ids += [text] if text else []
            arguments["span_ids"] = span_ids
            continue
        (field,) = [each for each in _LONG.get(name, (name,)) if each in fields]
        if field in arguments:
            raise BadQuery(f"parameter {name!r} is given twice")
        arguments[field] = _integer(name, text) if name in _INTEGERS else text
    if filters:
        arguments["attribute_filters"] = tuple(filters)
    return kind(**arguments).checked()


def _integer(name: str, text: str) -> int:
    if _DIGITS.fullmatch(text):
        return int(text)
    raise BadQuery(f"{name}: {text!r:.40} is no integer")
