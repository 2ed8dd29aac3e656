"""Walking an Arrow IPC stream message by message."""

from __future__ import annotations

import struct

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.storage.ipc import (
    DICTIONARY,
    END_OF_STREAM,
    RECORD_BATCH,
    SCHEMA,
    EndOfStream,
    Message,
    NotAMessage,
    read_message,
    walk,
)


def stream(*, closed: bool = True, batches: int = 2) -> bytes:
    sink = pa.BufferOutputStream()
    words = pa.array(["a", "b", "a"]).dictionary_encode()
    batch = pa.record_batch({"word": words, "number": [1, 2, 3]})
    writer = pa.ipc.new_stream(sink, batch.schema)
    for number in range(batches):
        writer.write_batch(batch, custom_metadata={"number": str(number), "name": "bätch"})
    data = sink.getvalue().to_pybytes() if not closed else b""
    if closed:
        writer.close()
        data = sink.getvalue().to_pybytes()
    return data


def test_messages_are_found_in_order_with_their_kinds_and_metadata():
    data = stream()
    *messages, end = walk(data)
    assert [m.kind for m in messages] == [SCHEMA, DICTIONARY, RECORD_BATCH, RECORD_BATCH]
    assert [m.custom_metadata for m in messages[2:]] == [
        {"number": "0", "name": "bätch"},
        {"number": "1", "name": "bätch"},
    ]
    assert [m.start for m in messages] == [0, *(m.end for m in messages[:-1])]
    assert all(m.start % 8 == 0 and m.start < m.body <= m.end for m in messages)
    assert end == EndOfStream(len(data))


def test_a_stream_without_its_end_marker_ends_silently_at_a_message():
    data = stream(closed=False)
    assert [type(m) for m in walk(data)] == [Message] * 4
    assert list(walk(b"")) == []


def test_a_message_border_anywhere_else_is_torn():
    data = stream()
    borders = {m.end for m in walk(data)} | {0}
    for end in range(len(data)):
        if end in borders:
            list(walk(data[:end]))
            continue
        with pytest.raises(NotAMessage) as caught:
            list(walk(data[:end]))
        assert caught.value.torn, end


def test_bytes_after_the_end_of_the_stream_are_an_error():
    with pytest.raises(NotAMessage, match="after the end") as caught:
        list(walk(stream() + b"more"))
    assert not caught.value.torn


def test_zeros_may_be_the_beginning_of_a_write_and_other_bytes_are_not():
    for tail, torn in ((bytes(20), True), (b"\0" * 10 + b"x" * 10, False)):
        with pytest.raises(NotAMessage) as caught:
            list(walk(stream(closed=False) + tail))
        assert caught.value.torn is torn


@pytest.mark.parametrize("length", [-1, 17 * 1024 * 1024])
def test_a_metadata_length_that_cannot_be_is_refused_before_it_is_read(length: int):
    with pytest.raises(NotAMessage, match="metadata"):
        read_message(b"\xff\xff\xff\xff" + struct.pack("<i", length) + bytes(100), 0)


def test_a_negative_body_length_is_refused():
    data = bytearray(stream())
    batch = next(m for m in walk(bytes(data)) if isinstance(m, Message) and m.kind == RECORD_BATCH)
    length = struct.pack("<q", batch.end - batch.body)
    at = data.index(length, batch.start, batch.body)
    data[at : at + 8] = struct.pack("<q", -8)
    with pytest.raises(NotAMessage, match="body of -8"):
        list(walk(bytes(data)))


@given(st.binary(max_size=120), st.integers(0, 8))
def test_junk_is_never_anything_but_no_message(junk: bytes, prefix: int):
    data = b"\xff\xff\xff\xff" + struct.pack("<i", len(junk)) + junk
    try:
        list(walk(data[prefix:]))
    except NotAMessage:
        pass


@given(st.data())
def test_a_flipped_byte_in_any_message_never_raises_anything_else(data: st.DataObject):
    content = bytearray(_STREAM)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        for message in walk(bytes(content)):
            assert message.end <= len(content)
    except NotAMessage:
        pass


_STREAM = stream()


def test_the_end_marker_is_what_arrow_writes():
    assert stream().endswith(END_OF_STREAM)
    assert not stream(closed=False).endswith(END_OF_STREAM)
