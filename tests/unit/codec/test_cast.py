"""What Arrow clients may send, and what of it is refused."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrow_forms import batch_of, foreign, with_column, with_values
from otlp_arrow.codec import columns, reference
from otlp_arrow.codec.arrow_messages import to_stream
from otlp_arrow.codec.cast import Caster, conform
from otlp_arrow.codec.schema import KEYWORD, SCHEMAS, TIME, VALUE
from otlp_arrow.model import Rejected, Signal, TooLarge, limits
from strategies import requests, rows

TRACES, METRICS, LOGS = (batch_of(signal) for signal in Signal)
BATCHES = {Signal.TRACES: TRACES, Signal.METRICS: METRICS, Signal.LOGS: LOGS}

signals = pytest.mark.parametrize("signal", Signal)


def sent(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch after its way through a socket."""
    return pa.ipc.open_stream(to_stream(batch)).read_next_batch()


# -- what is taken -------------------------------------------------------------------------------


@signals
def test_a_batch_in_the_storage_schema_is_kept_as_it_is(signal: Signal):
    batch = sent(BATCHES[signal])
    assert Caster(signal, batch.schema).cast(batch) is batch


@signals
def test_other_types_and_another_order_give_the_same_rows(signal: Signal):
    cast = conform(signal, sent(foreign(BATCHES[signal])))
    assert cast.schema.equals(SCHEMAS[signal], check_metadata=True)
    assert rows(cast) == rows(BATCHES[signal])


@signals
@settings(max_examples=20)
@given(data=st.data())
def test_any_rows_survive_other_types(signal: Signal, data: st.DataObject):
    payload = data.draw(requests(signal)).SerializeToString()
    batch = reference.decode(signal, payload)
    cast = conform(signal, sent(foreign(batch)))
    assert rows(cast) == rows(batch)
    assert conform(signal, sent(batch)).schema.equals(SCHEMAS[signal])


@signals
def test_nullable_columns_may_be_missing(signal: Signal):
    batch = BATCHES[signal]
    required = [field.name for field in SCHEMAS[signal] if not field.nullable]
    cast = conform(signal, sent(batch.select(required)))
    for field in SCHEMAS[signal]:
        if field.name == "service_name":
            assert cast.column(field.name).to_pylist() == batch.column(field.name).to_pylist()
        elif field.nullable:
            assert cast.column(field.name).null_count == batch.num_rows
    reference.encode(signal, cast)


@signals
def test_a_batch_without_rows_is_one(signal: Signal):
    empty = BATCHES[signal].slice(0, 0)
    assert conform(signal, sent(empty)).num_rows == 0
    cast = conform(signal, sent(foreign(empty)))
    assert cast.num_rows == 0
    assert cast.schema.equals(SCHEMAS[signal])


def test_a_slice_of_a_larger_batch_is_taken_as_the_rows_it_has():
    piece = TRACES.slice(3, 5)
    assert rows(conform(Signal.TRACES, piece)) == rows(TRACES)[3:8]
    assert rows(conform(Signal.TRACES, foreign(TRACES).slice(3, 5))) == rows(TRACES)[3:8]


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_times_of_any_unit_and_zone_are_taken(unit: str):
    at = pa.array([1_700_000_000] * TRACES.num_rows, pa.timestamp("s", "Europe/Berlin")).cast(
        pa.timestamp(unit, "Europe/Berlin")
    )
    cast = conform(Signal.TRACES, with_column(TRACES, "start_time_unix_nano", at))
    assert columns.read(cast.column("start_time_unix_nano"))[0] == 1_700_000_000 * 10**9


def test_a_service_name_is_looked_up_in_the_resource_and_only_as_text():
    attributes = [
        [("a", (1, "x", None, None, None, None)), ("service.name", (1, "shop", None, None, None, None))],
        [],
        [("service.name", (2, None, 7, None, None, None)), ("service.name", (1, "late", None, None, None, None))],
        [("service.name", (2, None, 7, None, None, None))],
    ]
    batch = TRACES.slice(0, 4).drop_columns(["service_name"])
    batch = with_column(batch, "resource_attributes", columns.build(TRACES.schema.field("attributes").type, attributes))
    assert conform(Signal.TRACES, batch).column("service_name").to_pylist() == ["shop", None, "late", None]


def test_an_optional_id_of_zeros_and_a_time_of_zero_are_absent():
    batch = with_values(TRACES, "parent_span_id", first=bytes(8))
    batch = with_values(batch, "end_time_unix_nano", first=0)
    batch = with_values(batch, "events", first=[(0, "x", [], 0)])
    batch = with_values(batch, "links", first=[(bytes(16), bytes(8), None, 0, [], 0)])
    found = rows(conform(Signal.TRACES, sent(batch)))[0]
    assert found["parent_span_id"] is None
    assert found["end_time_unix_nano"] is None
    assert found["events"] == [(None, "x", [], 0)]
    assert found["links"] == [(None, None, None, 0, [], 0)]


def test_an_empty_id_is_an_absent_one():
    values = [b"", *TRACES.column("parent_span_id").to_pylist()[1:]]
    cast = conform(Signal.TRACES, with_column(TRACES, "parent_span_id", pa.array(values, pa.binary())))
    assert cast.column("parent_span_id").to_pylist()[0] is None


# -- what is refused -----------------------------------------------------------------------------


def refused(signal: Signal, batch: pa.RecordBatch) -> str:
    with pytest.raises(Rejected) as caught:
        conform(signal, batch)
    return str(caught.value)


@signals
def test_a_missing_column_is_named(signal: Signal):
    for field in SCHEMAS[signal]:
        if not field.nullable:
            assert f"{field.name!r}" in refused(signal, BATCHES[signal].drop_columns([field.name]))


def test_an_unknown_column_is_named():
    assert "'x'" in refused(Signal.TRACES, TRACES.append_column("x", TRACES.column("kind")))


def test_a_column_that_is_there_twice_is_named():
    twice = pa.RecordBatch.from_arrays([*TRACES.columns, TRACES.column("kind")], names=[*TRACES.schema.names, "kind"])
    assert "'kind' is there twice" in refused(Signal.TRACES, twice)


N = TRACES.num_rows


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("name", pa.array([1] * N)),
        ("name", pa.array([b"x"] * N)),
        ("name", pa.nulls(N)),
        ("kind", pa.array(["1"] * N)),
        ("kind", pa.array([2**40] * N)),
        ("flags", pa.array([-1] * N)),
        ("status_message", pa.array([True] * N)),
        ("trace_id", pa.array(["x" * 16] * N)),
        ("trace_id", pa.array([b"short"] * N)),
        ("trace_id", pa.array([b"123"] * N, pa.binary(3))),
        ("start_time_unix_nano", pa.array([1.5] * N)),
        ("start_time_unix_nano", pa.array([1] * N, pa.timestamp("ns"))),
        ("start_time_unix_nano", pa.array([-1] * N)),
        ("start_time_unix_nano", pa.array([2**63] * N, pa.uint64())),
        ("attributes", pa.array(["{}"] * N)),
        ("attributes", pa.array([[("a", 1)]] * N, pa.map_(pa.utf8(), pa.int64()))),
        ("events", pa.array(["x"] * N)),
        ("events", pa.array([["x"]] * N)),
        ("events", pa.array([[{"name": "x"}]] * N)),
        ("events", pa.nulls(N, pa.list_(pa.null()))),
        ("links", pa.RunEndEncodedArray.from_arrays([N], [1])),
        ("dropped_links_count", pa.nulls(N, pa.uint32())),
    ],
)
def test_an_array_that_does_not_fit_is_refused_with_the_name_of_its_column(name: str, array: pa.Array):
    assert name in refused(Signal.TRACES, with_column(TRACES, name, array))


@pytest.mark.parametrize(
    ("signal", "name", "value", "words"),
    [
        (Signal.TRACES, "trace_id", bytes(16), "'trace_id': row 0 is all zero"),
        (Signal.TRACES, "span_id", bytes(8), "'span_id': row 0 is all zero"),
        (Signal.TRACES, "name", None, "'name': row 0 is null"),
        (Signal.TRACES, "start_time_unix_nano", -1, "'start_time_unix_nano': row 0 is before 1970"),
        (Signal.TRACES, "attributes", None, "'attributes': row 0 is null"),
        (Signal.TRACES, "attributes", [("a", None)], "'attributes.value': entry 0 is null"),
        (Signal.TRACES, "attributes", [("a", (8, None, None, None, None, None))], "type above 7"),
        (Signal.TRACES, "attributes", [("a", (6, "[1", None, None, None, None))], "'attributes.value': entry 0"),
        (Signal.TRACES, "attributes", [("a", (5, "[]", None, None, None, None))], "object"),
        (Signal.TRACES, "attributes", [("a", (None, None, None, None, None, None))], "attributes.value.type"),
        (Signal.TRACES, "events", [None], "'events[]': entry 0 is null"),
        (Signal.TRACES, "events", [(1, None, [], 0)], "'events[].name'"),
        (Signal.TRACES, "events", [(-1, "x", [], 0)], "'events[].time_unix_nano'"),
        (Signal.TRACES, "links", [(None, None, None, None, [], 0)], "'links[].flags'"),
        (Signal.TRACES, "resource_entity_refs", [("", "", [None], [])], "'resource_entity_refs[].id_keys[]'"),
        (Signal.METRICS, "metric_type", "counter", "'metric_type': row 0 is none of gauge"),
        (Signal.METRICS, "bucket_counts", [None], "'bucket_counts[]'"),
        (Signal.LOGS, "body", None, "'body': row 0 is null"),
        (Signal.LOGS, "body", (9, None, None, None, None, None), "type above 7"),
    ],
)
def test_a_value_that_the_data_model_does_not_have_is_refused(signal: Signal, name: str, value: Any, words: str):
    assert words in refused(signal, with_values(BATCHES[signal], name, first=value))


def test_more_metric_types_than_there_are_do_no_harm_while_no_row_uses_them():
    names = [f"unused {number}" for number in range(9)]
    column = METRICS.column("metric_type")
    wider = pa.DictionaryArray.from_arrays(column.indices, pa.array(column.dictionary.to_pylist() + names))
    conform(Signal.METRICS, with_column(METRICS, "metric_type", wider))


def test_a_dictionary_that_hides_a_null_is_refused():
    column = pa.DictionaryArray.from_arrays(pa.array([0] * N, pa.int32()), pa.array([None], pa.utf8()))
    assert "'name'" in refused(Signal.TRACES, with_column(TRACES, "name", column))


def test_a_nested_list_of_attributes_is_kept():
    value = (6, '[1,{"a":[2.0]}]', None, None, None, None)
    batch = sent(with_values(TRACES, "attributes", first=[("a", value)]))
    assert Caster(Signal.TRACES, batch.schema).cast(batch) is batch


def test_a_long_string_repeated_by_a_dictionary_is_refused_wherever_it_stands(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "MAX_REPEATED_BYTES", 400_000)
    few = TRACES.slice(0, 2)
    for name in ("name", "status_message"):
        column = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int32()), pa.array(["x" * 390_000]))
        with pytest.raises(TooLarge, match=name):
            conform(Signal.TRACES, with_column(few, name, column))
    # Long and hardly used is fine.
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["x" * 390_000, ""]))
    conform(Signal.TRACES, with_column(few, "name", column))


def test_extension_types_are_refused_by_name():
    ids = pa.ExtensionArray.from_storage(pa.uuid(), TRACES.column("trace_id"))
    assert "'trace_id' is of an extension type" in refused(Signal.TRACES, with_column(TRACES, "trace_id", ids))
    field = pa.field("events", pa.list_(pa.field("item", pa.int8(), metadata={b"ARROW:extension:name": b"x"})))
    schema = TRACES.schema.set(TRACES.schema.get_field_index("events"), field)
    with pytest.raises(Rejected, match=r"'events\.item' is of an extension type"):
        Caster(Signal.TRACES, schema)


# -- damaged buffers -----------------------------------------------------------------------------


def test_offsets_that_point_outside_are_refused_before_anything_is_read():
    # Ends in order, so that only a look at every offset finds the one in the middle.
    offsets = [0, 2**30, *range(2, N + 1)]
    buffers = [None, pa.py_buffer(b"".join(o.to_bytes(4, "little") for o in offsets)), pa.py_buffer(b"x" * N)]
    texts = pa.Array.from_buffers(pa.utf8(), N, buffers)
    assert "damaged" in refused(Signal.TRACES, with_column(TRACES, "status_message", texts))


def test_text_that_is_no_utf8_is_refused():
    texts = pa.array([b"\xff"] * N).view(pa.utf8())
    assert "damaged" in refused(Signal.TRACES, with_column(TRACES, "status_message", texts))


def test_indices_outside_of_their_dictionary_are_refused():
    column = pa.DictionaryArray.from_arrays(pa.array([7] * N, pa.int32()), pa.array(["only"]), safe=False)
    assert "damaged" in refused(Signal.TRACES, with_column(TRACES, "name", column))


def test_the_types_that_rules_are_bound_to_are_those_of_the_schema():
    # The rules of ``cast`` go by type: a new column of one of them is checked without a change there.
    assert TRACES.schema.field("start_time_unix_nano").type == TIME
    assert TRACES.schema.field("name").type == KEYWORD
    assert LOGS.schema.field("body").type == VALUE
