"""What a message of a stranger claims is known before Arrow acts on it."""

from __future__ import annotations

import struct

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.codec.arrow_messages import END_OF_STREAM, Kind, encapsulated, harmless_schema, inspect, to_stream
from otlp_arrow.model import Rejected, TooLarge
from otlp_arrow.storage.ipc import Message, walk

BATCH = pa.record_batch({"word": pa.array(["a", "b", "a"] * 40).dictionary_encode(), "number": [7] * 120})
LIMIT = 10**6


def messages(compression: str | None = None, batch: pa.RecordBatch = BATCH) -> list[tuple[bytes, bytes]]:
    """Header and body of each message of a stream."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression, emit_dictionary_deltas=True)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    stream = sink.getvalue().to_pybytes()
    return [(stream[m.start + 8 : m.body], stream[m.body : m.end]) for m in walk(stream) if isinstance(m, Message)]


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_the_claim_is_what_the_buffers_take_once_inflated(compression: str | None):
    schema, dictionary, batch = (inspect(*message, LIMIT) for message in messages(compression))
    assert schema.kind is Kind.SCHEMA
    assert (dictionary.kind, dictionary.dictionary_id, dictionary.is_delta) == (Kind.DICTIONARY, 0, False)
    assert batch.kind is Kind.RECORD_BATCH
    # Indices of 4 bytes and numbers of 8; buffers are padded where they are not compressed.
    assert 120 * 12 <= batch.decoded_bytes <= 120 * 12 + 128
    assert 3 * 4 + 2 <= dictionary.decoded_bytes <= 128


def test_a_stream_is_put_together_again_from_its_messages():
    stream = b"".join(b"".join(encapsulated(*message)) for message in messages("zstd")) + END_OF_STREAM
    assert pa.ipc.open_stream(stream).read_all().to_batches() == [BATCH]
    assert pa.ipc.open_stream(to_stream(BATCH)).read_all().to_batches() == [BATCH]


def test_a_message_over_the_limit_is_too_large_however_small_it_was_compressed():
    zeros = pa.record_batch({"zeros": pa.array([bytes(2**20)])})
    header, body = messages("zstd", zeros)[-1]
    assert len(body) < 2_000
    with pytest.raises(TooLarge, match="limit of 1000000"):
        inspect(header, body, LIMIT)
    assert inspect(header, body, 2 * LIMIT).decoded_bytes >= 2**20


def test_a_buffer_that_lies_about_its_length_is_believed_in_so_far_as_it_is_refused():
    header, body = messages("zstd")[-1]
    first = body.index((40 * 3 * 4).to_bytes(8, "little"))
    for claimed, error in [(2**62, TooLarge), (-2, Rejected)]:
        lying = body[:first] + struct.pack("<q", claimed) + body[first + 8 :]
        with pytest.raises(error):
            inspect(header, lying, LIMIT)


def test_a_body_with_something_behind_its_end_is_refused():
    # Arrow would read on there, and find a message that nobody looked at.
    hidden = b"".join(encapsulated(*messages("zstd")[-1]))
    for header, body in messages():
        with pytest.raises(Rejected, match="according to its header"):
            inspect(header, body + hidden, LIMIT)


def test_deltas_of_dictionaries_are_told_from_replacements():
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    grown = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int32()), ["a", "b", "c"])
    with pa.ipc.new_stream(sink, BATCH.schema, options=options) as writer:
        writer.write_batch(BATCH)
        writer.write_batch(pa.record_batch({"word": grown, "number": [1, 2, 3]}))
    stream = sink.getvalue().to_pybytes()
    claims = [inspect(stream[m.start + 8 : m.body], stream[m.body : m.end], LIMIT) for m in list(walk(stream))[:-1]]
    assert [claim.is_delta for claim in claims] == [False, False, False, True, False]


def test_a_schema_loses_its_extension_types_and_nothing_else():
    storage = pa.field("id", pa.binary(16), metadata={b"mine": b"kept"})
    schema = pa.schema([storage.with_type(pa.uuid()), pa.field("n", pa.int8())])
    header = harmless_schema(schema.serialize()[8:])
    assert inspect(header, b"", LIMIT).kind is Kind.SCHEMA
    read = pa.ipc.read_schema(pa.py_buffer(b"".join(encapsulated(header, b""))))
    assert read.types == [pa.binary(16), pa.int8()]
    assert read.field("id").metadata[b"mine"] == b"kept"
    assert b"arrow:extension:name" in read.field("id").metadata


@given(data=st.data())
def test_no_damage_makes_it_do_anything_but_refuse(data: st.DataObject):
    header, body = data.draw(st.sampled_from(messages("lz4")))
    damaged = bytearray(header)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = damaged[: data.draw(st.integers(0, len(damaged)))]
    for header_bytes in (bytes(damaged), bytes(cut)):
        try:
            assert inspect(header_bytes, body, LIMIT).decoded_bytes <= LIMIT
        except Rejected:
            pass
