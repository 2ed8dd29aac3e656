"""Messages that are written from a builder's memory are those of an Arrow stream."""

from __future__ import annotations

import dataclasses
import struct
import weakref
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given

from otlp_arrow import codec
from otlp_arrow.codec import SCHEMAS, _kernel
from otlp_arrow.codec.arrow_messages import END_OF_STREAM, Kind, dictionary_ids, encapsulated, inspect, layout
from otlp_arrow.codec.arrow_writing import _COMPRESSION_SLOT, StreamWriter, relax
from otlp_arrow.model import Rejected, Signal
from otlp_arrow.storage.ipc import Message, walk
from samples import samples
from strategies import requests, rows


def stream(
    signal: Signal, units: list[list[bytes]], *, forget: bool = False, level: int | None = 1
) -> tuple[bytes, list[pa.RecordBatch]]:
    """A stream with a unit for each list of requests, and the batches that should be in it."""
    writer = StreamWriter(SCHEMAS[signal], level)
    data = bytearray(writer.schema_message)
    expected = []
    builder = codec.new_builder(signal)
    for number, payloads in enumerate(units):
        builder.clear()
        builder.append(payloads)
        expected.append(builder.snapshot())
        if forget:
            writer.forget_dictionaries()
        memory = builder.memory()
        assert memory is not None
        for header, body in writer.messages(memory, {"unit": str(number), "empty": ""}):
            data += b"".join((*encapsulated(header, b""), *body))
    return bytes(data) + END_OF_STREAM, expected


def messages(data: bytes, kind: Kind) -> list[Message]:
    return [each for each in walk(data) if isinstance(each, Message) and each.kind == kind]


@pytest.mark.parametrize("level", [1, None], ids=["compressed", "plain"])
@pytest.mark.parametrize("signal", list(Signal))
def test_recorded_telemetry_reads_back_in_pyarrow_and_polars(signal: Signal, level: int | None) -> None:
    payloads = [sample.payload for sample in samples() if sample.signal is signal]
    data, expected = stream(signal, [payloads * 3, payloads[:1], [], payloads[::-1] * 2], level=level)
    found = list(pa.ipc.open_stream(data))
    for batch, want in zip(found, expected, strict=True):
        batch.validate(full=True)
        assert batch.equals(want)
    assert pl.read_ipc_stream(data).height == sum(batch.num_rows for batch in expected)
    assert [m.custom_metadata for m in messages(data, Kind.RECORD_BATCH)] == [
        {"unit": str(number), "empty": ""} for number in range(4)
    ]


@pytest.mark.parametrize("signal", list(Signal))
def test_any_rows_read_back(signal: Signal) -> None:
    @given(requests(signal), requests(signal))
    def check(first: Any, second: Any) -> None:
        one, other = first.SerializeToString(), second.SerializeToString()
        data, expected = stream(signal, [[one, other], [other]])
        for batch, want in zip(pa.ipc.open_stream(data), expected, strict=True):
            batch.validate(full=True)
            assert rows(batch) == rows(want)

    check()


def test_what_is_not_compressed_is_the_columns_memory_and_keeps_its_owner() -> None:
    class Owner:
        pass

    payloads = [sample.payload for sample in samples() if sample.signal is Signal.TRACES]
    builder = codec.new_builder(Signal.TRACES)
    builder.append(payloads * 20)
    memory = builder.memory()
    assert memory is not None
    owner = Owner()
    held = weakref.ref(owner)
    writer = StreamWriter(SCHEMAS[Signal.TRACES], None)
    (*_, (_, body)) = writer.messages(dataclasses.replace(memory, owner=owner), {})
    views = [part for part in body if isinstance(part, memoryview)]
    shared = sum(map(len, views))
    assert shared > 0.8 * sum(map(len, body)), "little is copied"
    del owner, body, _
    piece = views[0][10:20]
    views.clear()
    assert held() is not None
    del piece
    assert held() is None


def test_dictionaries_are_written_again_only_where_they_have_changed() -> None:
    payloads = [sample.payload for sample in samples() if sample.signal is Signal.TRACES]
    data, _ = stream(Signal.TRACES, [payloads[:1], payloads[:1]])
    fields = len(dictionary_ids(StreamWriter(SCHEMAS[Signal.TRACES], 1).schema_message[8:]))
    assert len(messages(data, Kind.DICTIONARY)) == fields
    data, _ = stream(Signal.TRACES, [payloads[:1], payloads[:1]], forget=True)
    assert len(messages(data, Kind.DICTIONARY)) == 2 * fields


def test_each_encoded_field_has_the_id_that_the_schema_message_gives_it() -> None:
    def encoded(type_: pa.DataType) -> int:
        if pa.types.is_dictionary(type_):
            return 1
        if pa.types.is_map(type_):
            return encoded(type_.key_type) + encoded(type_.item_type)
        return sum(encoded(type_.field(i).type) for i in range(type_.num_fields)) if pa.types.is_nested(type_) else 0

    for schema in SCHEMAS.values():
        ids = dictionary_ids(schema.serialize().to_pybytes()[8:])
        assert len(ids) == len(set(ids)) == sum(encoded(field.type) for field in schema)


@pytest.mark.parametrize("cut", [0, 4, 40, 200, 1000])
def test_a_damaged_schema_message_is_refused(cut: int) -> None:
    header = SCHEMAS[Signal.LOGS].serialize().to_pybytes()[8:]
    with pytest.raises(Rejected, match="the schema is damaged"):
        dictionary_ids(header[:cut])


def test_what_is_written_is_a_plain_message_for_our_own_reader_too() -> None:
    data, _ = stream(Signal.LOGS, [[sample.payload for sample in samples() if sample.signal is Signal.LOGS]])
    for message in messages(data, Kind.RECORD_BATCH) + messages(data, Kind.DICTIONARY):
        claim = inspect(data[message.start + 8 : message.body], data[message.body : message.end], 2**30)
        assert claim.compressed
        assert claim.kind == message.kind


def test_a_body_is_one_piece_whose_memory_serves_for_the_next() -> None:
    payloads = [sample.payload for sample in samples() if sample.signal is Signal.TRACES]
    builder = codec.new_builder(Signal.TRACES)
    builder.append(payloads * 20)
    memory = builder.memory()
    assert memory is not None
    writer = StreamWriter(SCHEMAS[Signal.TRACES], 1)

    def body() -> memoryview:
        (*_, (_, pieces)) = writer.messages(memory, {})
        (piece,) = pieces
        assert isinstance(piece, memoryview)
        return piece

    first = body()
    content = bytes(first)
    second = body()
    assert second == first == content, "a body that is held is not written over"
    place = _kernel.address_of(second)
    part = second[10:20]
    del second
    third = body()
    assert _kernel.address_of(third) != place, "a part holds the whole"
    del part, third, first
    fourth = body()
    assert fourth == content
    relax()
    assert fourth == content


def test_the_buffers_of_a_body_lie_one_behind_another_and_begin_at_eights() -> None:
    data, _ = stream(Signal.TRACES, [[sample.payload for sample in samples() if sample.signal is Signal.TRACES] * 9])
    for message in messages(data, Kind.RECORD_BATCH) + messages(data, Kind.DICTIONARY):
        header = data[message.start + 8 : message.body]
        as_if_plain = header[:_COMPRESSION_SLOT] + bytes(2) + header[_COMPRESSION_SLOT + 2 :]
        found = layout(as_if_plain, Kind(message.kind), message.end - message.body)
        assert found is not None
        buffers = found.buffers
        end = 0
        for at, size in zip(buffers[::2], buffers[1::2], strict=True):
            assert at == -(-end // 8) * 8
            end = at + size
        assert message.end - message.body == -(-end // 8) * 8


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("count", [256, 511, 512, 513, 3000, 40_000])
def test_ids_at_random_are_stored_as_they_are(width: int, count: int) -> None:
    data = np.random.default_rng(count).integers(0, 256, width * count, np.uint8)
    parts = {"a": (count, [None, (data.ctypes.data, data.nbytes)])}
    body = _kernel.MessageBody([("a", width, False, False)], parts, _is_not_asked)
    assert bytes(body) == b"\xff" * 8 + data.tobytes()


def _is_not_asked(address: int, size: int) -> bytes:
    raise AssertionError(f"the library was asked for {size} bytes")


@pytest.mark.parametrize(
    "numbers",
    [
        np.random.default_rng(1).random(5000),  # of which the exponents are alike
        np.random.default_rng(2).integers(0, 1 << 48, 5000) << 16,
        np.random.default_rng(3).integers(0, 1 << 60, 5000) | 0xFF00,
    ],
    ids=["doubles", "zeros at the end", "a byte in the middle"],
)
def test_numbers_that_have_something_alike_are_left_to_the_library(numbers: np.ndarray) -> None:
    asked = []

    def compress(address: int, size: int) -> bytes:
        asked.append((address, size))
        return b"a frame"

    parts = {"a": (len(numbers), [None, (numbers.ctypes.data, numbers.nbytes)])}
    _kernel.MessageBody([("a", 8, False, False)], parts, compress)
    assert asked == [(numbers.ctypes.data, numbers.nbytes)]


def test_arrays_that_the_kernel_does_not_know_are_refused() -> None:
    with pytest.raises(KeyError):
        _kernel.MessageBody([("a", 1, False, False)], {}, bytes)
    with pytest.raises(ValueError, match="4 buffers of a"):
        _kernel.MessageBody([("a", 1, False, False)], {"a": (0, [None] * 4)}, bytes)


def test_what_the_library_refuses_ends_the_message() -> None:
    data = np.random.default_rng(1).integers(0, 256, 5000, np.uint8)  # bytes of text, perhaps: nobody knows
    parts = {"a": (5000, [None, (data.ctypes.data, data.nbytes)])}

    def refuse(address: int, size: int) -> bytes:
        assert (address, size) == (data.ctypes.data, data.nbytes)
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        _kernel.MessageBody([("a", 1, False, False)], parts, refuse)
    body = _kernel.MessageBody([("a", 1, False, False)], parts, lambda address, size: data.tobytes()[:4000])
    assert bytes(body) == (5000).to_bytes(8, "little") + data.tobytes()[:4000]
    assert len(body) == 4008
    assert (body.nodes, body.places) == (struct.pack("<2q", 5000, 0), struct.pack("<4q", 0, 0, 0, 4008))
