"""Attributes of resources and scopes are kept once for rows in a row that have them alike; nobody can tell."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from otlp_arrow import codec
from otlp_arrow.codec import _kernel, reference
from otlp_arrow.codec.arrow_messages import encapsulated
from otlp_arrow.codec.arrow_writing import StreamWriter
from otlp_arrow.codec.kernel import KernelBuilder
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import ArrowMessage, Signal
from otlp_arrow.storage.gathering import plain_message
from otlp_arrow.storage.ipc import END_OF_STREAM
from strategies import comparable, rows

LOGS = Signal.LOGS


def attributes(**values: AnyValue) -> list[KeyValue]:
    return [KeyValue(key=key, value=value) for key, value in values.items()]


ARRAY = ArrayValue(values=[AnyValue(int_value=1), AnyValue(string_value="zwei")])
RESOURCES: list[list[KeyValue]] = [
    [],
    attributes(name=AnyValue(string_value="frontend"), host=AnyValue(string_value="a")),
    attributes(name=AnyValue(string_value="backend"), host=AnyValue(string_value="a")),
    attributes(name=AnyValue(string_value="frontend"), host=AnyValue(string_value="b")),
    attributes(name=AnyValue(string_value="front"), host=AnyValue(string_value="enda")),  # the same text, cut elsewhere
    attributes(host=AnyValue(string_value="frontend"), name=AnyValue(string_value="a")),
    attributes(pid=AnyValue(int_value=7), share=AnyValue(double_value=0.5), on=AnyValue(bool_value=True)),
    attributes(pid=AnyValue(int_value=8), share=AnyValue(double_value=0.5), on=AnyValue(bool_value=True)),
    attributes(pid=AnyValue(int_value=7), share=AnyValue(double_value=math.nan), on=AnyValue(bool_value=True)),
    attributes(pid=AnyValue(int_value=7), share=AnyValue(double_value=0.5), on=AnyValue(bool_value=False)),
    attributes(one=AnyValue(int_value=0)),
    attributes(one=AnyValue(double_value=0.0)),
    attributes(one=AnyValue()),
    attributes(one=AnyValue(bytes_value=b"\x00\xff"), two=AnyValue(bytes_value=b"")),
    attributes(one=AnyValue(bytes_value=b"\x00\xfe"), two=AnyValue(bytes_value=b"")),
    attributes(
        list=AnyValue(array_value=ARRAY), map=AnyValue(kvlist_value=KeyValueList(values=attributes(a=AnyValue())))
    ),
    attributes(**{f"key{n}": AnyValue(int_value=n) if n % 3 else AnyValue(string_value="x" * n) for n in range(14)}),
]
Group = tuple[int, int, int]  # resource, scope, records


def request(groups: Sequence[Group]) -> bytes:
    out = ExportLogsServiceRequest()
    for number, (resource, scope, count) in enumerate(groups):
        logs = out.resource_logs.add()
        logs.resource.attributes.extend(RESOURCES[resource])
        of_scope = logs.scope_logs.add()
        of_scope.scope.attributes.extend(RESOURCES[scope])
        for record in range(count):
            of_scope.log_records.add(time_unix_nano=1 + number * 1000 + record)
    return out.SerializeToString()


def message(batch: pa.RecordBatch) -> ArrowMessage:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as out:
        out.write_batch(batch)
    found = plain_message(LOGS, sink.getvalue().to_pybytes())
    assert found is not None
    return found


def written(builder: KernelBuilder) -> pa.RecordBatch:
    """What is in a file of the builder's rows, as Arrow reads it."""
    memory = builder.memory(runs=True)
    writer = StreamWriter(SCHEMAS[LOGS], 1)
    builder.snapshot()  # a question in between takes nothing away
    data = bytearray(writer.schema_message)
    for header, body in writer.messages(memory, {}):
        data += b"".join((*encapsulated(header, b""), *body))
    batch = pa.ipc.open_stream(bytes(data) + END_OF_STREAM).read_next_batch()
    batch.validate(full=True)
    return batch


def assert_holds(builder: KernelBuilder, expected: list[Any]) -> None:
    snapshot = builder.snapshot()
    snapshot.validate(full=True)
    assert comparable(rows(snapshot)) == expected
    assert comparable(rows(written(builder))) == expected


def has_runs(builder: KernelBuilder, path: str = "resource_attributes.key") -> bool:
    return len(builder.memory(runs=True).parts[path][1][1] or ()) == 3


some_groups = st.lists(
    st.tuples(
        st.integers(0, len(RESOURCES) - 1),
        st.sampled_from([0, 0, 1, 6, 13]),
        st.sampled_from([1, 1, 2, 3, 9, 40]),
    ),
    min_size=1,
    max_size=6,
)
steps = st.one_of(
    st.tuples(st.just("otlp"), some_groups),
    st.tuples(st.just("arrow"), some_groups),
    st.tuples(st.just("truncate"), st.integers(0, 200)),
    st.tuples(st.just("clear"), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, min_size=1, max_size=8))
def test_whatever_comes_and_is_forgotten_each_row_has_its_own(actions: list[tuple[str, Any]]) -> None:
    builder = KernelBuilder(LOGS)
    expected: list[Any] = []
    for action, what in actions:
        if action == "truncate":
            builder.truncate(min(what, builder.rows))
            del expected[what:]
        elif action == "clear":
            builder.clear()
            expected = []
        else:
            payload = request(what)
            batch = reference.decode(LOGS, payload)
            if action == "otlp":
                assert builder.append([payload])[0].error is None
            else:
                assert builder.gather([message(batch)]) != [None]
            expected += comparable(rows(batch))
        assert_holds(builder, expected)


@pytest.mark.parametrize("way", ["otlp", "arrow"])
@pytest.mark.parametrize("resource", range(1, len(RESOURCES)))
def test_a_compressor_is_told_what_repeats_itself(way: str, resource: int) -> None:
    """Two services take turns, one of them with a scope of the same attributes."""
    builder = KernelBuilder(LOGS)
    expected: list[Any] = []
    for number in range(4):
        payload = request([(resource, 0, 700 if number % 2 else 150), (1, resource, 550)])
        batch = reference.decode(LOGS, payload)
        if way == "otlp":
            builder.append([payload])
        else:
            assert builder.gather([message(batch)]) != [None]
        expected += comparable(rows(batch))
    by_bytes = any(each.value.HasField("bytes_value") for each in RESOURCES[resource])
    assert has_runs(builder) == (way == "otlp" or not by_bytes)
    assert has_runs(builder, "scope_attributes.key") == (way == "otlp" or not by_bytes)
    assert_holds(builder, expected)
    builder.truncate(1000)
    assert_holds(builder, expected[:1000])


def test_rows_alike_take_the_memory_of_one() -> None:
    payload = request([(1, 1, 50)])
    once = KernelBuilder(LOGS)
    once.append([payload])
    builder = KernelBuilder(LOGS)
    for _ in range(100):
        builder.append([payload])
    assert has_runs(builder)
    assert (builder.memory(runs=True).parts["resource_attributes.key"][1][1] or ())[2] == 1, (
        "requests alike are one run"
    )
    assert builder.nbytes > 90 * once.nbytes, "bounds are for what readers get"


def test_what_is_forgotten_of_rows_that_differ_is_not_counted() -> None:
    builder = KernelBuilder(LOGS)
    batch = codec.decode(LOGS, request([(1 + n % 3, 0, 1) for n in range(300)]))
    assert builder.gather([message(batch)]) != [None]
    builder.truncate(100)
    payload = request([(1, 0, 9000)])
    builder.append([payload])
    assert has_runs(builder)
    assert_holds(builder, comparable([*rows(batch.slice(0, 100)), *rows(codec.decode(LOGS, payload))]))


def test_rows_that_all_differ_are_written_out() -> None:
    builder = KernelBuilder(LOGS)
    builder.append([request([(1 + n % 3, 0, 1) for n in range(3000)])])
    assert not has_runs(builder)
    assert_holds(builder, comparable(rows(builder.finish())))


@pytest.mark.parametrize("runs", [255, 256, 257, 400])
def test_many_runs_in_a_batch_are_seen_up_to_a_bound(runs: int) -> None:
    batch = codec.decode(LOGS, request([(1 + n % 3, n % 2, 5) for n in range(runs)]))
    builder = KernelBuilder(LOGS)
    assert builder.gather([message(batch)]) != [None]
    assert comparable(rows(builder.snapshot())) == comparable(rows(batch))


@pytest.mark.parametrize("row", [0, 1, 63, 64, 65, 199])
@pytest.mark.parametrize("column", ["key", "type", "str", "int", "double", "bool"])
def test_a_row_that_differs_in_one_value_keeps_it(row: int, column: str) -> None:
    plain = attributes(
        a=AnyValue(string_value="text"),
        b=AnyValue(int_value=5),
        c=AnyValue(double_value=2.5),
        d=AnyValue(bool_value=True),
    )
    other = [KeyValue.FromString(each.SerializeToString()) for each in plain]
    if column == "key":
        other[0].key = "z"
    elif column == "type":
        other[3].value.CopyFrom(AnyValue())
    elif column == "str":
        other[0].value.string_value = "tex!"
    elif column == "int":
        other[1].value.int_value = 6
    elif column == "double":
        other[2].value.double_value = 2.25
    else:
        other[3].value.bool_value = False
    out = ExportLogsServiceRequest()
    for number in range(200):
        logs = out.resource_logs.add()
        logs.resource.attributes.extend(other if number == row else plain)
        logs.scope_logs.add().log_records.add(time_unix_nano=number + 1)
    batch = codec.decode(LOGS, out.SerializeToString())
    builder = KernelBuilder(LOGS)
    assert builder.gather([message(batch)]) != [None]
    assert comparable(rows(builder.snapshot())) == comparable(rows(batch))


# -- what the runs are told by -----------------------------------------------------------------------


def unpacked(runs: Sequence[tuple[bytes, int]]) -> bytes:
    """The frame of the runs, as the library reads it."""
    packed = b"".join(
        struct.pack("<QQQ", _kernel.address_of(data) if data else 0, len(data), times) for data, times in runs
    )
    size = sum(len(data) * times for data, times in runs)
    frame = _kernel.zstd_runs(_kernel.address_of(packed), size, len(runs))
    return pa.Codec("zstd").decompress(frame, decompressed_size=size, asbytes=True)


def _noise(sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[bytes, int]]:
    draw = random.Random(str(sizes))
    return ((draw.randbytes(size), times) for size, times in sizes)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 300), st.sampled_from([4096, 65_535, 65_536])),
            st.one_of(st.integers(1, 5), st.integers(1, 3000)),
        ).filter(lambda run: run[0] * run[1] < 2_000_000),
        min_size=1,
        max_size=12,
    ).filter(lambda runs: any(size for size, _ in runs))
)
def test_every_zstd_reads_what_runs_are(sizes: list[tuple[int, int]]) -> None:
    runs = list(_noise(sizes))
    assert unpacked(runs) == b"".join(data * times for data, times in runs)


@pytest.mark.parametrize("before", [1, 2, 3, 131_069, 131_070, 131_071, 131_072])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_matches_end_and_begin_anywhere_in_a_block(before: int, size: int) -> None:
    first = random.Random(before).randbytes(min(before, 65_536))
    rest = before - len(first)
    runs = [(first, 1), (first[:rest] or b"", 1), (b"abcdefg"[:size], 40_000), (b"xyz", 1)]
    assert unpacked(runs) == b"".join(data * times for data, times in runs)


def test_thousands_of_short_runs_fit() -> None:
    runs = [(bytes([n % 251, n % 7]), 4) for n in range(40_000)]
    assert unpacked(runs) == b"".join(data * times for data, times in runs)


def test_one_byte_over_and_over_is_told_as_such() -> None:
    runs = [(bytes(8), 100), (b"", 5), (bytes(24), 1000)]
    data = b"".join(struct.pack("<QQQ", _kernel.address_of(each) if each else 0, len(each), n) for each, n in runs)
    frame = _kernel.zstd_runs(_kernel.address_of(data), 24_800, 3)
    assert len(frame) < 20
    assert _kernel.zstd_beginning(frame, 24_800) == 0


@pytest.mark.parametrize("services", [2, 3, 8])
@pytest.mark.parametrize("size", [3, 5, 500, 1000])
def test_services_that_take_turns_are_told_once(services: int, size: int) -> None:
    blocks = [random.Random(n).randbytes(size) for n in range(services)]
    order = [blocks[n % services] for n in range(200)]
    packed = b"".join(struct.pack("<QQQ", _kernel.address_of(each), size, 40) for each in order)
    frame = _kernel.zstd_runs(_kernel.address_of(packed), size * 40 * 200, 200)
    assert pa.Codec("zstd").decompress(frame, size * 40 * 200, asbytes=True) == b"".join(each * 40 for each in order)
    assert len(frame) < services * size + 200 * 8 + size * 40 * 200 // 1000


@pytest.mark.parametrize("between", [2**20 - 1, 2**20, 2**20 + 1])
def test_what_stood_too_far_before_is_told_again(between: int) -> None:
    block, other = random.Random(1).randbytes(1000), random.Random(2).randbytes(1)
    runs = [(block, 2), (other, between - 1000), (block, 2)]
    assert unpacked(runs) == b"".join(data * times for data, times in runs)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.binary(max_size=12), st.integers(0, 60), st.binary(max_size=12), st.integers(1, 300)),
        min_size=2,
        max_size=20,
    ).filter(any)
)
def test_neighbours_that_differ_in_the_middle_are_read_back(parts: list[tuple[bytes, int, bytes, int]]) -> None:
    text = bytes(range(97, 123)) * 3
    runs = [(text[:head] + middle + text + tail, times) for middle, head, tail, times in parts]
    assert unpacked(runs) == b"".join(data * times for data, times in runs)


def test_of_pods_that_differ_in_a_name_little_more_than_the_names_is_told() -> None:
    blocks = [b"checkout" + b"shop-pod-%05d" % (n * 7919 % 100_000) + bytes(range(200)) for n in range(100)]
    packed = b"".join(struct.pack("<QQQ", _kernel.address_of(each), len(each), 50) for each in blocks)
    size = sum(len(each) * 50 for each in blocks)
    frame = _kernel.zstd_runs(_kernel.address_of(packed), size, 100)
    assert pa.Codec("zstd").decompress(frame, size, asbytes=True) == b"".join(each * 50 for each in blocks)
    assert len(frame) < 100 * 25


def test_rows_that_differ_are_not_told_byte_by_byte_for_a_few_that_do_not() -> None:
    builder = KernelBuilder(LOGS)
    batch = codec.decode(LOGS, request([(1 + n % 3, 0, 1) for n in range(300)]))
    for _ in range(2):
        assert builder.gather([message(batch)]) != [None]
        builder.append([request([(1, 0, 12_000)])])
    assert not has_runs(builder)
    builder.append([request([(1, 0, 20_000)])])
    assert has_runs(builder)
    assert written(builder).equals(builder.snapshot())


def test_alike_runs_of_different_rows_are_one() -> None:
    block = random.Random(1).randbytes(1000)
    packed = struct.pack("<QQQ", _kernel.address_of(block), len(block), 10) * 20
    frame = _kernel.zstd_runs(_kernel.address_of(packed), 200_000, 20)
    assert len(frame) < 1100


@pytest.mark.parametrize("short_of_a_block", [4, 8, 16, 24, 60, 1000, 1024, 1025, 1040, 1100, 2000])
@pytest.mark.parametrize("size", [4, 12, 100])
def test_a_block_of_nearly_nothing_but_literals_is_one_that_readers_take(short_of_a_block: int, size: int) -> None:
    """With what its matches are told by it would be larger than a block may be."""
    draw = random.Random(2)
    runs = [(draw.randbytes(128 * 1024 - short_of_a_block), 1), (draw.randbytes(size), 3), (draw.randbytes(70_000), 1)]
    runs += [(draw.randbytes(size), 2 + n % 3) for n in range(9000)]
    assert unpacked(runs) == b"".join(data * times for data, times in runs)
