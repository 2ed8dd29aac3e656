"""Columns in another order, not called "not null", or missing: the kernel takes them as ``cast`` would make them."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrow_forms import batch_of, with_column
from arrow_streams import LIMIT, kept, messages, taken
from fuzz.wire_messages import mutated
from otlp_arrow.codec.arrow_messages import Kind, dictionary_ids, inspect, layout
from otlp_arrow.codec.cast import conform
from otlp_arrow.codec.rearranging import rearrangement
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Batch, Parts, Rejected, Signal, TooLarge
from otlp_arrow.receivers.flight_ingest import IncomingStream
from otlp_arrow.storage.gathering import columns_of_frame
from strategies import rows

BATCHES = {signal: batch_of(signal) for signal in Signal}
SMALL = {signal: batch.slice(0, 5) for signal, batch in BATCHES.items()}
signals = pytest.mark.parametrize("signal", Signal)


def named(batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
    """These columns in this order, all of them nullable, as ``from_arrays`` makes them."""
    return pa.RecordBatch.from_arrays([batch.column(name) for name in names], names=names)


def streamed(signal: Signal, *sent: pa.RecordBatch) -> tuple[IncomingStream, list[Batch]]:
    stream: IncomingStream | None = None
    found = []
    for batch in sent:
        schema, *others = messages(batch)
        stream = stream or IncomingStream(signal, schema[0], LIMIT)
        found += [b for b in (stream.take(*message) for message in others) if b is not None]
    assert stream is not None
    return stream, found


@settings(max_examples=50)
@given(data=st.data())
def test_any_order_without_any_nullable_columns_gives_what_cast_makes_of_it(data: st.DataObject):
    signal = data.draw(st.sampled_from(list(Signal)))
    target = SCHEMAS[signal]
    names = data.draw(st.permutations(target.names))
    missing = data.draw(st.sets(st.sampled_from([f.name for f in target if f.nullable])))
    sent = named(
        data.draw(st.sampled_from([SMALL, SMALL, SMALL, BATCHES]))[signal], [n for n in names if n not in missing]
    )
    ((payload, columns),) = taken(signal, messages(sent))
    expected = rows(conform(signal, sent))
    assert rows(columns) == expected
    assert rows(columns_of_frame(signal, payload)) == expected, "what the log holds is in the storage schema"


@signals
def test_it_is_the_kernel_that_takes_them_and_nothing_is_copied(signal: Signal):
    sent = messages(named(BATCHES[signal], SCHEMAS[signal].names[::-1]))
    stream = IncomingStream(signal, sent[0][0], LIMIT)
    *_, found = (stream.take(*message) for message in sent[1:])
    assert found is not None
    assert found.message is not None
    assert isinstance(found.payload, Parts)
    assert any(memoryview(part).obj is sent[-1][1] for part in found.payload.parts)
    kept(stream, found)
    assert stream._doubts == 0


def test_columns_that_are_missing_are_null_and_the_kernel_takes_them():
    missing = ["trace_state", "status_message", "parent_span_id", "end_time_unix_nano"]
    batch = BATCHES[Signal.TRACES]
    stream, (found,) = streamed(Signal.TRACES, named(batch, [n for n in batch.schema.names if n not in missing]))
    _, columns = kept(stream, found)
    assert found.message is not None
    assert stream._doubts == 0
    assert all(columns.column(name).null_count == batch.num_rows for name in missing)


def test_the_name_of_the_service_is_looked_up_where_the_column_is_missing():
    batch = BATCHES[Signal.LOGS]
    stream, (found,) = streamed(Signal.LOGS, named(batch, [n for n in batch.schema.names if n != "service_name"]))
    assert found.message is None, "no nulls stand for it"
    _, columns = kept(stream, found)
    assert columns.column("service_name").to_pylist() == batch.column("service_name").to_pylist()


@signals
def test_each_batch_may_have_dictionaries_of_its_own(signal: Signal):
    batch = BATCHES[signal]
    names = SCHEMAS[signal].names[::-1]
    word = next(f.name for f in SCHEMAS[signal] if pa.types.is_dictionary(f.type) and f.name != "metric_type")
    renamed = pa.DictionaryArray.from_arrays(pa.array([0] * batch.num_rows, pa.int32()), ["other"])
    sent = [named(batch, names), named(with_column(batch, word, renamed), names)]
    stream, found = streamed(signal, *sent)
    for each, batch_sent in zip(found, sent, strict=True):
        payload, columns = kept(stream, each)
        assert rows(columns) == rows(conform(signal, batch_sent))
        assert rows(columns_of_frame(signal, payload)) == rows(columns)


def test_a_null_in_a_column_that_may_have_none_is_refused_by_its_name():
    batch = SMALL[Signal.TRACES]
    kinds = pa.array([None, *batch.column("kind").to_pylist()[1:]], pa.int32())
    sent = named(with_column(batch, "kind", kinds), batch.schema.names[::-1])
    with pytest.raises(Rejected, match="'kind': row 0 is null"):
        taken(Signal.TRACES, messages(sent))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_batches_are_taken_all_the_same(compression: str):
    batch = BATCHES[Signal.METRICS]
    sent = named(batch, batch.schema.names[::-1])
    ((_, columns),) = taken(Signal.METRICS, messages(sent, compression))
    assert rows(columns) == rows(batch)


def test_columns_of_another_type_are_not_rearranged():
    batch = BATCHES[Signal.LOGS]
    sent = with_column(batch, "severity_number", batch.column("severity_number").cast(pa.int64()))
    assert rearrangement(Signal.LOGS, sent.schema, dictionary_ids(sent.schema.serialize().to_pybytes()[8:])) is None


@pytest.mark.parametrize("claimed", [2**31, 2**40, 2**62])
def test_rows_that_have_no_bytes_ask_for_none(claimed: int):
    batch = SMALL[Signal.TRACES]
    names = [n for n in batch.schema.names if n not in ("trace_state", "parent_span_id")]
    schema, *_, (header, body) = messages(named(batch, names))
    arranged = rearrangement(
        Signal.TRACES, pa.ipc.read_schema(pa.py_buffer(_framed(schema[0]))), dictionary_ids(schema[0])
    )
    assert arranged is not None
    assert arranged.batch(header, body) is not None
    grown = header.replace(batch.num_rows.to_bytes(8, "little"), claimed.to_bytes(8, "little"))
    assert layout(grown, Kind.RECORD_BATCH, len(body)) is not None
    assert arranged.batch(grown, body) is None


def _framed(header: bytes) -> bytes:
    return b"\xff\xff\xff\xff" + len(header).to_bytes(4, "little") + header


@signals
def test_a_layout_is_read_only_of_what_it_is_asked_for(signal: Signal):
    schema, *dictionaries, (header, body) = messages(BATCHES[signal])
    found = layout(header, Kind.RECORD_BATCH, len(body))
    assert found is not None
    assert (found.rows, len(found.nodes) % 2, len(found.buffers) % 2) == (BATCHES[signal].num_rows, 0, 0)
    assert layout(header, Kind.RECORD_BATCH, len(body) + 8) is None
    assert layout(header, Kind.DICTIONARY, len(body)) is None
    assert layout(schema[0], Kind.RECORD_BATCH, 0) is None
    words, text = dictionaries[0]
    assert layout(words, Kind.DICTIONARY, len(text)) is not None
    assert inspect(words, text, LIMIT).kind is Kind.DICTIONARY
    assert layout(b"", Kind.RECORD_BATCH, 0) is None


@settings(max_examples=150)
@given(data=st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject):
    signal = data.draw(st.sampled_from(list(Signal)))
    target = SCHEMAS[signal]
    missing = data.draw(st.sets(st.sampled_from([f.name for f in target if f.nullable and f.name != "service_name"])))
    sent = messages(named(SMALL[signal], [n for n in target.names[::-1] if n not in missing]))
    index = data.draw(st.integers(1, len(sent) - 1))
    header, body = sent[index]
    seed = data.draw(st.integers(0, 2**32))
    if not body or data.draw(st.booleans()):
        (header,) = mutated([header], 1, seed)
    else:
        (body,) = mutated([body], 1, seed)
    sent[index] = (header, body)
    try:
        found = taken(signal, sent)
    except (Rejected, TooLarge):
        return
    for payload, columns in found:
        columns.validate(full=True)
        assert rows(columns_of_frame(signal, payload)) == rows(columns)
