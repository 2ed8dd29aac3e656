"""Sends what the log holds on to one destination, through any outage, and moves a cursor behind it.

::

    WalReader ─► take ─► parcels (one signal each) ─► slots ─► Delivery.settle ─► settled
        ▲                                                                            │
        └── confirm: everything below the first parcel that is not settled ◄─────────┘

A parcel is settled when the remote has it, has refused it for good, or its frames were given up. Several are
under way at once and end in any order; the cursor moves over them in the order of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from otlp_arrow.model import Signal
from otlp_arrow.model import meter as m
from otlp_arrow.model.limits import CURSOR_BYTES, CURSOR_INTERVAL_S, FORWARD_LINGER_S
from otlp_arrow.model.meter import Meter
from otlp_arrow.model.status import PartStatus
from otlp_arrow.sinks.breaker import State
from otlp_arrow.sinks.delivery import Delivery
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.parcels import Packer, Parcel
from otlp_arrow.sinks.refused import RefusedItems
from otlp_arrow.sinks.sink import Sink
from otlp_arrow.sinks.standing import Standing
from otlp_arrow.storage.reader import WalReader

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_READ_RETRY_S = 1.0
_THREADS = 2  # one reads and stores the cursor, one converts
_LINGER_STEPS = 4


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
        linger_s: float = FORWARD_LINGER_S,
    ) -> None:
        self.destination = destination
        self._reader = reader
        self._sink = sink
        self._meter = meter
        self._monotonic = monotonic
        self._linger_s = linger_s
        self._standing = Standing(destination, monotonic)
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"otlp-forward-{destination.name}")
        self._delivery = Delivery(
            destination, sink, self._standing, refused, meter, self._executor, monotonic=monotonic
        )
        self._packer = Packer(destination.signals, destination.max_batch_bytes)
        self._parcels: set[Parcel] = set()  # taken from the log and not settled
        self._waiting: list[Parcel] = []  # of these, what is not on its way yet
        self._slots = {signal: asyncio.Semaphore(destination.max_in_flight) for signal in destination.signals}
        self._confirmed_bytes = 0  # confirmed since the cursor was stored
        self._draining = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # -- beginning and ending --------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        name = self.destination.name
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
            self._executor.shutdown(wait=False, cancel_futures=True)

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
            log.warning("%s: %s are left for the next start", self._standing.who, records)

    def _hopeless(self) -> bool:
        return (
            self._delivery.breaker.state is State.OPEN
            or self._standing.needs_a_person
            or any(t.done() for t in self._tasks)
        )

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("%s: the %s task died", self._standing.who, task.get_name(), exc_info=error)
        self._standing.died = f"the {task.get_name()} task died: {error!r}"

    # -- from the log into parcels ---------------------------------------------------------------

    async def _take_and_dispatch(self) -> None:
        while True:
            self._pass_given_up()
            if not self._waiting:
                await self._wait_for_frames()
            self._waiting += await self._take()
            # While there is more, only what is full goes out, and what has been open for a while.
            more = self._reader.unread_bytes > 0
            self._packer.close(self._monotonic() - self._linger_s if more else math.inf)
            await self._dispatch()

    async def _dispatch(self) -> None:
        """Send the parcels that are closed on their way, as slots become free."""
        for parcel in [p for p in self._waiting if p.closed]:
            self._waiting.remove(parcel)
            slot = self._slots[parcel.signal]
            await slot.acquire()
            if parcel.given_up:
                slot.release()
            else:
                parcel.task = asyncio.create_task(self._deliver(parcel), name=f"otlp-deliver-{self.destination.name}")
                # Not in the task: one that is cancelled before its first step runs none of its code.
                parcel.task.add_done_callback(functools.partial(_give_back, slot))

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
        budget = self.destination.max_batch_bytes
        position = self._reader.position
        stretch = self._reader.fresh(budget)
        if stretch is None:
            try:
                stretch = await self._in_thread(lambda: self._reader.read(position, budget))
            except OSError as error:
                self._standing.cannot_read(error)
                await asyncio.sleep(_READ_RETRY_S)
                return []
        frames, unreadable = self._reader.take(stretch)
        parcels = self._packer.add(frames, self._monotonic())
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
            parcel.given_up = parcel.closed = True
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
            self._standing.gave_up(sum(rows.values()), nbytes)

    async def _keep_cursor(self) -> None:
        while True:
            await asyncio.sleep(CURSOR_INTERVAL_S)
            self._pass_given_up()
            await self._store_cursor()
            if not self._parcels:
                self._delivery.free_memory()

    async def _store_cursor(self) -> None:
        self._confirmed_bytes = 0
        if self._reader.stored == self._reader.confirmed:
            return
        try:
            await self._in_thread(self._reader.store)
        except OSError as error:
            self._standing.cannot_store(error)

    async def _deliver(self, parcel: Parcel) -> None:
        await self._delivery.settle(parcel)
        self._parcels.discard(parcel)
        self._advance()
        self._confirmed_bytes += parcel.nbytes
        if self._confirmed_bytes > CURSOR_BYTES:
            await self._store_cursor()

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

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
            "breaker": self._delivery.breaker.state.name.lower(),
            "lag_bytes": lag.nbytes,
            "lag_records": sum(self._lag().values()),
            "lag_secs": round(self._lag_s(), 3),
            "trouble_secs": round(self._standing.trouble_s(), 3),
            "in_flight": self._delivery.in_flight,
            "cursor": self._reader.confirmed,
        }
        reason = self._standing.reason()
        return PartStatus(f"forwarding:{self.destination.name}", "degraded" if reason else "ok", reason, details)

    def report(self) -> None:
        """Set the gauges; call before a scrape."""
        name = self.destination.name
        meter = self._meter
        meter.set(m.EXPORTER_QUEUE_SIZE, self._reader.lag().nbytes, name)
        meter.set(m.EXPORTER_QUEUE_CAPACITY, self.destination.max_backlog_bytes, name)
        meter.set(m.EXPORTER_IN_FLIGHT, self._delivery.in_flight, name)
        meter.set(m.EXPORTER_BREAKER, self._delivery.breaker.state.value, name)
        meter.set(m.EXPORTER_LAG_SECONDS, self._lag_s(), name)
        for signal, rows in self._lag().items():
            meter.set(m.EXPORTER_LAG_RECORDS, rows, name, signal.value)

    def _lag_s(self) -> float:
        oldest = min((p.frames[0].received_ns for p in self._parcels), default=None)
        return 0.0 if oldest is None else max(0.0, (time.time_ns() - oldest) / 1e9)


def _give_back(slot: asyncio.Semaphore, _: asyncio.Task[None]) -> None:
    slot.release()
