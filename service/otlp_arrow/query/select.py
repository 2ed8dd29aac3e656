"""Which rows a question selects, in which order, page by page.

Rows are ordered by time (or duration), then by trace id, span id and arrival. A cursor names the last row of a page and
how many equal ones came with it, so that data that arrives meanwhile neither moves nor repeats anything.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Signal
from otlp_arrow.query.ask import Query, SpanQuery
from otlp_arrow.query.budget import Budget
from otlp_arrow.query.conditions import Condition, conditions_of, durations_of, rows_matching
from otlp_arrow.query.errors import BadQuery
from otlp_arrow.query.index import UnitSummary, id_halves
from otlp_arrow.query.segments import BatchUnit, Unit, as_int64, times_of, to_numpy
from otlp_arrow.query.source import DirectorySource

_LAST = np.iinfo(np.int64).max
"""Ranks behind every row that has the time asked for."""

_KEYS = 4  # rank, and the id in three words


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in the storage schema, and the cursor of what follows (None: nothing does)."""

    batch: pa.RecordBatch
    next_cursor: str | None


def select(source: DirectorySource, query: Query, budget: Budget) -> Page:
    """Answer a checked question. Raises ``QueryError`` or ``SegmentGone``."""
    conditions = conditions_of(query)
    view = source.view(query.signal)
    order = query.order_by if isinstance(query, SpanQuery) else "time"
    descending = query.order_direction == "DESC"
    start = _Start.parse(query.cursor, _purpose(query)) if query.cursor is not None else None
    wanted = query.limit + 1 + (start.ties if start else 0)

    def best(unit: Unit, summary: UnitSummary | None) -> int:
        """No row of the unit ranks before this."""
        return _best_rank(unit, summary, order, descending)

    numbered = list(enumerate(view.units))
    candidates = []
    for number, unit in numbered:
        summary = source.summary(unit)
        if all(each.may_match(unit, summary) for each in conditions):
            candidates.append((best(unit, summary), number, unit))
    candidates.sort(key=lambda each: (each[0], -each[1] if descending else each[1]))

    found = _Ranking(wanted)
    for rank, number, unit in candidates:
        if found.full and rank > found.worst:
            break
        budget.check()
        rows = rows_matching(unit, conditions)
        if len(rows):
            keys = _rank_rows(unit, rows, order, descending)
            if start is not None:
                keep = start.not_before(keys)
                keys, rows = keys[keep], rows[keep]
            found.add(number, rows, keys)
    chosen = found.sorted()
    if start is not None:
        chosen = chosen.without(start)
    more = len(chosen.rows) > query.limit
    chosen = chosen.first(query.limit)
    budget.check()
    batch = gather(query.signal, view.units, chosen.units, chosen.rows, budget)
    return Page(batch, chosen.cursor(start, _purpose(query)) if more else None)


def gather(
    signal: Signal, units: Sequence[Unit], numbers: np.ndarray, rows: np.ndarray, budget: Budget | None = None
) -> pa.RecordBatch:
    """Rows of several units in the given order."""
    parts: list[pa.RecordBatch] = []
    places = np.empty(len(rows), np.int64)
    at = 0
    for number in dict.fromkeys(numbers.tolist()):
        if budget is not None:
            budget.check()
        (mine,) = np.nonzero(numbers == number)
        mine = mine[np.argsort(rows[mine])]  # so that a unit has nothing to put in order; that is done once, below
        parts.append(units[number].take(rows[mine]))
        places[mine] = np.arange(at, at + len(mine))
        at += len(mine)
    if not parts:
        return pa.RecordBatch.from_pylist([], schema=SCHEMAS[signal])
    together = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
    return together if np.array_equal(places, np.arange(len(rows))) else together.take(pa.array(places))


@dataclass(frozen=True, slots=True)
class _Chosen:
    units: np.ndarray
    rows: np.ndarray
    keys: np.ndarray  # (n, _KEYS)

    def first(self, count: int) -> _Chosen:
        return _Chosen(self.units[:count], self.rows[:count], self.keys[:count])

    def without(self, start: _Start) -> _Chosen:
        """Leave out the rows at the cursor that the last page had."""
        equal = np.flatnonzero((self.keys == start.key).all(axis=1))[: start.ties]
        kept = np.ones(len(self.rows), bool)
        kept[equal] = False
        return _Chosen(self.units[kept], self.rows[kept], self.keys[kept])

    def cursor(self, before: _Start | None, purpose: str) -> str:
        last = self.keys[-1]
        ties = int((self.keys == last).all(axis=1).sum())
        if before is not None and (before.key == last).all():
            ties += before.ties
        return _Start(last, ties).text(purpose)


class _Ranking:
    """The best rows seen so far."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._chosen = _Chosen(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, _KEYS), np.int64))

    @property
    def full(self) -> bool:
        return len(self._chosen.rows) >= self.wanted

    @property
    def worst(self) -> int:
        """The rank of the last row that is wanted."""
        return int(self._chosen.keys[self.wanted - 1, 0])

    def add(self, unit: int, rows: np.ndarray, keys: np.ndarray) -> None:
        if len(rows) > self.wanted:  # most questions want few of many
            cut = np.partition(keys[:, 0], self.wanted - 1)[self.wanted - 1]
            keep = keys[:, 0] <= cut
            rows, keys = rows[keep], keys[keep]
        old = self._chosen
        merged = _Chosen(
            np.concatenate([old.units, np.full(len(rows), unit)]),
            np.concatenate([old.rows, rows]),
            np.concatenate([old.keys, keys]),
        )
        self._chosen = _sorted(merged).first(self.wanted)

    def sorted(self) -> _Chosen:
        return self._chosen


def _sorted(chosen: _Chosen) -> _Chosen:
    keys = chosen.keys
    # The last key counts most: rank, ids, then arrival.
    order = np.lexsort((chosen.rows, chosen.units, *(keys[:, n] for n in reversed(range(_KEYS)))))
    return _Chosen(chosen.units[order], chosen.rows[order], keys[order])


def _rank_rows(unit: Unit, rows: np.ndarray, order: str, descending: bool) -> np.ndarray:
    """(rows, 4): smaller comes first."""
    match order:
        case "end_time":
            column = as_int64(unit.column("end_time_unix_nano"))
        case "duration_ns":
            column = durations_of(unit)
        case _:
            column = times_of(unit.signal, unit)
    values = to_numpy(column, 0)[rows].astype(np.int64)
    ranks = -values if descending else values
    if column.null_count:
        ranks = np.where(column.is_valid().to_numpy(zero_copy_only=False)[rows], ranks, _LAST)
    keys = np.zeros((len(rows), _KEYS), np.int64)
    keys[:, 0] = ranks
    if unit.signal is not Signal.METRICS:
        keys[:, 1:3] = _ordered(id_halves(unit.column("trace_id"), 2)[rows])
        keys[:, 3:] = _ordered(id_halves(unit.column("span_id"), 1)[rows])
        for name, columns in (("trace_id", slice(1, 3)), ("span_id", slice(3, 4))):
            column = unit.column(name)
            if column.null_count:
                keys[~column.is_valid().to_numpy(zero_copy_only=False)[rows], columns] = 0
    return keys


def _ordered(words: np.ndarray) -> np.ndarray:
    """Little-endian words of ids as integers that sort as their bytes do."""
    return (words.byteswap() ^ np.uint64(1 << 63)).view(np.int64)


def _best_rank(unit: Unit, summary: UnitSummary | None, order: str, descending: bool) -> int:
    if order in ("start_time", "time"):
        if unit.time_min is None or unit.time_max is None:
            return _LAST
        return -unit.time_max if descending else unit.time_min
    if order == "end_time" and descending:
        if isinstance(unit, BatchUnit) or summary is None:
            return -_LAST
        return _LAST if summary.end_max is None else -summary.end_max
    if order == "duration_ns" and descending and summary is not None:
        return _LAST if summary.duration_max is None else -summary.duration_max
    return -_LAST


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a page begins: behind the row with this key, of which ``ties`` were given out."""

    key: np.ndarray
    ties: int

    def not_before(self, keys: np.ndarray) -> np.ndarray:
        """Which keys are this one or follow it."""
        behind = np.zeros(len(keys), bool)
        equal = np.ones(len(keys), bool)
        for n in range(_KEYS):
            behind |= equal & (keys[:, n] > self.key[n])
            equal &= keys[:, n] == self.key[n]
        return behind | equal

    def text(self, purpose: str) -> str:
        content = json.dumps([purpose, [int(n) for n in self.key], self.ties], separators=(",", ":"))
        return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str, purpose: str) -> _Start:
        try:
            content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            asked, key, ties = json.loads(content)
            if asked != purpose:
                raise BadQuery("the cursor belongs to a query in another order")
            if type(ties) is not int or not 1 <= ties <= 2**20 or len(key) != _KEYS:
                raise ValueError
            return cls(np.array([int(n) for n in key], np.int64), ties)
        except BadQuery:
            raise
        except (ValueError, TypeError, OverflowError, UnicodeError, RecursionError) as error:
            raise BadQuery("the cursor is none of ours") from error


def _purpose(query: Query) -> str:
    order = query.order_by if isinstance(query, SpanQuery) else "time"
    return f"{query.signal.value}:{order}:{query.order_direction}"


def matching_units(source: DirectorySource, signal: Signal, conditions: Sequence[Condition]) -> list[Unit]:
    """The units that may hold rows that fulfil all conditions, oldest first."""
    view = source.view(signal)
    return [u for u in view.units if all(each.may_match(u, source.summary(u)) for each in conditions)]
