"""An intake that keeps batches in memory, and does what a test tells it to do to the next requests."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pyarrow as pa

from otlp_arrow.codec import decode_with_outcome, new_builder
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import ArrowMessage, Batch, Encoding, NotPlain, Receipt, Rejected, Signal
from otlp_arrow.receivers.replies import Answered, Refusal
from otlp_arrow.storage.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request: it waits, then it is refused, or its connection is cut, or nothing else."""

    delay_s: float = 0.0
    refusal: Refusal | None = None
    drop: bool = False


class MemoryTicket:
    """Memory is not counted here."""

    def grow(self, nbytes: int) -> None:
        """Always granted."""

    def release(self) -> None:
        """Nothing to give back."""


class MemoryIntake:
    """What doors need of a pipeline and of storage, over lists.

    Doors call it on their loop, tests look from any thread; ``changed`` is notified of every request.
    """

    def __init__(self, drop_connections: Callable[[str], Awaitable[None]]) -> None:
        self._drop_connections = drop_connections
        self.changed = threading.Condition()
        self.reset()

    def reset(self) -> None:
        """As in the beginning."""
        with self.changed:
            self._batches: dict[Signal, list[pa.RecordBatch]] = {signal: [] for signal in Signal}
            self._faults: deque[Fault] = deque()
            self.delay_s = 0.0
            self.calls: Counter[str] = Counter()
            self._sequence = 0
            self.changed.notify_all()

    # -- what doors call -------------------------------------------------------------------------

    def admit(self, nbytes: int) -> MemoryTicket:
        """Room for everything."""
        return MemoryTicket()

    def submit(self, batch: Batch, ticket: MemoryTicket | None = None) -> asyncio.Future[Receipt]:
        """``accept`` in a task."""
        return asyncio.ensure_future(self.accept(batch, ticket))

    def when_ready(self, submit_more: Callable[[], None]) -> None:
        submit_more()

    async def accept(self, batch: Batch, ticket: MemoryTicket | None = None) -> Receipt:
        """Keep a batch, unless a fault is next. Raises ``Rejected`` as the pipeline does."""
        columns = _gathered(batch.signal, batch.message) if batch.message is not None else batch.columns
        door = batch.transport if batch.receiver == "otlp" else batch.receiver
        with self.changed:
            self.calls[door] += 1
            fault = self._faults.popleft() if self._faults else Fault()
            delay_s = fault.delay_s or self.delay_s
            self.changed.notify_all()
        if delay_s:
            await asyncio.sleep(delay_s)
        if fault.drop:
            await self._drop_connections(door)
        if fault.refusal is not None:
            raise Answered(fault.refusal)
        return self._keep(batch, columns)

    def _keep(self, batch: Batch, columns: pa.RecordBatch | None) -> Receipt:
        rejected, message = 0, ""
        if batch.encoding is Encoding.OTLP:
            columns, outcome = decode_with_outcome(batch.signal, batch.payload_bytes)
            if outcome.error is not None:
                raise Rejected(outcome.error)
            rejected, message = outcome.rejected, outcome.message
        assert columns is not None, "an Arrow batch comes with its columns or its message"
        with self.changed:
            if columns.num_rows:
                self._batches[batch.signal].append(columns)
                self._sequence += 1
            self.changed.notify_all()
            return Receipt(columns.num_rows, rejected, message, self._sequence if columns.num_rows else 0)

    async def snapshot(self, signal: Signal) -> Snapshot:
        """Everything received."""
        return Snapshot(signal, (), tuple(self.batches(signal)), 0)

    def stored_size(self, signal: Signal) -> tuple[int, int]:
        """Rows and bytes received."""
        batches = self.batches(signal)
        return sum(batch.num_rows for batch in batches), sum(batch.nbytes for batch in batches)

    async def flush(self) -> None:
        """Nothing waits."""

    # -- what tests call -------------------------------------------------------------------------

    def batches(self, signal: Signal) -> list[pa.RecordBatch]:
        """The batches received so far."""
        with self.changed:
            return list(self._batches[signal])

    def rows(self, signal: Signal) -> int:
        """How many rows were received so far."""
        return sum(batch.num_rows for batch in self.batches(signal))

    def table(self, signal: Signal) -> pa.Table:
        """The rows received so far."""
        schema = SCHEMAS[signal]
        return pa.Table.from_batches(
            [pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in self.batches(signal)], schema
        )

    def plan(self, fault: Fault, requests: int) -> None:
        """Do this to each of the next ``requests``, after what is planned already."""
        with self.changed:
            self._faults.extend([fault] * requests)


def _gathered(signal: Signal, message: ArrowMessage) -> pa.RecordBatch:
    builder = new_builder(signal)
    (outcome,) = builder.gather([message])
    if outcome is None:
        raise NotPlain("the batch has to be cast")
    if outcome.error is not None:
        raise Rejected(outcome.error)
    return builder.finish()  # nobody clears this builder; the batch keeps it
