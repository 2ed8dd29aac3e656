"""Getting a parcel settled: convert, send through the breaker until the remote answers, find what it refuses.

::

    parcel ─► convert ─► pause? pace? breaker? ─► send ─► taken
                 ▲                                  ├───► later: the same batch again, after a random pause
                 └── half of it, a part of it ◄─────┴───► refused: which of its requests?
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

import pyarrow as pa

from otlp_arrow.codec import BatchBuilder
from otlp_arrow.model import Batch, Encoding, OtlpConfigError, Rejected, Signal
from otlp_arrow.model import meter as m
from otlp_arrow.model.limits import MAX_REFUSED_PARTS
from otlp_arrow.model.meter import Meter
from otlp_arrow.sinks.breaker import Breaker, Permit
from otlp_arrow.sinks.convert import (
    Converted,
    Refusal,
    columns_of,
    convert,
    needs_thread,
    refused_frame,
    refused_rows,
    rows_as,
)
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.parcels import Parcel, Progress
from otlp_arrow.sinks.refused import RefusedItems
from otlp_arrow.sinks.retry import next_delay
from otlp_arrow.sinks.sink import DeliveryResult, Fault, Permanent, Sink, Transient
from otlp_arrow.sinks.standing import Standing
from otlp_arrow.storage.frames import Frame
from otlp_arrow.storage.gathering import BuilderPool

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _NotTaken(Exception):
    """The remote takes other signals, and this one never."""


class Delivery:
    """All that goes to one destination of one signal: its senders share a breaker, a pace, and the pauses that the
    remote asks for."""

    def __init__(
        self,
        destination: Destination,
        sink: Sink,
        standing: Standing,
        refused: RefusedItems,
        meter: Meter,
        executor: Executor,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.breaker = Breaker(destination.breaker)
        self.in_flight = 0
        self._destination = destination
        self._sink = sink
        self._standing = standing
        self._refused = refused
        self._meter = meter
        self._executor = executor
        self._monotonic = monotonic
        self._uniform = uniform
        self._answered = asyncio.Event()  # set, and replaced, when a request ends
        self._not_before = 0.0  # the remote asked for a pause until then
        self._at_once: float = destination.max_in_flight
        self._pools = {signal: BuilderPool(signal) for signal in Signal}

    async def chance(self) -> None:
        """Returns when a request may go out, as far as the breaker and the remote's own pauses go."""
        while wait_s := max(0.0, self._not_before - (now := self._monotonic()), self.breaker.wait_s(now)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(wait_s) else wait_s):
                    await self.changed()

    async def changed(self) -> None:
        """Returns when a request has ended, or ``stir`` was called."""
        await self._answered.wait()

    def stir(self) -> None:
        """Whoever waits for a chance looks again."""
        answered, self._answered = self._answered, asyncio.Event()
        answered.set()

    async def settle(self, parcel: Parcel) -> None:
        """Returns when the remote has decided on every record of a parcel; never raises but for a cancellation."""
        signal, progress = parcel.signal, parcel.progress
        try:
            await self._settle(parcel.frames, progress)
        except _NotTaken as error:
            self._fail(signal, parcel.rows_left, progress)
            self._standing.not_taken(signal, str(error))
        except Exception as error:  # our own mistake must not hold up what follows
            log.exception("%s: cannot deal with a parcel", self._standing.who)
            progress.refusals = [refused_frame(frame, repr(error)) for frame in parcel.frames]
        if progress.refusals:
            await self._note_refusals(parcel)

    def free_memory(self) -> None:
        """Nothing has gone out for a while: let go of what is kept for conversions."""
        for pool in self._pools.values():
            pool.drop()

    async def _in_thread(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        bound = functools.partial(call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, bound)

    # -- what the remote has to decide on --------------------------------------------------------

    async def _settle(self, frames: list[Frame], progress: Progress) -> None:
        """Send frames until the remote has decided on each."""
        await self.chance()  # what is converted before waits in memory
        pool = self._pools[frames[0].signal]
        builder = pool.take() if self._sink.encoding is Encoding.ARROW else None
        converted = await self._convert(frames, builder, pool)
        if converted.lent:
            builder = None
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
                pool.give(builder)
        if len(frames) == 1:
            await self._settle_alone(frames[0], refusal, progress)
        elif progress.refused_in_a_row < MAX_REFUSED_PARTS:
            half = len(frames) // 2
            await self._settle(frames[:half], progress)
            await self._settle(frames[half:], progress)
        else:
            progress.refuse(refused_frame(frame, str(refusal)) for frame in frames)

    async def _convert(self, frames: list[Frame], builder: BatchBuilder | None, pool: BuilderPool) -> Converted:
        join = not self._sink.takes_parts
        if not needs_thread(frames, self._sink.encoding):
            return convert(frames, self._sink.encoding, join=join)
        return await self._in_thread(convert, frames, self._sink.encoding, builder, join=join, give_back=pool.give)

    async def _settle_alone(self, frame: Frame, refusal: Permanent, progress: Progress) -> None:
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
        self, signal: Signal, columns: pa.RecordBatch, progress: Progress, *, halve: bool = True
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
                    progress.refuse([_refused_batch(converted.batch, converted.rows, str(error))])

    async def _note_refusals(self, parcel: Parcel) -> None:
        refusals = parcel.progress.refusals
        rows = min(sum(r.rows for r in refusals), parcel.rows_left)
        self._fail(parcel.signal, rows, parcel.progress)
        name = self._destination.name
        kept = await self._in_thread(self._refused.keep, name, parcel.signal, parcel.first, refusals)
        self._meter.add(m.QUARANTINED, kept, "refused")
        self._standing.refused(rows, parcel.signal, refusals[0].reason)

    # -- one request -----------------------------------------------------------------------------

    async def _send(self, batch: Batch, rows: int, progress: Progress, frames: Sequence[Frame] = ()) -> None:
        """Send until the remote has it. Raises ``Permanent`` or ``_NotTaken``."""
        attempt = 0
        while True:
            permit = await self._permit()
            try:
                result = await self._try(batch, permit)
            except Transient as error:
                if error.fault is Fault.ADDRESS and self._standing.takes_others(batch.signal):
                    raise _NotTaken(str(error)) from None
                self._standing.failed(batch.signal, error)
                if error.retry_after_s is not None:
                    self._not_before = max(self._not_before, self._monotonic() + error.retry_after_s)
            else:
                self._standing.succeeded(batch.signal)
                rejected = await self._count_rejected(rows, result, frames)
                self._meter.add(m.EXPORTER_SENT[batch.signal], rows - rejected, self._destination.name)
                progress.rows_done += rows - rejected
                if rejected:
                    self._fail(batch.signal, rejected, progress)
                if rejected or result.message:
                    self._standing.partly(batch.signal, rejected, result.message)
                return
            await asyncio.sleep(next_delay(self._destination.retry, attempt, self._uniform))
            attempt += 1

    async def _permit(self) -> Permit:
        while True:
            now = self._monotonic()
            if now < self._not_before:
                await asyncio.sleep(self._not_before - now)
                continue
            if self.in_flight and self.in_flight >= self._at_once:
                await self.changed()
                continue
            answer = self.breaker.ask(now)
            if isinstance(answer, Permit):
                return answer
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(answer.wait_s) else answer.wait_s):
                    await self.changed()

    def _learn_pace(self, *, busy: bool) -> None:
        """A remote that is busy gets half as many requests at once, and one more after each round of successes;
        or those that it sent away would all come back at the same moment and be sent away again."""
        if busy:
            self._at_once = max(1.0, min(self._at_once, self.in_flight) / 2)
        else:
            self._at_once = min(self._destination.max_in_flight, self._at_once + 1 / self._at_once)

    async def _try(self, batch: Batch, permit: Permit) -> DeliveryResult:
        """One request; the breaker hears of it whatever happens."""
        began = self._monotonic()
        outcome = "cancelled"
        self.in_flight += 1
        try:
            result = await self._sink.send(batch)
            outcome = "partial" if result.rejected else "ok"
            self.breaker.succeeded(permit)
            self._learn_pace(busy=False)
            return result
        except Permanent:
            outcome = "refused"
            self.breaker.succeeded(permit)  # it was there, and answered
            raise
        except Transient as error:
            outcome = error.fault.value
            if error.fault is Fault.BUSY:
                self._learn_pace(busy=True)
            if error.fault is Fault.BUSY and error.retry_after_s is not None:
                self.breaker.succeeded(permit)  # it answered, and said when to come back
            else:
                self.breaker.failed(permit, self._monotonic())
            raise
        except OtlpConfigError as error:  # a certificate or token that was rotated to something unusable
            outcome = Fault.CREDENTIALS.value
            self.breaker.failed(permit, self._monotonic())
            raise Transient(str(error), fault=Fault.CREDENTIALS) from None
        except Exception as error:
            outcome = Fault.UNREACHABLE.value
            log.exception("%s: an unexpected error", self._standing.who)
            self.breaker.failed(permit, self._monotonic())
            raise Transient(repr(error)) from error
        finally:
            self.in_flight -= 1
            self.stir()
            if outcome == "cancelled":
                self.breaker.abandoned(permit, self._monotonic())
            else:
                self._meter.add(m.EXPORTER_REQUESTS, 1, self._destination.name, outcome)
                self._meter.observe(m.EXPORTER_SECONDS, self._monotonic() - began, self._destination.name)

    async def _count_rejected(self, rows: int, result: DeliveryResult, frames: Sequence[Frame]) -> int:
        """Accepted records that the remote rejected. Among those that it names may be some that were refused
        here already and never counted as accepted; only then requests are decoded, to tell them apart."""
        rejected = result.rejected
        if rejected and self._sink.encoding is Encoding.OTLP:
            stored = [f for f in frames if f.encoding is Encoding.OTLP]
            rejected -= await self._in_thread(_refused_here, stored)
        return min(max(0, rejected), rows)

    def _fail(self, signal: Signal, rows: int, progress: Progress) -> None:
        self._meter.add(m.EXPORTER_FAILED[signal], rows, self._destination.name)
        progress.rows_done += rows


def _refused_here(frames: Sequence[Frame]) -> int:
    found = 0
    for frame in frames:
        with contextlib.suppress(Rejected):
            found += columns_of(frame)[1]
    return found


def _refused_batch(batch: Batch, rows: int, reason: str) -> Refusal:
    if batch.columns is not None:
        return refused_rows(batch.columns, reason)
    return Refusal(rows, batch.payload_bytes, "pb", reason)
