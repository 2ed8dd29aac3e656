"""The kernel takes a batch of an Arrow client only if Arrow and ``cast`` would have left it as it is, and then keeps
the same rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrow_forms import batch_of, foreign, with_column, with_values
from fuzz.wire_messages import mutated
from otlp_arrow import codec
from otlp_arrow.codec import _kernel, reference
from otlp_arrow.codec.arrow_messages import dictionary_ids, inspect
from otlp_arrow.codec.cast import Caster
from otlp_arrow.codec.kernel import KernelBuilder
from otlp_arrow.model import ArrowMessage, Rejected, Signal, limits
from otlp_arrow.storage.ipc import Message, walk
from samples import samples
from strategies import comparable, requests, rows

BATCHES = {signal: batch_of(signal) for signal in Signal}
signals = pytest.mark.parametrize("signal", Signal)


class Sent:
    """The last batch of a stream, as a client sends it."""

    def __init__(self, *batches: pa.RecordBatch, compression: str | None = None) -> None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as out:
            for batch in batches:
                out.write_batch(batch)
        stream = sink.getvalue().to_pybytes()
        messages = [m for m in walk(stream) if isinstance(m, Message)]
        parts = [(m.kind, stream[m.start + 8 : m.body], stream[m.body : m.end]) for m in messages]
        self.before = stream[: messages[-1].start]
        _, self.header, self.body = parts[-1]
        numbers = dictionary_ids(parts[0][1])
        known = {
            inspect(header, body, limits.GIB).dictionary_id: (header, body) for kind, header, body in parts if kind == 2
        }
        try:
            self.dictionaries = tuple(_kernel.ArrowDictionary(*known[number]) for number in numbers)
        except ValueError:
            self.dictionaries = ()

    def message(self, header: bytes | None = None, body: bytes | None = None) -> ArrowMessage:
        return ArrowMessage(header or self.header, self.body if body is None else body, self.dictionaries)

    def stream(self, header: bytes | None = None, body: bytes | None = None) -> bytes:
        header = header or self.header
        length = len(header).to_bytes(4, "little")
        return self.before + b"\xff\xff\xff\xff" + length + header + (self.body if body is None else body)


def gathered(signal: Signal, message: ArrowMessage, builder: KernelBuilder | None = None) -> pa.RecordBatch | None:
    """The rows that the kernel made of a message; None if it was not taken, and then nothing of it stays."""
    builder = builder or KernelBuilder(signal)
    rows_before = builder.rows
    before = builder.snapshot()
    (outcome,) = builder.gather([message])
    after = builder.snapshot()
    after.validate(full=True)
    if outcome is None:
        assert after.equals(before) or comparable(rows(after)) == comparable(rows(before))
        return None
    assert outcome.error is None
    assert outcome.rows == after.num_rows - rows_before
    return after.slice(rows_before)


def assert_as_arrow_has_it(signal: Signal, sent: Sent, header: bytes | None = None, body: bytes | None = None) -> bool:
    """Whether the kernel took it; if so, Arrow and ``cast`` find nothing in it and have the same rows."""
    found = gathered(signal, sent.message(header, body))
    if found is None:
        return False
    read = pa.ipc.open_stream(sent.stream(header, body)).read_next_batch()
    read.validate(full=True)
    assert Caster(signal, read.schema).cast(read) is read
    assert comparable(rows(found)) == comparable(rows(read))
    return True


@signals
@pytest.mark.parametrize("at", [0, 1, 7])
def test_recorded_telemetry_is_taken_and_slices_of_it_are(signal: Signal, at: int) -> None:
    for sample in samples():
        if sample.signal is signal:
            batch = codec.decode(signal, sample.payload)
            for part in (batch.slice(at), batch.slice(at, 9), batch.slice(at, 0)):
                assert assert_as_arrow_has_it(signal, Sent(part)), sample.name


@signals
def test_batches_lie_beside_the_rows_of_requests(signal: Signal) -> None:
    builder = KernelBuilder(signal)
    expected: list[Any] = []
    for sample in [s for s in samples() if s.signal is signal] * 2:
        builder.append([sample.payload])
        batch = reference.decode(signal, sample.payload)
        assert gathered(signal, Sent(batch.slice(0, 5), batch.slice(2)).message(), builder) is not None
        expected += [*rows(batch), *rows(batch.slice(2))]
    assert comparable(rows(builder.finish())) == comparable(expected)
    builder.truncate(3)
    assert comparable(rows(builder.finish())) == comparable(expected[:3])
    builder.clear()
    assert gathered(signal, Sent(BATCHES[signal]).message(), builder) is not None


@signals
@settings(max_examples=60)
@given(data=st.data())
def test_whatever_the_decoder_makes_is_taken(signal: Signal, data: st.DataObject) -> None:
    batch = reference.decode(signal, data.draw(requests(signal)).SerializeToString())
    assert assert_as_arrow_has_it(signal, Sent(batch))


@signals
def test_what_is_compressed_or_of_another_shape_is_not_taken(signal: Signal) -> None:
    batch = BATCHES[signal]
    assert gathered(signal, Sent(batch, compression="zstd").message()) is None
    assert gathered(signal, Sent(foreign(batch)).message()) is None
    assert gathered(signal, ArrowMessage(b"", b"", ())) is None
    other = next(each for each in Signal if each is not signal)
    assert gathered(signal, Sent(BATCHES[other]).message()) is None


@pytest.mark.parametrize(
    ("signal", "name", "value"),
    [
        (Signal.TRACES, "trace_id", bytes(16)),
        (Signal.TRACES, "span_id", bytes(8)),
        (Signal.TRACES, "parent_span_id", bytes(8)),
        (Signal.TRACES, "name", None),
        (Signal.TRACES, "start_time_unix_nano", -1),
        (Signal.TRACES, "end_time_unix_nano", 0),
        (Signal.TRACES, "status_message", ""),
        (Signal.TRACES, "attributes", None),
        (Signal.TRACES, "attributes", [("a", None)]),
        (Signal.TRACES, "attributes", [("a", (8, None, None, None, None, None))]),
        (Signal.TRACES, "attributes", [("a", (6, "[", None, None, None, None))]),
        (Signal.TRACES, "attributes", [("a", (5, '{"$x":1}', None, None, None, None))]),
        (Signal.TRACES, "attributes", [("a", (2, None, None, None, None, None))]),
        (Signal.TRACES, "attributes", [("a", (1, "x", 1, None, None, None))]),
        (Signal.TRACES, "attributes", [("a", (None, None, None, None, None, None))]),
        (Signal.TRACES, "events", [None]),
        (Signal.TRACES, "events", [(1, None, [], 0)]),
        (Signal.TRACES, "events", [(-1, "x", [], 0)]),
        (Signal.TRACES, "events", [(0, "x", [("a", (9, None, None, None, None, None))], 0)]),
        (Signal.TRACES, "links", [(bytes(16), None, None, 0, [], 0)]),
        (Signal.TRACES, "links", [(None, bytes(8), None, 0, [], 0)]),
        (Signal.TRACES, "resource_entity_refs", [("", "", [None], [])]),
        (Signal.METRICS, "bucket_counts", [None]),
        (Signal.METRICS, "metric_type", "gouge"),
        (Signal.METRICS, "time_unix_nano", 0),
        (Signal.METRICS, "count", None),
        (Signal.METRICS, "exemplars", [(-1, 1, None, None, None, [])]),
        (Signal.LOGS, "body", None),
        (Signal.LOGS, "body", (9, None, None, None, None, None)),
        (Signal.LOGS, "trace_id", bytes(16)),
    ],
)
def test_what_a_cast_changes_or_refuses_or_no_decoder_makes_is_not_taken(signal: Signal, name: str, value: Any) -> None:
    assert gathered(signal, Sent(with_values(BATCHES[signal], name, first=value)).message()) is None


@signals
@settings(max_examples=60)
@given(data=st.data())
def test_what_is_taken_is_fine(signal: Signal, data: st.DataObject) -> None:
    batch = reference.decode(signal, data.draw(requests(signal)).SerializeToString())
    name = data.draw(st.sampled_from(batch.schema.names))
    if batch.num_rows:  # a column of another batch, and nothing but nulls behind it
        type_ = batch.schema.field(name).type
        other = reference.decode(signal, data.draw(requests(signal)).SerializeToString()).column(name)
        column = pa.concat_arrays([other, pa.nulls(batch.num_rows, type_)]).slice(0, batch.num_rows)
        batch = with_column(batch, name, column)
    try:
        sent = Sent(batch)
    except pa.ArrowInvalid:
        return  # Arrow does not write it
    assert_as_arrow_has_it(signal, sent)


def test_a_dictionary_that_would_be_huge_on_every_row_is_not_taken() -> None:
    builder = _kernel.LogsBuilder()
    message = Sent(BATCHES[Signal.LOGS]).message()
    bounds = (limits.MAX_COLUMN_OFFSET, limits.MAX_HELD_BYTES)
    asked = [(message.header, message.body, message.dictionaries)]
    assert builder.gather(asked, 1, *bounds) == [(1, 0)]
    assert builder.gather(asked, 10**9, *bounds)[0][0] == 0


def test_a_batch_over_the_bound_in_bytes_is_refused_for_that() -> None:
    builder = _kernel.LogsBuilder()
    message = Sent(BATCHES[Signal.LOGS]).message()
    asked = [(message.header, message.body, message.dictionaries)]
    ((status, kept),) = builder.gather(asked, 10**9, 2**31 - 2, 100)
    assert (status, kept, builder.rows) == (3, 0, 0)


@pytest.mark.parametrize(
    "words",
    [pa.array(["a", None]), pa.array([1, 2], pa.int32())],
)
def test_dictionaries_that_are_not_plain_are_left_to_arrow(words: pa.Array) -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), words)
    assert Sent(pa.record_batch({"x": array})).dictionaries == ()


# -- damaged messages ------------------------------------------------------------------------------


def _damaged(signal: Signal, count: int, seed: int) -> Iterator[tuple[Sent, bytes, bytes]]:
    draw = random.Random(f"arrow {seed}")
    originals = [Sent(codec.decode(signal, s.payload).slice(0, 12)) for s in samples() if s.signal is signal]
    for sent in draw.choices(originals, k=count):
        if draw.random() < 0.5:
            yield sent, next(mutated([sent.header], 1, draw.randrange(2**40))), sent.body
        else:
            body = bytearray(sent.body)
            for _ in range(draw.choice([1, 1, 2, 4])):
                at = draw.randrange(len(body))
                body[at] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, body[at] ^ 1 << draw.randrange(8), draw.randrange(256)])
            yield sent, sent.header, bytes(body)


def _assert_damage_does_no_harm(signal: Signal, count: int, seed: int) -> None:
    taken = 0
    for sent, header, body in _damaged(signal, count, seed):
        try:
            taken += assert_as_arrow_has_it(signal, sent, header, body)
        except Rejected as error:
            raise AssertionError("the kernel took what a cast refuses") from error
    assert 0 < taken < count


@signals
def test_damaged_messages_are_not_taken_or_are_fine(signal: Signal) -> None:
    _assert_damage_does_no_harm(signal, 500, 1)


@pytest.mark.soak
@signals
@pytest.mark.parametrize("seed", range(2, 12))
def test_tens_of_thousands_of_damaged_messages(signal: Signal, seed: int) -> None:
    _assert_damage_does_no_harm(signal, 3_000, seed)


@signals
@pytest.mark.parametrize("cut", [1, 4, 30, 100, 400])
def test_dictionaries_that_are_cut_are_refused(signal: Signal, cut: int) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, BATCHES[signal].schema) as out:
        out.write_batch(BATCHES[signal])
    stream = sink.getvalue().to_pybytes()
    for each in walk(stream):
        if isinstance(each, Message) and each.kind == 2:
            header, body = stream[each.start + 8 : each.body], stream[each.body : each.end]
            with pytest.raises(ValueError, match=r"dictionary|buffer|offsets|length"):
                _kernel.ArrowDictionary(header[:cut] if cut < len(header) else header[:-8], body)
            with pytest.raises(ValueError, match=r"dictionary|buffer|offsets|length"):
                _kernel.ArrowDictionary(header, body + bytes(cut))


@pytest.mark.parametrize("signal", Signal)
def test_one_batch_of_a_group_that_is_not_plain_costs_the_others_nothing(signal: Signal) -> None:
    good = Sent(BATCHES[signal]).message()
    bad = ArrowMessage(good.header, bytes(good.body)[:-64], good.dictionaries)
    together, alone = KernelBuilder(signal), KernelBuilder(signal)
    first, none, last = together.gather([good, bad, good])
    alone.gather([good])
    alone.gather([good])
    assert none is None
    assert first == last == codec.Outcome(BATCHES[signal].num_rows)
    assert together.snapshot().equals(alone.snapshot())
