"""Rows on their way into a segment: gathered per signal, sealed into chunks, each one unit later."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import pyarrow as pa

from otlp_arrow.codec import BatchBuilder, ColumnMemory, Outcome, new_builder
from otlp_arrow.codec.arrow_messages import dictionary_id, dictionary_ids
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import ArrowMessage, Rejected, Signal
from otlp_arrow.storage.ipc import CONTINUATION, DICTIONARY, RECORD_BATCH, EndOfStream, walk

_kernel: ModuleType | None
try:
    from otlp_arrow.codec import _kernel
except ImportError:  # pragma: no cover - only where no kernel was built
    _kernel = None

NewBuilder = Callable[[Signal], BatchBuilder]


@dataclass(slots=True)
class Chunk:
    """Sealed rows of one signal: all that WAL sequences ``wal_first`` to ``wal_last`` hold of it."""

    signal: Signal
    builder: BatchBuilder
    batches: list[pa.RecordBatch]
    wal_first: int
    wal_last: int
    rows: int
    nbytes: int
    stored: bool = False  # a segment holds the rows; the builder may have others by now

    def copies(self) -> list[pa.RecordBatch]:
        """Copies of the rows, for readers, as long as they are not stored."""
        return [self.builder.snapshot(), *self.batches] if self.builder.rows else list(self.batches)

    def content(self) -> pa.RecordBatch | ColumnMemory:
        """All rows, valid until the builder is cleared."""
        memory = None if self.batches else self.builder.memory(runs=True)
        return self.batch() if memory is None else memory

    def batch(self) -> pa.RecordBatch:
        """All rows as one batch, valid until the builder is cleared."""
        if not self.batches:
            return self.builder.finish()
        parts = [self.builder.finish(), *self.batches] if self.builder.rows else self.batches
        # Dictionaries differ from batch to batch; concatenating unifies them.
        return pa.concat_batches(parts) if len(parts) > 1 else parts[0]


class Gathering:
    """The rows of one signal since the last seal.

    OTLP payloads are decoded straight into the builder, and batches that came as Arrow copied there; what the kernel
    does not take is kept beside it.
    ``append`` and ``restore`` run in the committing thread, the rest on the loop between commits.
    """

    def __init__(self, signal: Signal, pool: BuilderPool) -> None:
        self.signal = signal
        self._pool = pool
        self._builder = pool.take()
        self._batches: list[pa.RecordBatch] = []
        self._batch_rows = 0
        self._batch_bytes = 0
        self.wal_first = 0
        self.wal_last = 0

    @property
    def rows(self) -> int:
        return self._builder.rows + self._batch_rows

    @property
    def nbytes(self) -> int:
        """Memory held by the rows."""
        return (self._builder.nbytes if self._builder.rows else 0) + self._batch_bytes

    def append(self, payloads: Sequence[bytes]) -> list[Outcome]:
        """Decode OTLP payloads; one outcome each."""
        return self._builder.append(payloads)

    def append_arrow(self, stream: bytes, columns: pa.RecordBatch | None = None) -> Outcome:
        """Take an Arrow stream in the storage schema: into the builder if the kernel takes its rows, else beside it.

        ``columns``: the same rows, if they were read already. Raises ``Rejected``.
        """
        message = plain_message(self.signal, stream)
        outcome = None if message is None else self._builder.gather([message])[0]
        if outcome is not None and outcome.error is None:
            return outcome
        return self.append_columns(columns_of_frame(self.signal, stream) if columns is None else columns)

    def append_columns(self, batch: pa.RecordBatch) -> Outcome:
        """Take a batch that is in the storage schema already, as it is. One of them, and all rows of the unit are
        written by Arrow: in a third more bytes, for two thirds more CPU."""
        self._batches.append(batch)
        self._batch_rows += batch.num_rows
        self._batch_bytes += batch.get_total_buffer_size()  # ``nbytes`` takes 0.1 ms for 130 arrays
        return Outcome(batch.num_rows)

    def gather(self, messages: Sequence[ArrowMessage]) -> list[Outcome | None]:
        """Take Arrow messages that nobody has looked at; an outcome each, None for one that is not plain."""
        return self._builder.gather(messages)

    def mark(self) -> tuple[int, int]:
        """Where ``restore`` can go back to."""
        return self._builder.rows, len(self._batches)

    def restore(self, mark: tuple[int, int]) -> None:
        """Forget what was appended since ``mark``."""
        rows, batches = mark
        self._builder.truncate(rows)
        for batch in self._batches[batches:]:
            self._batch_rows -= batch.num_rows
            self._batch_bytes -= batch.get_total_buffer_size()
        del self._batches[batches:]

    def note_sequences(self, first: int, last: int) -> None:
        """The rows appended last came from these frames."""
        self.wal_first = self.wal_first or first
        self.wal_last = last

    def relax(self) -> None:
        """Give back the memory of a builder that holds nothing."""
        if not self._builder.rows:
            self._builder = self._pool.take()

    def snapshot(self) -> list[pa.RecordBatch]:
        """Copies of the rows so far, for readers."""
        built = [self._builder.snapshot()] if self._builder.rows else []
        return [*built, *self._batches]

    def seal(self) -> Chunk | None:
        """Hand the rows over and begin anew; None if there are none."""
        if not self.rows:
            return None
        chunk = Chunk(self.signal, self._builder, self._batches, self.wal_first, self.wal_last, self.rows, self.nbytes)
        self._builder = self._pool.take()
        self._batches = []
        self._batch_rows = self._batch_bytes = 0
        self.wal_first = self.wal_last = 0
        return chunk


class BuilderPool:
    """Builders to use again: their memory was faulted in once already.

    Fresh pages of growing buffers cost 0.8 µs of system time a span before builders were kept.
    """

    def __init__(self, signal: Signal, new: NewBuilder = new_builder) -> None:
        self._signal = signal
        self._new = new
        self._spare: list[BatchBuilder] = []

    def take(self) -> BatchBuilder:
        """A builder without rows."""
        return self._spare.pop() if self._spare else self._new(self._signal)

    def give(self, builder: BatchBuilder) -> None:
        """Take back a builder that was cleared."""
        self._spare.append(builder)

    def drop(self) -> None:
        """Let go of every spare builder."""
        self._spare.clear()


def plain_message(signal: Signal, stream: bytes) -> ArrowMessage | None:
    """The only batch of a stream in the storage schema, for the kernel to look at; None if it is for Arrow to read."""
    if _kernel is None:
        return None
    dictionaries: dict[int, object] = {}
    numbers: tuple[int, ...] = ()
    batch: tuple[bytes, memoryview] | None = None
    view = memoryview(stream)
    try:
        for found in walk(stream):
            if isinstance(found, EndOfStream):
                break
            header, body = stream[found.start + 8 : found.body], view[found.body : found.end]
            if found.start == 0:
                numbers = _dictionaries_of(signal, header)
            elif found.kind == DICTIONARY and batch is None and (number := dictionary_id(header)) in numbers:
                dictionaries[number] = _kernel.ArrowDictionary(header, bytes(body))
            elif found.kind == RECORD_BATCH and numbers and batch is None:
                batch = header, body
            else:
                return None
        if batch is not None:
            return ArrowMessage(*batch, tuple(dictionaries[number] for number in numbers))
    except (ValueError, KeyError, Rejected):
        pass  # compressed, a delta, damaged: Arrow can tell
    return None


@functools.lru_cache(maxsize=16)  # reading a schema takes 0.3 ms
def _dictionaries_of(signal: Signal, header: bytes) -> tuple[int, ...]:
    """The numbers of the dictionaries of a schema message; none if it is not the storage schema."""
    try:
        framed = CONTINUATION + len(header).to_bytes(4, "little") + header
        if pa.ipc.read_schema(pa.py_buffer(framed)).equals(SCHEMAS[signal]):
            return tuple(dictionary_ids(header))
    except (pa.ArrowException, OSError, ValueError, Rejected):
        pass
    return ()


def columns_of_frame(signal: Signal, payload: bytes) -> pa.RecordBatch:
    """The rows of an Arrow frame as one batch. Raises ``Rejected``."""
    try:
        reader = pa.ipc.open_stream(payload)
        batches = list(reader)
    except (pa.ArrowException, OSError) as error:
        raise Rejected(f"not an Arrow IPC stream: {error}") from error
    if not reader.schema.equals(SCHEMAS[signal]):
        raise Rejected(f"not in the schema of {signal.value}")
    if len(batches) == 1:
        return batches[0]  # concatenating would copy
    return pa.concat_batches(batches) if batches else pa.RecordBatch.from_pylist([], schema=SCHEMAS[signal])
