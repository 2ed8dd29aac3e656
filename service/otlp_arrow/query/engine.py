"""Questions to one output directory: each against a view of its own, so that writing is never held up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa

from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Signal
from otlp_arrow.query import aggregate, sql_process
from otlp_arrow.query.ask import MetricQuery, Query, SpanQuery
from otlp_arrow.query.budget import Budget
from otlp_arrow.query.conditions import InTime, conditions_of, rows_matching
from otlp_arrow.query.errors import QueryError
from otlp_arrow.query.results import TraceSummary
from otlp_arrow.query.segments import FileUnit
from otlp_arrow.query.select import Page, select
from otlp_arrow.query.source import DirectorySource, SegmentGone

log = logging.getLogger(__name__)

_TRIES = 5
"""A view that loses a file to retention while it is read is taken anew; more than twice in a row does not happen."""

INDEX_SHARE = 0.25
"""Of one core, for indexing what queries ask for; a million spans take some five seconds then."""

Answer = TypeVar("Answer")


class Engine:
    """Answers. Blocking; any number of threads may ask at once."""

    def __init__(self, source: DirectorySource) -> None:
        self.source = source
        self._indexing: dict[Signal, threading.Thread] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def close(self) -> None:
        """Stop indexing."""
        self._closed.set()
        for thread in list(self._indexing.values()):
            thread.join(10)

    def rows(self, query: Query, budget: Budget) -> Page:
        """The rows that a question selects, one page of them."""
        asked = query.checked()
        page = self._try(lambda: select(self.source, asked, budget))
        self._index_later(asked.signal)
        return page

    def traces(self, query: SpanQuery, budget: Budget) -> tuple[list[TraceSummary], str | None]:
        """The traces of matching spans, and the cursor of further ones."""
        asked = query.checked()
        found = self._try(lambda: aggregate.traces(self.source, asked, budget))
        self._index_later(Signal.TRACES)
        return found

    def services(self, start: int | None, end: int | None, service_name: str | None, budget: Budget) -> pa.Table:
        """See ``SpanStore.services``."""
        return self._try(lambda: aggregate.services(self.source, start, end, service_name, budget))

    def attributes(self, signal: Signal, prefix: str, start: int | None, end: int | None, budget: Budget) -> pa.Table:
        """See ``SpanStore.attributes``."""
        return self._try(lambda: aggregate.attributes(self.source, signal, prefix, start, end, budget))

    def metric_names(self, start: int | None, end: int | None, budget: Budget) -> pa.Table:
        """See ``SpanStore.metric_names``."""
        return self._try(lambda: aggregate.metric_names(self.source, start, end, budget))

    def metric_series(self, query: MetricQuery, bucket_ns: int, group_by: Sequence[str], budget: Budget) -> pa.Table:
        """See ``SpanStore.metric_series``."""
        asked = query.checked()
        return self._try(lambda: aggregate.metric_series(self.source, asked, bucket_ns, group_by, budget))

    def sql(self, statement: str, parameters: Sequence[object], max_rows: int, budget: Budget) -> tuple[pa.Table, bool]:
        """See ``SpanStore.sql``; whether there were more rows."""
        return self._try(lambda: sql_process.run(self.source, statement, parameters, max_rows, budget))

    def sql_here(
        self, statement: str, parameters: Sequence[object], max_rows: int, budget: Budget
    ) -> tuple[pa.Table, bool]:
        """The same in this process."""
        from otlp_arrow.query.sql import run  # DuckDB takes 50 ms and 30 MB to import

        return self._try(lambda: run(self.source, statement, parameters, max_rows, budget))

    def follow(
        self, query: Query, poll_s: float, stop: Callable[[], bool], heartbeat_s: float = 3600.0
    ) -> Iterator[pa.RecordBatch]:
        """Rows that are acknowledged from now on and fulfil the question, as they come; ends once ``stop()`` is true.

        The first batch is empty and comes at once: what is acknowledged after it is not missed. So does one after each
        ``heartbeat_s`` seconds in which nothing else came.
        """
        asked = query.checked()
        conditions = conditions_of(asked)
        view = self._try(lambda: self.source.view(asked.signal))
        seen, delivered = view.newest, dict(view.frames)
        yield _nothing(asked.signal)
        quiet_since = time.monotonic()
        while not stop():
            view = self._try(lambda: self.source.view(asked.signal))
            for unit in view.units:
                if unit.wal_last <= seen:
                    continue
                # A unit that reached a segment may begin with rows that were given out when they were in the WAL.
                skip = sum(n for sequence, n in delivered.items() if unit.wal_first <= sequence <= seen)
                rows = rows_matching(unit, conditions)
                rows = rows[rows >= skip] if unit.wal_first <= seen else rows
                if len(rows):
                    quiet_since = time.monotonic()
                    yield unit.take(rows)
            if time.monotonic() - quiet_since >= heartbeat_s:
                quiet_since = time.monotonic()
                yield _nothing(asked.signal)
            delivered = dict(view.frames)
            seen = max(seen, view.newest)
            if stop():
                return
            self._closed.wait(poll_s)

    def batches(self, signal: Signal, start: int | None, end: int | None, budget: Budget) -> Iterator[pa.RecordBatch]:
        """All rows of a signal, by time range, oldest unit first; one unit in memory at a time."""
        conditions = [InTime(start, end)] if start is not None or end is not None else []
        for unit in self.source.view(signal).units:
            budget.check()
            if all(each.may_match(unit, None) for each in conditions):
                rows = rows_matching(unit, conditions)
                if len(rows):
                    yield unit.take(rows)

    # -- indexing --------------------------------------------------------------------------------

    def build_indexes(self) -> int:
        """Index everything now; how many units were new."""
        built = 0
        for signal in Signal:
            for unit in self.source.view(signal).units:
                if isinstance(unit, FileUnit):
                    built += self._indexed(unit)
        return built

    def _indexed(self, unit: FileUnit) -> int:
        """Index a unit if it is not; 1 if it was new. Its resources are numbered with it: they are decoded for both."""
        new = self.source.index.build([unit])
        if new or unit.wants_origins:
            unit.number()
        return new

    def _index_later(self, signal: Signal) -> None:
        with self._lock:
            thread = self._indexing.get(signal)
            if (thread is not None and thread.is_alive()) or self._closed.is_set():
                return
            units = self.source.known_units(signal)
            units = [unit for unit in units if unit.wants_origins or self.source.summary(unit) is None]
            if not units:
                return
            thread = threading.Thread(target=self._index, args=(units,), name=f"otlp-index-{signal.value}", daemon=True)
            self._indexing[signal] = thread
            thread.start()

    def _index(self, units: list[FileUnit]) -> None:
        try:
            for unit in reversed(units):
                began = time.monotonic()
                self._indexed(unit)
                took = time.monotonic() - began
                if self._closed.wait(took * (1 / INDEX_SHARE - 1)):
                    return
        except (OSError, SegmentGone) as error:
            log.debug("indexing stopped: %r", error)

    def _try(self, answer: Callable[[], Answer]) -> Answer:
        for _ in range(_TRIES):
            try:
                return answer()
            except SegmentGone:
                continue
        raise QueryError("segments were deleted faster than they could be read")


def _nothing(signal: Signal) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=SCHEMAS[signal])
