"""The kernel decodes as the reference does: the same rows, the same refusals, in the same words."""

from __future__ import annotations

import functools
import struct

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import wire_messages
from otlp_arrow.codec import reference
from otlp_arrow.codec.interface import Outcome
from otlp_arrow.model import Signal, limits
from samples import Sample, samples
from strategies import requests, rows

kernel = pytest.importorskip("otlp_arrow.codec.kernel")


def same(batch: pa.RecordBatch, expected: pa.RecordBatch) -> bool:
    """Equal rows and dictionaries; where a NaN is not equal to itself, equal rows."""
    return batch.equals(expected) or (batch.schema.equals(expected.schema) and rows(batch) == rows(expected))


def assert_same(signal: Signal, payload: bytes) -> Outcome:
    batch, outcome = kernel.decode_with_outcome(signal, payload)
    expected, expected_outcome = reference.decode_with_outcome(signal, payload)
    assert outcome == expected_outcome, payload.hex()
    assert same(batch, expected), payload.hex()
    return outcome


# -- requests of all kinds -----------------------------------------------------------------------


def test_recorded_requests(sample: Sample) -> None:
    assert assert_same(sample.signal, sample.payload).rows > 0


@pytest.mark.parametrize("signal", Signal)
@settings(max_examples=40)  # the damaged and the odd requests below cover far more in less time
@given(data=st.data())
def test_requests_with_every_field(signal: Signal, data: st.DataObject) -> None:
    request = data.draw(requests(signal, filled=data.draw(st.booleans())))
    assert assert_same(signal, request.SerializeToString()).rejected == 0


@pytest.mark.parametrize("signal", Signal)
def test_requests_that_protobuf_allows_and_no_sender_writes(signal: Signal) -> None:
    outcomes = [assert_same(signal, payload) for payload in wire_messages.requests(signal, 240, seed=1)]
    assert sum(outcome.error is None for outcome in outcomes) > 80
    assert any(outcome.error for outcome in outcomes)
    assert any(outcome.rejected for outcome in outcomes)


@functools.cache
def _small_requests(signal: Signal) -> list[bytes]:
    originals = [sample.payload for sample in samples() if sample.signal == signal]
    return [piece for original in originals for piece in wire_messages.shortened(signal, original)]


def _mutated(count: int, seed: int) -> None:
    for signal in Signal:
        outcomes = [
            assert_same(signal, payload)
            for payload in wire_messages.mutated(_small_requests(signal), count // len(Signal) + 1, seed)
        ]
        whole = sum(outcome.error is None for outcome in outcomes)
        assert 0.1 < whole / len(outcomes) < 0.9  # both ways are tried


def test_two_thousand_damaged_requests() -> None:
    _mutated(2_000, seed=2)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_thousand_damaged_requests(seed: int) -> None:
    _mutated(10_000, seed=100 + seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("signal", Signal)
def test_thousands_of_requests_that_no_sender_writes(signal: Signal, seed: int) -> None:
    for payload in wire_messages.requests(signal, 3_000, seed=100 + seed):
        assert_same(signal, payload)


# -- protobuf's limits, one by one ---------------------------------------------------------------


def _varint(value: int, length: int = 0) -> bytes:
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    while len(octets) < length:
        octets[-1] |= 0x80
        octets.append(0)
    return bytes(octets)


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _resource(content: bytes) -> bytes:
    return _message(1, _message(1, content))


@pytest.mark.parametrize("length", range(1, 12))
def test_varints_of_every_length(length: int) -> None:
    for payload in [
        _varint(0x98, length) + b"\0",  # a tag
        b"\x98\x01" + _varint(5, length),  # an unknown number
        _resource(b"\x10" + _varint(7, length)),  # a known one
        b"\x9a\x01" + _varint(1, length) + b"x",  # a length
    ]:
        assert_same(Signal.TRACES, payload)


@pytest.mark.parametrize("depth", [10, *range(44, 52)])
def test_values_nested_to_the_limit_and_beyond(depth: int) -> None:
    innermost = [b"", b"\x10\x01", b"\x2a\x00", b"\x9b\x01\x9c\x01"]
    for value in innermost:
        for _ in range(depth):
            value = _message(5, _message(1, value))
        assert_same(Signal.LOGS, _resource(_message(1, b"\x0a\x01k" + _message(2, value))))


@pytest.mark.parametrize("depth", [1, *range(95, 103)])
def test_groups_nested_to_the_limit_and_beyond(depth: int) -> None:
    groups = b"\x9b\x01" * depth + b"\x9c\x01" * depth
    for payload in [groups, _message(1, groups), _message(1, _message(2, groups))]:
        assert_same(Signal.METRICS, payload)


@pytest.mark.parametrize(
    "field",
    [b"\x0c", b"\x04", b"\x00\x00", b"\x06\x00", b"\x0e\x00", b"\x0f\x00", b"\x9b\x01", b"\x9b\x01\xa4\x01"]
    + [
        b"\x9b\x01\x00\x00\x9c\x01",
        b"\x9b\x01\x06\x00\x9c\x01",
        b"\xf8\xff\xff\xff\x0f\x00",
        b"\xf8\xff\xff\xff\x1f\x00",
    ],
    ids=bytes.hex,
)
def test_odd_fields(field: bytes) -> None:
    for payload in [field, _message(1, field), _resource(field), _resource(_message(1, field))]:
        assert_same(Signal.LOGS, payload)


@pytest.mark.parametrize(
    "text",
    [b"\xc3\xbc", b"\xff", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xef\xbf\xbf", b"\xf0\x80\x80\x80"]
    + [b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xf0\x9f\x90", b"\xf8\x88\x80\x80\x80"],
    ids=bytes.hex,
)
@pytest.mark.parametrize("before", [0, 5, 14, 15, 16, 31, 32, 70])
def test_text_is_utf8_wherever_the_odd_bytes_stand(text: bytes, before: int) -> None:
    text = b"x" * before + text
    for padding in (b"", b"y" * 40):
        for value in (text, text + padding):
            attribute = _message(1, b"k") + _message(2, _message(1, value))
            in_array = _message(1, b"k") + _message(2, _message(5, _message(1, _message(1, value))))
            for content in (attribute, _message(1, value), in_array):
                payload = _resource(_message(1, content))
                assert_same(Signal.LOGS, payload)
                assert_same(Signal.LOGS, payload + _message(19, padding))  # not at the very end of the request


def test_text_in_json_is_quoted_as_json_demands() -> None:
    text = bytes(range(0x80)).decode() + "é\u2028🐢"
    pairs = _message(1, _message(1, text.encode()) + _message(2, _message(1, text.encode())))
    body = _message(5, _message(6, pairs))
    payload = _message(1, _message(2, _message(2, body)))
    assert assert_same(Signal.LOGS, payload).rows == 1


@given(st.floats())
def test_doubles_in_json_are_as_python_writes_them(value: float) -> None:
    body = _message(5, _message(5, _message(1, b"\x21" + struct.pack("<d", value))))
    assert assert_same(Signal.LOGS, _message(1, _message(2, _message(2, body)))).rows == 1


# -- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", Signal)
def test_a_request_may_repeat_so_much_and_no_more(signal: Signal, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = next(sample.payload for sample in samples() if sample.signal == signal and sample.name.endswith(".pb"))
    refused = set()
    for bound in [0, 1, 10_000, 20_000, 40_000, 80_000, 10**6, 10**7]:
        monkeypatch.setattr(limits, "MAX_REPEATED_BYTES", bound)
        refused.add(assert_same(signal, payload).error is not None)
    assert refused == {True, False}


def test_malformed_comes_before_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_REPEATED_BYTES", 0)
    payload = next(sample.payload for sample in samples() if sample.name.endswith("logs_000.pb"))
    assert "too large" in str(assert_same(Signal.LOGS, payload).error)
    assert "malformed" in str(assert_same(Signal.LOGS, payload + b"\xff").error)


def test_a_request_whose_columns_would_overflow_is_refused_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = next(sample.payload for sample in samples() if sample.name.endswith("traces_001.pb"))
    for bound in [0, 1, 51, 500, 2_000]:
        builder = kernel.KernelBuilder(Signal.TRACES)
        with monkeypatch.context() as patch:
            patch.setattr(limits, "MAX_COLUMN_OFFSET", bound)
            (outcome,) = builder.append([payload])
        assert "request too large: with the rows that wait" in str(outcome.error)
        assert (builder.rows, builder.nbytes) == (0, 0)
        assert builder.append([payload]) == [Outcome(52)]
        assert same(builder.finish(), reference.decode(Signal.TRACES, payload))


@pytest.mark.parametrize("signal", Signal)
def test_a_request_made_to_grow_is_refused_before_it_takes_the_memory(
    signal: Signal, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = _message(1, b"") * 500 + _message(3, _message(3, b"")) * 200
    scope = _message(3, b"") * 500
    metadata = _message(12, b"") * 500 + _message(5, _message(1, b"") * 1_000)
    span = _message(1, b"t" * 16) + _message(2, b"s" * 8)
    records = _message(2, metadata) if signal is Signal.METRICS else _message(2, span) * 1_000
    if signal is Signal.LOGS:
        records = _message(2, b"") * 1_000
    for content in [
        _message(1, resource) + _message(2, records),
        _message(2, _message(1, scope) + records),
    ]:
        payload = _message(1, content)
        builder = kernel.KernelBuilder(signal)
        with monkeypatch.context() as patch:
            patch.setattr(limits, "MAX_HELD_BYTES", 10_000_000)
            (outcome,) = builder.append([payload])
        assert "its columns would pass" in str(outcome.error)
        assert (builder.rows, builder.nbytes) == (0, 0)
        assert builder.append([payload]) == [Outcome(1_000)]
        assert builder.nbytes > 10_000_000
