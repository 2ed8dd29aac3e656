"""The reference codec as a whole: nothing is lost in translation, and bad input has one answer."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from hypothesis import given, settings

from otlp_arrow.codec import columns, reference
from otlp_arrow.codec.rejection import malformed
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Rejected, Signal
from samples import Sample, samples
from strategies import REQUESTS, normal, requests, rows


def round_trip(signal: Signal, payload: bytes) -> Any:
    """What encoding the decoded rows gives; nothing may be refused on the way."""
    batch, outcome = reference.decode_with_outcome(signal, payload)
    batch.validate(full=True)
    assert batch.schema.equals(SCHEMAS[signal], check_metadata=True)
    assert (outcome.rejected, outcome.message, outcome.error) == (0, "", None)
    return REQUESTS[signal].FromString(reference.encode(signal, batch))


def test_a_recorded_request_comes_back_equal(sample: Sample) -> None:
    message = REQUESTS[sample.signal].FromString(sample.payload)
    assert normal(round_trip(sample.signal, sample.payload)) == normal(message)


@pytest.mark.parametrize("signal", Signal)
def test_a_request_with_every_field_filled_comes_back_equal(signal: Signal) -> None:
    @settings(max_examples=10)
    @given(requests(signal, filled=True))
    def check(message: Any) -> None:
        assert unset_fields(message) == set()
        assert normal(round_trip(signal, message.SerializeToString())) == normal(message)

    check()


@pytest.mark.parametrize("signal", Signal)
def test_a_request_with_any_fields_comes_back_equal(signal: Signal) -> None:
    @settings(max_examples=60)
    @given(requests(signal))
    def check(message: Any) -> None:
        assert normal(round_trip(signal, message.SerializeToString())) == normal(message)

    check()


def unset_fields(message: Message) -> set[str]:
    """The fields, members of oneofs apart, that no message inside ``message`` sets."""
    unset: set[str] = set()
    seen: set[str] = set()

    def visit(inner: Message) -> None:
        descriptor: Descriptor = inner.DESCRIPTOR
        found = {field.full_name for field, _ in inner.ListFields()}
        seen.update(found)
        unset.update(
            field.full_name
            for field in descriptor.fields
            if not (field.containing_oneof and len(field.containing_oneof.fields) > 1)
            if field.full_name not in found
        )
        for field, value in inner.ListFields():
            if field.message_type:
                for child in [value] if isinstance(value, Message) else value:
                    visit(child)

    visit(message)
    return unset - seen


@pytest.mark.parametrize("signal", Signal)
def test_the_normal_form_sees_a_difference_in_any_field(signal: Signal) -> None:
    """The round-trip tests are worth no more than this."""

    @settings(max_examples=2)
    @given(requests(signal, filled=True))
    def check(message: Any) -> None:
        before = normal(message)
        for parent, field in removable(message):
            changed = type(message).FromString(message.SerializeToString())
            target = changed
            for name, index in parent:
                target = getattr(target, name) if index is None else getattr(target, name)[index]
            target.ClearField(field)
            assert normal(changed) != before, (parent, field)

    check()


def removable(message: Message) -> list[tuple[list[tuple[str, int | None]], str]]:
    """The path to every set field that carries meaning."""
    found: list[tuple[list[tuple[str, int | None]], str]] = []

    def visit(inner: Message, path: list[tuple[str, int | None]]) -> None:
        for field, value in inner.ListFields():
            if not field.name.endswith("strindex"):
                found.append((path, field.name))
                if field.message_type and isinstance(value, Message):
                    visit(value, [*path, (field.name, None)])
                elif field.message_type:
                    visit(value[0], [*path, (field.name, 0)])

    visit(message, [])
    return found


@pytest.mark.parametrize("signal", Signal)
def test_a_malformed_payload_is_rejected_whole(signal: Signal) -> None:
    batch, outcome = reference.decode_with_outcome(signal, b"\xff")
    assert batch.num_rows == 0
    assert outcome.error == malformed(signal)
    with pytest.raises(Rejected, match="malformed protobuf: the body is no valid Export"):
        reference.decode(signal, b"\xff")


def test_mutated_requests_have_an_outcome_and_valid_rows() -> None:
    chance = random.Random(20)
    small = [sample for sample in samples() if len(sample.payload) < 20_000]
    for _ in range(150):
        sample = chance.choice(small)
        payload = bytearray(sample.payload)
        for _ in range(chance.randint(1, 4)):
            payload[chance.randrange(len(payload))] = chance.randrange(256)
        batch, outcome = reference.decode_with_outcome(sample.signal, bytes(payload))
        batch.validate(full=True)
        assert batch.num_rows == outcome.rows
        assert bool(outcome.message) == (outcome.rejected > 0)
        assert outcome.error is None or outcome.rows == outcome.rejected == 0


def test_plain_strings_encode_as_dictionary_encoded_ones_do(sample: Sample) -> None:
    def plain(type_: pa.DataType) -> pa.DataType:
        if pa.types.is_dictionary(type_):
            return type_.value_type
        if pa.types.is_map(type_):
            return pa.map_(plain(type_.key_type), type_.item_type)
        if pa.types.is_list(type_):
            return pa.list_(plain(type_.value_type))
        if pa.types.is_struct(type_):
            return pa.struct([field.with_type(plain(field.type)) for field in type_])
        return type_

    batch = reference.decode(sample.signal, sample.payload)
    arrays = [columns.build(plain(column.type), columns.read(column)) for column in batch.columns]
    without = pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
    assert reference.encode(sample.signal, without) == reference.encode(sample.signal, batch)


def test_a_slice_of_a_batch_encodes_as_its_rows(sample: Sample) -> None:
    batch = reference.decode(sample.signal, sample.payload)
    part = batch.slice(batch.num_rows // 3, batch.num_rows // 2)
    again = reference.decode(sample.signal, reference.encode(sample.signal, part))
    assert sorted(map(repr, rows(again))) == sorted(map(repr, rows(part)))


@pytest.mark.parametrize("signal", Signal)
def test_no_rows_encode_to_an_empty_request(signal: Signal) -> None:
    assert reference.encode(signal, reference.decode(signal, b"")) == b""


@pytest.mark.parametrize(
    ("signal", "column", "value", "words"),
    [
        (Signal.TRACES, "start_time_unix_nano", -1, "row 1: .*-1"),
        (Signal.LOGS, "body", (9, None, None, None, None, None), "row 1: a value of type 9"),
        (Signal.LOGS, "attributes", [("k", (6, "[", None, None, None, None))], "row 1: Expecting value"),
        (Signal.LOGS, "body", (6, "[" * 49 + "]" * 49, None, None, None, None), "nested deeper than 100 messages"),
        (Signal.METRICS, "metric_type", "counter", "row 1: metric_type 'counter'; expected one of gauge, sum"),
    ],
)
def test_a_row_that_no_message_can_hold_is_rejected_by_its_number(
    signal: Signal, column: str, value: Any, words: str
) -> None:
    payload = next(sample.payload for sample in samples() if sample.signal is signal and ".pb" in sample.name)
    batch = reference.decode(signal, payload).slice(0, 2)
    index = batch.schema.get_field_index(column)
    values = [columns.read(batch.column(index))[0], value]
    broken = batch.set_column(index, batch.schema.field(index), columns.build(batch.schema.field(index).type, values))
    with pytest.raises(Rejected, match=words):
        reference.encode(signal, broken)
