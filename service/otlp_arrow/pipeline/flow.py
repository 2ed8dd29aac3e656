"""From the intake to synced segments, and the WAL released behind them; the owner of storage's tasks.

::

    Intake ──chunk──► asyncio.Queue ──► writer task ──► segment (synced) ──► WAL released up to there
                                                     ▲
                              housekeeping task: age, retention
"""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import pyarrow as pa

from otlp_arrow.model import Signal
from otlp_arrow.model import meter as m
from otlp_arrow.model.limits import (
    CLOSE_TIMEOUT_S,
    HOUSEKEEPING_INTERVAL_S,
    MAX_WRITE_BACKOFF_S,
    MIB,
    QUIET_S,
    SEAL_BYTES,
    SHUTDOWN_TIMEOUT_S,
)
from otlp_arrow.model.meter import Meter, NullMeter
from otlp_arrow.model.status import PartStatus, State
from otlp_arrow.pipeline.intake import Ack, Intake
from otlp_arrow.pipeline.memory import release_unused_memory
from otlp_arrow.pipeline.worker import Worker
from otlp_arrow.storage.disk import Disk
from otlp_arrow.storage.gathering import BuilderPool, Chunk
from otlp_arrow.storage.replay import Replayed, replay
from otlp_arrow.storage.retention import Expiry
from otlp_arrow.storage.snapshot import Snapshot
from otlp_arrow.storage.store import Findings, StorageSettings, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """What the way in needs to know (docs/configuration.md)."""

    storage: StorageSettings
    ack: Ack = Ack.FSYNC
    write_interval_secs: float = 5.0
    max_batch_rows: int = 65_536
    max_buffer_bytes: int = 256 * MIB
    shutdown_timeout_secs: float = SHUTDOWN_TIMEOUT_S
    seal_bytes: int = SEAL_BYTES
    housekeeping_interval_secs: float = HOUSEKEEPING_INTERVAL_S
    intake_options: Mapping[str, Any] = field(default_factory=dict)  # seams of tests


class Pipeline:
    """Storage and the way into it, as one async context manager.

    Entering repairs and replays what a crash left, then ``intake`` takes data. Leaving refuses at the
    intake, writes what is gathered, closes segments; what is not done in ``shutdown_timeout_secs`` is
    left to the WAL. ``failure`` is done, with the exception, if a task of the pipeline dies. ``on_stir`` is called
    when the first request comes after everything before was stored.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        *,
        meter: Meter | None = None,
        disk: Disk | None = None,
        on_stir: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self._on_stir = on_stir
        storage = replace(settings.storage, wal_direct=settings.ack is Ack.FSYNC)
        self.store = Store(storage, disk=disk)
        self._meter = meter or NullMeter()
        self._pools = {signal: BuilderPool(signal) for signal in Signal}
        self._commits = Worker("otlp-commit")
        self._writes = Worker("otlp-write")
        self._queue: asyncio.Queue[Chunk | None] = asyncio.Queue()  # bounded in bytes by the intake's admission
        self._unstored: deque[Chunk] = deque()  # in the queue or being written, oldest first
        self._all_stored = asyncio.Event()
        self._all_stored.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._quiet: asyncio.TimerHandle | None = None
        self._stop_replay = threading.Event()
        self._state = "not started"
        self._troubles: dict[str, str] = {}  # by operation
        self.failure: asyncio.Future[None] | None = None
        self.replayed = Replayed()

    @property
    def intake(self) -> Intake:
        """Where doors hand over. Only while the pipeline is entered."""
        return self._intake

    # -- beginning and ending --------------------------------------------------------------------

    async def __aenter__(self) -> Pipeline:
        loop = asyncio.get_running_loop()
        self.failure = loop.create_future()
        self.failure.add_done_callback(lambda f: f.cancelled() or f.exception())
        self._state = "recovering"
        try:
            await self._recover(loop)
        except BaseException:
            self._stop_replay.set()
            self._end_threads()
            raise
        self._intake = Intake(
            self.store.wal,
            self.store.disk,
            self._pools,
            committer=self._commits,
            meter=self._meter,
            on_chunk=self._enqueue,
            ack=self.settings.ack,
            max_buffer_bytes=self.settings.max_buffer_bytes,
            max_batch_rows=self.settings.max_batch_rows,
            seal_bytes=self.settings.seal_bytes,
            write_interval_s=self.settings.write_interval_secs,
            probe_directory=self.store.layout.state,
            make_room=self.store.make_room,
            on_stir=self._on_stir,
            **self.settings.intake_options,
        )
        self._commits.start()
        self._commit_task = self._start(self._intake.run(), "commit")
        self._write_task = self._start(self._write_chunks(), "write")
        self._start(self._keep_house(), "housekeeping")
        self._state = "running"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._state = "stopping"
        self._intake.close()
        deadline = asyncio.get_running_loop().time() + self.settings.shutdown_timeout_secs
        try:
            async with asyncio.timeout_at(deadline):
                await self._drain()
        except TimeoutError:
            log.error("not everything was written in %.0f s; the WAL has it", self.settings.shutdown_timeout_secs)
        finally:
            if self._quiet is not None:
                self._quiet.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._close_store(deadline)
            self._state = "stopped"

    async def _recover(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            findings = await self._writes.run(self.store.open)
            self._book_findings(findings)
            work = self._writes.run(self._replay)
            try:
                self.replayed = await asyncio.shield(work)
            except asyncio.CancelledError:
                self._stop_replay.set()
                await asyncio.wait([work])
                raise
            self._book_replayed(self.replayed)
            await self._writes.run(self.store.finish_recovery)
        except BaseException:  # cancelled, too; the thread does one thing after another
            await self._writes.run(self.store.abandon)
            raise

    def _replay(self) -> Replayed:
        def progress(frames: int) -> None:
            self._state = f"recovering: {frames} WAL frames replayed"
            log.info("replayed %d frames of the WAL", frames)

        return replay(
            self.store,
            self._pools,
            max_batch_rows=self.settings.max_batch_rows,
            stop=self._stop_replay,
            progress=progress,
        )

    async def _drain(self) -> None:
        """Settle what was accepted, write what was gathered."""
        await self._commit_task
        self._intake.seal_all()
        self._queue.put_nowait(None)
        await self._write_task

    async def _close_store(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        up_to = self._stored_up_to()
        # A thread may still hang in a sync that the timeout gave up on; this does not wait for it much longer.
        closing = self._writes.run(self.store.close, up_to)
        try:
            async with asyncio.timeout_at(max(deadline, loop.time() + CLOSE_TIMEOUT_S)):
                await asyncio.shield(closing)
        except TimeoutError:
            log.error("the disk did not answer; the segments are closed at the next start")
        self._end_threads()

    def _end_threads(self) -> None:
        self._commits.end()
        self._writes.end()

    def _start(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=f"otlp-{name}")
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("the %s task died: %r", task.get_name(), error)
        self._troubles["task"] = f"the {task.get_name()} task died: {error!r}"
        self._intake.close()
        if self.failure is not None and not self.failure.done():
            self.failure.set_exception(error)

    # -- writing ---------------------------------------------------------------------------------

    def _enqueue(self, chunk: Chunk) -> None:
        self._unstored.append(chunk)
        self._all_stored.clear()
        self._queue.put_nowait(chunk)

    async def _write_chunks(self) -> None:
        while (chunk := await self._queue.get()) is not None:
            await self._write_until_stored(chunk)
            self._unstored.popleft()
            self._intake.chunk_stored(chunk)
            if not self._unstored:
                self._all_stored.set()
                self._free_memory_when_quiet()
            del chunk  # while we wait for the next one, its builder must not be held
            await self._release()

    async def _write_until_stored(self, chunk: Chunk) -> None:
        """Try until the disk takes it. Meanwhile the rows are in memory and in the WAL."""
        loop = asyncio.get_running_loop()
        backoff_s = 0.5
        while True:
            began = loop.time()
            try:
                await self._writes.run(self._write, chunk)
            except OSError as error:
                self._note_trouble("segment", error)
            else:
                self._troubles.pop("segment", None)
                self._meter.add(m.STORED, chunk.rows, chunk.signal.value)
                self._meter.add(m.WRITTEN_BATCHES, 1, chunk.signal.value)
                self._meter.observe(m.FLUSH_SECONDS, loop.time() - began, chunk.signal.value)
                return
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_WRITE_BACKOFF_S)

    def _write(self, chunk: Chunk) -> None:
        try:
            self.store.write(chunk.signal, chunk.content(), chunk.wal_first, chunk.wal_last)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self.store.make_room()
            raise
        chunk.stored = True
        chunk.builder.clear()
        self._pools[chunk.signal].give(chunk.builder)

    def _note_trouble(self, operation: str, error: OSError) -> None:
        self._meter.add(m.DISK_ERRORS, 1, operation, errno.errorcode.get(error.errno or 0, "unknown"))
        reason = "the disk is full" if error.errno == errno.ENOSPC else f"{error.strerror or error}"
        if operation not in self._troubles:
            log.error("%s: the disk refuses (%s); trying again", operation, reason)
        self._troubles[operation] = f"the disk refuses the {operation}: {reason}; the data is in the WAL"

    def _stored_up_to(self) -> int:
        """Every WAL frame up to this sequence is in a segment."""
        pending = [c.wal_first for c in self._unstored if c.wal_first]
        if (gathered := self._intake.oldest_gathered()) is not None:
            pending.append(gathered)
        return min(pending) - 1 if pending else self._intake.settled_sequence

    async def _release(self) -> None:
        try:
            await self._writes.run(self.store.release, self._stored_up_to())
        except OSError as error:
            self._note_trouble("cursor", error)
        else:
            self._troubles.pop("cursor", None)

    async def flush(self) -> None:
        """Everything accepted before this call is in a synced segment when it returns.

        Waits as long as the disk refuses. Raises what a task of the pipeline died of, if one did.
        """
        assert self.failure is not None
        await self._intake.seal_accepted()
        stored = asyncio.create_task(self._all_stored.wait(), name="otlp-flush")
        try:
            either: list[asyncio.Future[Any]] = [stored, self.failure]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not stored.done():
                self.failure.result()
        finally:
            stored.cancel()

    # -- reading ---------------------------------------------------------------------------------

    async def snapshot(self, signal: Signal) -> Snapshot:
        """Everything acknowledged of a signal at one moment, each row once, while writing goes on.

        Waits for the commit and the write that are under way. Raises ``Closed``.
        """
        gathered, before = await self._intake.gathered(signal)
        waiting = [chunk for chunk in self._unstored if chunk.signal is signal and chunk.wal_first < before]
        return await self._writes.run(self._snapshot, signal, waiting, gathered, before)

    def _snapshot(self, signal: Signal, waiting: list[Chunk], gathered: list[pa.RecordBatch], before: int) -> Snapshot:
        """In the thread that writes, so that a chunk is either in a segment as a whole or not begun."""
        unstored = [chunk for chunk in waiting if not chunk.stored]
        batches = [batch for chunk in unstored for batch in chunk.copies()]
        first = min((chunk.wal_first for chunk in unstored), default=before)
        return Snapshot(signal, self.store.catalog.snapshot(signal), (*batches, *gathered), first)

    def stored_size(self, signal: Signal) -> tuple[int, int]:
        """Rows of a signal, those on their way to a segment included, and the bytes of its segments."""
        segments = self.store.catalog.snapshot(signal)
        waiting = sum(chunk.rows for chunk in self._unstored if chunk.signal is signal and not chunk.stored)
        rows = sum(s.rows for s in segments) + waiting + self._intake.gathered_rows(signal)
        return rows, sum(s.size_bytes for s in segments)

    # -- housekeeping ----------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(self.settings.housekeeping_interval_secs)
            await self.keep_house()

    async def keep_house(self) -> None:
        """Close aged segments, delete what retention lets go."""
        await self._release()  # forwarders may have caught up since the last write
        try:
            await self._writes.run(self.store.close_aged_segments)
            expired = await self._writes.run(self.store.expire, self._stored_up_to())
        except OSError as error:
            self._note_trouble("retention", error)
            return
        self._troubles.pop("retention", None)
        self._book_expired(expired)

    async def keep_newest(self, signal: Signal, max_rows: int, max_bytes: int) -> int:
        """Put what was accepted into segments, and delete the oldest of a signal until at most so many rows and bytes
        are left. Rows deleted. Raises ``OSError``."""
        await self.flush()
        expired = await self._writes.run(self.store.keep_newest, signal, max_rows, max_bytes, self._stored_up_to())
        self._book_expired(expired)
        return sum(expiry.segment.rows for expiry in expired)

    def _book_expired(self, expired: Iterable[Expiry]) -> None:
        for expiry in expired:
            segment = expiry.segment
            self._meter.add(m.EXPIRED, segment.rows, segment.signal.value, expiry.reason)
            log.info("deleted %s: %s (%d records)", segment.path.name, expiry.reason, segment.rows)

    def _free_memory_when_quiet(self) -> None:
        """Builders are kept for the next rows; when none come for a moment their memory goes back."""
        if self._quiet is not None:
            self._quiet.cancel()
        self._quiet = asyncio.get_running_loop().call_later(QUIET_S, self._free_memory)

    def _free_memory(self) -> None:
        self._quiet = None
        if self._unstored:
            return
        for pool in self._pools.values():
            pool.drop()
        self._intake.relax()
        self.store.relax()
        release_unused_memory()

    # -- books and status ------------------------------------------------------------------------

    def _book_findings(self, findings: Findings) -> None:
        meter = self._meter
        meter.add(m.TORN_TAILS, findings.wal.torn_tails, "wal")
        meter.add(m.TORN_TAILS, findings.torn_segments, "segment")
        meter.add(m.QUARANTINED, len(findings.wal.damaged), "wal_frame")
        meter.add(m.QUARANTINED, findings.quarantined_segments, "segment")
        meter.add(m.QUARANTINED, findings.damaged_cursors, "cursor")
        meter.add(m.MISSING_FRAMES, findings.wal.missing_frames)
        for (signal, reason), rows in findings.lost_rows.items():
            log.error("%d acknowledged records of %s are lost: %s", rows, signal, reason)
            meter.add(m.LOST, rows, signal, reason)
        if findings.wal.missing_frames:
            log.error("%d WAL frames are missing", findings.wal.missing_frames)

    def _book_replayed(self, replayed: Replayed) -> None:
        for signal in Signal:
            if replayed.rows[signal]:
                self._meter.add(m.REPLAYED, replayed.rows[signal], signal.value)
                self._meter.add(m.STORED, replayed.rows[signal], signal.value)
            if replayed.undecodable_rows[signal]:
                self._meter.add(m.LOST, replayed.undecodable_rows[signal], signal.value, "undecodable")
        self._meter.add(m.QUARANTINED, replayed.undecodable_frames, "wal_frame")
        if replayed.frames:
            log.info("replayed %d frames of the WAL, %d records", replayed.frames, sum(replayed.rows.values()))

    def status(self) -> list[PartStatus]:
        """The parts of the way in, for health."""
        if self._state != "running":
            return [PartStatus("storage", "failed", self._state)]
        segments = self.store.catalog.everything()
        details = {
            "output_dir": str(self.store.layout.root),
            "segments": len(segments),
            "segment_bytes": sum(s.size_bytes for s in segments),
            "wal_bytes": self.store.wal.size_bytes,
            "wal_sequence": self.store.wal.confirmed_sequence,
            "quarantined": self.store.quarantine.items,
        }
        return [self._intake.status(), self._writer_status(), PartStatus("storage", "ok", "", details)]

    def _writer_status(self) -> PartStatus:
        """A cursor or a deletion that has to wait endangers nothing yet."""
        troubles = self._troubles
        state: State = "failed" if troubles.keys() & {"task", "segment"} else "degraded" if troubles else "ok"
        return PartStatus("writer", state, "; ".join(troubles.values()), {"chunks_waiting": len(self._unstored)})

    def report(self) -> None:
        """Set the gauges that are read off storage; call before a scrape."""
        meter = self._meter
        meter.set(m.BUFFER_LIMIT_BYTES, self.settings.max_buffer_bytes)
        meter.set(m.WAL_BYTES, self.store.wal.size_bytes)
        meter.set(m.WAL_SEQUENCE, self.store.wal.confirmed_sequence)
        if self._state not in ("running", "stopping"):
            return
        meter.set(m.BUFFER_BYTES, self._intake.held_bytes)
        for signal in Signal:
            waiting = sum(c.rows for c in self._unstored if c.signal is signal)
            meter.set(m.BUFFERED_RECORDS, waiting + self._intake.gathered_rows(signal), signal.value)
            segments = self.store.catalog.snapshot(signal)
            meter.set(m.SEGMENT_FILES, len(segments), signal.value)
            meter.set(m.SEGMENT_BYTES, sum(s.size_bytes for s in segments), signal.value)
            meter.set(m.SEGMENT_RECORDS, sum(s.rows for s in segments), signal.value)
