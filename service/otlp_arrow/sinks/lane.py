"""Sends one signal of what the log holds on to one destination, and moves a cursor behind it.

::

    WalReader ─► take ─► parcels ─► slots ─► Delivery.settle ─► settled
        ▲                                                          │
        └── confirm: everything below the first parcel that is not settled ◄┘

A parcel is settled when the remote has it, has refused it for good, or its frames were given up. Several are
under way at once and end in any order; the cursor moves over them in the order of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from concurrent.futures import Executor

from otlp_arrow.model import Signal
from otlp_arrow.model import meter as m
from otlp_arrow.model.limits import CURSOR_BYTES
from otlp_arrow.model.meter import Meter
from otlp_arrow.sinks.breaker import State
from otlp_arrow.sinks.delivery import Delivery
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.parcels import Packer, Parcel
from otlp_arrow.sinks.standing import Standing
from otlp_arrow.storage.reader import WalReader

log = logging.getLogger(__name__)

_READ_RETRY_S = 1.0
_LINGER_STEPS = 4


class Lane:
    """One signal on its way to one destination; of the destination's lanes none waits for another.

    ``run`` is its task, ``keep_up`` is called now and then, ``cancel`` ends the deliveries that are under way.
    """

    def __init__(
        self,
        destination: Destination,
        reader: WalReader,
        delivery: Delivery,
        standing: Standing,
        meter: Meter,
        executor: Executor,
        store_cursor: Callable[[], object],
        *,
        monotonic: Callable[[], float],
        linger_s: float,
    ) -> None:
        """``store_cursor`` is told when much was confirmed since it was stored."""
        self.signal: Signal = reader.signal
        self.delivery = delivery
        self._destination = destination
        self._reader = reader
        self._standing = standing
        self._meter = meter
        self._executor = executor
        self._store_cursor = store_cursor
        self._monotonic = monotonic
        self._linger_s = linger_s
        self._packer = Packer(destination.max_batch_bytes)
        self._parcels: set[Parcel] = set()  # taken from the log and not settled
        self._waiting: list[Parcel] = []  # of these, what is not on its way yet
        self._slots = asyncio.Semaphore(destination.max_in_flight)
        self._confirmed_bytes = 0
        self._quiet = True  # nothing was taken since ``keep_up`` looked
        self._draining = asyncio.Event()

    # -- beginning and ending --------------------------------------------------------------------

    async def run(self) -> None:
        """Take and send on until cancelled."""
        while True:
            self._pass_given_up()
            if not self._waiting:
                await self._wait_for_frames()
            await self._wait_for_chance()
            self._waiting += await self._take()
            await self._dispatch()

    def drain(self) -> None:
        """Nothing is accepted any more: wait for no company."""
        self._draining.set()

    def keep_up(self) -> None:
        """Go on over frames of other signals, let go of what was given up and of memory that nobody needs."""
        self._pass_given_up()
        if self._parcels:
            self._quiet = False
            return
        self._pass_others()
        # Between two parcels of a steady stream it is quiet for a moment; memory that is let go of then is faulted in
        # again with the next one.
        if self._quiet:
            self.delivery.free_memory()
        self._quiet = True

    def deliveries(self) -> list[asyncio.Task[None]]:
        """What is under way."""
        return [p.task for p in self._parcels if p.task is not None]

    @property
    def behind(self) -> bool:
        """Whether something is left to be sent."""
        return self._reader.behind

    @property
    def hopeless(self) -> bool:
        """Whether waiting for the remote is of no use at a stop."""
        return self.delivery.breaker.state is State.OPEN or self._standing.in_trouble(self.signal)

    def oldest_ns(self) -> int | None:
        """When the oldest of what is under way was received."""
        return min((p.frames[0].received_ns for p in self._parcels), default=None)

    # -- from the log into parcels ---------------------------------------------------------------

    async def _dispatch(self) -> None:
        """Send the parcels that are closed on their way, as slots become free."""
        for parcel in [p for p in self._waiting if p.closed]:
            self._waiting.remove(parcel)
            await self._slots.acquire()
            if parcel.given_up:
                self._slots.release()
            else:
                parcel.task = asyncio.create_task(self._deliver(parcel), name=f"otlp-deliver-{self._destination.name}")
                # Not in the task: one that is cancelled before its first step runs none of its code.
                parcel.task.add_done_callback(self._give_back)

    def _give_back(self, _task: asyncio.Task[None]) -> None:
        self._slots.release()

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
            if self._reader.unread_bytes >= self._destination.max_batch_bytes or self._draining.is_set():
                return
            # Not wait_for: before Python 3.12 it may swallow a cancellation, and the stop would wait for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._linger_s / _LINGER_STEPS):
                    await self._draining.wait()

    async def _wait_for_chance(self) -> None:
        """While the remote is gone nothing leaves the log but what tries it: it would fill memory, and with an old
        backlog be read back from the disk to be given up."""
        while self.delivery.breaker.state is not State.CLOSED and any(p.task is not None for p in self._parcels):
            await self.delivery.changed()
        await self.delivery.chance()

    async def _take(self) -> list[Parcel]:
        """The next frames as parcels; the cursor cannot pass them from now on. One read of a file fills none: while
        there is more, the last one stays open for a while."""
        budget = self._destination.max_batch_bytes
        position = self._reader.position
        stretch = self._reader.fresh(budget)
        from_file = stretch is None
        if stretch is None:
            try:
                loop = asyncio.get_running_loop()
                stretch = await loop.run_in_executor(self._executor, self._reader.read, position, budget)
            except OSError as error:
                self._standing.cannot_read(error)
                await asyncio.sleep(_READ_RETRY_S)
                return []
        frames, unreadable = self._reader.take(stretch)
        parcels = self._packer.add(frames, self._monotonic())
        still_open = from_file and self._reader.unread_bytes > 0
        self._packer.close(self._monotonic() - self._linger_s if still_open else math.inf)
        self._parcels.update(parcels)
        self._quiet = self._quiet and not parcels
        self._advance()
        if unreadable.rows:
            self._meter.add(
                m.EXPORTER_GIVEN_UP, unreadable.rows, self._destination.name, self.signal.value, "unreadable"
            )
        return parcels

    def _pass_others(self) -> None:
        stretch = self._reader.fresh(0)
        if stretch is not None and not stretch.frames:
            self._reader.take(stretch)
            self._advance()

    def _advance(self) -> None:
        first = min((p.first for p in self._parcels), default=self._reader.position + 1)
        self._reader.confirm(first - 1)

    def _pass_given_up(self) -> None:
        """Drop what the log does not keep for us any more."""
        floor = self._reader.floor
        dropped = [p for p in self._parcels if p.last <= floor]
        rows, nbytes = self._reader.skip_given_up()
        for parcel in dropped:
            parcel.given_up = parcel.closed = True
            if parcel.task is not None:
                parcel.task.cancel()
            self._parcels.discard(parcel)
            self.delivery.stir()
            rows += parcel.rows_left
            nbytes += parcel.nbytes
        if dropped or nbytes:
            self._advance()
            self._meter.add(m.EXPORTER_GIVEN_UP, rows, self._destination.name, self.signal.value, "backlog")
            self._meter.add(m.EXPORTER_GIVEN_UP_BYTES, nbytes, self._destination.name)
            self._standing.gave_up(rows, nbytes)

    async def _deliver(self, parcel: Parcel) -> None:
        await self.delivery.settle(parcel)
        self._parcels.discard(parcel)
        self.delivery.stir()  # refusals are written aside after the answer; who waits for the last parcel would wait on
        self._advance()
        self._confirmed_bytes += parcel.nbytes
        if self._confirmed_bytes > CURSOR_BYTES:
            self._confirmed_bytes = 0
            self._store_cursor()
