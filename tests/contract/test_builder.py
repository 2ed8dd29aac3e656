"""What every ``BatchBuilder`` promises: the reference's, and the compiled kernel's where it is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otlp_arrow import codec
from otlp_arrow.codec import SCHEMAS, BatchBuilder, Outcome, reference
from otlp_arrow.codec.rejection import TOO_LARGE_TO_REPEAT, malformed
from otlp_arrow.model import Signal, limits
from samples import Sample, samples
from strategies import requests, rows

NewBuilder = Callable[[Signal], BatchBuilder]

FACTORIES: dict[str, NewBuilder] = {"reference": reference.ReferenceBuilder}
if codec.kernel_available():
    FACTORIES["kernel"] = codec.new_builder


@pytest.fixture(params=FACTORIES.values(), ids=FACTORIES)
def new_builder(request: pytest.FixtureRequest) -> NewBuilder:
    """Makes an empty builder of one kind."""
    made: NewBuilder = request.param
    return made


def payloads_of(signal: Signal) -> list[bytes]:
    return [sample.payload for sample in samples() if sample.signal is signal]


def expected_rows(signal: Signal, payloads: list[bytes]) -> list[dict[str, Any]]:
    return [row for payload in payloads for row in rows(reference.decode(signal, payload))]


def checked(signal: Signal, batch: pa.RecordBatch) -> list[dict[str, Any]]:
    batch.validate(full=True)
    assert batch.schema.equals(SCHEMAS[signal], check_metadata=True)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        assert field.nullable or column.null_count == 0, field.name
    return rows(batch)


@pytest.mark.parametrize("signal", Signal)
def test_a_new_builder_is_empty(new_builder: NewBuilder, signal: Signal) -> None:
    builder = new_builder(signal)
    assert builder.rows == 0
    assert builder.append([]) == []
    assert checked(signal, builder.snapshot()) == []
    assert checked(signal, builder.finish()) == []


def test_a_payload_becomes_its_rows(new_builder: NewBuilder, sample: Sample) -> None:
    builder = new_builder(sample.signal)
    expected = expected_rows(sample.signal, [sample.payload])
    assert builder.append([sample.payload]) == [Outcome(len(expected))]
    assert builder.rows == len(expected)
    assert checked(sample.signal, builder.finish()) == expected


@pytest.mark.parametrize("signal", Signal)
def test_rows_of_many_payloads_follow_each_other_in_order(new_builder: NewBuilder, signal: Signal) -> None:
    payloads = payloads_of(signal)
    builder = new_builder(signal)
    outcomes = builder.append(payloads[:2]) + builder.append(payloads[2:]) + builder.append([b"", payloads[0]])
    expected = expected_rows(signal, [*payloads, payloads[0]])
    assert sum(outcome.rows for outcome in outcomes) == builder.rows == len(expected)
    assert checked(signal, builder.finish()) == expected


@pytest.mark.parametrize("signal", Signal)
@pytest.mark.parametrize("bad", [b"\xff" * 11, b"\x0a\x05a", b"\x0a\x02\x12\x7f"], ids=bytes.hex)
def test_a_malformed_payload_appends_nothing_and_the_others_are_kept(
    new_builder: NewBuilder, signal: Signal, bad: bytes
) -> None:
    good = payloads_of(signal)[0]
    builder = new_builder(signal)
    outcomes = builder.append([good, bad, good])
    expected = expected_rows(signal, [good])
    assert outcomes == [Outcome(len(expected)), Outcome(0, error=malformed(signal)), Outcome(len(expected))]
    assert checked(signal, builder.finish()) == expected + expected


@pytest.mark.parametrize("signal", Signal)
def test_a_payload_cut_anywhere_is_whole_or_not_there(new_builder: NewBuilder, signal: Signal) -> None:
    payload = min(payloads_of(signal), key=len)
    builder = new_builder(signal)
    cuts = list(range(0, len(payload), max(1, len(payload) // 200)))
    for cut in cuts:
        before = builder.rows
        (outcome,) = builder.append([payload[:cut]])
        assert outcome.error is None or outcome.rows == 0
        assert builder.rows == before + outcome.rows
        assert outcome == reference.decode_with_outcome(signal, payload[:cut])[1]
    checked(signal, builder.finish())


def test_text_that_is_no_utf_8_puts_the_payload_in_error(new_builder: NewBuilder) -> None:
    # severity_text of a log record whose trace id would be refused as well.
    record = b"\x4a\x01x" + b"\x1a\x02\xc3\x28"
    scope = b"\x12" + bytes([len(record)]) + record
    resource = b"\x12" + bytes([len(scope)]) + scope
    payload = b"\x0a" + bytes([len(resource)]) + resource
    builder = new_builder(Signal.LOGS)
    assert builder.append([payload]) == [Outcome(0, error=malformed(Signal.LOGS))]
    assert builder.rows == 0


def nested_body(levels: int) -> bytes:
    """A log record whose body is an array in an array…: 4 messages and 2 for each level below the request."""

    def field(tag: int, content: bytes) -> bytes:
        length, size = len(content), b""
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([tag]) + size + bytes([length]) + content

    value = b""
    for _ in range(levels):
        value = field(0x2A, field(0x0A, value))
    return field(0x0A, field(0x12, field(0x12, field(0x2A, value))))


def test_nesting_is_bounded(new_builder: NewBuilder) -> None:
    deepest = (limits.MAX_MESSAGE_DEPTH - 4) // 2
    builder = new_builder(Signal.LOGS)
    outcomes = builder.append([nested_body(deepest), nested_body(deepest + 1), nested_body(10_000)])
    error = Outcome(0, error=malformed(Signal.LOGS))
    assert outcomes == [Outcome(1), error, error]
    (row,) = checked(Signal.LOGS, builder.finish())
    assert row["body"][1] == "[" * (deepest - 1) + "[null]" + "]" * (deepest - 1)


def test_refused_records_are_left_out_and_named(new_builder: NewBuilder) -> None:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for index in range(20):
        spans.add(trace_id=bytes([index]) * 16, span_id=b"12345678" if index % 2 else b"123", name=f"n{index}")
    builder = new_builder(Signal.TRACES)
    (outcome,) = builder.append([request.SerializeToString()])
    assert outcome == Outcome(
        rows=10,
        rejected=10,
        message="spans[0]: trace_id is all zero; spans[2]: span_id has 3 bytes, 8 expected; "
        "spans[4]: span_id has 3 bytes, 8 expected; spans[6]: span_id has 3 bytes, 8 expected; "
        "spans[8]: span_id has 3 bytes, 8 expected; and 5 more",
    )
    assert [row["name"] for row in checked(Signal.TRACES, builder.finish())] == [
        f"n{index}" for index in range(1, 20, 2)
    ]


def test_a_request_that_would_outgrow_memory_by_repetition_is_in_error(new_builder: NewBuilder) -> None:
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.add(key="k").value.string_value = "x" * 2**20
    group.scope_logs.add().log_records.extend(
        [ExportLogsServiceRequest().resource_logs.add().scope_logs.add().log_records.add()]
        * (limits.MAX_REPEATED_BYTES // 2**20)
    )
    builder = new_builder(Signal.LOGS)
    assert builder.append([request.SerializeToString()]) == [Outcome(0, error=TOO_LARGE_TO_REPEAT)]
    assert builder.rows == 0
    assert checked(Signal.LOGS, builder.finish()) == []


@pytest.mark.parametrize("signal", Signal)
def test_truncate_forgets_the_rows_from_there_on(new_builder: NewBuilder, signal: Signal) -> None:
    first, second = payloads_of(signal)[:2]
    builder = new_builder(signal)
    builder.append([first])
    kept = builder.rows
    builder.append([second, second])
    grown_bytes = builder.nbytes
    builder.truncate(kept)
    assert builder.rows == kept
    assert builder.nbytes < grown_bytes
    assert checked(signal, builder.snapshot()) == expected_rows(signal, [first])
    builder.append([second])
    builder.truncate(builder.rows)
    assert checked(signal, builder.finish()) == expected_rows(signal, [first, second])


@pytest.mark.parametrize("signal", Signal)
def test_truncate_works_at_every_row(new_builder: NewBuilder, signal: Signal) -> None:
    payload = payloads_of(signal)[0]
    expected = expected_rows(signal, [payload])
    builder = new_builder(signal)
    builder.append([payload])
    for count in range(len(expected), -1, -max(1, len(expected) // 10)):
        builder.truncate(count)
        assert builder.rows == count
        assert checked(signal, builder.snapshot()) == expected[:count]
    builder.truncate(0)
    builder.append([payload])
    assert checked(signal, builder.finish()) == expected


@pytest.mark.parametrize("signal", Signal)
def test_a_snapshot_stays_as_it_was_while_the_builder_goes_on(new_builder: NewBuilder, signal: Signal) -> None:
    first, second = payloads_of(signal)[:2]
    builder = new_builder(signal)
    builder.append([first])
    snapshot = builder.snapshot()
    builder.append([second] * 3)
    builder.truncate(1)
    builder.clear()
    builder.append([second])
    assert checked(signal, snapshot) == expected_rows(signal, [first])


@pytest.mark.parametrize("signal", Signal)
def test_a_cleared_builder_is_as_good_as_new(new_builder: NewBuilder, signal: Signal) -> None:
    first, second = payloads_of(signal)[:2]
    builder = new_builder(signal)
    builder.append([first])
    del first
    finished = builder.finish()
    del finished
    builder.clear()
    assert builder.rows == 0
    assert checked(signal, builder.snapshot()) == []
    builder.append([second])
    assert checked(signal, builder.finish()) == expected_rows(signal, [second])


@pytest.mark.parametrize("signal", Signal)
def test_nbytes_grows_with_the_rows(new_builder: NewBuilder, signal: Signal) -> None:
    payload = payloads_of(signal)[0]
    builder = new_builder(signal)
    builder.append([payload])
    once = builder.nbytes
    assert once >= len(payload) // 4
    builder.append([payload] * 9)
    assert builder.nbytes >= 5 * once
    builder.clear()
    assert builder.nbytes < once


@pytest.mark.parametrize("filled", [True, False], ids=["filled", "sparse"])
@pytest.mark.parametrize("signal", Signal)
@pytest.mark.parametrize("name", [name for name in FACTORIES if name != "reference"])
def test_any_valid_requests_become_the_rows_that_the_reference_gives(name: str, signal: Signal, filled: bool) -> None:
    builder = FACTORIES[name](signal)

    # Filled requests are a hundred fields each: few of them go a long way.
    @settings(max_examples=8 if filled else 40)
    @given(st.lists(requests(signal, filled=filled), min_size=1, max_size=1 if filled else 3))
    def agree(messages: list[Any]) -> None:
        payloads = [message.SerializeToString() for message in messages]
        builder.clear()
        outcomes = builder.append(payloads)
        assert outcomes == [reference.decode_with_outcome(signal, payload)[1] for payload in payloads]
        assert checked(signal, builder.finish()) == expected_rows(signal, payloads)

    agree()


def named_log(service: str) -> bytes:
    request = ExportLogsServiceRequest()
    resource_logs = request.resource_logs.add()
    resource_logs.resource.attributes.add(key="service.name").value.string_value = service
    resource_logs.scope_logs.add().log_records.add(severity_number=9)
    return request.SerializeToString()


def test_batches_written_from_reused_builders_keep_their_own_words(new_builder: NewBuilder) -> None:
    builders = [new_builder(Signal.LOGS), new_builder(Signal.LOGS)]
    sink = pa.BufferOutputStream()
    services = ["aaaa", "bbbb", "bbbb", "cccc"]
    with pa.ipc.new_stream(sink, SCHEMAS[Signal.LOGS]) as writer:
        builders[0].append([named_log(services[0])])
        for number, following in enumerate([*services[1:], "last"]):
            builder, other = builders[number % 2], builders[(number + 1) % 2]
            batch = builder.finish()
            writer.write_batch(batch)
            builder.clear()
            other.append([named_log(following)])
            # As under load: the builder that was written is being filled again before the next batch is.
            builder.append([named_log(following)])
            builder.truncate(0)
    written = pa.ipc.open_stream(sink.getvalue()).read_all()
    assert written.column("service_name").to_pylist() == services
