"""Answers that sum rows up: services, attribute keys, metric series, traces."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otlp_arrow.codec.columns import read
from otlp_arrow.model import Signal
from otlp_arrow.query.ask import MetricQuery, SpanQuery
from otlp_arrow.query.budget import Budget
from otlp_arrow.query.conditions import (
    ERROR,
    RECORD_LEVELS,
    Condition,
    InTime,
    Word,
    conditions_of,
    durations_of,
    rows_matching,
)
from otlp_arrow.query.errors import BadQuery
from otlp_arrow.query.index import UnitSummary, trace_hash, trace_hashes
from otlp_arrow.query.nested import EVENT_LEVELS, attribute_columns, entries_of
from otlp_arrow.query.python_rows import values_of
from otlp_arrow.query.results import TraceSummary, jsonable
from otlp_arrow.query.segments import Unit, times_of, to_numpy
from otlp_arrow.query.select import matching_units, select
from otlp_arrow.query.source import DirectorySource
from otlp_arrow.query.times import SECOND

STEPS_PER_OCTAVE = 64
"""Durations are counted in classes 1.1 % wide: percentiles are within 0.6 % and need no list of all durations."""

MAX_SERIES_POINTS = 5_000_000
"""Data points that one answer of series looks at: some 200 MB."""

EXAMPLES = 5
VALUE_TYPES = ("empty", "string", "int", "double", "bool", "map", "list", "bytes")


@dataclass(slots=True)
class _Operation:
    spans: int = 0
    errors: int = 0
    longest: int = 0
    durations: Counter[int] = field(default_factory=Counter)

    def include(self, other: _Operation) -> None:
        self.spans += other.spans
        self.errors += other.errors
        self.longest = max(self.longest, other.longest)
        self.durations.update(other.durations)

    def percentile(self, share: float) -> int | None:
        total = sum(self.durations.values())
        if not total:
            return None
        wanted = share * (total - 1)
        seen = 0
        for step in sorted(self.durations):
            seen += self.durations[step]
            if seen > wanted:
                return min(_duration_of(step), self.longest)
        raise AssertionError


def services(
    source: DirectorySource, start: int | None, end: int | None, service_name: str | None, budget: Budget
) -> pa.Table:
    """Per service and operation; the row without an operation is the service as a whole."""
    conditions: list[Condition] = [InTime(start, end)] if start is not None or end is not None else []
    if service_name is not None:
        conditions.append(Word("service_name", service_name))
    operations: dict[tuple[str | None, str], _Operation] = {}
    first, last = None, None
    for unit in matching_units(source, Signal.TRACES, conditions):
        budget.check()
        rows = rows_matching(unit, conditions)
        if not len(rows):
            continue
        _count_operations(unit, rows, operations)
        times = to_numpy(times_of(Signal.TRACES, unit), -1)[rows]
        times = times[times >= 0]
        if len(times):
            low, high = int(times.min()), int(times.max())
            first, last = (low, high) if first is None or last is None else (min(first, low), max(last, high))
    span_ns = (end if end is not None else last or 0) - (start if start is not None else first or 0)
    return _services_table(operations, max(span_ns, SECOND) / SECOND)


def _count_operations(unit: Unit, rows: np.ndarray, operations: dict[tuple[str | None, str], _Operation]) -> None:
    service, name = unit.column("service_name"), unit.column("name")
    services_, names = service.dictionary.to_pylist(), name.dictionary.to_pylist()
    # A service that is null is the last one.
    service_codes = to_numpy(service.indices, len(services_)).astype(np.int64)[rows]
    pairs = service_codes * len(names) + to_numpy(name.indices)[rows]
    durations = durations_of(unit)
    lasting = durations.is_valid().to_numpy(zero_copy_only=False)[rows]
    values = to_numpy(durations)[rows]
    errors = to_numpy(unit.column("status_code"))[rows] == ERROR
    steps = _steps(values)
    for pair in np.unique(pairs):
        at = pairs == pair
        service_code, name_code = divmod(int(pair), len(names))
        key = ([*services_, None][service_code], names[name_code])
        timed = at & lasting
        found = _Operation(
            int(at.sum()),
            int((at & errors).sum()),
            int(values[timed].max(initial=0)),
            Counter(dict(zip(*(each.tolist() for each in np.unique(steps[timed], return_counts=True)), strict=True))),
        )
        operations.setdefault(key, _Operation()).include(found)


def _steps(durations: np.ndarray) -> np.ndarray:
    positive = np.maximum(durations, 1)
    steps = np.floor(np.log2(positive) * STEPS_PER_OCTAVE).astype(np.int64) + 1
    return np.where(durations <= 0, 0, steps)


def _duration_of(step: int) -> int:
    return 0 if step == 0 else round(2 ** ((step - 0.5) / STEPS_PER_OCTAVE))


def _services_table(operations: dict[tuple[str | None, str], _Operation], seconds: float) -> pa.Table:
    whole: dict[str | None, _Operation] = {}
    for (service, _), each in operations.items():
        whole.setdefault(service, _Operation()).include(each)
    rows: list[tuple[str | None, str | None, _Operation]] = []
    for service in sorted(whole, key=lambda name: (name is None, name or "")):
        rows.append((service, None, whole[service]))
        rows += [(s, name, each) for (s, name), each in sorted(operations.items(), key=_by_spans) if s == service]
    return pa.table(
        {
            "service": pa.array([service for service, _, _ in rows], pa.utf8()),
            "operation": pa.array([operation for _, operation, _ in rows], pa.utf8()),
            "spans": pa.array([each.spans for *_, each in rows], pa.int64()),
            "errors": pa.array([each.errors for *_, each in rows], pa.int64()),
            "rate": pa.array([each.spans / seconds for *_, each in rows], pa.float64()),
            "error_rate": pa.array([each.errors / each.spans for *_, each in rows], pa.float64()),
            **{
                name: pa.array([each.percentile(share) for *_, each in rows], pa.int64())
                for name, share in (("p50_ns", 0.5), ("p95_ns", 0.95), ("p99_ns", 0.99))
            },
            "max_ns": pa.array([each.longest for *_, each in rows], pa.int64()),
        }
    )


def _by_spans(each: tuple[tuple[str | None, str], _Operation]) -> tuple[int, str]:
    return -each[1].spans, each[0][1]


# -- attribute keys ------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Key:
    count: int = 0
    examples: list[str] = field(default_factory=list)


def attributes(
    source: DirectorySource, signal: Signal, prefix: str, start: int | None, end: int | None, budget: Budget
) -> pa.Table:
    """Per key, level and type: how often it occurs, and a few of the newest values."""
    conditions: list[Condition] = [InTime(start, end)] if start is not None or end is not None else []
    found: dict[tuple[str, str, int], _Key] = {}
    for unit in reversed(matching_units(source, signal, conditions)):
        rows = rows_matching(unit, conditions) if conditions else None
        for level, name in attribute_columns(signal).items():
            budget.check()
            column = unit.column(name)
            if rows is not None:
                column = column.take(pa.array(rows))
            _count_keys(column, level, prefix, found)
    keys = sorted(found)
    return pa.table(
        {
            "key": pa.array([key for key, _, _ in keys], pa.utf8()),
            "level": pa.array([RECORD_LEVELS[signal] if lv == "record" else lv for _, lv, _ in keys], pa.utf8()),
            "type": pa.array([VALUE_TYPES[number] for *_, number in keys], pa.utf8()),
            "count": pa.array([found[key].count for key in keys], pa.int64()),
            "examples": pa.array([found[key].examples for key in keys], pa.list_(pa.utf8())),
        }
    )


def _count_keys(column: pa.Array, level: str, prefix: str, found: dict[tuple[str, str, int], _Key]) -> None:
    if level in EVENT_LEVELS and not len(column.values):
        return
    entries = entries_of(column, level)
    if not entries.count:
        return
    names = entries.names.to_pylist()
    inside = slice(int(_outer(entries.ends)[0]), int(_outer(entries.ends)[1]))
    codes, types = entries.codes[inside], entries.types[inside]
    pairs = codes.astype(np.int64) * 8 + types
    counts = np.bincount(pairs, minlength=8)
    for pair in np.flatnonzero(counts):
        code, number = divmod(int(pair), 8)
        if not names[code].startswith(prefix):
            continue
        key = found.setdefault((names[code], level, number), _Key())
        key.count += int(counts[pair])
        if len(key.examples) < EXAMPLES:
            newest = np.flatnonzero(pairs == pair)[-64:][::-1] + inside.start
            for value in values_of(entries.values.take(pa.array(newest))):
                text = value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)
                text = text[:200]
                if text not in key.examples and len(key.examples) < EXAMPLES:
                    key.examples.append(text)


def _outer(ends: tuple[np.ndarray, ...]) -> tuple[int, int]:
    """Which entries belong to the rows of a slice."""
    low, high = int(ends[0][0]), int(ends[0][-1])
    for offsets in ends[1:]:
        low, high = int(offsets[low]), int(offsets[high])
    return low, high


# -- metrics -------------------------------------------------------------------------------------------
def metric_names(source: DirectorySource, start: int | None, end: int | None, budget: Budget) -> pa.Table:
    """Per metric: type, unit, description, services, data points, the latest time."""
    conditions: list[Condition] = [InTime(start, end)] if start is not None or end is not None else []
    words = ("metric_name", "metric_type", "unit", "description")
    found: dict[tuple[str, ...], tuple[int, int, set[str]]] = {}
    for unit in matching_units(source, Signal.METRICS, conditions):
        budget.check()
        rows = rows_matching(unit, conditions)
        if not len(rows):
            continue
        columns = [unit.column(name) for name in (*words, "service_name")]
        codes = [to_numpy(column.indices, -1)[rows] for column in columns]
        times = to_numpy(times_of(Signal.METRICS, unit))[rows]
        distinct, number, counts = np.unique(np.stack(codes), axis=1, return_inverse=True, return_counts=True)
        texts = [[*column.dictionary.to_pylist(), None] for column in columns]  # -1 is the last one: null
        number = number.reshape(-1)
        for n in range(distinct.shape[1]):
            *key, service = (texts[c][int(distinct[c, n])] for c in range(len(columns)))
            count, last, services_ = found.get(tuple(key), (0, 0, set()))
            services_ |= {service} - {None}
            found[tuple(key)] = (count + int(counts[n]), max(last, int(times[number == n].max())), services_)
    keys = sorted(found)
    columns_ = {word: pa.array([key[n] for key in keys], pa.utf8()) for n, word in enumerate(("name", *words[1:]))}
    columns_["type"] = columns_.pop("metric_type")
    return pa.table(
        {
            **{name: columns_[name] for name in ("name", "type", "unit", "description")},
            "services": pa.array([sorted(found[key][2]) for key in keys], pa.list_(pa.utf8())),
            "points": pa.array([found[key][0] for key in keys], pa.int64()),
            "last_time": pa.array([found[key][1] for key in keys], pa.int64()),
        }
    )


def metric_series(
    source: DirectorySource, query: MetricQuery, bucket_ns: int, group_by: Sequence[str], budget: Budget
) -> pa.Table:
    """Data points gathered in buckets of time, per group. A histogram's value is the mean of what it counted."""
    if bucket_ns <= 0:
        raise BadQuery("a bucket lasts longer than nothing")
    conditions = conditions_of(query)
    parts: list[pa.Table] = []
    points = 0
    for unit in matching_units(source, Signal.METRICS, conditions):
        budget.check()
        rows = rows_matching(unit, conditions)
        points += len(rows)
        if points > MAX_SERIES_POINTS:
            raise BadQuery(f"more than {MAX_SERIES_POINTS} data points; ask for a shorter time range or one name")
        if len(rows):
            parts.append(_points(unit, rows, bucket_ns, group_by))
    keys = ["time", "name", "service", *(f"group.{n}" for n in range(len(group_by)))]
    table = pa.concat_tables(parts) if parts else _no_points(group_by)
    table = table.sort_by([(key, "ascending") for key in (*keys, "at")])
    grouped = table.group_by(keys, use_threads=False).aggregate(
        [("value", "count"), ("value", "min"), ("value", "max"), ("value", "mean"), ("value", "sum")]
        + [("value", "last"), ("count", "sum"), ("sum", "sum")]
    )
    names = {"value_count": "points", "count_sum": "histogram_count", "sum_sum": "histogram_sum"}
    renamed = [names.get(name, name.removeprefix("value_")) for name in grouped.column_names]
    renamed = [group_by[int(name[6:])] if name.startswith("group.") else name for name in renamed]
    return grouped.rename_columns(renamed)


def _points(unit: Unit, rows: np.ndarray, bucket_ns: int, group_by: Sequence[str]) -> pa.Table:
    indices = pa.array(rows)
    times = times_of(Signal.METRICS, unit).take(indices)
    counts = unit.column("count").take(indices).cast(pa.float64(), safe=False)
    sums = unit.column("sum").take(indices)
    plain = pc.coalesce(unit.column("double_value"), unit.column("int_value").cast(pa.float64(), safe=False))
    mean = pc.if_else(pc.greater(counts, 0), pc.divide(sums, counts), None)
    columns = {
        "time": pc.multiply(pc.divide(times, bucket_ns), bucket_ns),
        "name": unit.column("metric_name").take(indices).cast(pa.utf8()),
        "service": unit.column("service_name").take(indices).cast(pa.utf8()),
    }
    for n, key in enumerate(group_by):
        columns[f"group.{n}"] = _texts(unit, rows, key)
    columns |= {
        "at": times,
        "value": pc.coalesce(plain.take(indices), mean),
        "count": counts,
        "sum": sums,
    }
    return pa.table(columns)


def _no_points(group_by: Sequence[str]) -> pa.Table:
    words = {f"group.{n}": pa.utf8() for n in range(len(group_by))}
    numbers = {"at": pa.int64(), "value": pa.float64(), "count": pa.float64(), "sum": pa.float64()}
    return pa.schema({"time": pa.int64(), "name": pa.utf8(), "service": pa.utf8(), **words, **numbers}).empty_table()


def _texts(unit: Unit, rows: np.ndarray, key: str) -> pa.Array:
    """The text of an attribute in each row: the data point's own, else its resource's; null where neither has it."""
    found: list[str | None] = [None] * len(rows)
    places = {int(row): n for n, row in enumerate(rows)}
    for level in ("resource", "record"):
        entries = entries_of(unit.column(attribute_columns(unit.signal)[level]), level)
        positions = entries.positions(key)
        owners = entries.rows_of(positions)
        wanted = np.isin(owners, rows)
        values = values_of(entries.values.take(pa.array(positions[wanted])))
        for row, value in zip(owners[wanted].tolist(), values, strict=True):
            found[places[row]] = value if isinstance(value, str) else json.dumps(jsonable(value))
    return pa.array(found, pa.utf8())


# -- traces --------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class OfTraces:
    """The span belongs to one of some traces."""

    trace_ids: frozenset[bytes]

    def may_match(self, unit: Unit, summary: UnitSummary | None) -> bool:
        return summary is None or any(summary.may_have_trace(trace_hash(each)) for each in self.trace_ids)

    def mask(self, unit: Unit) -> np.ndarray | None:
        wanted = np.array([trace_hash(each) for each in self.trace_ids], np.uint64)
        column = unit.column("trace_id")
        found = np.isin(trace_hashes(column), wanted)
        for row in np.flatnonzero(found):  # hashes may be equal by chance
            found[row] = column[int(row)].as_py() in self.trace_ids
        return found


def traces(source: DirectorySource, query: SpanQuery, budget: Budget) -> tuple[list[TraceSummary], str | None]:
    """The traces that matching spans belong to, in the order of these spans; as many as the question's limit."""
    ids: dict[bytes, None] = {}
    cursor: str | None = query.cursor
    for page in _pages(source, query, budget):
        for trace_id in page.batch.column("trace_id").to_pylist():
            ids.setdefault(trace_id, None)
        cursor = page.next_cursor
        if len(ids) >= query.limit or cursor is None:
            break
    wanted = list(ids)[: query.limit]
    spans: dict[bytes, list[tuple[Any, ...]]] = {each: [] for each in wanted}
    columns = (
        *("trace_id", "span_id", "parent_span_id", "service_name", "name"),
        *("start_time_unix_nano", "end_time_unix_nano", "status_code"),
    )
    condition = OfTraces(frozenset(wanted))
    for unit in matching_units(source, Signal.TRACES, [condition]) if wanted else []:
        budget.check()
        rows = pa.array(rows_matching(unit, [condition]))
        for row in zip(*(read(unit.column(name).take(rows)) for name in columns), strict=True):
            spans[row[0]].append(row[1:])
    return [_summary(each, spans[each]) for each in wanted if spans[each]], cursor


def _pages(source: DirectorySource, query: SpanQuery, budget: Budget) -> Iterator[Any]:
    while True:
        page = select(source, query, budget)
        yield page
        query = dataclasses.replace(query, cursor=page.next_cursor)


def _summary(trace_id: bytes, spans: list[tuple[Any, ...]]) -> TraceSummary:
    known = {span[0] for span in spans}
    roots = [span for span in spans if span[1] is None]
    orphans = [span for span in spans if span[1] is not None and span[1] not in known]
    latest = 2**63
    first = min(roots or orphans or spans, key=lambda span: (span[4] if span[4] is not None else latest, span[0]))
    starts = [span[4] for span in spans if span[4] is not None]
    ends = [span[5] for span in spans if span[5] is not None]
    start, end = min(starts, default=0), max(ends, default=0)
    return TraceSummary(
        trace_id.hex(),
        first[2],
        first[3],
        start,
        end,
        max(0, end - start) if starts and ends else 0,
        len(spans),
        sum(span[6] == ERROR for span in spans),
        sorted({span[2] for span in spans if span[2] is not None}),
        not orphans and bool(roots),
    )
