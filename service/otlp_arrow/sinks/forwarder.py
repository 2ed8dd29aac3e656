"""Sends what the log holds on to one destination, through any outage, and moves a cursor behind it.

::

    WalReader ─► take ─► parcels (one signal each) ─► slots ─► convert ─► breaker(retry(send)) ─► settled
        ▲                                                                                           │
        └── confirm: everything below the first parcel that is not settled ◄────────────────────────┘

A parcel is settled when the remote has it, has refused it for good, or its frames were given up. Several are
under way at once and end in any order; the cursor moves over them in the order of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import pyarrow as pa

from otlp_arrow.codec import BatchBuilder
from otlp_arrow.model import Batch, Encoding, OtlpConfigError, Rejected, Signal
from otlp_arrow.model import meter as m
from otlp_arrow.model.limits import (
    CURSOR_BYTES,
    CURSOR_INTERVAL_S,
    FORWARD_LINGER_S,
    HINT_INTERVAL_S,
    MAX_REFUSED_PARTS,
)
from otlp_arrow.model.meter import Meter
from otlp_arrow.model.status import PartStatus
from otlp_arrow.sinks.breaker import Breaker, Permit, State
from otlp_arrow.sinks.convert import (
    Converted,
    Refusal,
    columns_of,
    convert,
    needs_thread,
    refused_frame,
    rows_as,
)
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.refused import RefusedItems
from otlp_arrow.sinks.retry import next_delay
from otlp_arrow.sinks.sink import DeliveryResult, Fault, Permanent, Sink, Transient
from otlp_arrow.storage.frames import Frame
from otlp_arrow.storage.gathering import BuilderPool
from otlp_arrow.storage.reader import WalReader

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_READ_RETRY_S = 1.0
_THREADS = 2  # one reads and stores the cursor, one converts
_LINGER_STEPS = 4
_FAILURES_THAT_ARE_NEWS = 3

_WORDS = {
    Fault.UNREACHABLE: "cannot be reached",
    Fault.BUSY: "is busy",
    Fault.CREDENTIALS: "does not accept the credentials",
    Fault.ADDRESS: "has no such service there",
}


@dataclass(slots=True)
class _Progress:
    """How far a parcel has come: records counted as sent or failed, and the search for what is refused."""

    rows_done: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    refused_in_a_row: int = 0

    def refuse(self, refusals: Iterable[Refusal]) -> None:
        self.refusals += refusals
        self.refused_in_a_row += 1


@dataclass(eq=False, slots=True)
class Parcel:
    """Frames of one signal that go out together."""

    frames: list[Frame]
    nbytes: int
    task: asyncio.Task[None] | None = None
    given_up: bool = False
    progress: _Progress = field(default_factory=_Progress)

    @property
    def signal(self) -> Signal:
        return self.frames[0].signal

    @property
    def first(self) -> int:
        return self.frames[0].sequence

    @property
    def last(self) -> int:
        return self.frames[-1].sequence

    @property
    def rows_left(self) -> int:
        """Records that are neither sent nor failed yet."""
        return sum(f.rows for f in self.frames) - self.progress.rows_done


def pack(frames: Iterable[Frame], signals: frozenset[Signal], max_bytes: int) -> list[Parcel]:
    """Frames as parcels of up to ``max_bytes`` (a larger frame goes alone), in the order of their first frames."""
    parcels: list[Parcel] = []
    open_ones: dict[Signal, Parcel] = {}
    for frame in frames:
        if frame.signal not in signals:
            continue
        size = len(frame.payload)
        parcel = open_ones.get(frame.signal)
        if parcel is None or parcel.nbytes + size > max_bytes:
            parcel = open_ones[frame.signal] = Parcel([], 0)
            parcels.append(parcel)
        parcel.frames.append(frame)
        parcel.nbytes += size
    return parcels


class _NotTaken(Exception):
    """The remote takes other signals, and this one never."""


class Forwarder:
    """One destination's forwarder, as an async context manager. Entering never waits for the remote."""

    def __init__(
        self,
        destination: Destination,
        reader: WalReader,
        sink: Sink,
        refused: RefusedItems,
        meter: Meter,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
        linger_s: float = FORWARD_LINGER_S,
    ) -> None:
        self.destination = destination
        self._reader = reader
        self._sink = sink
        self._refused = refused
        self._meter = meter
        self._monotonic = monotonic
        self._uniform = uniform
        self._linger_s = linger_s

        self._breaker = Breaker(destination.breaker)
        self._answered = asyncio.Event()  # set, and replaced, when a request ends
        self._not_before = 0.0  # the remote asked for a pause until then
        self._parcels: set[Parcel] = set()  # taken from the log and not settled
        self._slots = {signal: asyncio.Semaphore(destination.max_in_flight) for signal in destination.signals}
        self._pools = {signal: BuilderPool(signal) for signal in Signal}
        self._in_flight = 0
        self._at_once: float = destination.max_in_flight * len(destination.signals)
        self._stored_bytes = 0  # confirmed since the cursor was stored
        self._draining = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._health = _Health(destination, monotonic)

    # -- beginning and ending --------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        name = self.destination.name
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"otlp-forward-{name}")
        await self._sink.__aenter__()
        for work, what in ((self._take_and_dispatch(), "forward"), (self._keep_cursor(), "cursor")):
            task = asyncio.create_task(work, name=f"otlp-{what}-{name}")
            task.add_done_callback(self._task_ended)
            self._tasks.append(task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        running = [*self._tasks, *(p.task for p in self._parcels if p.task is not None)]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        try:
            await self._sink.__aexit__(kind, error, at)
            await self._store_cursor()
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def drain(self, timeout_s: float) -> None:
        """Send what is in the log, for at most ``timeout_s``; not at all while the remote is not to be had.

        Call it when nothing is accepted any more. What is left goes on at the next start.
        """
        self._draining.set()
        deadline = self._monotonic() + timeout_s
        while self._reader.confirmed < self._reader.newest and not self._hopeless():
            if (left := deadline - self._monotonic()) <= 0:
                break
            await asyncio.sleep(min(0.02, left))
        lag = self._lag()
        if any(lag.values()):
            records = ", ".join(f"{rows} {signal.records}" for signal, rows in lag.items() if rows)
            log.warning("%s: %s are left for the next start", self._health.who, records)

    def _hopeless(self) -> bool:
        return self._breaker.state is State.OPEN or self._health.needs_a_person or any(t.done() for t in self._tasks)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("%s: the %s task died", self._health.who, task.get_name(), exc_info=error)
        self._health.died = f"the {task.get_name()} task died: {error!r}"

    async def _in_thread(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        bound = functools.partial(call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, bound)

    # -- from the log into parcels ---------------------------------------------------------------

    async def _take_and_dispatch(self) -> None:
        while True:
            self._pass_given_up()
            await self._wait_for_frames()
            parcels = await self._take()
            for parcel in parcels:
                slot = self._slots[parcel.signal]
                await slot.acquire()
                if parcel.given_up:
                    slot.release()
                    continue
                parcel.task = asyncio.create_task(self._deliver(parcel), name=f"otlp-deliver-{self.destination.name}")

    async def _wait_for_frames(self) -> None:
        """Until there is something to send; and, if it is little, for a while for more of it."""
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(arrived.set)

        while self._reader.wake_after_position(wake):
            await arrived.wait()
            arrived.clear()
        for _ in range(_LINGER_STEPS):
            if self._reader.unread_bytes >= self.destination.max_batch_bytes or self._draining.is_set():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), self._linger_s / _LINGER_STEPS)

    async def _take(self) -> list[Parcel]:
        """The next frames as parcels; the cursor cannot pass them from now on."""
        budget = 2 * self.destination.max_batch_bytes
        stretch = self._reader.fresh(budget)
        if stretch is None:
            try:
                stretch = await self._in_thread(self._reader.read, self._reader.position, budget)
            except OSError as error:
                self._health.cannot_read(error)
                await asyncio.sleep(_READ_RETRY_S)
                return []
        frames, unreadable = self._reader.take(stretch)
        parcels = pack(frames, self.destination.signals, self.destination.max_batch_bytes)
        self._parcels.update(parcels)
        self._advance()
        for signal in self.destination.signals:
            if rows := unreadable.rows(signal):
                self._meter.add(m.EXPORTER_GIVEN_UP, rows, self.destination.name, signal.value, "unreadable")
        return parcels

    def _advance(self) -> None:
        first = min((p.first for p in self._parcels), default=self._reader.position + 1)
        self._reader.confirm(first - 1)

    def _pass_given_up(self) -> None:
        """Drop what the log does not keep for us any more."""
        floor = self._reader.floor
        dropped = [p for p in self._parcels if p.last <= floor]
        skipped = self._reader.skip_given_up()
        rows = {signal: skipped.rows(signal) for signal in self.destination.signals}
        nbytes = skipped.nbytes
        for parcel in dropped:
            parcel.given_up = True
            if parcel.task is not None:
                parcel.task.cancel()
            self._parcels.discard(parcel)
            rows[parcel.signal] += parcel.rows_left
            nbytes += parcel.nbytes
        if dropped or nbytes:
            self._advance()
            for signal, count in rows.items():
                self._meter.add(m.EXPORTER_GIVEN_UP, count, self.destination.name, signal.value, "backlog")
            self._meter.add(m.EXPORTER_GIVEN_UP_BYTES, nbytes, self.destination.name)
            self._health.gave_up(sum(rows.values()), nbytes)

    async def _keep_cursor(self) -> None:
        while True:
            await asyncio.sleep(CURSOR_INTERVAL_S)
            self._pass_given_up()
            await self._store_cursor()

    async def _store_cursor(self) -> None:
        self._stored_bytes = 0
        try:
            await self._in_thread(self._reader.store)
        except OSError as error:
            self._health.cannot_store(error)

    # -- one parcel ------------------------------------------------------------------------------

    async def _deliver(self, parcel: Parcel) -> None:
        signal, progress = parcel.signal, parcel.progress
        try:
            try:
                await self._settle(parcel.frames, progress)
            except _NotTaken as error:
                self._fail(signal, parcel.rows_left, progress)
                self._health.not_taken(signal, str(error))
            except Exception as error:  # our own mistake must not hold up what follows
                log.exception("%s: cannot deal with a parcel", self._health.who)
                progress.refusals = [refused_frame(frame, repr(error)) for frame in parcel.frames]
            if progress.refusals:
                await self._note_refusals(parcel)
            self._parcels.discard(parcel)
            self._advance()
            self._stored_bytes += parcel.nbytes
        finally:
            self._slots[signal].release()
        if self._stored_bytes > CURSOR_BYTES:
            await self._store_cursor()

    async def _settle(self, frames: list[Frame], progress: _Progress) -> None:
        """Send frames until the remote has decided on each."""
        builder = self._pools[frames[0].signal].take() if self._sink.encoding is Encoding.ARROW else None
        converted = await self._convert(frames, builder)
        try:
            if converted.batch is not None:
                await self._send(converted.batch, converted.rows, progress, frames)
                progress.refused_in_a_row = 0
            progress.refusals += converted.refusals
            return
        except Permanent as error:
            refusal = error
        finally:
            if builder is not None and asyncio.current_task().cancelling() == 0:  # type: ignore[union-attr]
                del converted  # its batch stands in the builder's memory
                builder.clear()
                self._pools[frames[0].signal].give(builder)
        if len(frames) == 1:
            await self._settle_alone(frames[0], refusal, progress)
        elif progress.refused_in_a_row < MAX_REFUSED_PARTS:
            half = len(frames) // 2
            await self._settle(frames[:half], progress)
            await self._settle(frames[half:], progress)
        else:
            progress.refuse(refused_frame(frame, str(refusal)) for frame in frames)

    async def _convert(self, frames: list[Frame], builder: BatchBuilder | None) -> Converted:
        if not needs_thread(frames, self._sink.encoding):
            return convert(frames, self._sink.encoding)
        return await self._in_thread(convert, frames, self._sink.encoding, builder)

    async def _settle_alone(self, frame: Frame, refusal: Permanent, progress: _Progress) -> None:
        """One request that the remote refuses: in parts if it is too large, without the records that were
        refused here too if there are any, else for good."""
        try:
            columns, refused_here = await self._in_thread(columns_of, frame)
        except Rejected:
            columns, refused_here = None, 0
        if columns is not None and refusal.too_large and columns.num_rows > 1:
            await self._settle_rows(frame.signal, columns, progress)
        elif columns is not None and refused_here and self._sink.encoding is Encoding.OTLP:
            await self._settle_rows(frame.signal, columns, progress, halve=False)
        else:
            progress.refuse([refused_frame(frame, str(refusal))])

    async def _settle_rows(
        self, signal: Signal, columns: pa.RecordBatch, progress: _Progress, *, halve: bool = True
    ) -> None:
        half = columns.num_rows // 2
        parts = [columns.slice(0, half), columns.slice(half)] if halve else [columns]
        for part in parts:
            converted = await self._in_thread(rows_as, signal, part, self._sink.encoding)
            progress.refusals += converted.refusals
            if converted.batch is None:
                continue
            try:
                await self._send(converted.batch, converted.rows, progress)
                progress.refused_in_a_row = 0
            except Permanent as error:
                if error.too_large and part.num_rows > 1:
                    await self._settle_rows(signal, part, progress)
                else:
                    suffix = "pb" if self._sink.encoding is Encoding.OTLP else "arrows"
                    progress.refuse([Refusal(converted.rows, converted.batch.payload, suffix, str(error))])

    async def _note_refusals(self, parcel: Parcel) -> None:
        refusals = parcel.progress.refusals
        rows = min(sum(r.rows for r in refusals), parcel.rows_left)
        self._fail(parcel.signal, rows, parcel.progress)
        name = self.destination.name
        kept = await self._in_thread(self._refused.keep, name, parcel.signal, parcel.first, refusals)
        self._meter.add(m.QUARANTINED, kept, "refused")
        self._health.refused(rows, parcel.signal, refusals[0].reason)

    # -- one request -----------------------------------------------------------------------------

    async def _send(self, batch: Batch, rows: int, progress: _Progress, frames: Sequence[Frame] = ()) -> None:
        """Send until the remote has it. Raises ``Permanent`` or ``_NotTaken``."""
        attempt = 0
        while True:
            permit = await self._permit()
            try:
                result = await self._try(batch, permit)
            except Transient as error:
                if error.fault is Fault.ADDRESS and self._health.takes_others(batch.signal):
                    raise _NotTaken(str(error)) from None
                self._health.failed(error)
                if error.retry_after_s is not None:
                    self._not_before = max(self._not_before, self._monotonic() + error.retry_after_s)
            else:
                self._health.succeeded(batch.signal)
                rejected = await self._count_rejected(rows, result, frames)
                self._meter.add(m.EXPORTER_SENT[batch.signal], rows - rejected, self.destination.name)
                progress.rows_done += rows - rejected
                if rejected:
                    self._fail(batch.signal, rejected, progress)
                if rejected or result.message:
                    self._health.partly(batch.signal, rejected, result.message)
                return
            await asyncio.sleep(next_delay(self.destination.retry, attempt, self._uniform))
            attempt += 1

    async def _permit(self) -> Permit:
        while True:
            now = self._monotonic()
            if now < self._not_before:
                await asyncio.sleep(self._not_before - now)
                continue
            if self._in_flight and self._in_flight >= self._at_once:
                await self._answered.wait()
                continue
            answer = self._breaker.ask(now)
            if isinstance(answer, Permit):
                return answer
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), None if math.isinf(answer.wait_s) else answer.wait_s)

    def _learn_pace(self, *, busy: bool) -> None:
        """A remote that is busy gets half as many requests at once, and one more after each round of successes;
        or those that it sent away would all come back at the same moment and be sent away again."""
        if busy:
            self._at_once = max(1.0, min(self._at_once, self._in_flight) / 2)
        else:
            most = self.destination.max_in_flight * len(self.destination.signals)
            self._at_once = min(most, self._at_once + 1 / self._at_once)

    async def _try(self, batch: Batch, permit: Permit) -> DeliveryResult:
        """One request; the breaker hears of it whatever happens."""
        began = self._monotonic()
        outcome = "cancelled"
        self._in_flight += 1
        try:
            result = await self._sink.send(batch)
            outcome = "partial" if result.rejected else "ok"
            self._breaker.succeeded(permit)
            self._learn_pace(busy=False)
            return result
        except Permanent:
            outcome = "refused"
            self._breaker.succeeded(permit)  # it was there, and answered
            raise
        except Transient as error:
            outcome = error.fault.value
            if error.fault is Fault.BUSY:
                self._learn_pace(busy=True)
            if error.fault is Fault.BUSY and error.retry_after_s is not None:
                self._breaker.succeeded(permit)  # it answered, and said when to come back
            else:
                self._breaker.failed(permit, self._monotonic())
            raise
        except OtlpConfigError as error:  # a certificate or token that was rotated to something unusable
            outcome = Fault.CREDENTIALS.value
            self._breaker.failed(permit, self._monotonic())
            raise Transient(str(error), fault=Fault.CREDENTIALS) from None
        except Exception as error:
            outcome = Fault.UNREACHABLE.value
            log.exception("%s: an unexpected error", self._health.who)
            self._breaker.failed(permit, self._monotonic())
            raise Transient(repr(error)) from error
        finally:
            self._in_flight -= 1
            answered, self._answered = self._answered, asyncio.Event()
            answered.set()
            if outcome == "cancelled":
                self._breaker.abandoned(permit, self._monotonic())
            else:
                self._meter.add(m.EXPORTER_REQUESTS, 1, self.destination.name, outcome)
                self._meter.observe(m.EXPORTER_SECONDS, self._monotonic() - began, self.destination.name)

    async def _count_rejected(self, rows: int, result: DeliveryResult, frames: Sequence[Frame]) -> int:
        """Accepted records that the remote rejected. Among those that it names may be some that were refused
        here already and never counted as accepted; only then requests are decoded, to tell them apart."""
        rejected = result.rejected
        if rejected and self._sink.encoding is Encoding.OTLP:
            stored = [f for f in frames if f.encoding is Encoding.OTLP]
            rejected -= await self._in_thread(_refused_here, stored)
        return min(max(0, rejected), rows)

    def _fail(self, signal: Signal, rows: int, progress: _Progress) -> None:
        self._meter.add(m.EXPORTER_FAILED[signal], rows, self.destination.name)
        progress.rows_done += rows

    # -- status ----------------------------------------------------------------------------------

    def _lag(self) -> dict[Signal, int]:
        lag = self._reader.lag()
        return {signal: lag.rows(signal) for signal in self.destination.signals}

    def status(self) -> PartStatus:
        """Never ``failed``: whatever the remote does, data is taken and stored."""
        lag = self._reader.lag()
        details = {
            "url": self.destination.url,
            "protocol": self.destination.transport,
            "breaker": self._breaker.state.name.lower(),
            "lag_bytes": lag.nbytes,
            "lag_records": sum(self._lag().values()),
            "lag_secs": round(self._lag_s(), 3),
            "trouble_secs": round(self._health.trouble_s(), 3),
            "in_flight": self._in_flight,
            "cursor": self._reader.confirmed,
        }
        reason = self._health.reason()
        return PartStatus(f"forwarding:{self.destination.name}", "degraded" if reason else "ok", reason, details)

    def report(self) -> None:
        """Set the gauges; call before a scrape."""
        name = self.destination.name
        meter = self._meter
        meter.set(m.EXPORTER_QUEUE_SIZE, self._reader.lag().nbytes, name)
        meter.set(m.EXPORTER_QUEUE_CAPACITY, self.destination.max_backlog_bytes, name)
        meter.set(m.EXPORTER_IN_FLIGHT, self._in_flight, name)
        meter.set(m.EXPORTER_BREAKER, self._breaker.state.value, name)
        meter.set(m.EXPORTER_LAG_SECONDS, self._lag_s(), name)
        for signal, rows in self._lag().items():
            meter.set(m.EXPORTER_LAG_RECORDS, rows, name, signal.value)

    def _lag_s(self) -> float:
        oldest = min((p.frames[0].received_ns for p in self._parcels), default=None)
        return 0.0 if oldest is None else max(0.0, (time.time_ns() - oldest) / 1e9)


def _refused_here(frames: Sequence[Frame]) -> int:
    found = 0
    for frame in frames:
        with contextlib.suppress(Rejected):
            found += columns_of(frame)[1]
    return found


class _Health:
    """What is said of a destination, in the log once and in health while it lasts."""

    def __init__(self, destination: Destination, monotonic: Callable[[], float]) -> None:
        self.who = f"forwarding to {destination.name} ({destination.url})"
        self.died = ""
        self._monotonic = monotonic
        self._trouble: Transient | None = None
        self._since = 0.0
        self._failures = 0
        self._delivered: set[Signal] = set()
        self._not_taken: dict[Signal, str] = {}
        self._said: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    @property
    def needs_a_person(self) -> bool:
        """Whether trying again helps nobody before a setting is corrected."""
        return self._trouble is not None and self._trouble.fault in (Fault.CREDENTIALS, Fault.ADDRESS)

    def reason(self) -> str:
        """A sentence, empty if all is well."""
        if self.died:
            return self.died
        if self._trouble is not None:
            return f"{_WORDS[self._trouble.fault]}: {self._trouble}"
        for signal, why in self._not_taken.items():
            return f"does not take {signal.value} ({why}); name the others in the setting signals"
        return ""

    def trouble_s(self) -> float:
        """How long it has been so."""
        return 0.0 if self._trouble is None else self._monotonic() - self._since

    def takes_others(self, signal: Signal) -> bool:
        """The address is right, then: it is this signal that has no service there."""
        return bool(self._delivered) and signal not in self._delivered

    def succeeded(self, signal: Signal) -> None:
        self._delivered.add(signal)
        self._failures = 0
        if self._trouble is not None:
            self._trouble = None
            self._say("works", "%s: works again after %.0f s", 0, self.who, self._monotonic() - self._since)

    def failed(self, error: Transient) -> None:
        """One failure that the next try mends is no news; three in a row, or a wrong setting, are."""
        self._failures += 1
        if self._failures == 1:
            self._first_failure = self._monotonic()
        needs_a_person = error.fault in (Fault.CREDENTIALS, Fault.ADDRESS)
        if self._trouble is None:
            if self._failures < _FAILURES_THAT_ARE_NEWS and not needs_a_person:
                return
            self._since = self._first_failure
        self._trouble = error
        text = "%s: %s: %s; what is accepted is stored and waits in the WAL"
        self._say(error.fault.value, text, 0, self.who, _WORDS[error.fault], error)

    def not_taken(self, signal: Signal, why: str) -> None:
        if signal not in self._not_taken:
            self._not_taken[signal] = why
            log.error("%s: it takes no %s (%s): they are stored and not forwarded", self.who, signal.value, why)

    def refused(self, rows: int, signal: Signal, why: str) -> None:
        self._say("refused", "%s: refused %d %s for good: %s", rows, self.who, rows, signal.records, why)

    def partly(self, signal: Signal, rejected: int, message: str) -> None:
        text = message or "no reason given"
        self._say("partly", "%s: rejected %d %s: %s", rejected, self.who, rejected, signal.records, text)

    def gave_up(self, rows: int, nbytes: int) -> None:
        text = "%s: gave up the oldest %d records (%d bytes): the backlog outgrew its bound, or the disk"
        self._say("gave_up", text, rows, self.who, rows, nbytes)

    def cannot_read(self, error: OSError) -> None:
        self._say("read", "%s: cannot read the WAL: %s", 0, self.who, error)

    def cannot_store(self, error: OSError) -> None:
        self._say("store", "%s: cannot store the cursor (%s): a kill would make it send more twice", 0, self.who, error)

    def _say(self, about: str, text: str, records: int, *values: object) -> None:
        """A line now, then at most one a minute with the records that went unsaid."""
        now = self._monotonic()
        if now - self._said.get(about, float("-inf")) < HINT_INTERVAL_S:
            self._unsaid[about] = self._unsaid.get(about, 0) + records
            return
        self._said[about] = now
        more = self._unsaid.pop(about, 0)
        log.error(text + (" (and %d records since the last line)" if more else ""), *values, *([more] if more else []))
