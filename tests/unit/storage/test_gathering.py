"""Rows between the doors and a segment."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.wire_messages import mutated
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Rejected, Signal
from otlp_arrow.storage.gathering import BuilderPool, Gathering, columns_of_frame, plain_message
from records import arrow_batch, ids_of, request
from strategies import comparable
from strategies import rows as table_rows


@pytest.fixture(params=list(Signal), ids=lambda s: s.value)
def signal(request: pytest.FixtureRequest) -> Signal:
    return request.param  # type: ignore[no-any-return]


def gathering(signal: Signal) -> Gathering:
    return Gathering(signal, BuilderPool(signal))


def test_rows_of_both_encodings_come_out_as_one_batch(signal: Signal):
    rows = gathering(signal)
    rows.append([request(signal, [1, 2], service="a"), request(signal, [3], service="b")])
    for ids, service in (([4, 5], "c"), ([6], "a")):
        columns = arrow_batch(signal, ids, service=service).columns
        assert columns is not None
        assert rows.append_columns(columns).rows == len(ids)
    rows.append([request(signal, [7], service="d")])
    rows.note_sequences(10, 11)
    rows.note_sequences(12, 14)
    assert rows.rows == 7
    assert rows.nbytes > 0
    chunk = rows.seal()
    assert chunk is not None
    batch = chunk.batch()
    batch.validate(full=True)
    assert batch.schema.equals(SCHEMAS[signal], check_metadata=True)
    assert sorted(ids_of(signal, batch)) == [1, 2, 3, 4, 5, 6, 7]
    services = dict(zip(ids_of(signal, batch), batch.column("service_name").to_pylist(), strict=True))
    assert services == {1: "a", 2: "a", 3: "b", 4: "c", 5: "c", 6: "a", 7: "d"}
    attributes = batch.column("resource_attributes").to_pylist()
    assert [dict(row)["service.name"]["str"] for row in attributes] == batch.column("service_name").to_pylist()
    assert (chunk.wal_first, chunk.wal_last, chunk.rows) == (10, 14, 7)
    assert ids_of(signal, chunk.batch()) == ids_of(signal, batch), "a write that failed is tried with the same rows"


@pytest.mark.parametrize("arrow", [1, 3])
def test_rows_that_all_came_as_arrow_come_out_as_one_batch(signal: Signal, arrow: int):
    rows = gathering(signal)
    for number in range(1, arrow + 1):
        rows.append_columns(arrow_batch(signal, [number], service=f"s{number}").columns)
    chunk = rows.seal()
    assert chunk is not None
    assert ids_of(signal, chunk.batch()) == list(range(1, arrow + 1))


def test_what_was_appended_since_a_mark_can_be_forgotten(signal: Signal):
    rows = gathering(signal)
    rows.append([request(signal, [1])])
    rows.append_columns(arrow_batch(signal, [2]).columns)
    size = rows.nbytes
    mark = rows.mark()
    rows.append([request(signal, [3, 4])])
    rows.append_columns(arrow_batch(signal, [5]).columns)
    rows.restore(mark)
    assert (rows.rows, rows.nbytes) == (2, size)
    chunk = rows.seal()
    assert chunk is not None
    assert sorted(ids_of(signal, chunk.batch())) == [1, 2]


def test_the_kernel_takes_the_rows_of_a_stream_in_the_storage_schema(signal: Signal):
    pytest.importorskip("otlp_arrow.codec._kernel")
    rows = gathering(signal)
    rows.append([request(signal, [1], service="a")])
    for number in (2, 3):
        batch = arrow_batch(signal, [number], service=f"s{number}")
        assert rows.append_arrow(batch.payload_bytes, batch.columns).rows == 1
    assert rows.append_arrow(arrow_batch(signal, [4], service="a").payload_bytes).rows == 1
    chunk = rows.seal()
    assert chunk is not None
    assert not isinstance(chunk.content(), pa.RecordBatch), "Arrow would write the whole unit"
    assert ids_of(signal, chunk.batch()) == [1, 2, 3, 4]
    assert chunk.batch().column("service_name").to_pylist() == ["a", "s2", "s3", "a"]


@pytest.mark.parametrize("form", ["compressed", "two batches", "nulls that do not show"])
def test_what_the_kernel_does_not_take_is_kept_beside_it(form: str):
    batch = arrow_batch(Signal.LOGS, [1, 2]).columns
    assert batch is not None
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd" if form == "compressed" else None)
    if form == "nulls that do not show":
        zero = pa.array([0, 0], pa.timestamp("ns", "UTC"))
        batch = batch.set_column(batch.schema.get_field_index("time_unix_nano"), "time_unix_nano", zero)
        batch = pa.RecordBatch.from_arrays(batch.columns, schema=SCHEMAS[Signal.LOGS])
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        for part in (batch.slice(0, 1), batch.slice(1)) if form == "two batches" else (batch,):
            writer.write_batch(part)
    rows = gathering(Signal.LOGS)
    assert rows.append_arrow(sink.getvalue().to_pybytes()).rows == 2
    chunk = rows.seal()
    assert chunk is not None
    assert isinstance(chunk.content(), pa.RecordBatch)
    assert ids_of(Signal.LOGS, chunk.batch()) == [1, 2]


@settings(max_examples=200)
@example(signal=Signal.LOGS, seed=146097)  # two fields with one dictionary, and one dictionary too many
@given(signal=st.sampled_from(list(Signal)), seed=st.integers(0, 2**32))
def test_a_damaged_stream_is_refused_or_harmless(signal: Signal, seed: int):
    (stream,) = mutated([arrow_batch(signal, [1, 2, 3]).payload_bytes], 1, seed)
    rows = gathering(signal)
    message = plain_message(signal, stream)
    if message is not None and (outcome := rows._builder.gather([message])[0]) is not None and outcome.error is None:
        (snapshot,) = rows.snapshot()
        snapshot.validate(full=True)
        expected = columns_of_frame(signal, stream)
        assert comparable(table_rows(snapshot)) == comparable(table_rows(expected))


@pytest.mark.parametrize("payload", [b"", b"no stream", b"\xff\xff\xff\xff\x10\0\0\0" + bytes(16)])
def test_what_is_no_stream_is_rejected(payload: bytes):
    with pytest.raises(Rejected):
        gathering(Signal.LOGS).append_arrow(payload)


def test_a_stream_in_another_schema_is_rejected():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([pa.field("a", pa.int8())])):
        pass
    with pytest.raises(Rejected, match="not in the schema of logs"):
        gathering(Signal.LOGS).append_arrow(sink.getvalue().to_pybytes())


def test_a_sealed_gathering_begins_anew(signal: Signal):
    rows = gathering(signal)
    assert rows.seal() is None
    rows.append([request(signal, [1])])
    rows.note_sequences(3, 3)
    chunk = rows.seal()
    assert (rows.rows, rows.nbytes, rows.wal_first, rows.wal_last) == (0, 0, 0, 0)
    rows.append([request(signal, [2])])
    assert chunk is not None
    assert ids_of(signal, chunk.batch()) == [1]


def test_readers_get_the_rows_so_far(signal: Signal):
    rows = gathering(signal)
    assert rows.snapshot() == []
    rows.append([request(signal, [1])])
    rows.append_columns(arrow_batch(signal, [2]).columns)
    seen = rows.snapshot()
    rows.append([request(signal, [3])])
    assert [ids_of(signal, batch) for batch in seen] == [[1], [2]]


def test_builders_are_used_again_until_they_are_dropped():
    pool = BuilderPool(Signal.LOGS)
    builder = pool.take()
    pool.give(builder)
    assert pool.take() is builder
    pool.give(builder)
    pool.drop()
    assert pool.take() is not builder


def test_a_gathering_that_relaxes_keeps_its_rows(signal: Signal):
    rows = gathering(signal)
    rows.relax()
    rows.append([request(signal, [1])])
    rows.relax()
    chunk = rows.seal()
    assert chunk is not None
    assert ids_of(signal, chunk.batch()) == [1]
    assert [ids_of(signal, batch) for batch in chunk.copies()] == [[1]]


def test_an_arrow_frame_gives_its_rows_back_as_one_batch(signal: Signal):
    first, second = (arrow_batch(signal, ids, service=str(ids)).columns for ids in ([1, 2], [3]))
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, SCHEMAS[signal]) as writer:
        writer.write_batch(first)
        writer.write_batch(second)
    batch = columns_of_frame(signal, stream.getvalue().to_pybytes())
    assert ids_of(signal, batch) == [1, 2, 3]
    assert batch.column("service_name").to_pylist() == ["[1, 2]", "[1, 2]", "[3]"]


def test_an_arrow_frame_without_rows_is_an_empty_batch(signal: Signal):
    stream = pa.BufferOutputStream()
    pa.ipc.new_stream(stream, SCHEMAS[signal]).close()
    assert columns_of_frame(signal, stream.getvalue().to_pybytes()).num_rows == 0


@pytest.mark.parametrize("payload", [b"", b"not arrow", b"\xff\xff\xff\xff\x10\0\0\0" + bytes(16)])
def test_a_frame_that_is_no_arrow_stream_is_rejected(payload: bytes):
    with pytest.raises(Rejected):
        columns_of_frame(Signal.LOGS, payload)


def test_a_frame_in_another_schema_is_rejected():
    with pytest.raises(Rejected, match="not in the schema of logs"):
        columns_of_frame(Signal.LOGS, arrow_batch(Signal.TRACES, [1]).payload)
