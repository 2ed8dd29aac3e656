"""Sends what the log holds on to one destination, through any outage, and keeps its cursor.

::

    Backlog ─► a Lane for each signal ─► Sink
       ▲              │
       └── confirmed ─┘

What the lanes share is the connection, what is said of the destination, and the file of the cursor. Breaker, pace
and the pauses that a remote asks for are each lane's own (docs/decisions/0011).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from otlp_arrow.model import Signal
from otlp_arrow.model import meter as m
from otlp_arrow.model.limits import CURSOR_INTERVAL_S, FORWARD_LINGER_S
from otlp_arrow.model.meter import Meter
from otlp_arrow.model.status import PartStatus
from otlp_arrow.sinks.breaker import State
from otlp_arrow.sinks.delivery import Delivery
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.lane import Lane
from otlp_arrow.sinks.refused import RefusedItems
from otlp_arrow.sinks.sink import Sink
from otlp_arrow.sinks.standing import Standing
from otlp_arrow.storage.reader import Backlog

log = logging.getLogger(__name__)

_THREADS = 2  # one reads and stores the cursor, one converts


class Forwarder:
    """One destination's forwarder, as an async context manager. Entering never waits for the remote."""

    def __init__(
        self,
        destination: Destination,
        backlog: Backlog,
        sink: Sink,
        refused: RefusedItems,
        meter: Meter,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        linger_s: float = FORWARD_LINGER_S,
    ) -> None:
        self.destination = destination
        self._backlog = backlog
        self._sink = sink
        self._meter = meter
        self._monotonic = monotonic
        self._standing = Standing(destination, monotonic)
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"otlp-forward-{destination.name}")
        self._store_now = asyncio.Event()
        self._lanes = [
            Lane(
                destination,
                reader,
                Delivery(destination, sink, self._standing, refused, meter, self._executor, monotonic=monotonic),
                self._standing,
                meter,
                self._executor,
                self._store_now.set,
                monotonic=monotonic,
                linger_s=linger_s,
            )
            for reader in backlog.readers.values()
        ]
        self._tasks: list[asyncio.Task[None]] = []

    # -- beginning and ending --------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._sink.__aenter__()
        for lane in self._lanes:
            self._start(lane.run(), f"forward-{lane.signal.value}")
        self._start(self._keep_cursor(), "cursor")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        running = [*self._tasks, *(task for lane in self._lanes for task in lane.deliveries())]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        try:
            await self._sink.__aexit__(kind, error, at)
            for lane in self._lanes:
                lane.keep_up()
            await self._store_cursor()
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def drain(self, timeout_s: float) -> None:
        """Send what is in the log, for at most ``timeout_s``; of no signal longer than there is hope for it.

        Call it when nothing is accepted any more. What is left goes on at the next start.
        """
        for lane in self._lanes:
            lane.drain()
        deadline = self._monotonic() + timeout_s
        while any(lane.behind and not lane.hopeless for lane in self._lanes) and not self._standing.died:
            if (left := deadline - self._monotonic()) <= 0:
                break
            await asyncio.sleep(min(0.02, left))
        lag = self._lag()
        if any(lag.values()):
            records = ", ".join(f"{rows} {signal.records}" for signal, rows in lag.items() if rows)
            log.warning("%s: %s are left for the next start", self._standing.who, records)

    def _start(self, work: Coroutine[Any, Any, None], what: str) -> None:
        task = asyncio.create_task(work, name=f"otlp-{what}-{self.destination.name}")
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("%s: the %s task died", self._standing.who, task.get_name(), exc_info=error)
        self._standing.died = f"the {task.get_name()} task died: {error!r}"

    # -- the cursor ------------------------------------------------------------------------------

    async def _keep_cursor(self) -> None:
        while True:
            try:
                async with asyncio.timeout(CURSOR_INTERVAL_S):
                    await self._store_now.wait()
            except TimeoutError:
                pass
            self._store_now.clear()
            for lane in self._lanes:
                lane.keep_up()
            await self._store_cursor()

    async def _store_cursor(self) -> None:
        if all(reader.stored == reader.confirmed for reader in self._backlog.readers.values()):
            return
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._backlog.store)
        except OSError as error:
            self._standing.cannot_store(error)

    # -- status ----------------------------------------------------------------------------------

    def _lag(self) -> dict[Signal, int]:
        return {signal: reader.lag().rows for signal, reader in self._backlog.readers.items()}

    def _lag_bytes(self) -> int:
        return sum(reader.lag().nbytes for reader in self._backlog.readers.values())

    def _lag_s(self) -> float:
        oldest = min((ns for lane in self._lanes if (ns := lane.oldest_ns()) is not None), default=None)
        return 0.0 if oldest is None else max(0.0, (time.time_ns() - oldest) / 1e9)

    def _in_flight(self) -> int:
        return sum(lane.delivery.in_flight for lane in self._lanes)

    def _breaker(self) -> State:
        """The worst of the signals'."""
        return max((lane.delivery.breaker.state for lane in self._lanes), key=lambda state: state.value)

    def status(self) -> PartStatus:
        """Never ``failed``: whatever the remote does, data is taken and stored."""
        lag = self._lag()
        details = {
            "url": self.destination.url,
            "protocol": self.destination.transport,
            "breaker": self._breaker().name.lower(),
            "lag_bytes": self._lag_bytes(),
            "lag_records": sum(lag.values()),
            "lag_secs": round(self._lag_s(), 3),
            "trouble_secs": round(self._standing.trouble_s(), 3),
            "in_flight": self._in_flight(),
            "cursor": self._backlog.confirmed,
            "signals": {
                lane.signal.value: {
                    "breaker": lane.delivery.breaker.state.name.lower(),
                    "lag_records": lag[lane.signal],
                    "in_flight": lane.delivery.in_flight,
                }
                for lane in self._lanes
            },
        }
        reason = self._standing.reason()
        return PartStatus(f"forwarding:{self.destination.name}", "degraded" if reason else "ok", reason, details)

    def report(self) -> None:
        """Set the gauges; call before a scrape."""
        name = self.destination.name
        meter = self._meter
        meter.set(m.EXPORTER_QUEUE_SIZE, self._lag_bytes(), name)
        meter.set(m.EXPORTER_QUEUE_CAPACITY, self.destination.max_backlog_bytes, name)
        meter.set(m.EXPORTER_IN_FLIGHT, self._in_flight(), name)
        meter.set(m.EXPORTER_BREAKER, self._breaker().value, name)
        meter.set(m.EXPORTER_LAG_SECONDS, self._lag_s(), name)
        for signal, rows in self._lag().items():
            meter.set(m.EXPORTER_LAG_RECORDS, rows, name, signal.value)
