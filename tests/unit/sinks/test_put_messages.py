"""A DoPut over the memory of a builder, and when that memory is free again."""

from __future__ import annotations

import pyarrow as pa
import pytest

from otlp_arrow import codec
from otlp_arrow.codec import BatchBuilder
from otlp_arrow.codec.reference import ReferenceBuilder
from otlp_arrow.model import Encoding, Parts, Signal
from otlp_arrow.sinks import convert as converting
from otlp_arrow.sinks.convert import Converted, convert
from otlp_arrow.sinks.put_messages import app_metadata
from otlp_arrow.storage.frames import Frame
from remotes import spans


class Pool:
    """One builder that is lent."""

    def __init__(self) -> None:
        self.builder = codec.new_builder(Signal.TRACES)
        self.back: list[BatchBuilder] = []

    def convert(self, *payloads: bytes, encoding: Encoding = Encoding.OTLP) -> Converted:
        frames = [Frame(n, Signal.TRACES, encoding, 1, 1, payload) for n, payload in enumerate(payloads, 1)]
        return convert(frames, Encoding.ARROW, self.builder, join=False, give_back=self.back.append)


def test_the_builder_comes_back_empty_when_nobody_holds_a_piece_of_it():
    pool = Pool()
    made = pool.convert(spans(3000))
    assert made.lent
    assert made.rows == 3000
    assert made.batch is not None
    assert isinstance(made.batch.payload, Parts)
    on_its_way = [part[5:] for part in made.batch.payload.parts if isinstance(part, memoryview)]
    del made
    assert pool.back == [], "the rest of a request that was given up may still be on its way"
    assert pool.builder.rows == 3000
    on_its_way.clear()
    assert pool.back == [pool.builder]
    assert pool.builder.rows == 0


def test_what_cannot_be_read_is_refused_and_the_rest_goes():
    pool = Pool()
    made = pool.convert(spans(2), b"nonsense", spans(3))
    assert (made.rows, made.lent, [r.payload for r in made.refusals]) == (5, True, [b"nonsense"])


def test_nothing_to_send_lends_nothing():
    pool = Pool()
    made = pool.convert(b"nonsense")
    assert (made.batch, made.lent) == (None, False)


def test_more_than_a_put_takes_goes_out_as_columns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(converting, "FLIGHT_PUT_BYTES", 1000)
    pool = Pool()
    made = pool.convert(spans(50))
    assert not made.lent
    assert made.batch is not None
    assert made.batch.columns is not None
    assert made.batch.columns.num_rows == 50


def test_without_the_kernel_rows_go_out_as_columns():
    pool = Pool()
    pool.builder = ReferenceBuilder(Signal.TRACES)
    made = pool.convert(spans(4))
    assert (made.rows, made.lent) == (4, False)
    assert made.batch is not None
    assert made.batch.columns is not None


def test_batches_that_came_as_arrow_go_out_as_columns():
    pool = Pool()
    columns = codec.decode(Signal.TRACES, spans(4))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns.schema) as writer:
        writer.write_batch(columns)
    made = pool.convert(sink.getvalue().to_pybytes(), encoding=Encoding.ARROW)
    assert made.batch is not None
    assert made.batch.columns is not None
    assert made.batch.columns.equals(columns)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000])
def test_the_metadata_of_a_put_result(size: int):
    length = (
        bytes([size])
        if size < 128
        else bytes([size & 127 | 128])
        + (bytes([size >> 7]) if size < 2**14 else bytes([size >> 7 & 127 | 128, size >> 14]))
    )
    assert app_metadata(b"\x0a" + length + b"m" * size + b"\x12\x01x") == b"m" * size


@pytest.mark.parametrize("answer", [b"", b"\x12\x01x", b"\x0a", b"\x0a\xff\xff\xff\xff\xff\xff"])
def test_a_put_result_that_is_none_says_nothing(answer: bytes):
    assert app_metadata(answer) == b""
