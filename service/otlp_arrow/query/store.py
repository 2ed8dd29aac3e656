"""``SpanStore``: what a program asks, wherever the data lies. See docs/query.md."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

import pyarrow as pa

from otlp_arrow.model import Signal
from otlp_arrow.query.ask import LogQuery, MetricQuery, Query, SpanQuery, hex_id
from otlp_arrow.query.attributes import AttributeFilter
from otlp_arrow.query.budget import Budget
from otlp_arrow.query.engine import Engine
from otlp_arrow.query.errors import BadQuery, QueryError
from otlp_arrow.query.remote import RemoteTarget
from otlp_arrow.query.results import Logs, Points, Rows, Spans, StoredLog, StoredPoint, StoredSpan, Table, TraceSummary
from otlp_arrow.query.retry import RetryAdvice, advise
from otlp_arrow.query.select import Page
from otlp_arrow.query.source import DirectorySource, PipelineSource
from otlp_arrow.query.times import Duration, Time, duration_to_nanoseconds, time_or_none, time_to_nanoseconds

DEFAULT_TIMEOUT_S = 30.0
"""A question that takes longer is given up; all attribute keys of a million spans take two seconds."""

DEFAULT_MAX_ROWS = 100_000
"""Spans of one trace, logs of one trace: more than a person or a program wants as objects."""

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")

_cancelled: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("cancelled", default=None)


class Target(Protocol):
    """Whoever answers: an ``Engine`` here, or one at the other end of a URL. Times are nanoseconds."""

    def rows(self, query: Query, budget: Budget) -> Page: ...
    def traces(self, query: SpanQuery, budget: Budget) -> tuple[list[TraceSummary], str | None]: ...
    def services(self, start: int | None, end: int | None, service_name: str | None, budget: Budget) -> pa.Table: ...
    def attributes(
        self, signal: Signal, prefix: str, start: int | None, end: int | None, budget: Budget
    ) -> pa.Table: ...
    def metric_names(self, start: int | None, end: int | None, budget: Budget) -> pa.Table: ...
    def metric_series(
        self, query: MetricQuery, bucket_ns: int, group_by: Sequence[str], budget: Budget
    ) -> pa.Table: ...
    def sql(
        self, statement: str, parameters: Sequence[object], max_rows: int, budget: Budget
    ) -> tuple[pa.Table, bool]: ...
    def follow(self, query: Query, poll_s: float, stop: Callable[[], bool]) -> Iterator[pa.RecordBatch]: ...
    def batches(
        self, signal: Signal, start: int | None, end: int | None, budget: Budget
    ) -> Iterator[pa.RecordBatch]: ...
    def close(self) -> None: ...


class Traces(list[TraceSummary]):
    """Traces, and the cursor of further ones; a trace that has spans there too shows up again."""

    next_cursor: str | None = None


class SpanStore:
    """Asks a directory, a collector in this process, or one at a URL. Thread-safe; a context manager."""

    def __init__(
        self, target: Target, *, timeout_s: float = DEFAULT_TIMEOUT_S, max_rows: int = DEFAULT_MAX_ROWS
    ) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._max_rows = max_rows

    @classmethod
    def open(
        cls,
        target: Any,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_rows: int = DEFAULT_MAX_ROWS,
        headers: Mapping[str, str] | None = None,
        cafile: str | Path | None = None,
    ) -> SpanStore:
        """A store over an output directory, a collector or library in this process, or the URL of an admin port.

        Raises ``QueryError`` if there is none. A URL is not tried before the first question.
        """
        if isinstance(target, str) and target.startswith(("http://", "https://")):
            return cls(RemoteTarget(target, headers or {}, cafile), timeout_s=timeout_s, max_rows=max_rows)
        source = DirectorySource(Path(target)) if isinstance(target, str | Path) else source_of(target)
        return cls(Engine(source), timeout_s=timeout_s, max_rows=max_rows)

    def __enter__(self) -> SpanStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and threads; idempotent."""
        self._target.close()

    async def run(
        self, method: Callable[Arguments, Answer], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Answer:
        """A method of this store on a worker thread; cancelling the task cancels the question."""
        cancelled = threading.Event()

        def ask() -> Answer:
            _cancelled.set(cancelled)
            return method(*args, **kwargs)

        try:
            return await asyncio.to_thread(ask)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def _budget(self) -> Budget:
        return Budget(self._timeout_s, _cancelled.get())

    # -- spans -----------------------------------------------------------------------------------

    def get_trace(self, trace_id: str) -> Spans:
        """The spans of a trace by start time; none if it is not known. Raises ``BadQuery`` for what is no id."""
        asked = hex_id("trace_id", trace_id, 32)
        return self.query_spans(SpanQuery(trace_id=asked, max_spans=self._max_rows, order_direction="ASC"))

    def recent_failures(self, hours: float = 1, max_results: int = 100) -> Spans:
        """Failed spans that started within the last hours, latest end first."""
        if isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours <= 10**6:
            raise BadQuery(f"hours is a number above 0, not {hours!r:.40}")
        start = time_to_nanoseconds("now") - round(hours * 3600 * 10**9)
        return self.query_spans(
            SpanQuery(status="ERROR", start_time_min=max(0, start), order_by="end_time", max_spans=max_results)
        )

    def filter_by_error_type(self, error_type: str, max_results: int = 100) -> Spans:
        """Failed spans with this ``error.type``, or an exception of this type, latest end first."""
        return self.query_spans(SpanQuery(error_type=error_type, order_by="end_time", max_spans=max_results))

    def filter_by_attribute(self, key: str, value: Any, max_results: int = 100) -> Spans:
        """Spans with an attribute (their own, their resource's or scope's) of this value, newest first."""
        return self.query_spans(SpanQuery(attribute_filters=(AttributeFilter(key, value),), max_spans=max_results))

    def filter_by_status(
        self, status: str, time_range: Duration | tuple[Time, Time] | None = None, max_results: int = 100
    ) -> Spans:
        """Spans with a status, started within a time range, newest first."""
        start, end = _range(time_range)
        return self.query_spans(
            SpanQuery(status=status, start_time_min=start, start_time_max=end, max_spans=max_results)
        )

    def filter_by_time(
        self,
        start_time: Time | None = None,
        end_time: Time | None = None,
        duration: Duration | None = None,
        status: str | None = None,
        max_results: int = 100,
        order_by: str = "end_time",
        order_direction: str = "DESC",
    ) -> Spans:
        """Spans started between two times, or within ``duration`` of the one that is given (of now if none is)."""
        start, end = time_or_none(start_time), time_or_none(end_time)
        if duration is not None:
            if start is not None and end is not None:
                raise BadQuery("two of start_time, end_time and duration are enough")
            length = duration_to_nanoseconds(duration)
            if start is not None:
                end = start + length
            else:
                start = max(0, (time_to_nanoseconds("now") if end is None else end) - length)
        return self.query_spans(
            SpanQuery(
                status=status,
                start_time_min=start,
                start_time_max=end,
                max_spans=max_results,
                order_by=order_by,
                order_direction=order_direction,
            )
        )

    def query_spans(self, query: SpanQuery) -> Spans:
        """One page of the spans that a question selects."""
        page = self._target.rows(query.checked(), self._budget())
        return Spans(page.batch, page.next_cursor)

    def traces(self, query: SpanQuery | None = None) -> Traces:
        """A summary of each trace that has a matching span; the question's limit counts traces."""
        found, cursor = self._target.traces((query or SpanQuery(max_spans=20)).checked(), self._budget())
        traces = Traces(found)
        traces.next_cursor = cursor
        return traces

    def should_retry(self, trace_id: str) -> RetryAdvice:
        """Whether it is worth doing again what a trace recorded."""
        return advise(hex_id("trace_id", trace_id, 32), self.get_trace(trace_id))

    # -- logs and metrics ------------------------------------------------------------------------

    def logs(self, query: LogQuery | None = None) -> Logs:
        """One page of the log records that a question selects."""
        page = self._target.rows((query or LogQuery()).checked(), self._budget())
        return Logs(page.batch, page.next_cursor)

    def get_logs(self, trace_id: str) -> Logs:
        """The log records of a trace, by time."""
        asked = hex_id("trace_id", trace_id, 32)
        return self.logs(LogQuery(trace_id=asked, max_logs=self._max_rows, order_direction="ASC"))

    def metrics(self, query: MetricQuery | None = None) -> Points:
        """One page of the data points that a question selects, as they are stored."""
        page = self._target.rows((query or MetricQuery()).checked(), self._budget())
        return Points(page.batch, page.next_cursor)

    def metric_series(self, query: MetricQuery, bucket: Duration = "1m", group_by: Iterable[str] = ()) -> Table:
        """Data points in buckets of time, per metric, service and values of the attributes ``group_by``.

        Columns: time (ns, where the bucket begins), name, service, the attributes, points, min, max, mean, sum, last,
        histogram_count, histogram_sum. A histogram's value is the mean of what it counted.
        """
        keys = tuple(group_by)
        if isinstance(group_by, str) or not all(isinstance(key, str) for key in keys):
            raise BadQuery("group_by is a list of attribute keys")
        length = duration_to_nanoseconds(bucket)
        return Table(self._target.metric_series(query.checked(), length, keys, self._budget()))

    def metric_names(self, start: Time | None = None, end: Time | None = None) -> Table:
        """Per metric: name, type, unit, description, services, points, last_time (ns)."""
        return Table(self._target.metric_names(time_or_none(start), time_or_none(end), self._budget()))

    # -- overviews -------------------------------------------------------------------------------

    def services(self, start: Time | None = None, end: Time | None = None, service_name: str | None = None) -> Table:
        """Per service and operation (null: the service as a whole): service, operation, spans, errors, rate (a second),
        error_rate (0 to 1), p50_ns, p95_ns, p99_ns (within 0.6 %), max_ns."""
        return Table(self._target.services(time_or_none(start), time_or_none(end), service_name, self._budget()))

    def attributes(
        self, signal: str | Signal = "traces", prefix: str = "", start: Time | None = None, end: Time | None = None
    ) -> Table:
        """Per attribute key, level and type: key, level, type, count, examples (texts, newest first)."""
        named = signal_of(signal)
        return Table(self._target.attributes(named, prefix, time_or_none(start), time_or_none(end), self._budget()))

    def sql(self, statement: str, parameters: Sequence[object] = (), max_rows: int = 10_000) -> Table:
        """One SELECT over the views of docs/query.md; ``?`` in it stands for the parameters in order."""
        found, truncated = self._target.sql(statement, parameters, max_rows, self._budget())
        return Table(found, truncated)

    # -- streams ---------------------------------------------------------------------------------

    @overload
    def pages(self, query: SpanQuery) -> Iterator[Spans]: ...
    @overload
    def pages(self, query: LogQuery) -> Iterator[Logs]: ...
    @overload
    def pages(self, query: MetricQuery) -> Iterator[Points]: ...
    def pages(self, query: Query) -> Iterator[Any]:
        """Every page of a question, one after the other; each has the time of a question."""
        asked: Query | None = query
        while asked is not None:
            page: Rows[Any]
            match asked:
                case SpanQuery():
                    page = self.query_spans(asked)
                case LogQuery():
                    page = self.logs(asked)
                case MetricQuery():
                    page = self.metrics(asked)
            yield page
            asked = dataclasses.replace(asked, cursor=page.next_cursor) if page.next_cursor else None

    @overload
    def tail(
        self, query: SpanQuery, poll_s: float = ..., stop: threading.Event | None = ...
    ) -> Iterator[StoredSpan]: ...
    @overload
    def tail(self, query: LogQuery, poll_s: float = ..., stop: threading.Event | None = ...) -> Iterator[StoredLog]: ...
    @overload
    def tail(
        self, query: MetricQuery, poll_s: float = ..., stop: threading.Event | None = ...
    ) -> Iterator[StoredPoint]: ...
    def tail(self, query: Query, poll_s: float = 0.5, stop: threading.Event | None = None) -> Iterator[Any]:
        """Records that are acknowledged from now on and fulfil the question (its limit, order and cursor aside), until
        ``stop`` is set. "Now" is when this is called."""
        kinds: dict[Signal, type[Rows[Any]]] = {Signal.TRACES: Spans, Signal.LOGS: Logs, Signal.METRICS: Points}
        kind = kinds[query.signal]
        batches = self.tail_batches(query, poll_s, stop)
        return (record for batch in batches for record in kind(batch))

    def tail_batches(
        self, query: Query, poll_s: float = 0.5, stop: threading.Event | None = None
    ) -> Iterator[pa.RecordBatch]:
        """As ``tail``, as record batches."""
        ended = stop or _cancelled.get() or threading.Event()
        batches = self._target.follow(query.checked(), poll_s, ended.is_set)
        next(batches, None)  # the position is taken now
        return batches

    def read(
        self, signal: str | Signal, start: Time | None = None, end: Time | None = None
    ) -> Iterator[pa.RecordBatch]:
        """All rows of a signal in a time range as record batches in the storage schema; for exports."""
        return self._target.batches(
            signal_of(signal), time_or_none(start), time_or_none(end), Budget(10**9, _cancelled.get())
        )

    def build_indexes(self) -> None:
        """Index every segment now instead of little by little; of no effect on a URL."""
        if isinstance(self._target, Engine):
            self._target.build_indexes()

    @property
    def target(self) -> Target:
        """Whoever answers."""
        return self._target


def source_of(process: Any) -> DirectorySource:
    """The source of anything in this process that has a ``pipeline``. Raises ``QueryError``."""
    pipeline = getattr(process, "pipeline", process)
    try:
        root, ack = pipeline.store.layout.root, pipeline.settings.ack.value
    except AttributeError as error:
        raise QueryError(f"{type(process).__name__} is no directory, no URL and no collector") from error
    if ack != "memory":
        return DirectorySource(root)
    return PipelineSource(root, functools.partial(_snapshot, pipeline))


def _snapshot(pipeline: Any, signal: Signal) -> Any:
    loop = cast(asyncio.AbstractEventLoop, pipeline.failure.get_loop())
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        raise QueryError("asked on the collector's own event loop; use await store.run(store.…)")
    return asyncio.run_coroutine_threadsafe(pipeline.snapshot(signal), loop).result(DEFAULT_TIMEOUT_S)


def signal_of(name: str | Signal) -> Signal:
    """The signal of a name. Raises ``BadQuery``."""
    try:
        return name if isinstance(name, Signal) else Signal(name)
    except ValueError:
        raise BadQuery(f"signal is one of {', '.join(s.value for s in Signal)}, not {name!r:.40}") from None


def _range(time_range: Duration | tuple[Time, Time] | None) -> tuple[int | None, int | None]:
    if time_range is None:
        return None, None
    if isinstance(time_range, tuple | list):
        if len(time_range) != 2:
            raise BadQuery("time_range is a duration such as '1h', or (start, end)")
        return time_or_none(time_range[0]), time_or_none(time_range[1])
    return max(0, time_to_nanoseconds("now") - duration_to_nanoseconds(time_range)), None
