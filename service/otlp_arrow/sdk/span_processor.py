"""A span processor that keeps the newest spans of a program and answers questions about them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,
    Context,
    attach,
    detach,
    set_value,
)
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from otlp_arrow.model import OtlpConfigError, Signal
from otlp_arrow.model.limits import KIB, MIB
from otlp_arrow.receivers import sdk_objects
from otlp_arrow.sdk.delivery import DEFAULT_TIMEOUT_S, Delivery
from otlp_arrow.sdk.span_queue import BatchQueue

if TYPE_CHECKING:
    from otlp_arrow.query import RetryAdvice, SpanQuery, Spans, SpanStore
    from otlp_arrow.query.times import Duration, Time

DEFAULT_MAX_SPANS = 100_000
DEFAULT_MAX_BYTES = 256 * MIB
LEAST_MAX_BYTES = 256 * KIB
"""Below it the heads of segment files would be most of what is kept."""

MAX_QUEUE_SIZE = 8_192
"""Spans that wait to be stored: a second of what one thread encodes, at some 3 KB each; the SDK's own batching
processor holds 2,048."""

BATCH_SIZE = 512
DELAY_S = 0.1
"""How long a span waits for others; a sync takes milliseconds, so ten a second are no burden."""

ASK_WAIT_S = 2.0
"""How long a question waits for the spans that ended before it."""

PARTS = 8
"""Spans go by whole segments; a segment has an eighth of what may be kept."""


class FileBasedSpanProcessor(SpanProcessor):
    """Keeps finished, sampled spans in ``output_dir`` without making anybody wait, and answers questions about them.

    Never more than ``max_spans`` spans nor more than ``max_bytes`` of segment files of spans are kept. The oldest go
    first, a segment of about an eighth of a bound at a time, so that at least the newest ``max_spans - 2 * (max_spans /
    8)`` stay while their bytes allow it. The write-ahead log (up to 64 MiB) comes on top. What was there is there
    again after a restart, also after ``kill -9``.

    Ending a span puts it into a queue of ``max_queue_size``; when that is full the span is dropped, counted
    (``dropped``) and a line is logged. Raises what ``OtlpLibrary`` raises if the directory cannot be had, and
    ``OtlpConfigError`` for bounds that cannot be meant.
    """

    def __init__(
        self,
        output_dir: Path | str,
        max_spans: int = DEFAULT_MAX_SPANS,
        max_bytes: int = DEFAULT_MAX_BYTES,
        *,
        max_queue_size: int = MAX_QUEUE_SIZE,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        for name, value, least in (
            ("max_spans", max_spans, 1),
            ("max_bytes", max_bytes, LEAST_MAX_BYTES),
            ("max_queue_size", max_queue_size, 1),
        ):
            if type(value) is not int or value < least:
                raise OtlpConfigError(name, value, f"a whole number, {least} or more")
        self._max_spans, self._max_bytes = max_spans, max_bytes
        self._part_spans, self._part_bytes = -(-max_spans // PARTS), max_bytes // PARTS
        self._open_spans, self._open_bytes = self._part_spans, 0  # since room was made; none was yet
        self._dropped = 0
        self._process = os.getpid()
        self._closed = False
        self._directory = Path(output_dir).resolve()
        self._stores: dict[int, SpanStore] = {}  # by process: threads and files do not survive a fork
        self._lock = threading.Lock()
        self._delivery = Delivery(None, output_dir, timeout_s)
        try:
            self._delivery.library.keep_newest(Signal.TRACES, max_spans, max_bytes)
            self._queue: BatchQueue[ReadableSpan] = BatchQueue(
                self._keep,
                max_size=max_queue_size,
                batch_size=min(BATCH_SIZE, self._part_spans, max_queue_size),
                delay_s=DELAY_S,
                name="otlp-arrow-spans",
            )
        except BaseException:
            self._delivery.shutdown()
            raise

    def __repr__(self) -> str:
        return f"FileBasedSpanProcessor({self._directory}, max_spans={self._max_spans}, max_bytes={self._max_bytes})"

    # -- for the SDK -----------------------------------------------------------------------------

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that ended. Never waits and never raises."""
        if span.context is not None and not span.context.trace_flags.sampled:
            return
        if os.getpid() != self._process:
            self._drop(1, "this processor belongs to the process that forked; make one here, with its own output_dir")
        elif self._closed:
            self._drop(1, "the processor was shut down")
        elif not self._queue.put(span):
            self._drop(1, "more spans end than the disk takes: the queue is full")

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Whether every span that ended before is in a segment now, in this time."""
        if self._closed or os.getpid() != self._process:
            return True  # nothing is held here
        deadline = time.monotonic() + timeout_millis / 1000
        if not self._queue.wait_handled(timeout_millis / 1000):
            return False
        return self._delivery.flush(max(0.0, deadline - time.monotonic()) * 1000)

    def shutdown(self, timeout_millis: int = 30_000) -> None:
        """Store what waits and close the files, in about this time; idempotent. Questions are answered on."""
        if self._closed:
            return
        self._closed = True
        if os.getpid() != self._process:
            return
        deadline = time.monotonic() + timeout_millis / 1000
        left = self._queue.close(timeout_millis / 1000)
        if left:
            self._drop(left, "they could not be stored in the time for shutting down")
        self._delivery.shutdown(max(0.0, deadline - time.monotonic()) * 1000)

    @property
    def dropped(self) -> int:
        """Spans that ended and were not stored."""
        return self._dropped

    # -- storing, on the queue's thread ----------------------------------------------------------

    def _keep(self, spans: Sequence[ReadableSpan]) -> None:
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            request = sdk_objects.trace_request(spans).SerializeToString()
            if self._open_spans + len(spans) > self._part_spans or self._open_bytes + len(request) > self._part_bytes:
                self._make_room(len(request))
            if not self._delivery.deliver(lambda library: library.export_traces(request)):
                self._count_dropped(len(spans))
            self._open_spans += len(spans)
            self._open_bytes += len(request)
        except Exception as error:
            self._drop(len(spans), str(error) or repr(error))
        finally:
            detach(token)

    def _make_room(self, coming_bytes: int = 0) -> None:
        """Close the open segment, and let the oldest go for the next part."""
        # As protobuf the spans take more bytes than as columns, compressed: the real size stays below.
        room = max(self._part_bytes, coming_bytes)
        self._delivery.library.keep_newest(
            Signal.TRACES, self._max_spans - self._part_spans, max(0, self._max_bytes - room)
        )
        self._open_spans = self._open_bytes = 0

    def _drop(self, spans: int, reason: str) -> None:
        self._count_dropped(spans)
        self._delivery.say("spans are dropped", dropped=self._dropped, reason=reason)

    def _count_dropped(self, spans: int) -> None:
        # In the child of a fork the lock may be held by a thread that is not there.
        with self._lock if os.getpid() == self._process else contextlib.nullcontext():
            self._dropped += spans

    # -- asking ----------------------------------------------------------------------------------

    @property
    def store(self) -> SpanStore:
        """What is stored, for every question of docs/query.md; without waiting for spans that are in the queue."""
        process = os.getpid()
        if process not in self._stores:
            from otlp_arrow.query import SpanStore

            self._stores[process] = SpanStore.open(self._directory)
        return self._stores[process]

    def _settled(self) -> SpanStore:
        if not self._closed and os.getpid() == self._process:
            self._queue.wait_handled(ASK_WAIT_S)
        return self.store

    def get_trace(self, trace_id: str) -> Spans:
        """As ``SpanStore.get_trace``; spans that ended before are in it."""
        return self._settled().get_trace(trace_id)

    def recent_failures(self, hours: float = 1, max_results: int = 100) -> Spans:
        """As ``SpanStore.recent_failures``."""
        return self._settled().recent_failures(hours, max_results)

    def filter_by_error_type(self, error_type: str, max_results: int = 100) -> Spans:
        """As ``SpanStore.filter_by_error_type``."""
        return self._settled().filter_by_error_type(error_type, max_results)

    def filter_by_attribute(self, key: str, value: Any, max_results: int = 100) -> Spans:
        """As ``SpanStore.filter_by_attribute``."""
        return self._settled().filter_by_attribute(key, value, max_results)

    def filter_by_status(
        self, status: str, time_range: Duration | tuple[Time, Time] | None = None, max_results: int = 100
    ) -> Spans:
        """As ``SpanStore.filter_by_status``."""
        return self._settled().filter_by_status(status, time_range, max_results)

    def filter_by_time(self, *args: Any, **kwargs: Any) -> Spans:
        """As ``SpanStore.filter_by_time``."""
        return self._settled().filter_by_time(*args, **kwargs)

    def query_spans(self, query: SpanQuery) -> Spans:
        """As ``SpanStore.query_spans``."""
        return self._settled().query_spans(query)

    def should_retry(self, trace_id: str) -> RetryAdvice:
        """As ``SpanStore.should_retry``."""
        return self._settled().should_retry(trace_id)
