"""The kernel's builder gathers, cuts, copies and empties as the reference's does, and keeps its memory."""

from __future__ import annotations

import random
import subprocess
import sys
import threading

import pyarrow as pa
import pytest

from fuzz import wire_messages
from otlp_arrow.codec import reference
from otlp_arrow.codec.interface import BatchBuilder, Outcome
from otlp_arrow.model import Signal
from samples import samples
from strategies import rows

kernel = pytest.importorskip("otlp_arrow.codec.kernel")


def _recorded(signal: Signal) -> list[bytes]:
    return [sample.payload for sample in samples() if sample.signal == signal]


def _same(batch: pa.RecordBatch, expected: pa.RecordBatch) -> bool:
    return batch.equals(expected) or rows(batch) == rows(expected)


@pytest.mark.parametrize("signal", Signal)
def test_a_new_builder_gives_an_empty_batch(signal: Signal) -> None:
    builder: BatchBuilder = kernel.KernelBuilder(signal)
    assert (builder.rows, builder.nbytes) == (0, 0)
    assert builder.append([]) == []
    for batch in (builder.finish(), builder.snapshot()):
        batch.validate(full=True)
        assert batch.equals(reference.ReferenceBuilder(signal).finish())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("signal", Signal)
def test_whatever_is_done_to_both_builders_they_hold_the_same(signal: Signal, seed: int) -> None:
    rng = random.Random(f"{signal.value} {seed}")
    made = list(wire_messages.requests(signal, 60, seed))
    damaged = list(wire_messages.mutated([p for p in _recorded(signal) if len(p) < 30_000], 20, seed))
    pool = [*made, *made, *damaged, *_recorded(signal)[-2:]]
    builder, expected = kernel.KernelBuilder(signal), reference.ReferenceBuilder(signal)
    for _ in range(40):
        match rng.randrange(10):
            case 0 | 1 | 2 | 3 | 4 | 5:
                payloads = rng.choices(pool, k=rng.choice([0, 1, 1, 5, 20]))
                assert builder.append(payloads) == expected.append(payloads)
            case 6:
                remaining = rng.choice([expected.rows, 0, rng.randint(0, expected.rows)])
                builder.truncate(remaining)
                expected.truncate(remaining)
            case 7 | 8:
                batch = rng.choice([builder.finish, builder.snapshot])()
                batch.validate(full=True)
                assert _same(batch, expected.finish())
            case 9:
                builder.clear()
                expected.clear()
        assert builder.rows == expected.rows
    assert _same(builder.finish(), expected.finish())


def test_a_payload_in_error_leaves_nothing_and_its_neighbours_stay() -> None:
    good = _recorded(Signal.TRACES)[-1]
    builder = kernel.KernelBuilder(Signal.TRACES)
    alone = builder.append([good])
    nbytes = builder.nbytes
    assert (
        builder.append([good[:-1], b"\xff"])
        == [Outcome(0, error="malformed protobuf: the body is no valid ExportTraceServiceRequest")] * 2
    )
    assert (builder.rows, builder.nbytes) == (alone[0].rows, nbytes)
    assert [outcome.rows for outcome in builder.append([b"", good[:-1], good])] == [0, 0, alone[0].rows]
    assert builder.rows == 2 * alone[0].rows


def test_strings_of_forgotten_rows_are_forgotten_too() -> None:
    builder = kernel.KernelBuilder(Signal.TRACES)
    for number in range(300):
        span = {"trace_id": b"t" * 16, "span_id": b"s" * 8, "name": f"name {number}"}
        request = wire_messages.REQUESTS[Signal.TRACES]()
        request.resource_spans.add().scope_spans.add().spans.add(**span)
        payload = request.SerializeToString()
        assert builder.append([payload, payload + b"\xff"])[0].rows == 1
        if number:
            builder.truncate(1)
    assert builder.finish().column("name").dictionary.to_pylist() == ["name 0"]
    builder.truncate(0)
    assert builder.nbytes == 0


def test_truncate_wants_a_number_of_rows_that_there_are() -> None:
    builder = kernel.KernelBuilder(Signal.LOGS)
    for wanted in (1, -1):
        with pytest.raises(ValueError, match="rows wanted of 0"):
            builder.truncate(wanted)


def test_a_snapshot_outlives_the_builder_and_a_finished_batch_shares_its_memory() -> None:
    payload = _recorded(Signal.METRICS)[0]
    expected = reference.decode(Signal.METRICS, payload)
    builder = kernel.KernelBuilder(Signal.METRICS)
    builder.append([payload])
    finished, snapshot = builder.finish(), builder.snapshot()
    address = finished.column("time_unix_nano").buffers()[1].address
    assert snapshot.column("time_unix_nano").buffers()[1].address != address
    builder.clear()
    builder.append([payload] * 3)
    assert builder.finish().column("time_unix_nano").buffers()[1].address == address
    del builder, finished
    assert snapshot.equals(expected)


def test_what_a_value_does_not_have_is_zero_underneath_and_not_what_stood_there_before() -> None:
    """Otherwise a file would show, to who looks, what another sender's attributes were."""
    request = wire_messages.REQUESTS[Signal.LOGS]()
    records = request.resource_logs.add().scope_logs.add().log_records
    for number in range(1, 500):
        attributes = records.add().attributes
        attributes.add(key="int").value.int_value = number
        attributes.add(key="double").value.double_value = number
        attributes.add(key="bytes").value.bytes_value = b"x" * (number % 3)
    full = request.SerializeToString()
    for record in records:
        for attribute in record.attributes:
            attribute.value.string_value = "text"
    builder = kernel.KernelBuilder(Signal.LOGS)
    for forget in (builder.clear, lambda: builder.truncate(0), lambda: builder.append([full + b"\xff"])):
        builder.append([full])
        forget()
        builder.truncate(0)
        builder.append([request.SerializeToString()])
        values = builder.finish().column("attributes").items
        for child, buffer in (("int", 1), ("double", 1), ("bytes", 1)):
            assert not any(values.field(child).buffers()[buffer].to_pybytes())
        builder.truncate(0)


def test_batches_of_one_builder_in_one_stream_keep_their_own_words() -> None:
    """A stream's writer compares each dictionary with that of the batch before, which must not have changed."""
    payloads = _recorded(Signal.METRICS)
    builder = kernel.KernelBuilder(Signal.METRICS)
    sink, written = pa.BufferOutputStream(), []
    with pa.ipc.new_stream(sink, builder.finish().schema) as writer:
        for payload in payloads:
            builder.append([payload])
            writer.write_batch(builder.finish())
            written.append(builder.snapshot())
            builder.clear()
    for read, expected in zip(pa.ipc.open_stream(sink.getvalue()), written, strict=True):
        assert rows(read) == rows(expected)


def test_a_finished_batch_keeps_its_builder() -> None:
    payload = _recorded(Signal.LOGS)[0]
    batch, _ = kernel.decode_with_outcome(Signal.LOGS, payload)
    for _ in range(100):  # would take the memory if it were free
        kernel.decode_with_outcome(Signal.LOGS, payload)
    assert batch.equals(reference.decode(Signal.LOGS, payload))


@pytest.mark.benchmark  # faults are counted for the whole process, so only on a quiet machine
def test_memory_is_kept_for_the_next_rows_and_given_back_by_an_idle_builder() -> None:
    resource = pytest.importorskip("resource")
    payload = max(_recorded(Signal.TRACES), key=len)
    builder = kernel.KernelBuilder(Signal.TRACES)

    def faults_of_a_batch() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        builder.append([payload] * 30)
        builder.finish()
        builder.clear()
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    first = faults_of_a_batch()
    assert first > 1_000
    assert faults_of_a_batch() < first / 5
    builder.clear()
    assert faults_of_a_batch() > first / 2


def test_two_threads_have_two_builders_and_one_builder_refuses_a_second() -> None:
    payloads = _recorded(Signal.TRACES) * 20
    expected = sum(outcome.rows for outcome in kernel.KernelBuilder(Signal.TRACES).append(payloads))
    shared = kernel.KernelBuilder(Signal.TRACES)
    refused = threading.Event()
    found = []

    def work() -> None:
        own = kernel.KernelBuilder(Signal.TRACES)
        for _ in range(5):
            own.append(payloads)
            found.append(own.rows)
            own.clear()

    def intrude() -> None:
        while not refused.is_set():
            try:
                shared.append(payloads)
                shared.clear()
            except RuntimeError as error:
                assert "one caller at a time" in str(error)
                refused.set()

    threads = [threading.Thread(target=target) for target in (work, work, intrude, intrude)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [expected] * 10
    assert refused.is_set()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a bound on a process's memory")
def test_without_memory_nothing_is_appended_and_nothing_breaks() -> None:
    program = """
import resource, sys
from otlp_arrow.codec.kernel import KernelBuilder
from otlp_arrow.model import Signal
payload = sys.stdin.buffer.read()
builder = KernelBuilder(Signal.TRACES)
builder.append([payload])
rows = builder.rows
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), most))
try:
    builder.append([payload] * 300)
except MemoryError:
    resource.setrlimit(resource.RLIMIT_AS, (most, most))  # Python itself needs some for what follows
    assert builder.rows == rows, builder.rows
    assert builder.append([payload, payload[:-1]])[1].error
    assert builder.rows == 2 * rows
    print("refused")
"""
    payload = max(_recorded(Signal.TRACES), key=len)
    run = subprocess.run([sys.executable, "-c", program], input=payload, capture_output=True, timeout=60)
    assert run.stdout.decode().strip() == "refused", run.stderr.decode()
