"""A stream of Arrow messages from a stranger: whatever is in it, rows that the codec can encode, or a refusal."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrow_forms import batch_of, foreign, with_column, with_values
from arrow_streams import LIMIT, kept, messages, taken
from otlp_arrow import codec
from otlp_arrow.codec.arrow_messages import Kind, layout
from otlp_arrow.codec.arrow_writing import plain_header
from otlp_arrow.model import Parts, Rejected, Signal, TooLarge, limits
from otlp_arrow.receivers.flight_ingest import IncomingStream
from otlp_arrow.storage.gathering import columns_of_frame
from strategies import rows

SMALL = {signal: batch_of(signal).slice(0, 4) for signal in Signal}


@pytest.mark.parametrize("signal", Signal)
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_the_bytes_for_the_log_hold_the_same_rows_as_the_columns(signal: Signal, compression: str | None):
    batch = batch_of(signal)
    for sent in (batch, foreign(batch)):
        ((payload, columns),) = taken(signal, messages(sent, compression))
        assert rows(columns) == rows(batch)
        assert rows(columns_of_frame(signal, payload)) == rows(batch)


def test_a_batch_that_needs_no_change_is_kept_as_it_came_and_not_copied():
    (_, body), *others = all_of_it = messages(batch_of(Signal.LOGS))
    stream = IncomingStream(Signal.LOGS, all_of_it[0][0], LIMIT)
    found = [stream.take(*message) for message in others]
    header, sent = others[-1]
    batch = found[-1]
    assert batch is not None
    assert isinstance(batch.payload, Parts)
    assert any(part.obj is sent for part in map(memoryview, batch.payload.parts))
    assert header in batch.payload_bytes
    assert found[:-1] == [None] * len(found[:-1])
    assert body == b""


def test_a_stream_whose_batches_the_kernel_does_not_take_is_cast_at_once_after_some(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "MAX_FLIGHT_DOUBTS", 2)
    batch = with_values(batch_of(Signal.LOGS), "time_unix_nano", first=0)  # a time of 0 is stored as null
    sent = messages(batch)
    stream = IncomingStream(Signal.LOGS, sent[0][0], LIMIT)
    for header, body in sent[1:-1]:
        assert stream.take(header, body) is None
    looked_at = []
    for _ in range(4):
        found = stream.take(*sent[-1])
        assert found is not None
        looked_at.append(found.message is None)
        payload, columns = kept(stream, found)
        assert rows(columns_of_frame(Signal.LOGS, payload)) == rows(columns)
        assert columns.column("time_unix_nano")[0].as_py() is None
    assert looked_at == [False, False, True, True]


def test_a_dictionary_that_no_field_has_is_refused_before_it_gets_into_the_log():
    schema, (header, body), *_ = messages(batch_of(Signal.LOGS))
    stream = IncomingStream(Signal.LOGS, schema[0], LIMIT)
    found = layout(header, Kind.DICTIONARY, len(body))
    assert found is not None
    with pytest.raises(Rejected, match="a dictionary with the id 77, which no field of the schema has"):
        stream.take(plain_header(found.rows, found.nodes, found.buffers, len(body), 77), body)
    assert stream.take(header, body) is None


def test_dictionaries_count_towards_the_limit_together_with_the_batch():
    batch = batch_of(Signal.LOGS)
    word = pa.DictionaryArray.from_arrays(pa.array([0] * batch.num_rows, pa.int32()), ["x" * 5_000])
    batch = with_column(with_column(batch, "severity_text", word), "event_name", word)
    sent = messages(batch)
    sizes = sum(len(body) for _, body in sent)
    stream = IncomingStream(Signal.LOGS, sent[0][0], sizes - 5_000)
    for header, body in sent[1:-1]:
        stream.take(header, body)
    with pytest.raises(TooLarge, match="a batch and its dictionaries take"):
        stream.take(*sent[-1])
    assert stream.dictionary_bytes > 10_000


@settings(max_examples=150)
@given(data=st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject):
    signal = data.draw(st.sampled_from(list(Signal)))
    batch = SMALL[signal]
    form = data.draw(st.sampled_from(["plain", "foreign", "lz4"]))
    sent = messages(foreign(batch) if form == "foreign" else batch, "lz4" if form == "lz4" else None)
    index = data.draw(st.integers(0, len(sent) - 1))
    part = data.draw(st.integers(0, 1))
    damaged = [list(message) for message in sent]
    target = bytearray(damaged[index][part])
    for _ in range(data.draw(st.integers(1, 3)) if target else 0):
        target[data.draw(st.integers(0, len(target) - 1))] = data.draw(
            st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
        )
    damaged[index][part] = bytes(target)
    try:
        found = taken(signal, [(header, body) for header, body in damaged])
    except Rejected:
        return
    for payload, columns in found:
        codec.encode(signal, columns)
        assert rows(columns_of_frame(signal, payload)) == rows(columns)
