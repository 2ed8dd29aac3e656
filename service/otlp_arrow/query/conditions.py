"""What a question asks of a row: each condition passes over units by their summaries, and marks rows that fulfil it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otlp_arrow.codec.schema import SLICE, STR
from otlp_arrow.model import Signal
from otlp_arrow.query.ask import KINDS, STATUSES, LogQuery, MetricQuery, Query, SpanQuery
from otlp_arrow.query.attributes import AttributeFilter
from otlp_arrow.query.index import UnitSummary, id_halves, trace_hash
from otlp_arrow.query.nested import EVENT_LEVELS, attribute_columns, entries_of
from otlp_arrow.query.segments import FileUnit, Unit, as_int64, times_of, to_numpy
from otlp_arrow.query.values import matching

ERROR = STATUSES["ERROR"]
RECORD_LEVELS = {Signal.TRACES: "span", Signal.LOGS: "log", Signal.METRICS: "metric"}


class Condition(Protocol):
    """One condition."""

    def may_match(self, unit: Unit, summary: UnitSummary | None) -> bool:
        """False if no row of the unit can fulfil it."""

    def mask(self, unit: Unit) -> np.ndarray | None:
        """The rows that fulfil it, as booleans; None for all of them."""


@dataclass(frozen=True, slots=True)
class InTime:
    """The row's time is within bounds, ``start`` included, ``end`` not; a row without a time is in no range."""

    start: int | None
    end: int | None

    def may_match(self, unit: Unit, summary: UnitSummary | None) -> bool:
        low, high = unit.time_min, unit.time_max
        if low is None or high is None:
            return False
        return (self.end is None or low < self.end) and (self.start is None or high >= self.start)

    def mask(self, unit: Unit) -> np.ndarray | None:
        times = times_of(unit.signal, unit)
        values = to_numpy(times, -1)
        found = values >= (0 if self.start is None else self.start)
        if self.end is not None:
            found &= values < self.end
        return found


@dataclass(frozen=True, slots=True)
class OfTrace:
    """The row belongs to a trace."""

    trace_id: bytes

    def may_match(self, unit: Unit, summary: UnitSummary | None) -> bool:
        return summary is None or summary.may_have_trace(trace_hash(self.trace_id))

    def mask(self, unit: Unit) -> np.ndarray | None:
        return _ids_equal(unit.column("trace_id"), self.trace_id)


@dataclass(frozen=True, slots=True)
class SpanIds:
    """The row's span id is one of some."""

    span_ids: tuple[bytes, ...]

    def may_match(self, unit: Unit, summary: UnitSummary | None) -> bool:
        return bool(self.span_ids)

    def mask(self, unit: Unit) -> np.ndarray | None:
        column = unit.column("span_id")
        found = np.zeros(len(column), bool)
        for span_id in self.span_ids:
            found |= _ids_equal(column, span_id)
        return found


@dataclass(frozen=True, slots=True)
class Word:
    """A dictionary column holds a word."""

    column: str
    value: str

    def may_match(self, unit: Unit, summary: UnitSummary | None) -> bool:
        return summary is None or summary.may_have_word(self.column, self.value)

    def mask(self, unit: Unit) -> np.ndarray | None:
        column = unit.column(self.column)
        (codes,) = np.nonzero(pc.equal(column.dictionary, self.value).to_numpy(zero_copy_only=False))
        if not len(codes):
            return np.zeros(len(column), bool)
        indices = to_numpy(column.indices, -1)
        return np.asarray(indices == codes[0]) if len(codes) == 1 else np.isin(indices, codes)


@dataclass(frozen=True, slots=True)
class Number:
    """An integer column lies between two numbers, both included."""

    column: str
    least: int
    greatest: int

    def may_match(self, unit: Unit, summary: UnitSummary | None) -> bool:
        if summary is None or self.column not in summary.numbers:
            return True
        low, high = summary.numbers[self.column]
        return low <= self.greatest and high >= self.least

    def mask(self, unit: Unit) -> np.ndarray | None:
        values = to_numpy(unit.column(self.column))
        return np.asarray((values >= self.least) & (values <= self.greatest))


@dataclass(frozen=True, slots=True)
class Lasting:
    """A span's duration is within bounds, both included; a span without both times has none."""

    least: int | None
    greatest: int | None

    def may_match(self, unit: Unit, summary: UnitSummary | None) -> bool:
        if summary is None:
            return True
        return summary.duration_max is not None and (self.least is None or summary.duration_max >= self.least)

    def mask(self, unit: Unit) -> np.ndarray | None:
        durations = durations_of(unit)
        found = durations.is_valid().to_numpy(zero_copy_only=False)
        values = to_numpy(durations)
        if self.least is not None:
            found = found & (values >= self.least)
        if self.greatest is not None:
            found = found & (values <= self.greatest)
        return np.asarray(found)


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute at one of some levels fulfils a filter."""

    filter: AttributeFilter
    levels: tuple[str, ...]

    def may_match(self, unit: Unit, summary: UnitSummary | None) -> bool:
        return summary is None or any(self.filter.key in summary.keys.get(level, {}) for level in self.levels)

    def mask(self, unit: Unit) -> np.ndarray | None:
        found = np.zeros(unit.rows, bool)
        for level in self.levels:
            name = attribute_columns(unit.signal)[level]
            origins = unit.cached_origins() if isinstance(unit, FileUnit) and level in ("resource", "scope") else None
            if origins is not None:
                hits = self._rows(origins.dictionary.field(name), level)
                if hits.any():
                    found |= hits[origins.indices.to_numpy(zero_copy_only=False)]
            else:
                found |= self._rows(unit.column(name), level)
        return found

    def _rows(self, column: pa.Array, level: str) -> np.ndarray:
        found = np.zeros(len(column), bool)
        if level in EVENT_LEVELS and not len(column.values):
            return found
        entries = entries_of(column, level)
        positions = entries.positions(self.filter.key)
        if not len(positions):
            return found
        positions = positions[matching(entries.values, positions, self.filter)]
        rows = entries.rows_of(positions)
        found[rows[rows >= 0]] = True
        return found


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of several conditions."""

    conditions: tuple[Condition, ...]

    def may_match(self, unit: Unit, summary: UnitSummary | None) -> bool:
        return any(each.may_match(unit, summary) for each in self.conditions)

    def mask(self, unit: Unit) -> np.ndarray | None:
        found = np.zeros(unit.rows, bool)
        for each in self.conditions:
            mask = each.mask(unit)
            if mask is None:
                return None
            found |= mask
        return found


@dataclass(frozen=True, slots=True)
class BodyContains:
    """The text of a log's body, or the JSON text of a structured one, holds a text."""

    text: str

    def may_match(self, unit: Unit, summary: UnitSummary | None) -> bool:
        return True

    def mask(self, unit: Unit) -> np.ndarray | None:
        body = unit.column("body")
        types = to_numpy(body.field("type"))
        found = pc.match_substring(body.field("str"), self.text).fill_null(False).to_numpy(zero_copy_only=False)
        return np.asarray(found.astype(bool) & (types >= STR) & (types <= SLICE))


def durations_of(unit: Unit) -> pa.Array:
    """The duration of each span (int64 ns), null where a time is missing."""
    return pc.subtract(as_int64(unit.column("end_time_unix_nano")), as_int64(unit.column("start_time_unix_nano")))


def conditions_of(query: Query) -> list[Condition]:
    """What a checked question asks, the cheapest first."""
    found: list[Condition] = []
    if query.start_time_min is not None or query.start_time_max is not None:
        found.append(InTime(_ns(query.start_time_min), _ns(query.start_time_max)))
    match query:
        case SpanQuery():
            found += _of_spans(query)
        case LogQuery():
            found += _of_logs(query)
        case MetricQuery():
            found += _words(metric_name=query.name, metric_type=query.metric_type)
    found += _words(service_name=query.service_name)
    found += [attribute(query.signal, each) for each in query.attribute_filters]
    if isinstance(query, SpanQuery) and query.error_type is not None:
        found += error_type(query.error_type)
    return found


def attribute(signal: Signal, wanted: AttributeFilter) -> Condition:
    """The condition of an attribute filter."""
    known = attribute_columns(signal)
    level = wanted.level
    if level is None:
        return Attribute(wanted, ("record", "resource", "scope"))
    if level == RECORD_LEVELS[signal]:
        level = "record"
    return Attribute(wanted, (level,)) if level in known else AnyOf(())


def error_type(name: str) -> list[Condition]:
    """A failed span with this ``error.type``, or with an exception of this type among its events."""
    return [
        Number("status_code", ERROR, ERROR),
        AnyOf(
            (
                Attribute(AttributeFilter("error.type", name), ("record",)),
                Attribute(AttributeFilter("exception.type", name), ("record", "event")),
            )
        ),
    ]


def _of_spans(query: SpanQuery) -> list[Condition]:
    found: list[Condition] = []
    if query.trace_id is not None:
        found.append(OfTrace(bytes.fromhex(query.trace_id)))
    if query.span_ids is not None:
        found.append(SpanIds(tuple(bytes.fromhex(each) for each in query.span_ids)))
    if query.status is not None:
        found.append(Number("status_code", STATUSES[query.status], STATUSES[query.status]))
    if query.kind is not None:
        found.append(Number("kind", KINDS[query.kind], KINDS[query.kind]))
    found += _words(name=query.operation_name)
    if query.duration_min is not None or query.duration_max is not None:
        found.append(Lasting(_ns(query.duration_min), _ns(query.duration_max)))
    return found


def _of_logs(query: LogQuery) -> list[Condition]:
    found: list[Condition] = []
    if query.trace_id is not None:
        found.append(OfTrace(bytes.fromhex(query.trace_id)))
    if query.span_id is not None:
        found.append(SpanIds((bytes.fromhex(query.span_id),)))
    if query.severity_min is not None:
        found.append(Number("severity_number", query.severity_min, 2**31 - 1))
    found += _words(severity_text=query.severity_text, event_name=query.event_name)
    if query.body is not None:
        found.append(BodyContains(query.body))
    return found


def _words(**columns: str | None) -> list[Condition]:
    return [Word(column, value) for column, value in columns.items() if value is not None]


def _ns(value: object) -> int | None:
    assert value is None or isinstance(value, int)
    return value


def _ids_equal(column: pa.Array, wanted: bytes) -> np.ndarray:
    words = len(wanted) // 8
    halves = id_halves(column, words)
    found = halves[:, 0] == np.frombuffer(wanted, np.uint64)[0]
    for n in range(1, words):
        found &= halves[:, n] == np.frombuffer(wanted, np.uint64)[n]
    if column.null_count:
        found &= column.is_valid().to_numpy(zero_copy_only=False)
    return np.asarray(found)


def rows_matching(unit: Unit, conditions: Sequence[Condition]) -> np.ndarray:
    """The numbers of the rows that fulfil all conditions."""
    found: np.ndarray | None = None
    for each in conditions:
        mask = each.mask(unit)
        if mask is not None:
            found = mask if found is None else found & mask
            if not found.any():
                return np.empty(0, np.int64)
    return np.arange(unit.rows) if found is None else np.flatnonzero(found)
