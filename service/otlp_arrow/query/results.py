"""Answers: rows as objects that a program likes to hold, made when they are looked at, with the columns behind them."""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any, ClassVar, Generic, TypeVar, cast, overload

import pyarrow as pa

from otlp_arrow.codec.columns import read
from otlp_arrow.query.ask import KINDS, STATUSES
from otlp_arrow.query.python_rows import attributes, hex_ids, members, numbers, texts, values_of, words

_STATUS_NAMES = {number: name for name, number in STATUSES.items()}
_KIND_NAMES = {number: name for name, number in KINDS.items()}


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened within a span."""

    name: str
    timestamp: int
    attributes: dict[str, Any] = field(default_factory=dict)
    dropped_attributes_count: int = 0


@dataclass(frozen=True, slots=True)
class SpanLink:
    """Another span that a span points to."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any] = field(default_factory=dict)
    trace_state: str = ""
    flags: int = 0
    dropped_attributes_count: int = 0


@dataclass(frozen=True, slots=True)
class _Record:
    service_name: str | None
    resource_attributes: dict[str, Any]
    scope_name: str
    scope_version: str
    scope_attributes: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it: bytes as base64, numbers that JSON has not as text."""
        found: dict[str, Any] = jsonable(asdict(self))
        return found


@dataclass(frozen=True, slots=True)
class StoredSpan(_Record):
    """A span. Times in nanoseconds since 1970, 0 where OTLP has none; ids in hex."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    kind: str
    status: str
    status_description: str | None
    start_time: int
    end_time: int
    duration_ns: int
    attributes: dict[str, Any]
    events: list[SpanEvent]
    links: list[SpanLink]
    trace_state: str
    flags: int
    dropped_attributes_count: int
    dropped_events_count: int
    dropped_links_count: int

    @property
    def is_error(self) -> bool:
        """Whether its status is ERROR."""
        return self.status == "ERROR"


@dataclass(frozen=True, slots=True)
class StoredLog(_Record):
    """A log record. ``timestamp`` is its time, or when it was observed if it has none."""

    timestamp: int
    time: int
    observed_time: int
    severity_number: int
    severity_text: str
    body: Any
    attributes: dict[str, Any]
    event_name: str
    trace_id: str | None
    span_id: str | None
    flags: int
    dropped_attributes_count: int


@dataclass(frozen=True, slots=True)
class StoredPoint(_Record):
    """A data point of a metric. What its type does not have is None."""

    name: str
    metric_type: str
    description: str
    unit: str
    start_time: int
    timestamp: int
    value: int | float | None
    attributes: dict[str, Any]
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
    quantiles: list[tuple[float, float]] | None
    exemplars: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """A trace at a glance. The root is its first span without a parent, else the first whose parent is not stored."""

    trace_id: str
    root_service: str | None
    root_name: str
    start_time: int
    end_time: int
    duration_ns: int
    spans: int
    errors: int
    services: list[str]
    complete: bool
    """Every parent is there."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


Record = TypeVar("Record")


class Rows(Sequence[Record], Generic[Record]):
    """A page of an answer: a sequence of objects over Arrow columns in the storage schema."""

    record: ClassVar[type]

    def __init__(self, batch: pa.RecordBatch, next_cursor: str | None = None) -> None:
        self._batch = batch
        self._objects: list[Record] | None = None
        self.next_cursor = next_cursor

    @classmethod
    def columns(cls) -> list[str]:
        """The fields of a record, in order."""
        return [each.name for each in fields(cast(Any, cls.record))]

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Rows | list):
            return self._all() == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} rows, next_cursor={self.next_cursor!r})"

    def to_arrow(self) -> pa.Table:
        """The rows in the storage schema."""
        return pa.Table.from_batches([self._batch])

    def to_batch(self) -> pa.RecordBatch:
        """The rows as one batch."""
        return self._batch

    def to_pandas(self) -> Any:
        """One row per record, its fields as columns."""
        import pandas  # type: ignore[import-untyped]  # only if somebody asks for it

        return pandas.DataFrame([asdict(each) for each in self._all()])  # type: ignore[call-overload]

    def to_dicts(self) -> list[dict[str, Any]]:
        """As JSON takes them."""
        return [each.to_dict() for each in self._all()]  # type: ignore[attr-defined]

    def _all(self) -> list[Record]:
        if self._objects is None:
            self._objects = self._make(self._batch)
        return self._objects

    def _make(self, batch: pa.RecordBatch) -> list[Record]:
        raise NotImplementedError


class Spans(Rows[StoredSpan]):
    """Spans."""

    record = StoredSpan

    def _make(self, batch: pa.RecordBatch) -> list[StoredSpan]:
        return spans_of(batch)


class Logs(Rows[StoredLog]):
    """Log records."""

    record = StoredLog

    def _make(self, batch: pa.RecordBatch) -> list[StoredLog]:
        return logs_of(batch)


class Points(Rows[StoredPoint]):
    """Data points of metrics."""

    record = StoredPoint

    def _make(self, batch: pa.RecordBatch) -> list[StoredPoint]:
        return points_of(batch)


class Table:
    """An answer that is no list of records: named columns and rows of Python values; iterates over dicts."""

    def __init__(self, table: pa.Table, truncated: bool = False) -> None:
        self._table = table
        self.truncated = truncated

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.to_dicts())

    def __repr__(self) -> str:
        return f"Table({self.columns}, {len(self)} rows)"

    @property
    def columns(self) -> list[str]:
        """Names, in order; SQL may name two alike."""
        names: list[str] = self._table.column_names
        return names

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """Rows as tuples."""
        return list(zip(*(_plain_column(column) for column in self._table.columns), strict=True))

    def to_arrow(self) -> pa.Table:
        """As Arrow."""
        return self._table

    def to_pandas(self) -> Any:
        """As pandas."""
        return self._table.to_pandas()

    def to_dicts(self) -> list[dict[str, Any]]:
        """Rows by column name; where SQL named two alike, the later ones are ``name_1``, ``name_2``."""
        names = _different(self.columns)
        return [dict(zip(names, row, strict=True)) for row in self.rows]


def _different(names: list[str]) -> list[str]:
    if len(set(names)) == len(names):
        return names
    taken, found = set(names), []
    seen: set[str] = set()
    for name in names:
        fresh = name
        number = 1
        while fresh in seen or (fresh != name and fresh in taken):
            fresh, number = f"{name}_{number}", number + 1
        seen.add(fresh)
        found.append(fresh)
    return found


def _plain_column(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        # Python's datetime ends at microseconds; nothing is to be lost.
        return column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64()).to_pylist()  # type: ignore[no-any-return]
    try:
        return column.to_pylist(maps_as_pydicts="lossy")  # type: ignore[no-any-return]
    except (ValueError, OverflowError, TypeError):  # a date beyond Python's, a map whose keys are structs
        return [_plain(each) for each in column]


def _plain(scalar: pa.Scalar) -> Any:
    """A value that Python has no word for as text."""
    if not scalar.is_valid:
        return None
    match scalar:
        case pa.MapScalar():
            pairs = [(_plain(each["key"]), _plain(each["value"])) for each in scalar.values]
            return {_hashable(key): value for key, value in pairs}
        case pa.StructScalar():
            return {field.name: _plain(scalar[number]) for number, field in enumerate(scalar.type)}
        case pa.ListScalar() | pa.LargeListScalar() | pa.FixedSizeListScalar():
            return [_plain(each) for each in scalar.values]
        case pa.UnionScalar() | pa.ExtensionScalar():
            return _plain(scalar.value)
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return _far_time(scalar)


def _hashable(key: Any) -> Any:
    return json.dumps(jsonable(key), ensure_ascii=False) if isinstance(key, dict | list) else key


_DAY_UNITS = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_INFINITE = {2**31 - 1: "infinity", 1 - 2**31: "-infinity", 2**63 - 1: "infinity", 1 - 2**63: "-infinity"}
"""As DuckDB stores them in dates and timestamps."""


def _far_time(scalar: pa.Scalar) -> str:
    """A date or timestamp of a year that ``datetime`` has not, in ISO 8601."""
    number = scalar.value
    if number in _INFINITE:
        return _INFINITE[number]
    if not pa.types.is_timestamp(scalar.type):
        return _far_date(number)
    units = _DAY_UNITS[scalar.type.unit]
    days, rest = divmod(number, units)
    clock = datetime.datetime.min + datetime.timedelta(seconds=rest * 86_400 // units)
    return f"{_far_date(days)}T{clock:%H:%M:%S}{'' if scalar.type.tz is None else 'Z'}"


_CYCLE_DAYS = 146_097
"""The Gregorian calendar repeats itself after 400 years."""


def _far_date(days: int) -> str:
    cycles, rest = divmod(days, _CYCLE_DAYS)
    date = datetime.date(1970, 1, 1) + datetime.timedelta(days=rest)
    return f"{date.year + 400 * cycles:+05}-{date:%m-%d}"


# -- from columns --------------------------------------------------------------------------------------
def spans_of(batch: pa.RecordBatch) -> list[StoredSpan]:
    """The rows of a traces batch as objects."""
    column = batch.column
    starts, ends = numbers(column("start_time_unix_nano")), numbers(column("end_time_unix_nano"))
    return _records(
        StoredSpan,
        _origin(batch),
        trace_id=hex_ids(column("trace_id")),
        span_id=hex_ids(column("span_id")),
        parent_span_id=hex_ids(column("parent_span_id")),
        name=words(column("name")),
        kind=[_KIND_NAMES.get(kind, str(kind)) for kind in numbers(column("kind"))],
        status=[_STATUS_NAMES.get(status, str(status)) for status in numbers(column("status_code"))],
        status_description=texts(column("status_message")),
        start_time=_or_zero(starts),
        end_time=_or_zero(ends),
        duration_ns=[_duration(start, end) for start, end in zip(starts, ends, strict=True)],
        attributes=attributes(column("attributes")),
        events=_lists(column("events"), _events),
        links=_lists(column("links"), _links),
        trace_state=_or_empty(texts(column("trace_state"))),
        flags=numbers(column("flags")),
        dropped_attributes_count=numbers(column("dropped_attributes_count")),
        dropped_events_count=numbers(column("dropped_events_count")),
        dropped_links_count=numbers(column("dropped_links_count")),
    )


def logs_of(batch: pa.RecordBatch) -> list[StoredLog]:
    """The rows of a logs batch as objects."""
    column = batch.column
    times = _or_zero(numbers(column("time_unix_nano")))
    observed = _or_zero(numbers(column("observed_time_unix_nano")))
    return _records(
        StoredLog,
        _origin(batch),
        timestamp=[time or seen for time, seen in zip(times, observed, strict=True)],
        time=times,
        observed_time=observed,
        severity_number=numbers(column("severity_number")),
        severity_text=words(column("severity_text")),
        body=values_of(column("body")),
        attributes=attributes(column("attributes")),
        event_name=words(column("event_name")),
        trace_id=hex_ids(column("trace_id")),
        span_id=hex_ids(column("span_id")),
        flags=numbers(column("flags")),
        dropped_attributes_count=numbers(column("dropped_attributes_count")),
    )


_POINT_FIELDS = (
    *("description", "unit", "flags", "aggregation_temporality", "is_monotonic", "count", "sum", "min", "max"),
    *("bucket_counts", "explicit_bounds", "scale", "zero_count", "zero_threshold", "positive_offset"),
    *("positive_bucket_counts", "negative_offset", "negative_bucket_counts", "quantiles"),
)


def points_of(batch: pa.RecordBatch) -> list[StoredPoint]:
    """The rows of a metrics batch as objects."""
    column = batch.column
    return _records(
        StoredPoint,
        _origin(batch),
        name=words(column("metric_name")),
        metric_type=words(column("metric_type")),
        start_time=_or_zero(numbers(column("start_time_unix_nano"))),
        timestamp=_or_zero(numbers(column("time_unix_nano"))),
        value=_either(column("int_value"), column("double_value")),
        attributes=attributes(column("attributes")),
        exemplars=_lists(column("exemplars"), _exemplars),
        **{name: read(column(name)) for name in _POINT_FIELDS},
    )


def _records(kind: Callable[..., Record], origin: dict[str, list[Any]], /, **columns: list[Any]) -> list[Record]:
    """Objects of lists by the names of their fields."""
    named = {**origin, **columns}
    rows = zip(*(named[each.name] for each in fields(cast(Any, kind))), strict=True)
    return [kind(*row) for row in rows]


def _origin(batch: pa.RecordBatch) -> dict[str, list[Any]]:
    return {
        "service_name": words(batch.column("service_name")),
        "resource_attributes": attributes(batch.column("resource_attributes")),
        "scope_name": words(batch.column("scope_name")),
        "scope_version": words(batch.column("scope_version")),
        "scope_attributes": attributes(batch.column("scope_attributes")),
    }


def _lists(column: pa.Array, make: Callable[[pa.StructArray], list[Any]]) -> list[list[Any]]:
    """Each row's list of objects; none for a null row."""
    starts, structs = members(column)
    made = make(structs) if len(structs) else []
    found = [made[a:b] for a, b in pairwise(starts)]
    if column.null_count:
        found = [each if valid else [] for each, valid in zip(found, column.is_valid().to_pylist(), strict=True)]
    return found


def _events(events: pa.StructArray) -> list[SpanEvent]:
    names, times = words(events.field("name")), _or_zero(numbers(events.field("time_unix_nano")))
    dropped = _or_zero(numbers(events.field("dropped_attributes_count")))
    return list(map(SpanEvent, cast(Any, names), times, attributes(events.field("attributes")), dropped))


def _links(links: pa.StructArray) -> list[SpanLink]:
    return list(
        map(
            SpanLink,
            _or_empty(hex_ids(links.field("trace_id"))),
            _or_empty(hex_ids(links.field("span_id"))),
            attributes(links.field("attributes")),
            _or_empty(texts(links.field("trace_state"))),
            _or_zero(numbers(links.field("flags"))),
            _or_zero(numbers(links.field("dropped_attributes_count"))),
        )
    )


def _exemplars(exemplars: pa.StructArray) -> list[dict[str, Any]]:
    columns = {
        "timestamp": _or_zero(numbers(exemplars.field("time_unix_nano"))),
        "value": _either(exemplars.field("int_value"), exemplars.field("double_value")),
        "trace_id": hex_ids(exemplars.field("trace_id")),
        "span_id": hex_ids(exemplars.field("span_id")),
        "attributes": attributes(exemplars.field("filtered_attributes")),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _either(integers: pa.Array, doubles: pa.Array) -> list[Any]:
    pairs = zip(numbers(integers), numbers(doubles), strict=True)
    return [double if integer is None else integer for integer, double in pairs]


def _or_zero(values: list[Any]) -> list[Any]:
    return [value or 0 for value in values]


def _or_empty(values: list[str | None]) -> list[str]:
    return [value or "" for value in values]


def jsonable(value: Any) -> Any:
    """The same without what JSON has no word for."""
    match value:
        case Mapping():
            return {str(key): jsonable(each) for key, each in value.items()}
        case list() | tuple():
            return [jsonable(each) for each in value]
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case None | str() | bool() | int() | float():
            return value
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case _:
            return str(value)


def _duration(start: int | None, end: int | None) -> int:
    return 0 if start is None or end is None else end - start
