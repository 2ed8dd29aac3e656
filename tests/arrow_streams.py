"""Streams of Arrow messages as a client sends them, and what becomes of them on their way in."""

from __future__ import annotations

import pyarrow as pa

from otlp_arrow import codec
from otlp_arrow.model import Batch, Signal
from otlp_arrow.receivers.flight_ingest import IncomingStream
from otlp_arrow.storage.ipc import Message, walk

LIMIT = 2**26


def messages(batch: pa.RecordBatch, compression: str | None = None) -> list[tuple[bytes, bytes]]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    stream = sink.getvalue().to_pybytes()
    return [(stream[m.start + 8 : m.body], stream[m.body : m.end]) for m in walk(stream) if isinstance(m, Message)]


def kept(stream: IncomingStream, batch: Batch) -> tuple[bytes, pa.RecordBatch]:
    """The bytes for the log and the rows for the segment, as the intake and the door come to them."""
    if batch.message is not None:
        builder = codec.new_builder(batch.signal)
        (outcome,) = builder.gather([batch.message])
        if outcome is not None:
            return batch.payload_bytes, builder.snapshot()
        batch = stream.cast_again(batch)()
    assert batch.columns is not None
    return batch.payload_bytes, batch.columns


def taken(signal: Signal, sent: list[tuple[bytes, bytes]]) -> list[tuple[bytes, pa.RecordBatch]]:
    stream = IncomingStream(signal, sent[0][0], LIMIT)
    found = [stream.take(header, body) for header, body in sent[1:]]
    return [kept(stream, batch) for batch in found if batch is not None]
