"""Frames as batches: joined without decoding, or through the codec."""

from __future__ import annotations

import pyarrow as pa
import pytest

from otlp_arrow import codec
from otlp_arrow.model import Encoding, Parts, Rejected, Signal
from otlp_arrow.sinks import convert as module
from otlp_arrow.sinks.convert import columns_of, convert, encode_rows, needs_thread, refused_rows, rows_as
from otlp_arrow.storage.frames import Frame
from remotes import all_ids, span_ids, spans
from samples import Sample

_sequence = iter(range(1, 1_000_000))


def frame(payload: bytes, encoding: Encoding = Encoding.OTLP, signal: Signal = Signal.TRACES) -> Frame:
    rows = 0
    if encoding is Encoding.OTLP:
        rows = codec.decode(signal, payload).num_rows
    return Frame(next(_sequence), signal, encoding, rows, 1, payload)


def arrow_frame(payload: bytes, signal: Signal = Signal.TRACES) -> Frame:
    columns = codec.decode(signal, payload)
    return Frame(next(_sequence), signal, Encoding.ARROW, columns.num_rows, 1, refused_rows(columns, "").payload)


def test_one_request_is_not_even_copied():
    payload = spans(3)
    converted = convert([frame(payload)], Encoding.OTLP)
    assert converted.batch is not None
    assert converted.batch.payload is payload
    assert converted.rows == 3


def test_requests_join_by_concatenation():
    frames = [frame(spans(2)), frame(spans(3))]
    converted = convert(frames, Encoding.OTLP)
    assert converted.batch is not None
    assert converted.batch.payload == frames[0].payload + frames[1].payload
    assert converted.rows == 5
    assert not needs_thread(frames, Encoding.OTLP)


def test_requests_need_not_be_joined_for_who_takes_parts():
    frames = [frame(spans(1)), frame(spans(2))]
    batch = convert(frames, Encoding.OTLP, join=False).batch
    assert batch is not None
    assert isinstance(batch.payload, Parts)
    assert batch.payload.parts == tuple(f.payload for f in frames)


def test_arrow_and_otlp_frames_go_out_together_in_either_encoding():
    first, second = spans(2), spans(3)
    frames = [frame(first), arrow_frame(second)]
    assert needs_thread(frames, Encoding.OTLP)
    otlp = convert(frames, Encoding.OTLP)
    assert otlp.batch is not None
    assert span_ids(otlp.batch.payload) == span_ids(first) + span_ids(second)
    arrow = convert(frames, Encoding.ARROW, codec.new_builder(Signal.TRACES))
    assert arrow.batch is not None
    assert arrow.batch.columns is not None
    assert arrow.rows == otlp.rows == arrow.batch.columns.num_rows == 5
    assert set(span_ids(codec.encode(Signal.TRACES, arrow.batch.columns))) == all_ids([first, second])


def test_every_sample_goes_through_arrow_and_back(sample: Sample):
    there = convert([frame(sample.payload, signal=sample.signal)], Encoding.ARROW, codec.new_builder(sample.signal))
    assert there.batch is not None
    assert there.batch.columns is not None
    back = rows_as(sample.signal, there.batch.columns, Encoding.OTLP)
    assert back.batch is not None
    assert codec.decode(sample.signal, back.batch.payload).equals(codec.decode(sample.signal, sample.payload))


def test_a_frame_that_cannot_be_read_is_refused_and_the_others_go_out():
    broken_otlp = Frame(1, Signal.TRACES, Encoding.OTLP, 4, 1, b"\xff\xff\xff")
    broken_arrow = Frame(2, Signal.TRACES, Encoding.ARROW, 5, 1, b"no stream")
    good = frame(spans(2))
    there = convert([broken_otlp, good, broken_arrow], Encoding.ARROW, codec.new_builder(Signal.TRACES))
    assert (there.rows, sorted(r.rows for r in there.refusals)) == (2, [4, 5])
    out = convert([good, broken_arrow], Encoding.OTLP)
    assert (out.rows, [r.rows for r in out.refusals], out.refusals[0].suffix) == (2, [5], "arrows")
    nothing = convert([broken_arrow], Encoding.OTLP)
    assert (nothing.batch, nothing.rows) == (None, 0)


def test_a_row_that_no_message_can_hold_is_found_and_left_out(monkeypatch: pytest.MonkeyPatch):
    columns = codec.decode(Signal.TRACES, spans(16))
    poison = columns.column("span_id")[5].as_py()
    encode = codec.encode

    def picky(signal: Signal, batch: pa.RecordBatch) -> bytes:
        if poison in batch.column("span_id").to_pylist():
            raise Rejected("row: no")
        return encode(signal, batch)

    monkeypatch.setattr(module.codec, "encode", picky)
    encoded, refusals = encode_rows(Signal.TRACES, columns)
    assert len(all_ids(encoded)) == 15
    ((rows, payload, suffix, reason),) = [(r.rows, r.payload, r.suffix, r.reason) for r in refusals]
    assert (rows, suffix, reason) == (1, "arrows", "row: no")
    assert pa.ipc.open_stream(payload).read_all().column("span_id")[0].as_py() == poison


def test_records_that_were_refused_at_the_door_are_told_apart():
    columns, refused = columns_of(frame(spans(4, bad=3)))
    assert (columns.num_rows, refused) == (4, 3)
    assert columns_of(arrow_frame(spans(2)))[1] == 0
    with pytest.raises(Rejected):
        columns_of(Frame(1, Signal.TRACES, Encoding.OTLP, 1, 1, b"\xff"))
