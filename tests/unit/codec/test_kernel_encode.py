"""The kernel encodes as the reference does, alone where it can and with its help where it must."""

from __future__ import annotations

import random
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import wire_messages
from otlp_arrow.codec import columns, reference
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Rejected, Signal
from samples import Sample, samples
from strategies import REQUESTS, normal, requests

kernel = pytest.importorskip("otlp_arrow.codec.kernel")
_kernel = pytest.importorskip("otlp_arrow.codec._kernel")


def _alone(signal: Signal, batch: pa.RecordBatch) -> bytes | None:
    """The kernel's own work, without the reference behind it."""
    payload: bytes | None = _kernel.encode(signal.value, batch.__arrow_c_array__()[1])
    return payload


def _assert_same(signal: Signal, batch: pa.RecordBatch) -> bytes:
    payload = _alone(signal, batch)
    assert payload is not None
    request = REQUESTS[signal].FromString
    expected = reference.encode(signal, batch)
    assert payload == expected or normal(request(payload)) == normal(request(expected))
    return payload


def _batch(signal: Signal, payloads: list[bytes]) -> pa.RecordBatch:
    builder = kernel.KernelBuilder(signal)
    builder.append(payloads)
    return builder.finish()


def test_recorded_requests_come_back(sample: Sample) -> None:
    payload = _assert_same(sample.signal, _batch(sample.signal, [sample.payload]))
    request = REQUESTS[sample.signal].FromString
    assert normal(request(payload)) == normal(request(sample.payload))


@pytest.mark.parametrize("signal", Signal)
@settings(max_examples=40)
@given(data=st.data())
def test_requests_with_every_field_come_back(signal: Signal, data: st.DataObject) -> None:
    request = data.draw(requests(signal, filled=data.draw(st.booleans())))
    payload = _assert_same(signal, _batch(signal, [request.SerializeToString()]))
    assert normal(REQUESTS[signal].FromString(payload)) == normal(request)


@pytest.mark.parametrize("signal", Signal)
def test_rows_of_many_requests_are_grouped_as_first_seen(signal: Signal) -> None:
    rng = random.Random(signal.value)
    made = list(wire_messages.requests(signal, 60, seed=3))
    recorded = [sample.payload for sample in samples() if sample.signal == signal]
    for _ in range(25):
        batch = _batch(signal, rng.sample(made, 12) + rng.sample(recorded, 1))
        shuffled = batch.take(pa.array(rng.sample(range(batch.num_rows), batch.num_rows)))
        start = rng.randrange(batch.num_rows)
        for part in (
            batch,
            shuffled.slice(0, 20),
            batch.slice(start, 20),
            batch.slice(start, 1),
            batch.slice(start, 0),
        ):
            _assert_same(signal, part)


@pytest.mark.parametrize("signal", Signal)
def test_batches_read_from_a_file_are_encoded(signal: Signal) -> None:
    batch = _batch(signal, [sample.payload for sample in samples() if sample.signal == signal])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    read = pa.ipc.open_stream(sink.getvalue()).read_next_batch()
    assert _assert_same(signal, read) == _alone(signal, batch)


@pytest.mark.parametrize("signal", Signal)
def test_no_rows_make_an_empty_request(signal: Signal) -> None:
    assert kernel.encode(signal, _batch(signal, [])) == b""


# -- what the kernel leaves to the reference -----------------------------------------------------


def _changed(signal: Signal, column: str, change: Callable[[list[object]], list[object]]) -> pa.RecordBatch:
    payload = next(sample.payload for sample in samples() if sample.signal == signal and len(sample.payload) < 3_000)
    batch = _batch(signal, [payload]).slice(0, 3)
    index = batch.schema.get_field_index(column)
    field = SCHEMAS[signal].field(index)
    values = change(columns.read(batch.column(index)))
    return batch.set_column(index, field, columns.build(field.type, values))


def _body(text: str, type_: int = 6) -> Callable[[list[object]], list[object]]:
    return lambda rows: [(type_, text, None, None, None, None)] * len(rows)


@pytest.mark.parametrize(
    "text",
    ["[ 1, 2 ]", '["\\u00e9\\/"]', '["\\ud83d\\udc22"]', "[1e3]", "[1E+3]", "[0.10]", "[-0]", "[-0.0]"]
    + ['["ü"]', '[{"$bytes":"AA=="},{"$double":"NaN"},{"$double":"-Infinity"},{"$double":"Infinity"},{},[],null]']
    + [f"[{2**63 - 1},{-(2**63)}]", '[{"":true,"":false,"$$":0,"$$$bytes":[]}]', "[" * 40 + "]" * 40]
    + ["[1.7976931348623157e+308,5e-324,0.1,123456789012345678.0]", '["\\b\\f\\n\\r\\t\\u0000\\u001f\\"\\\\"]'],
)
def test_json_text_is_read_as_the_reference_reads_it(text: str) -> None:
    batch = _changed(Signal.LOGS, "body", _body(text))
    request = REQUESTS[Signal.LOGS].FromString
    assert normal(request(kernel.encode(Signal.LOGS, batch))) == normal(request(reference.encode(Signal.LOGS, batch)))


@pytest.mark.parametrize(
    "text",
    ["", "[", "]", "[]]", "[1", "[1,]", "[,1]", "[01]", "[1.]", "[.5]", "[1e]", "[+1]", "[-]", "[nul]", "[tru]", '["a]']
    + ['["a\n"]', '["\\x"]', '["\\u00"]', '["\\u00g0"]', '[{"a"}]', '[{"a":}]', "[{1:2}]", '[{"$a":1}]', "[NaN]", "{}"]
    + ['[{"$bytes":"A"}]', '[{"$bytes":"AA=A"}]', '[{"$bytes":"AAAA","a":1}]', '[{"$bytes":1}]', '[{"$double":"x"}]']
    + [f"[{2**63}]", f"[{-(2**63) - 1}]", "[" * 60 + "]" * 60, "[1e5,]", "[12345678901234567890123]", "[1] "],
)
def test_wrong_json_text_is_wrong_for_both(text: str) -> None:
    batch = _changed(Signal.LOGS, "body", _body(text))
    assert _alone(Signal.LOGS, batch) is None
    try:
        expected = reference.encode(Signal.LOGS, batch)
    except Rejected as error:
        with pytest.raises(Rejected) as raised:
            kernel.encode(Signal.LOGS, batch)
        assert str(raised.value) == str(error)
    else:
        assert kernel.encode(Signal.LOGS, batch) == expected


@pytest.mark.parametrize(
    ("signal", "column", "value"),
    [
        (Signal.LOGS, "body", (9, None, None, None, None, None)),
        (Signal.LOGS, "body", (1, None, None, None, None, None)),
        (Signal.LOGS, "body", (2, "text", None, None, None, None)),
        (Signal.LOGS, "body", (5, '{"$bytes":"AA=="}', None, None, None, None)),
        (Signal.LOGS, "body", None),
        (Signal.LOGS, "severity_text", None),
        (Signal.LOGS, "time_unix_nano", -1),
        (Signal.LOGS, "attributes", [("key", (4, None, None, None, None, None))]),
        (Signal.LOGS, "resource_entity_refs", [("url", "type", ["id"], ["", "description"])] * 2),
        (Signal.METRICS, "metric_type", "dial"),
        (Signal.METRICS, "aggregation_temporality", None),
        (Signal.METRICS, "int_value", 1),
        (Signal.METRICS, "bucket_counts", None),
        (Signal.TRACES, "span_id", None),
        (Signal.TRACES, "events", [(None, "event", [], 0), (-5, "event", [], 0)]),
    ],
)
def test_unusual_rows_end_as_with_the_reference(signal: Signal, column: str, value: object) -> None:
    batch = _changed(signal, column, lambda rows: [value] * len(rows))
    try:
        expected = reference.encode(signal, batch)
    except Rejected as error:
        with pytest.raises(Rejected) as raised:
            kernel.encode(signal, batch)
        assert str(raised.value) == str(error)
    else:
        request = REQUESTS[signal].FromString
        assert normal(request(kernel.encode(signal, batch))) == normal(request(expected))


def test_plain_strings_do_for_dictionary_encoded_ones() -> None:
    batch = _batch(Signal.LOGS, [next(sample.payload for sample in samples() if sample.signal is Signal.LOGS)])
    index = batch.schema.get_field_index("severity_text")
    plain = batch.set_column(index, "severity_text", batch.column(index).cast(pa.utf8()))
    assert kernel.encode(Signal.LOGS, plain) == _alone(Signal.LOGS, batch)


@pytest.mark.parametrize("signal", Signal)
def test_damaged_arrow_data_is_refused_or_encoded_but_never_followed_out_of_bounds(signal: Signal) -> None:
    """Under AddressSanitizer (tests/fuzz/asan.sh) this is the test of every bound that the encoder checks."""
    rng = random.Random(signal.value)
    batch = _batch(signal, list(wire_messages.requests(signal, 30, seed=4)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    intact = sink.getvalue().to_pybytes()
    start = len(intact) - batch.nbytes  # behind the schema, among buffers
    seen = set()
    for _ in range(300):
        data = bytearray(intact)
        for _ in range(rng.choice([1, 2, 20])):
            data[rng.randrange(start, len(data))] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        try:
            damaged = pa.ipc.open_stream(bytes(data)).read_next_batch()
        except pa.ArrowException:
            continue
        except OSError:
            continue
        try:
            seen.add(type(kernel.encode(signal, damaged)))
        except Rejected:
            seen.add(Rejected)
    assert seen == {bytes, Rejected}
