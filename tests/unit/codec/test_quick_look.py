"""The quick look never says that a batch is fine of which the long look says otherwise."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrow_forms import batch_of, foreign, with_column, with_values
from otlp_arrow.codec import reference
from otlp_arrow.codec.arrow_messages import Claim, inspect
from otlp_arrow.codec.cast import Caster
from otlp_arrow.codec.quick_look import QuickLook
from otlp_arrow.codec.schema import MAP, SLICE
from otlp_arrow.model import Rejected, Signal, limits
from otlp_arrow.storage.ipc import Message, walk
from samples import samples
from strategies import requests, rows

LOOKS = {signal: QuickLook(signal) for signal in Signal}
BATCHES = {signal: batch_of(signal) for signal in Signal}
signals = pytest.mark.parametrize("signal", Signal)


def sent(batch: pa.RecordBatch, compression: str | None = None) -> tuple[Claim, bytes, pa.RecordBatch]:
    """The claim and the body of the batch's message, and the batch as it is read."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    stream = sink.getvalue().to_pybytes()
    message = [m for m in walk(stream) if isinstance(m, Message)][-1]
    header, body = stream[message.start + 8 : message.body], stream[message.body : message.end]
    return inspect(header, body, limits.GIB), body, pa.ipc.open_stream(stream).read_next_batch()


def looks_fine(signal: Signal, batch: pa.RecordBatch) -> bool:
    claim, body, _ = sent(batch)
    return LOOKS[signal].is_fine(claim, body)


@signals
def test_recorded_telemetry_looks_fine_but_for_lists_among_its_values(signal: Signal):
    # Metrics have points without a start and logs records without a trace: nulls that look like zeros.
    seen = set()
    for sample in samples():
        if sample.signal is signal:
            batch = reference.decode(signal, sample.payload)
            nested = any(
                value[0] in (MAP, SLICE)
                for row in rows(batch)
                for name in ("attributes", "resource_attributes", "scope_attributes")
                for _, value in [*row[name], ("body", row.get("body", (0,)))]
            )
            seen.add(nested)
            assert looks_fine(signal, batch) is not nested, sample.name
    assert False in seen


@signals
def test_what_is_compressed_or_of_another_shape_is_not_judged(signal: Signal):
    claim, body, _ = sent(BATCHES[signal], "zstd")
    assert not LOOKS[signal].is_fine(claim, body)
    assert not looks_fine(signal, foreign(BATCHES[signal]))
    assert not LOOKS[signal].is_fine(Claim(claim.kind), body)


@pytest.mark.parametrize(
    ("signal", "name", "value"),
    [
        (Signal.TRACES, "trace_id", bytes(16)),
        (Signal.TRACES, "span_id", bytes(8)),
        (Signal.TRACES, "parent_span_id", bytes(8)),
        (Signal.TRACES, "name", None),
        (Signal.TRACES, "start_time_unix_nano", -1),
        (Signal.TRACES, "end_time_unix_nano", 0),
        (Signal.TRACES, "attributes", None),
        (Signal.TRACES, "attributes", [("a", None)]),
        (Signal.TRACES, "attributes", [("a", (8, None, None, None, None, None))]),
        (Signal.TRACES, "attributes", [("a", (6, "[", None, None, None, None))]),
        (Signal.TRACES, "attributes", [("a", (None, None, None, None, None, None))]),
        (Signal.TRACES, "events", [None]),
        (Signal.TRACES, "events", [(1, None, [], 0)]),
        (Signal.TRACES, "events", [(-1, "x", [], 0)]),
        (Signal.TRACES, "events", [(0, "x", [("a", (9, None, None, None, None, None))], 0)]),
        (Signal.TRACES, "links", [(bytes(16), None, None, 0, [], 0)]),
        (Signal.TRACES, "links", [(None, bytes(8), None, 0, [], 0)]),
        (Signal.TRACES, "resource_entity_refs", [("", "", [None], [])]),
        (Signal.METRICS, "bucket_counts", [None]),
        (Signal.METRICS, "time_unix_nano", 0),
        (Signal.METRICS, "exemplars", [(-1, 1, None, None, None, [])]),
        (Signal.LOGS, "body", None),
        (Signal.LOGS, "body", (9, None, None, None, None, None)),
        (Signal.LOGS, "trace_id", bytes(16)),
    ],
)
def test_what_the_long_look_changes_or_refuses_does_not_look_fine(signal: Signal, name: str, value: Any):
    assert not looks_fine(signal, with_values(BATCHES[signal], name, first=value))


@signals
@settings(max_examples=40)
@given(data=st.data())
def test_what_looks_fine_is_fine(signal: Signal, data: st.DataObject):
    batch = reference.decode(signal, data.draw(requests(signal)).SerializeToString())
    name = data.draw(st.sampled_from(batch.schema.names))
    if batch.num_rows and data.draw(st.booleans()):  # a column of another batch, or nothing but nulls
        type_ = batch.schema.field(name).type
        other = reference.decode(signal, data.draw(requests(signal)).SerializeToString()).column(name)
        column = pa.concat_arrays([other, pa.nulls(batch.num_rows, type_)]).slice(0, batch.num_rows)
        batch = with_column(batch, name, column)
    claim, body, read = sent(batch)
    if not LOOKS[signal].is_fine(claim, body):
        return
    try:
        assert Caster(signal, read.schema).cast(read) is read
    except Rejected as error:
        assert "dictionary" in str(error)  # those are not in this message
