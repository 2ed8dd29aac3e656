"""Stored frames as one batch of what a sink takes: bytes joined, or through the codec in either direction.

Requests in protobuf join by concatenation, so that OTLP → OTLP decodes nothing: the repeated fields of the
messages simply go on. Blocking and pure; what takes more than a copy belongs on a thread (``needs_thread``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from otlp_arrow import codec
from otlp_arrow.codec import BatchBuilder
from otlp_arrow.model import Batch, Encoding, Parts, Rejected, Signal
from otlp_arrow.model.limits import FLIGHT_PUT_BYTES
from otlp_arrow.sinks.put_messages import put_messages
from otlp_arrow.storage.frames import Frame
from otlp_arrow.storage.gathering import columns_of_frame

GiveBack = Callable[[BatchBuilder], None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Records that nobody takes: as many ``rows``, kept in ``payload`` with the file ``suffix``."""

    rows: int
    payload: bytes
    suffix: str
    reason: str


@dataclass(slots=True)
class Converted:
    """A batch of ``rows``, None if nothing was left, and what had no counterpart on the other side."""

    batch: Batch | None
    rows: int
    refusals: list[Refusal] = field(default_factory=list)
    lent: bool = False
    """Its memory is the builder's, which goes back by itself."""


class _Lent:
    """A builder whose memory is on its way: emptied, and free for others, when nobody looks at it any more."""

    def __init__(self, builder: BatchBuilder, give_back: GiveBack) -> None:
        self._builder = builder
        self._give_back = give_back

    def __del__(self) -> None:
        self._builder.clear()
        self._give_back(self._builder)


def needs_thread(frames: Sequence[Frame], encoding: Encoding) -> bool:
    """Whether ``convert`` does more than to join bytes."""
    return encoding is Encoding.ARROW or any(f.encoding is Encoding.ARROW for f in frames)


def convert(
    frames: Sequence[Frame],
    encoding: Encoding,
    builder: BatchBuilder | None = None,
    *,
    join: bool = True,
    give_back: GiveBack | None = None,
) -> Converted:
    """Frames of one signal as one batch in ``encoding``, in their order; of OTLP in parts, if not to ``join``.

    ``builder`` (for ``ARROW``) lends the batch its memory: the batch is valid until it is cleared. If not to ``join``
    it may be the messages of a ``DoPut``: ``give_back`` hears when nobody holds them any more.
    """
    signal = frames[0].signal
    if encoding is Encoding.OTLP:
        return _as_otlp(signal, frames, join=join)
    assert builder is not None
    return _as_arrow(signal, frames, builder, None if join else give_back)


def _as_otlp(signal: Signal, frames: Sequence[Frame], *, join: bool) -> Converted:
    if len(frames) == 1 and frames[0].encoding is Encoding.OTLP:
        return Converted(Batch(signal, frames[0].payload), frames[0].rows)
    payloads: list[bytes] = []
    done = Converted(None, 0)
    for frame in frames:
        if frame.encoding is Encoding.OTLP:
            payloads.append(frame.payload)
            done.rows += frame.rows
            continue
        try:
            columns = columns_of_frame(signal, frame.payload)
        except Rejected as error:
            done.refusals.append(refused_frame(frame, str(error)))
            continue
        encoded, refusals = encode_rows(signal, columns)
        payloads += encoded
        done.refusals += refusals
        done.rows += columns.num_rows - sum(r.rows for r in refusals)
    if done.rows:
        done.batch = Batch(signal, b"".join(payloads) if join else Parts(payloads))
    return done


def _as_arrow(signal: Signal, frames: Sequence[Frame], builder: BatchBuilder, give_back: GiveBack | None) -> Converted:
    done = Converted(None, 0)
    stored = [f for f in frames if f.encoding is Encoding.OTLP]
    for frame, outcome in zip(stored, builder.append([f.payload for f in stored]), strict=True):
        if outcome.error is not None:
            done.refusals.append(refused_frame(frame, outcome.error))
    # A larger batch is sent in slices, which takes Arrow's objects; and so does one beside others.
    if give_back is not None and len(stored) == len(frames) and 0 < builder.nbytes <= FLIGHT_PUT_BYTES:
        memory = builder.memory()
        if memory is not None and memory.rows:
            done.rows, done.lent = memory.rows, True
            owned = dataclasses.replace(memory, owner=_Lent(builder, give_back))
            done.batch = Batch(signal, put_messages(signal, owned), Encoding.ARROW)
            return done
    batches = [builder.finish()] if builder.rows else []
    for frame in frames:
        if frame.encoding is Encoding.ARROW:
            try:
                batches.append(columns_of_frame(signal, frame.payload))
            except Rejected as error:
                done.refusals.append(refused_frame(frame, str(error)))
    if batches:
        # Dictionaries differ from batch to batch; concatenating unifies them.
        columns = pa.concat_batches(batches) if len(batches) > 1 else batches[0]
        done.rows = columns.num_rows
        done.batch = arrow_batch(signal, columns)
    return done


def arrow_batch(signal: Signal, columns: pa.RecordBatch) -> Batch:
    """Columns as a batch of their own, without the bytes of a frame."""
    return Batch(signal, b"", Encoding.ARROW, columns=columns)


def encode_rows(signal: Signal, columns: pa.RecordBatch) -> tuple[list[bytes], list[Refusal]]:
    """OTLP messages of the rows; a row that cannot be one is found by halving and left out."""
    try:
        return [codec.encode(signal, columns)], []
    except Rejected as error:
        if columns.num_rows <= 1:
            return [], [refused_rows(columns, str(error))]
    half = columns.num_rows // 2
    first, first_refused = encode_rows(signal, columns.slice(0, half))
    second, second_refused = encode_rows(signal, columns.slice(half))
    return first + second, first_refused + second_refused


def columns_of(frame: Frame) -> tuple[pa.RecordBatch, int]:
    """The valid rows of a frame, and how many records of its request were refused when it came.

    Raises ``Rejected`` if it cannot be read.
    """
    if frame.encoding is Encoding.ARROW:
        return columns_of_frame(frame.signal, frame.payload), 0
    columns, outcome = codec.decode_with_outcome(frame.signal, frame.payload)
    if outcome.error is not None:
        raise Rejected(outcome.error)
    return columns, outcome.rejected


def rows_as(signal: Signal, columns: pa.RecordBatch, encoding: Encoding) -> Converted:
    """Rows as a batch of what a sink takes."""
    if encoding is Encoding.ARROW:
        return Converted(arrow_batch(signal, columns), columns.num_rows)
    encoded, refusals = encode_rows(signal, columns)
    rows = columns.num_rows - sum(r.rows for r in refusals)
    return Converted(Batch(signal, b"".join(encoded)) if rows else None, rows, refusals)


def refused_frame(frame: Frame, reason: str) -> Refusal:
    """A whole frame that is refused."""
    return Refusal(frame.rows, frame.payload, "pb" if frame.encoding is Encoding.OTLP else "arrows", reason)


def refused_rows(columns: pa.RecordBatch, reason: str) -> Refusal:
    """Rows that are refused, as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns.schema) as writer:
        writer.write_batch(columns)
    return Refusal(columns.num_rows, sink.getvalue().to_pybytes(), "arrows", reason)
