"""The intake: admit by bytes, decode, WAL, acknowledge. ``accept`` returning means durable.

::

    accept ──► pending ──► group ──► commit thread: decode all, one vectored write, one sync ──► settle
                             ▲                                                                    │
                             └──── whatever arrived meanwhile is the next group ◄─────────────────┘

One group is under way at a time: decoding costs half a microsecond a span, so a group that waits for the
disk holds nobody up who would not have waited for the disk anyway.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import pyarrow as pa

from otlp_arrow.codec import Outcome, kernel_available
from otlp_arrow.codec.rejection import TOO_LARGE_TO_REPEAT
from otlp_arrow.model import ArrowMessage, Batch, Busy, Closed, Encoding, NotPlain, Receipt, Rejected, Signal, TooLarge
from otlp_arrow.model import meter as m
from otlp_arrow.model.limits import (
    ACK_TIMEOUT_S,
    COMPANY_BYTES,
    COMPANY_REQUESTS,
    COMPANY_WAIT_S,
    DECODED_BYTES_PER_BYTE,
    DISK_PROBE_BYTES,
    DISK_RETRY_S,
    MAX_GROUP_BYTES,
    MAX_GROUP_REQUESTS,
    MAX_UNWRITTEN_BYTES,
    MAX_WAIT_FOR_WRITER_S,
    REFERENCE_DECODED_BYTES_PER_BYTE,
)
from otlp_arrow.model.meter import Meter
from otlp_arrow.model.status import PartStatus
from otlp_arrow.pipeline.worker import Worker
from otlp_arrow.storage.disk import Disk
from otlp_arrow.storage.gathering import BuilderPool, Chunk, Gathering
from otlp_arrow.storage.wal import Entry, Wal

log = logging.getLogger(__name__)


class Ack(Enum):
    """What an acknowledgement promises to outlive."""

    FSYNC = "fsync"  # a power cut
    WRITE = "write"  # the process (page cache)
    MEMORY = "memory"  # nothing: acknowledged once decoded, written soon after


class Ticket:
    """Bytes that a request has reserved."""

    __slots__ = ("_intake", "reserved_bytes")

    def __init__(self, intake: Intake, reserved_bytes: int) -> None:
        self._intake = intake
        self.reserved_bytes = reserved_bytes

    def grow(self, nbytes: int) -> None:
        """Reserve more for the same request. Raises ``Busy``; what was reserved before stays."""
        self.reserved_bytes += self._intake.reserve(nbytes)

    def release(self) -> None:
        """Give everything back; idempotent."""
        if self.reserved_bytes:
            self._intake.unreserve(self.reserved_bytes)
            self.reserved_bytes = 0


class _Pending:
    """A request between ``accept`` and its acknowledgement."""

    __slots__ = ("batch", "future", "since", "ticket")

    def __init__(self, batch: Batch, ticket: Ticket, future: asyncio.Future[Receipt], since: float) -> None:
        self.batch = batch
        self.ticket = ticket
        self.future = future
        self.since = since


class _Verdict:
    """Whether a group is kept: decided once, by the commit thread when the disk has confirmed it or by the
    loop when its senders cannot wait any longer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: bool | None = None

    def keep(self) -> bool:
        """Keep it, unless it is refused already; whether it is kept."""
        return self._decide(kept=True)

    def refuse(self) -> bool:
        """Refuse it, unless it is kept already; whether it is refused."""
        return not self._decide(kept=False)

    def _decide(self, *, kept: bool) -> bool:
        with self._lock:
            if self._kept is None:
                self._kept = kept
            return self._kept


class _TooLate(Exception):
    """The disk confirmed a group whose senders had been refused; it was taken back."""


class _Committed:
    """What the commit thread made of a group: an outcome each, and where the frames went."""

    __slots__ = ("first_sequence", "outcomes", "sync_s")

    def __init__(self, outcomes: list[Outcome], first_sequence: int, sync_s: float) -> None:
        self.outcomes = outcomes
        self.first_sequence = first_sequence
        self.sync_s = sync_s


class Intake:
    """Where every door hands over. All methods on the event loop; ``run`` is a task of the owner."""

    def __init__(
        self,
        wal: Wal,
        disk: Disk,
        pools: dict[Signal, BuilderPool],
        *,
        committer: Worker,
        meter: Meter,
        on_chunk: Callable[[Chunk], None],
        ack: Ack,
        max_buffer_bytes: int,
        max_batch_rows: int,
        seal_bytes: int,
        write_interval_s: float,
        probe_directory: Path,
        make_room: Callable[[], int] = lambda: 0,
        on_stir: Callable[[], None] = lambda: None,
        ack_timeout_s: float = ACK_TIMEOUT_S,
        disk_retry_s: float = DISK_RETRY_S,
    ) -> None:
        self._wal = wal
        self._disk = disk
        self._committer = committer
        self._meter = meter
        self._on_chunk = on_chunk
        self._ack = ack
        self._max_buffer_bytes = max_buffer_bytes
        self._max_batch_rows = max_batch_rows
        self._seal_bytes = seal_bytes
        self._write_interval_s = write_interval_s
        self._probe_path = probe_directory / "probe"
        self._make_room = make_room
        self._on_stir = on_stir
        self._ack_timeout_s = ack_timeout_s
        self._disk_retry_s = disk_retry_s

        self._gatherings = {signal: Gathering(signal, pools[signal]) for signal in Signal}
        self._pending: deque[_Pending] = deque()
        self._wake = asyncio.Event()
        self._copies_wanted: deque[tuple[Signal, asyncio.Future[tuple[list[pa.RecordBatch], int]]]] = deque()
        self._copying = False
        self._reserved_bytes = 0  # by tickets
        self._gathered_bytes = 0  # by rows in the gatherings
        self._chunk_bytes = 0  # by chunks that no segment holds yet
        self._chunk_done = asyncio.Event()
        self._seal_wanted: set[Signal] = set()
        self._sealed = asyncio.Event()  # nothing is waiting to be sealed
        self._sealed.set()
        self._seal_timers: dict[Signal, asyncio.TimerHandle] = {}
        self._settled_sequence = wal.confirmed_sequence
        self._closed = False
        self._trouble = ""  # why the disk refuses; empty while it does not
        self._stuck_since: float | None = None
        self._group: list[_Pending] = []  # being committed
        self._when_ready: list[Callable[[], None]] = []
        self._last_group_size = 0
        self._decoded_bytes_per_byte = (
            DECODED_BYTES_PER_BYTE if kernel_available() else REFERENCE_DECODED_BYTES_PER_BYTE
        )
        self._unlogged: list[Entry] = []  # acknowledged from memory, not in the log yet

    # -- the doors' side -------------------------------------------------------------------------

    @property
    def held_bytes(self) -> int:
        """Memory of requests and rows that no segment holds yet."""
        return self._reserved_bytes + self._gathered_bytes + self._chunk_bytes

    def admit(self, nbytes: int) -> Ticket:
        """Reserve room for a request of ``nbytes`` before it is read or decoded.

        Raises ``Busy`` if there is none or the disk refuses, ``Closed`` if the collector is stopping. One
        request is always admitted when nothing else is held.
        """
        return Ticket(self, self.reserve(nbytes))

    def reserve(self, nbytes: int) -> int:
        """As ``admit``, without a ticket; the bytes reserved, for ``unreserve``."""
        if self._trouble or self._closed or self._stuck_since is not None:
            raise self._refusal()
        held = self.held_bytes
        wanted = nbytes * self._decoded_bytes_per_byte
        if held and held + wanted > self._max_buffer_bytes:
            raise Busy(f"the buffer of {self._max_buffer_bytes} bytes is full: the disk is slower than the senders")
        self._reserved_bytes += wanted
        if not held:
            self._on_stir()
        return wanted

    def unreserve(self, reserved: int) -> None:
        """Give back what ``reserve`` took."""
        self._reserved_bytes -= reserved

    async def accept(self, batch: Batch, ticket: Ticket | None = None) -> Receipt:
        """Keep a batch: when this returns it is as durable as ``ack`` says, and on its way to a segment.

        Records that are invalid are left out and reported in the receipt. Raises ``Rejected`` for a request
        that is malformed as a whole, ``Busy`` or ``Closed`` when nothing was kept. A caller that is
        cancelled may not assume either. Takes the ticket over in every case.
        """
        return await self.submit(batch, ticket)

    def submit(self, batch: Batch, ticket: Ticket | None = None) -> asyncio.Future[Receipt]:
        """As ``accept``, for callers that need no task to wait in. ``Busy`` and ``Closed`` may come at once."""
        if ticket is None:
            ticket = self.admit(len(batch.payload))
        elif self._closed or self._trouble or self._stuck_since is not None:
            ticket.release()
            raise self._refusal()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Receipt] = loop.create_future()
        self._pending.append(_Pending(batch, ticket, future, loop.time()))
        self._wake.set()
        return future

    def when_ready(self, submit_more: Callable[[], None]) -> None:
        """Call ``submit_more`` once: now, or while a commit is under way when it has ended or is given up."""
        if self._group:
            self._when_ready.append(submit_more)
        else:
            submit_more()

    def _say_ready(self) -> None:
        waiting, self._when_ready = self._when_ready, []
        for submit_more in waiting:
            try:
                submit_more()
            except Exception:  # the fault of one door: the others' data goes on
                log.exception("a door failed to go on")

    def _refusal(self) -> Busy:
        if self._closed:
            return Closed("the collector is stopping")
        if self._trouble:
            return Busy(self._trouble)
        return Busy("the disk does not answer")

    # -- the loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Commit group after group until ``close`` was called and everything pending is settled."""
        try:
            while not (self._closed and not self._pending):
                await self._wake.wait()
                self._wake.clear()
                self._say_ready()
                while self._pending:
                    await self._wait_for_writer()
                    await self._wait_for_company()
                    group = self._take_group()
                    if group:
                        self._last_group_size = len(group)
                        await self._commit_and_settle(group)
                    del group  # its payloads must not be held until the next one comes
                    self._say_ready()
                    self._seal_where_due()
                    await self._copy_for_readers()
                self._seal_where_due()
                await self._copy_for_readers()
        finally:  # however this ends, nobody is left waiting
            self._closed = True
            self._say_ready()
            while self._copies_wanted:
                _fail(self._copies_wanted.popleft()[1], Closed("the collector is stopping"))
            self._refuse_pending(Closed("the collector stopped before the data was kept"))
            for timer in self._seal_timers.values():
                timer.cancel()

    def close(self) -> None:
        """Refuse from now on; ``run`` ends when what was accepted is settled."""
        self._closed = True
        self._wake.set()

    async def seal_accepted(self) -> None:
        """Everything accepted before this call is with the writer when this returns, or was refused."""
        waiting = [pending.future for pending in (*self._group, *self._pending)]
        if waiting:
            await asyncio.wait(waiting)
        self.seal_all()
        await self._sealed.wait()

    def seal(self, signal: Signal) -> None:
        """Send the gathered rows of a signal on to the writer as soon as no commit is under way."""
        self._seal_wanted.add(signal)
        self._sealed.clear()
        if not self._group and not self._copying:
            self._seal_where_due()

    async def gathered(self, signal: Signal) -> tuple[list[pa.RecordBatch], int]:
        """Copies of the acknowledged rows that are not sealed yet, and the lowest WAL sequence that is in them
        or still to come: every row below it is in a chunk or a segment. Raises ``Closed``.
        """
        if self._closed:
            raise Closed("the collector is stopping")
        future: asyncio.Future[tuple[list[pa.RecordBatch], int]] = asyncio.get_running_loop().create_future()
        self._copies_wanted.append((signal, future))
        self._wake.set()
        return await future

    async def _copy_for_readers(self) -> None:
        """Between two commits, where the gatherings hold still; in the commit thread, as it may be 64 MiB."""
        while self._copies_wanted:
            signal, future = self._copies_wanted.popleft()
            gathering = self._gatherings[signal]
            first = gathering.wal_first or self._settled_sequence + 1
            self._copying = True
            try:
                copies = await self._committer.run(gathering.snapshot)
                if not future.done():
                    future.set_result((copies, first))
            finally:
                self._copying = False
                _fail(future, Closed("the collector is stopping"))
            self._seal_where_due()

    def seal_all(self) -> None:
        """As ``seal``, for every signal."""
        for signal in Signal:
            self.seal(signal)

    def chunk_stored(self, chunk: Chunk) -> None:
        """The writer is done with a chunk: its memory is free."""
        self._chunk_bytes -= chunk.nbytes
        self._chunk_done.set()

    def relax(self) -> None:
        """Give back memory that builders keep for rows to come; nothing while a commit is under way."""
        if not self._group:
            for gathering in self._gatherings.values():
                gathering.relax()
            self._wal.relax()

    async def _wait_for_company(self) -> None:
        """Let a group of small requests grow while they come faster than syncs end; a lone sender never waits."""
        if self._last_group_size > 1 and not self._closed:
            pending_bytes = sum(len(p.batch.payload) for p in itertools.islice(self._pending, COMPANY_REQUESTS))
            if len(self._pending) < COMPANY_REQUESTS and pending_bytes < COMPANY_BYTES:
                await asyncio.sleep(COMPANY_WAIT_S)

    async def _wait_for_writer(self) -> None:
        """Let the writer catch up while it is alive and only a little behind: senders wait a moment, which
        is cheaper for everybody than rows piling up to ``max_buffer_bytes`` and refusals."""
        if self._chunk_bytes <= MAX_UNWRITTEN_BYTES or self._closed:
            return
        self._chunk_done.clear()
        try:
            async with asyncio.timeout(MAX_WAIT_FOR_WRITER_S):
                await self._chunk_done.wait()
        except TimeoutError:
            pass  # a segment cannot be written just now; the WAL goes on, the buffer fills up

    @property
    def settled_sequence(self) -> int:
        """The newest WAL sequence whose rows are in a gathering, a chunk or a segment."""
        return self._settled_sequence

    def oldest_gathered(self) -> int | None:
        """The lowest WAL sequence whose rows are gathered and not sealed, None if there are none."""
        return min((g.wal_first for g in self._gatherings.values() if g.rows and g.wal_first), default=None)

    def gathered_rows(self, signal: Signal) -> int:
        """Acknowledged rows of a signal that are not sealed yet (while no commit is under way)."""
        return self._gatherings[signal].rows

    def _take_group(self) -> list[_Pending]:
        group: list[_Pending] = []
        size = 0
        while self._pending and len(group) < MAX_GROUP_REQUESTS:
            size += len(self._pending[0].batch.payload)
            if group and size > MAX_GROUP_BYTES:
                break
            pending = self._pending.popleft()
            if pending.future.done():  # its caller was cancelled before anything was kept
                pending.ticket.release()
                continue
            group.append(pending)
        return group

    async def _commit_and_settle(self, group: list[_Pending]) -> None:
        loop = asyncio.get_running_loop()
        verdict = _Verdict()
        watchdog = loop.call_later(self._ack_timeout_s, self._disk_is_stuck, group, verdict)
        self._group = group
        try:
            if self._ack is Ack.MEMORY:
                await self._acknowledge_and_log(group)
            else:
                done = await self._committer.run(self._commit, group, verdict)
                self._settle(group, done.outcomes, done.first_sequence)
                self._meter.observe(m.WAL_SYNC_SECONDS, done.sync_s)
        except _TooLate:
            log.warning("the disk answers again; %d requests that it held up were refused", len(group))
        except OSError as error:
            self._disk_refuses(error)
            for pending in group:
                _fail(pending.future, Busy(self._trouble))
        finally:
            verdict.refuse()
            self._group = []
            watchdog.cancel()
            self._stuck_since = None
            for pending in group:
                pending.ticket.release()
                _fail(pending.future, Closed("the collector stopped before the data was kept"))

    async def _acknowledge_and_log(self, group: list[_Pending]) -> None:
        if self._unlogged:  # the disk refused them; sequences have to follow one another
            await self._committer.run(self._log_the_acknowledged)
        outcomes = await self._committer.run(self._decode, group)
        self._unlogged = _entries(group, outcomes)
        self._settle(group, outcomes, self._wal.next_sequence)
        await self._committer.run(self._log_the_acknowledged)

    def _settle(self, group: Sequence[_Pending], outcomes: Sequence[Outcome], sequence: int) -> None:
        """Book what was committed, acknowledge it, see to it that it gets written."""
        accepted: dict[tuple[Signal, str, str], int] = {}
        meter = self._meter
        for pending, outcome in zip(group, outcomes, strict=True):
            batch = pending.batch
            if outcome.rejected:
                meter.add(m.REFUSED[batch.signal], outcome.rejected, batch.receiver, batch.transport)
            if outcome.error is not None:
                _fail(pending.future, _rejection(outcome.error))
                continue
            kept = 0
            if outcome.rows:
                self._gatherings[batch.signal].note_sequences(sequence, sequence)
                self._settled_sequence = kept = sequence
                sequence += 1
                door = (batch.signal, batch.receiver, batch.transport)
                accepted[door] = accepted.get(door, 0) + outcome.rows
            if not pending.future.done():
                pending.future.set_result(Receipt(outcome.rows, outcome.rejected, outcome.message, kept))
        for (signal, receiver, transport), rows in accepted.items():
            meter.add(m.ACCEPTED[signal], rows, receiver, transport)
        meter.observe(m.WAL_GROUP_REQUESTS, len(group))
        # The request that waited longest; the others of the group waited less.
        meter.observe(m.ACK_SECONDS, asyncio.get_running_loop().time() - group[0].since)
        self._arm_seals()

    def _arm_seals(self) -> None:
        """What is full is sealed after this group; the rest within the write interval."""
        self._gathered_bytes = 0
        loop = asyncio.get_running_loop()
        for signal, gathering in self._gatherings.items():
            if not gathering.rows:
                continue
            self._gathered_bytes += gathering.nbytes
            if gathering.rows >= self._max_batch_rows or gathering.nbytes >= self._seal_bytes:
                self._seal_wanted.add(signal)
            elif signal not in self._seal_timers:
                self._seal_timers[signal] = loop.call_later(self._write_interval_s, self.seal, signal)

    def _seal_where_due(self) -> None:
        for signal in self._seal_wanted:
            timer = self._seal_timers.pop(signal, None)
            if timer is not None:
                timer.cancel()
            gathering = self._gatherings[signal]
            held = gathering.nbytes if gathering.rows else 0
            chunk = gathering.seal()
            if chunk is not None:
                self._gathered_bytes = max(0, self._gathered_bytes - held)
                self._chunk_bytes += chunk.nbytes
                self._on_chunk(chunk)
        self._seal_wanted.clear()
        self._sealed.set()

    # -- the commit thread -----------------------------------------------------------------------

    def _commit(self, group: Sequence[_Pending], verdict: _Verdict) -> _Committed:
        """Decode a group, append its frames, sync.

        Raises ``OSError``, or ``_TooLate`` if the group was refused meanwhile, keeping nothing of it.
        """
        marks = {signal: gathering.mark() for signal, gathering in self._gatherings.items()}
        outcomes = self._decode(group)
        try:
            first, sync_s = self._log(_entries(group, outcomes), verdict)
        except (OSError, _TooLate):
            for signal, mark in marks.items():
                self._gatherings[signal].restore(mark)
            raise
        return _Committed(outcomes, first, sync_s)

    def _log(self, entries: Sequence[Entry], verdict: _Verdict) -> tuple[int, float]:
        """Append the frames of what was decoded; the first sequence and the seconds of the sync."""
        if not entries:
            return self._wal.next_sequence, 0.0
        first = self._append(entries)
        sync_s = self._wal.sync() if self._ack is Ack.FSYNC else 0.0
        if not verdict.keep():
            self._wal.rollback()
            raise _TooLate
        self._wal.confirm()
        return first, sync_s

    def _log_the_acknowledged(self) -> None:
        if self._unlogged:
            self._append(self._unlogged)
            self._wal.confirm()
            self._unlogged = []

    def _append(self, entries: Sequence[Entry]) -> int:
        try:
            return self._wal.append(entries)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self._make_room():
                raise
            return self._wal.append(entries)

    def _decode(self, group: Sequence[_Pending]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        payloads: dict[Signal, dict[int, bytes]] = {}
        messages: dict[Signal, dict[int, ArrowMessage]] = {}
        for index, pending in enumerate(group):
            batch = pending.batch
            if batch.encoding is Encoding.OTLP:
                payloads.setdefault(batch.signal, {})[index] = batch.payload_bytes
            elif batch.columns is not None:
                outcomes[index] = self._gatherings[batch.signal].append_arrow(batch.payload_bytes, batch.columns)
            else:
                assert batch.message is not None, "an Arrow batch comes with its columns or its message"
                messages.setdefault(batch.signal, {})[index] = batch.message
        for signal, of_signal in payloads.items():
            decoded = self._gatherings[signal].append(list(of_signal.values()))
            outcomes.update(zip(of_signal, decoded, strict=True))
        for signal, plain in messages.items():
            gathered = self._gatherings[signal].gather(list(plain.values()))
            outcomes.update((i, o or Outcome(0, error=_NOT_PLAIN)) for i, o in zip(plain, gathered, strict=True))
        return [outcomes[index] for index in range(len(group))]

    # -- trouble ---------------------------------------------------------------------------------

    def _disk_refuses(self, error: OSError) -> None:
        self._meter.add(m.DISK_ERRORS, 1, "wal", errno.errorcode.get(error.errno or 0, "unknown"))
        if error.errno == errno.ENOSPC:
            reason = "the disk is full"
        else:
            reason = f"the disk refuses writes: {error.strerror or error}"
        if not self._trouble:
            log.error("no data is taken: %s", reason)
            asyncio.get_running_loop().call_later(self._disk_retry_s, self._start_probe)
        self._trouble = reason

    def _start_probe(self) -> None:
        if self._closed or not self._trouble:
            return
        probe = self._committer.run(self._probe)
        probe.add_done_callback(self._probed)

    def _probe(self) -> None:
        self._disk.delete(self._probe_path)
        file = self._disk.create(self._probe_path)
        try:
            file.append([bytes(DISK_PROBE_BYTES)])
            file.sync()
        finally:
            file.close()
            self._disk.delete(self._probe_path)

    def _probed(self, probe: asyncio.Future[None]) -> None:
        if probe.cancelled():
            return
        error = probe.exception()
        if error is None:
            log.warning("data is taken again: the disk accepts writes")
            self._trouble = ""
        elif not self._closed:
            asyncio.get_running_loop().call_later(self._disk_retry_s, self._start_probe)

    def _disk_is_stuck(self, group: list[_Pending], verdict: _Verdict) -> None:
        """A commit takes longer than senders wait: they are refused, and it is taken back if it ends."""
        if not verdict.refuse():
            return  # it ended just now
        log.error("the disk has not confirmed a write for %.0f s", self._ack_timeout_s)
        self._stuck_since = asyncio.get_running_loop().time() - self._ack_timeout_s
        for pending in group:
            _fail(pending.future, Busy("the disk did not confirm the write in time"))
        self._refuse_pending(Busy("the disk does not answer"))
        self._say_ready()

    def _refuse_pending(self, error: Busy) -> None:
        while self._pending:
            pending = self._pending.popleft()
            pending.ticket.release()
            _fail(pending.future, error)

    def status(self) -> PartStatus:
        """``failed`` while senders are refused for the disk's sake, ``degraded`` while the buffer is nearly full."""
        details = {"held_bytes": self.held_bytes, "max_buffer_bytes": self._max_buffer_bytes}
        if self._closed:
            return PartStatus("intake", "failed", "stopping", details)
        if self._trouble:
            return PartStatus("intake", "failed", self._trouble, details)
        if self._stuck_since is not None:
            for_s = asyncio.get_running_loop().time() - self._stuck_since
            return PartStatus("intake", "failed", f"the disk has not confirmed a write for {for_s:.0f} s", details)
        if self.held_bytes > 0.9 * self._max_buffer_bytes:
            return PartStatus("intake", "degraded", "the buffer is nearly full, senders are slowed down", details)
        return PartStatus("intake", "ok", "", details)


def _entries(group: Sequence[_Pending], outcomes: Sequence[Outcome]) -> list[Entry]:
    """What the log keeps of a group: the requests that added rows."""
    now_ns = time.time_ns()
    return [
        Entry(p.batch.signal, p.batch.encoding, outcome.rows, now_ns, p.batch.payload)
        for p, outcome in zip(group, outcomes, strict=True)
        if outcome.rows
    ]


_NOT_PLAIN = "the batch is not what the kernel takes as it is"


def _rejection(error: str) -> Rejected:
    if error is _NOT_PLAIN:
        return NotPlain(error)
    return TooLarge(error) if error == TOO_LARGE_TO_REPEAT else Rejected(error)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
