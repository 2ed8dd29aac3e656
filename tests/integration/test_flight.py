"""Arrow Flight as a stock client sees it, with real storage behind the door."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import secrets
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from arrow_forms import batch_of, foreign, with_column
from certificates import Certificates
from direct import takes_direct
from doors import CountingMeter, until
from otlp_arrow.codec.arrow_messages import to_stream
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Busy, OtlpServerError, Signal, limits
from otlp_arrow.pipeline import Pipeline, PipelineSettings
from otlp_arrow.receivers import AioFlightServer, Authenticator, FlightServer
from otlp_arrow.receivers import flight_wire as wire
from otlp_arrow.receivers.flight_service import SERVICE
from otlp_arrow.storage import disk
from otlp_arrow.storage.store import StorageSettings
from strategies import rows

T = TypeVar("T")
TRACES = pa.ipc.open_stream(to_stream(batch_of(Signal.TRACES).slice(0, 100))).read_next_batch()
BATCHES = {signal: batch_of(signal) for signal in Signal}
TIMEOUT = flight.FlightCallOptions(timeout=20)


_served_by: type[FlightServer] | type[AioFlightServer] = FlightServer


@pytest.fixture(autouse=True, params=["compiled", "grpcio"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything here holds for both servers."""
    server = FlightServer if request.param == "compiled" else AioFlightServer
    monkeypatch.setattr(sys.modules[__name__], "_served_by", server)
    return str(request.param)


@dataclass
class Door:
    """An open door, what is behind it, and a stock client in front of it."""

    server: FlightServer | AioFlightServer
    pipeline: Pipeline
    meter: CountingMeter
    client: flight.FlightClient


@asynccontextmanager
async def open_door(directory: Path, pipeline: PipelineSettings | None = None, **options: Any) -> AsyncIterator[Door]:
    meter = CountingMeter()
    settings = pipeline or PipelineSettings(StorageSettings(directory), write_interval_secs=3600)
    async with Pipeline(settings, meter=meter) as opened:
        arguments = {"host": "127.0.0.1", "port": 0, "meter": meter} | options
        async with _served_by(opened.intake, opened, **arguments) as server:
            client = flight.connect(("127.0.0.1", server.bound_port))
            try:
                yield Door(server, opened, meter, client)
            finally:
                client.close()
        assert opened.intake._reserved_bytes == 0, "a reservation was left behind"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(tmp_path) as opened:
        yield opened


async def ask(function: Callable[..., T], *arguments: Any) -> T:
    """Run a blocking client beside the door's loop."""
    async with asyncio.timeout(30):
        return await asyncio.to_thread(function, *arguments)


def put(
    client: flight.FlightClient,
    signal: Signal,
    *batches: pa.RecordBatch,
    options: flight.FlightCallOptions = TIMEOUT,
    schema: pa.Schema | None = None,
) -> list[dict[str, int]]:
    """Send batches; what was acknowledged. Raises what the server said."""
    descriptor = flight.FlightDescriptor.for_path(signal.value)
    writer, reader = client.do_put(descriptor, schema or batches[0].schema, options=options)
    results = []
    try:
        for batch in batches:
            writer.write_batch(batch)
        writer.done_writing()
        while (buffer := reader.read()) is not None:
            results.append(json.loads(buffer.to_pybytes()))
    except BaseException:
        with contextlib.suppress(Exception):  # the same error again
            writer.close()
        raise
    writer.close()  # raises what the stream ended with
    return results


def get(client: flight.FlightClient, signal: Signal, **asked: Any) -> pa.Table:
    ticket = flight.Ticket(json.dumps({"signal": signal.value, **asked}))
    return client.do_get(ticket, options=TIMEOUT).read_all()


def table_rows(table: pa.Table) -> list[dict[str, Any]]:
    return [row for batch in table.to_batches() for row in rows(batch)]


# -- in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", Signal)
async def test_what_was_put_is_acknowledged_and_comes_back(door: Door, signal: Signal):
    batch = BATCHES[signal]
    results = await ask(put, door.client, signal, batch, batch)
    assert results == [{"rows": batch.num_rows, "sequence": 1}, {"rows": batch.num_rows, "sequence": 2}]
    table = await ask(get, door.client, signal)
    assert table.schema.equals(SCHEMAS[signal], check_metadata=True)
    assert table_rows(table) == rows(batch) * 2
    assert door.meter.outcomes == {"ok": 2}


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
async def test_other_types_and_compressed_batches_are_taken(door: Door, compression: str | None):
    options = flight.FlightCallOptions(
        timeout=20, write_options=pa.ipc.IpcWriteOptions(compression=compression, emit_dictionary_deltas=True)
    )
    for signal in Signal:
        batch = foreign(BATCHES[signal])
        await ask(lambda signal=signal, batch=batch: put(door.client, signal, batch, options=options))
        assert table_rows(await ask(get, door.client, signal)) == rows(BATCHES[signal])


@pytest.mark.parametrize("dictionaries", ["shared", "own"])
async def test_large_batches_go_to_the_log_from_the_memory_that_they_were_received_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, dictionaries: str
):
    """All but the first one, from which the door learns where the rows of a message begin."""
    if engine != "compiled" or not takes_direct(tmp_path):
        pytest.skip("only the compiled door lays messages out, for a log that is written past the page cache")
    copied: list[int] = []
    copy_out = disk.copy_out

    def counting(target: Any, at: int, source: Any) -> None:
        copied.append(len(source))
        copy_out(target, at, source)

    monkeypatch.setattr(disk, "copy_out", counting)
    batch = BATCHES[Signal.TRACES]
    nbytes = len(to_stream(batch))
    assert limits.IN_PLACE_BYTES < nbytes < 2 * limits.MIB
    settings = PipelineSettings(StorageSettings(tmp_path, wal_direct=True), write_interval_secs=3600)
    async with open_door(tmp_path, settings) as opened:
        sent = [batch] * 8
        if dictionaries == "own":
            names = [pa.array([f"{number}"] * batch.num_rows).dictionary_encode() for number in range(8)]
            sent = [with_column(batch, "name", each) for each in names]
        results = await ask(put, opened.client, Signal.TRACES, *sent)
        assert [result["rows"] for result in results] == [batch.num_rows] * 8
        assert sum(copied) < 3 * nbytes
        assert table_rows(await ask(get, opened.client, Signal.TRACES)) == [row for each in sent for row in rows(each)]


@pytest.mark.parametrize("signal", Signal)
async def test_columns_may_come_in_any_order_and_with_nulls_allowed(door: Door, signal: Signal):
    names = SCHEMAS[signal].names[::-1]
    sent = pa.RecordBatch.from_arrays([BATCHES[signal].column(name) for name in names], names=names)
    await ask(put, door.client, signal, sent, sent)
    assert table_rows(await ask(get, door.client, signal)) == rows(BATCHES[signal]) * 2
    await door.pipeline.flush()
    assert table_rows(await ask(get, door.client, signal)) == rows(BATCHES[signal]) * 2


async def test_each_batch_may_have_dictionaries_of_its_own(door: Door):
    words = [pa.array([f"{n}-{i}" for i in range(TRACES.num_rows)]).dictionary_encode() for n in range(3)]
    batches = [with_column(TRACES, "name", column) for column in words]
    await ask(put, door.client, Signal.TRACES, *batches)
    table = await ask(get, door.client, Signal.TRACES)
    assert table.column("name").to_pylist() == [word for column in words for word in column.to_pylist()]


async def test_a_batch_that_is_put_is_in_the_log_before_its_result_is_sent(door: Door):
    await ask(put, door.client, Signal.TRACES, TRACES)
    assert door.pipeline.store.wal.confirmed_sequence == 1
    assert door.pipeline.store.catalog.snapshot(Signal.TRACES) == ()


async def test_what_was_put_and_not_written_yet_is_there_after_a_restart(tmp_path: Path):
    settings = PipelineSettings(StorageSettings(tmp_path), write_interval_secs=3600, shutdown_timeout_secs=0)
    async with open_door(tmp_path, settings) as first:
        await ask(put, first.client, Signal.TRACES, TRACES)
        await ask(put, first.client, Signal.TRACES, foreign(TRACES))

        async def never() -> None:
            await asyncio.Event().wait()

        first.pipeline._drain = never  # type: ignore[method-assign]  # as if the process had been killed here
    async with open_door(tmp_path) as second:
        assert second.pipeline.replayed.frames == 2
        assert table_rows(await ask(get, second.client, Signal.TRACES)) == rows(TRACES) * 2


async def test_a_stream_without_batches_and_a_batch_without_rows_are_fine(door: Door):
    assert await ask(lambda: put(door.client, Signal.TRACES, schema=TRACES.schema)) == []
    results = await ask(put, door.client, Signal.TRACES, TRACES.slice(0, 0))
    assert results == [{"rows": 0, "sequence": 0}]
    assert (await ask(get, door.client, Signal.TRACES)).num_rows == 0


async def test_a_result_comes_while_the_client_has_more_to_send(door: Door):
    def talk() -> list[dict[str, int]]:
        writer, reader = door.client.do_put(flight.FlightDescriptor.for_path("traces"), TRACES.schema, options=TIMEOUT)
        results = []
        for _ in range(3):
            writer.write_batch(TRACES)
            results.append(json.loads(reader.read().to_pybytes()))
        writer.done_writing()
        assert reader.read() is None
        writer.close()
        return results

    assert [result["sequence"] for result in await ask(talk)] == [1, 2, 3]


async def test_more_batches_than_wait_for_the_disk_together_are_all_acknowledged_in_order(door: Door):
    piece = TRACES.slice(0, 1)
    results = await ask(put, door.client, Signal.TRACES, *[piece] * (limits.FLIGHT_PUTS_IN_FLIGHT * 3))
    assert [result["sequence"] for result in results] == list(range(1, limits.FLIGHT_PUTS_IN_FLIGHT * 3 + 1))


# -- refusals ------------------------------------------------------------------------------------


async def refused(door: Door, *batches: pa.RecordBatch, signal: Signal = Signal.TRACES) -> Exception:
    with pytest.raises((pa.ArrowException, flight.FlightError)) as caught:
        await ask(put, door.client, signal, *batches)
    # And the door lives.
    assert (await ask(put, door.client, Signal.LOGS, BATCHES[Signal.LOGS]))[0]["rows"] == BATCHES[Signal.LOGS].num_rows
    return caught.value


async def test_a_wrong_schema_is_refused_with_the_name_of_the_column(door: Door):
    error = await refused(door, pa.record_batch({"x": [1]}))
    assert isinstance(error, pa.ArrowInvalid)
    assert "'x'" in str(error)
    error = await refused(door, with_column(TRACES, "kind", pa.array(["server"] * TRACES.num_rows)))
    assert "'kind'" in str(error)
    assert door.meter.outcomes["rejected"] == 2


async def test_rows_of_another_signal_are_refused(door: Door):
    assert "is not one of metrics" in str(await refused(door, TRACES, signal=Signal.METRICS))


async def test_invalid_ids_are_refused(door: Door):
    ids = pa.array([bytes(16)] * TRACES.num_rows, pa.binary(16))
    assert "'trace_id': row 0 is all zero" in str(await refused(door, with_column(TRACES, "trace_id", ids)))


async def test_batches_before_a_refused_one_are_acknowledged(door: Door):
    bad = with_column(TRACES, "trace_id", pa.array([bytes(16)] * TRACES.num_rows, pa.binary(16)))
    results: list[int] = []

    def talk() -> None:
        writer, reader = door.client.do_put(flight.FlightDescriptor.for_path("traces"), TRACES.schema, options=TIMEOUT)
        for batch in (TRACES, TRACES, bad):
            writer.write_batch(batch)
        writer.done_writing()
        while (buffer := reader.read()) is not None:
            results.append(json.loads(buffer.to_pybytes())["rows"])
        writer.close()

    with pytest.raises(pa.ArrowInvalid, match="all zero"):
        await ask(talk)
    assert results == [TRACES.num_rows] * 2
    assert (await ask(get, door.client, Signal.TRACES)).num_rows == TRACES.num_rows * 2


async def test_offsets_that_point_outside_of_a_string_buffer_are_refused(door: Door):
    offsets = [0, 2**30, *range(2, TRACES.num_rows + 1)]
    buffers = [None, pa.py_buffer(struct.pack(f"<{len(offsets)}i", *offsets)), pa.py_buffer(b"x" * TRACES.num_rows)]
    texts = pa.Array.from_buffers(pa.utf8(), TRACES.num_rows, buffers)
    descriptor, data = raw_put(with_column(TRACES, "status_message", texts))
    error = await raw(door, [descriptor, *data])
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "damaged" in error.details()
    await refused(door, pa.record_batch({"x": [1]}))


async def test_a_batch_over_the_limit_is_refused(tmp_path: Path, engine: str):
    async with open_door(tmp_path, max_request_bytes=2_000_000) as door:
        large = with_column(TRACES, "status_message", pa.array(["x" * 20_000] * TRACES.num_rows))
        for _ in range(3):
            error = await refused(door, large)
            assert "over the limit of 2000000" in str(error)
        huge = with_column(TRACES, "status_message", pa.array(["x" * 100_000] * TRACES.num_rows))
        words = "Received message larger than max" if engine == "grpcio" else "over the limit of"
        assert words in str(await refused(door, huge))
        assert door.pipeline.intake.gathered_rows(Signal.TRACES) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="measures the process")
async def test_a_batch_that_inflates_to_a_gigabyte_is_refused_before_it_does(door: Door):
    zeros = pa.array(["\0" * 2**28])
    small = TRACES.slice(0, 1)
    plain = with_column(small, "status_message", zeros)
    encoded = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), zeros)
    messages = [raw_put(batch, "zstd") for batch in (plain, with_column(small, "name", encoded))]
    del zeros, plain, encoded
    pa.default_memory_pool().release_unused()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for descriptor, data in messages:
        assert sum(map(len, data)) < 100_000
        error = await raw(door, [descriptor, *data])
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "over the limit" in error.details()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    assert (await ask(put, door.client, Signal.TRACES, TRACES))[0]["rows"] == TRACES.num_rows


async def test_extension_types_are_never_loaded(door: Door):
    loaded: list[bytes] = []

    class Loud(pa.ExtensionType):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(pa.binary(16), "otlp_arrow.test.loud")

        def __arrow_ext_serialize__(self) -> bytes:
            return b"sent"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Loud:
            loaded.append(serialized)
            return cls()

    pa.register_extension_type(Loud())
    try:
        ids = pa.ExtensionArray.from_storage(Loud(), TRACES.column("trace_id"))
        error = await refused(door, with_column(TRACES, "trace_id", ids))
    finally:
        pa.unregister_extension_type("otlp_arrow.test.loud")
    assert "'trace_id' is of an extension type" in str(error)
    assert loaded == []


async def test_a_full_buffer_is_an_error_that_says_try_again(door: Door):
    ticket = door.pipeline.intake.admit(door.pipeline.settings.max_buffer_bytes)
    with pytest.raises(flight.FlightUnavailableError, match="buffer"):
        await ask(put, door.client, Signal.TRACES, TRACES)
    ticket.release()
    assert len(await ask(put, door.client, Signal.TRACES, TRACES)) == 1


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "without a message"),
        ([b"\xff"], "message is damaged"),
        ([wire.data(b"", b"")], "descriptor"),
        ([wire._field(1, wire.path_descriptor("profiles"))], "no flight 'profiles'"),
        ([wire._field(1, wire.path_descriptor("traces")) + wire.data(b"", b"")], "damaged"),
        ([wire._field(1, wire.path_descriptor("traces")) + wire.data(b"x" * 2**19, b"")], "schema of 524288 bytes"),
    ],
)
async def test_what_is_no_put_is_refused_in_words(door: Door, messages: list[bytes], words: str):
    error = await raw(door, messages)
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert words in error.details()


async def test_messages_in_another_order_than_a_stream_has_are_refused(door: Door):
    descriptor, data = raw_put(TRACES)
    schema = descriptor[len(wire._field(1, wire.path_descriptor("traces"))) :]
    empty = wire.data(pa.RecordBatch.from_arrays([], names=[]).serialize().to_pybytes()[8:], b"")
    for messages, words in [
        ([descriptor, schema], "one schema"),
        ([wire._field(1, wire.path_descriptor("traces")) + data[-1]], "damaged"),
        ([wire._field(1, wire.path_descriptor("traces")) + empty], "begins with its schema"),
        ([descriptor, data[-1]], "damaged"),  # without its dictionaries
        ([descriptor, *data[:-1], wire.data(b"", b"", b"only metadata"), data[-1][:-8]], "ends early"),
    ]:
        error = await raw(door, messages)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in error.details(), error.details()


def raw_put(batch: pa.RecordBatch, compression: str | None = None) -> tuple[bytes, list[bytes]]:
    """The messages of a DoPut: with descriptor and schema, and the others."""
    from otlp_arrow.storage.ipc import Message, walk

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    view = memoryview(sink.getvalue().to_pybytes())
    first, *others = (
        wire.data(view[m.start + 8 : m.body], view[m.body : m.end]) for m in walk(view) if isinstance(m, Message)
    )
    return wire._field(1, wire.path_descriptor("traces")) + first, others


async def raw(door: Door, messages: list[bytes]) -> Any:
    """The refusal that these messages meet."""

    def send() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{door.server.bound_port}") as channel:
            list(channel.stream_stream(f"/{SERVICE}/DoPut")(iter(messages), timeout=20))

    with pytest.raises(grpc.RpcError) as caught:
        await ask(send)
    return caught.value


# -- out -----------------------------------------------------------------------------------------


async def test_flights_are_listed_with_what_they_hold(door: Door):
    await ask(put, door.client, Signal.LOGS, BATCHES[Signal.LOGS])
    await ask(lambda: list(door.client.do_action("flush", TIMEOUT)))
    await ask(put, door.client, Signal.LOGS, BATCHES[Signal.LOGS])
    infos = {info.descriptor.path[0].decode(): info for info in await ask(lambda: list(door.client.list_flights()))}
    assert set(infos) == {"traces", "metrics", "logs"}
    assert infos["logs"].total_records == 2 * BATCHES[Signal.LOGS].num_rows
    assert infos["logs"].total_bytes > 0
    assert (infos["traces"].total_records, infos["traces"].total_bytes) == (0, 0)
    for signal in Signal:
        assert infos[signal.value].schema.equals(SCHEMAS[signal], check_metadata=True)
        table = await ask(lambda: door.client.do_get(infos[signal.value].endpoints[0].ticket).read_all())  # noqa: B023
        assert table.num_rows == infos[signal.value].total_records


async def test_a_flight_is_described_by_path_or_by_command(door: Door):
    path = await ask(door.client.get_flight_info, flight.FlightDescriptor.for_path("metrics"))
    assert path.total_records == 0
    asked = {"signal": "metrics", "start": 5, "end": 10, "columns": ["unit"]}
    descriptor = flight.FlightDescriptor.for_command(json.dumps(asked))
    command = await ask(door.client.get_flight_info, descriptor)
    assert command.total_records == -1
    assert json.loads(command.endpoints[0].ticket.ticket) == asked
    assert command.schema.names == ["unit"]
    assert (await ask(door.client.get_schema, descriptor)).schema.names == ["unit"]
    path_schema = await ask(door.client.get_schema, flight.FlightDescriptor.for_path("logs"))
    assert path_schema.schema.equals(SCHEMAS[Signal.LOGS])
    with pytest.raises(pa.ArrowInvalid, match="no flight 'x/y'"):
        await ask(door.client.get_schema, flight.FlightDescriptor.for_path("x", "y"))


def times(batch: pa.RecordBatch) -> list[int]:
    return batch.column("start_time_unix_nano").cast(pa.int64()).to_pylist()


async def spread_over_files(door: Door, count: int = 6) -> list[pa.RecordBatch]:
    """Batches a second apart: each in a segment of its own but the last two (one in a chunk, one gathered)."""
    batches = []
    for number in range(count):
        at = pa.array([number * 10**9 + row + 1 for row in range(TRACES.num_rows)]).cast(pa.timestamp("ns", "UTC"))
        batches.append(with_column(TRACES, "start_time_unix_nano", at))
    for batch in batches[:-2]:
        await ask(put, door.client, Signal.TRACES, batch)
        await door.pipeline.flush()
        await door.pipeline._writes.run(door.pipeline.store.close_segment, Signal.TRACES)
    assert len(door.pipeline.store.catalog.snapshot(Signal.TRACES)) == count - 2
    return batches


async def test_a_time_range_opens_only_the_files_that_may_hold_it(door: Door, monkeypatch: pytest.MonkeyPatch):
    batches = await spread_over_files(door)
    opened = []
    real = pa.memory_map
    monkeypatch.setattr(pa, "memory_map", lambda path, *a: opened.append(path) or real(path, *a))
    table = await ask(lambda: get(door.client, Signal.TRACES, start=10**9 + 3, end=2 * 10**9 + 3))
    found = [t for b in table.to_batches() for t in times(b)]
    assert found == times(batches[1])[2:] + times(batches[2])[:2]
    assert len(opened) == 2
    iso = await ask(lambda: get(door.client, Signal.TRACES, start="1970-01-01T00:00:03+00:00"))
    assert [t for b in iso.to_batches() for t in times(b)] == times(batches[3])
    nothing = await ask(lambda: get(door.client, Signal.TRACES, start=10**12))
    assert nothing.num_rows == 0
    assert nothing.schema.equals(SCHEMAS[Signal.TRACES])


async def test_columns_may_be_chosen(door: Door):
    await ask(put, door.client, Signal.TRACES, TRACES)
    table = await ask(lambda: get(door.client, Signal.TRACES, columns=["name", "attributes"]))
    assert table.schema.names == ["name", "attributes"]
    assert table.column("name").to_pylist() == TRACES.column("name").to_pylist()


async def test_a_log_record_without_a_time_is_found_by_when_it_was_observed(door: Door):
    logs = BATCHES[Signal.LOGS]
    nulls = pa.nulls(logs.num_rows, logs.column("time_unix_nano").type)
    observed = pa.array(range(1, logs.num_rows + 1)).cast(nulls.type)
    batch = with_column(with_column(logs, "time_unix_nano", nulls), "observed_time_unix_nano", observed)
    unknown = with_column(batch, "observed_time_unix_nano", nulls)
    await ask(put, door.client, Signal.LOGS, batch, unknown)
    for _ in range(2):
        assert (await ask(lambda: get(door.client, Signal.LOGS, start=2, end=4))).num_rows == 2
        assert (await ask(get, door.client, Signal.LOGS)).num_rows == 2 * logs.num_rows
        await door.pipeline.flush()


@pytest.mark.parametrize(
    ("ticket", "words"),
    [
        (b"traces", "JSON"),
        (b"[]", "keys signal, start, end, columns"),
        (b'{"signal": "traces", "limit": 5}', "keys signal"),
        (b'{"signal": "profiles"}', "no flight 'profiles'"),
        (b"{}", "no flight ''"),
        (b'{"signal": "traces", "start": "yesterday"}', "'start' of a ticket"),
        (b'{"signal": "traces", "end": "2026-01-01T00:00:00"}', "time zone"),
        (b'{"signal": "traces", "end": -1}', "'end' of a ticket"),
        (b'{"signal": "traces", "end": true}', "'end' of a ticket"),
        (b'{"signal": "traces", "columns": []}', "list of column names"),
        (b'{"signal": "traces", "columns": ["body"]}', "column 'body'"),
        (b'{"signal": "traces", "columns": ["name", "name"]}', "twice"),
        (b"[" * 100_000, "100000 bytes"),
    ],
)
async def test_a_ticket_that_makes_no_sense_is_refused_in_words(door: Door, ticket: bytes, words: str):
    with pytest.raises(pa.ArrowException, match="INVALID_ARGUMENT") as caught:
        await ask(lambda: door.client.do_get(flight.Ticket(ticket), options=TIMEOUT).read_all())
    assert words in str(caught.value)


async def test_every_row_is_read_once_while_writing_goes_on(tmp_path: Path):
    """Rows move from the gathering to chunks to segments while readers look: none twice, none missing."""
    settings = PipelineSettings(
        replace(StorageSettings(tmp_path), max_file_size=200_000), write_interval_secs=0.02, max_batch_rows=64
    )
    numbered = [
        with_column(
            TRACES.slice(0, 10), "span_id", pa.array([(n * 10 + i + 1).to_bytes(8) for i in range(10)], pa.binary(8))
        )
        for n in range(80)
    ]
    async with open_door(tmp_path, settings) as door:
        acknowledged = 0
        done = asyncio.Event()

        async def write() -> None:
            nonlocal acknowledged
            for batch in numbered:
                await ask(put, door.client, Signal.TRACES, batch)
                acknowledged += batch.num_rows
            done.set()

        async def read() -> int:
            looks = 0
            while not done.is_set():
                at_least = acknowledged
                table = await ask(lambda: get(door.client, Signal.TRACES, columns=["span_id"]))
                found = [int.from_bytes(i) for i in table.column("span_id").to_pylist()]
                assert found == list(range(1, len(found) + 1))
                assert len(found) >= at_least
                looks += 1
            return looks

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            readers = [tasks.create_task(read()) for _ in range(2)]
        assert all(reader.result() > 3 for reader in readers)
        assert (await ask(get, door.client, Signal.TRACES)).num_rows == 800


async def test_a_large_result_comes_in_messages_that_any_client_takes(door: Door):
    wide = with_column(TRACES, "status_message", pa.array(["x" * 150_000] * TRACES.num_rows))
    await ask(put, door.client, Signal.TRACES, *[wide] * 3)
    await door.pipeline.flush()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{door.server.bound_port}") as channel:
        call = channel.unary_stream(f"/{SERVICE}/DoGet")(flight.Ticket(b'{"signal": "traces"}').serialize(), timeout=20)
        sizes = [len(message) async for message in call]  # the client's own limit is 4 MiB
    assert len(sizes) > 3
    assert max(sizes) < 1.2 * limits.FLIGHT_MESSAGE_BYTES
    assert (await ask(get, door.client, Signal.TRACES)).num_rows == 3 * TRACES.num_rows


async def test_a_segment_that_retention_deletes_meanwhile_is_passed_over(door: Door):
    await spread_over_files(door)
    snapshot = await door.pipeline.snapshot(Signal.TRACES)
    segment = snapshot.segments[1]
    segment.path.unlink()
    assert sum(batch.num_rows for batch in snapshot.rows()) == 3 * TRACES.num_rows


async def test_a_segment_that_cannot_be_read_is_an_error_and_the_door_lives(door: Door):
    await spread_over_files(door)
    segment = door.pipeline.store.catalog.snapshot(Signal.TRACES)[1]
    damaged = bytearray(segment.path.read_bytes())
    damaged[len(damaged) // 2 :] = b"\xff" * (len(damaged) - len(damaged) // 2)
    segment.path.write_bytes(damaged)
    with pytest.raises(flight.FlightInternalError, match="its log says more"):
        await ask(get, door.client, Signal.TRACES)
    assert (await ask(lambda: get(door.client, Signal.TRACES, end=10**9))).num_rows == TRACES.num_rows
    assert door.meter.outcomes["failed"] == 1


async def test_a_reader_that_goes_away_leaves_nothing_behind(door: Door):
    wide = with_column(TRACES, "status_message", pa.array(["x" * 150_000] * TRACES.num_rows))
    for _ in range(3):
        await ask(put, door.client, Signal.TRACES, wide)
        await door.pipeline.flush()

    def look_once() -> None:
        reader = door.client.do_get(flight.Ticket(b'{"signal": "traces"}'), options=TIMEOUT)
        reader.read_chunk()
        reader.cancel()

    for _ in range(limits.MAX_FLIGHT_READS * 2):
        await ask(look_once)
    assert (await ask(get, door.client, Signal.TRACES)).num_rows == 3 * TRACES.num_rows
    await until(lambda: door.server._service.in_flight.count == 0)


async def test_readers_that_stop_reading_lose_their_places(door: Door, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "FLIGHT_STALL_S", 0.2)
    wide = with_column(TRACES, "status_message", pa.array([secrets.token_hex(75_000) for _ in range(TRACES.num_rows)]))
    for _ in range(2):
        await ask(put, door.client, Signal.TRACES, wide)
        await door.pipeline.flush()
    ticket = flight.Ticket(b'{"signal": "traces"}')
    with contextlib.ExitStack() as stalled:
        for _ in range(limits.MAX_FLIGHT_READS):
            client = stalled.enter_context(flight.connect(("127.0.0.1", door.server.bound_port)))
            reader = await ask(client.do_get, ticket)
            stalled.callback(reader.cancel)
            await ask(reader.read_chunk)
        await until(lambda: door.server._service.reads._value == limits.MAX_FLIGHT_READS)
        monkeypatch.setattr(limits, "FLIGHT_STALL_S", 30)
        assert (await ask(get, door.client, Signal.TRACES)).num_rows == 2 * TRACES.num_rows
    await until(lambda: door.server._service.in_flight.count == 0)


async def test_readers_wait_for_a_place_and_then_are_told_to_come_back(door: Door, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "FLIGHT_WAIT_S", 0.05)
    for _ in range(limits.MAX_FLIGHT_READS):
        await door.server._service.reads.acquire()
    with pytest.raises(flight.FlightUnavailableError, match="the other readers"):
        await ask(get, door.client, Signal.TRACES)
    for _ in range(limits.MAX_FLIGHT_READS):
        door.server._service.reads.release()
    assert (await ask(get, door.client, Signal.TRACES)).num_rows == 0


# -- actions, credentials, the end -----------------------------------------------------------------


async def test_flush_writes_everything_into_segments(door: Door):
    await ask(put, door.client, Signal.TRACES, TRACES)
    (result,) = await ask(lambda: list(door.client.do_action("flush", TIMEOUT)))
    assert result.body.to_pybytes() == b"{}"
    (segment,) = door.pipeline.store.catalog.snapshot(Signal.TRACES)
    assert segment.rows == TRACES.num_rows


async def test_health_and_the_list_of_actions(tmp_path: Path):
    async with open_door(tmp_path, health=lambda: {"status": "ok"}) as door:
        (result,) = await ask(lambda: list(door.client.do_action("health", TIMEOUT)))
        assert json.loads(result.body.to_pybytes()) == {"status": "ok"}
        actions = await ask(door.client.list_actions)
        assert [action.type for action in actions] == ["flush", "health"]
        with pytest.raises(pa.ArrowInvalid, match="no action 'shutdown'; there are flush, health"):
            await ask(lambda: list(door.client.do_action("shutdown", TIMEOUT)))


async def test_every_method_asks_for_credentials(tmp_path: Path):
    async with open_door(tmp_path, auth=Authenticator(bearer_tokens=["hunter2"])) as door:
        client = door.client
        calls: list[Callable[..., Any]] = [
            lambda o: put(client, Signal.TRACES, TRACES, options=o),
            lambda o: client.do_get(flight.Ticket(b'{"signal": "traces"}'), o).read_all(),
            lambda o: list(client.list_flights(options=o)),
            lambda o: client.get_flight_info(flight.FlightDescriptor.for_path("traces"), o),
            lambda o: client.get_schema(flight.FlightDescriptor.for_path("traces"), o),
            lambda o: list(client.do_action("flush", o)),
            lambda o: client.list_actions(o),
        ]
        for value in (b"Bearer wrong", b"Bearer hunter2"):
            options = flight.FlightCallOptions(timeout=20, headers=[(b"authorization", value)])
            for call in calls:
                if value == b"Bearer wrong":
                    with pytest.raises((flight.FlightUnauthenticatedError, OSError), match="credentials are needed"):
                        await ask(call, options)
                else:
                    await ask(call, options)
        assert door.meter.outcomes == {"unauthenticated": len(calls), "ok": 1}


@pytest.mark.parametrize("mutual", [False, True])
async def test_the_door_speaks_tls(tmp_path: Path, mutual: bool):
    certificates = Certificates(tmp_path)
    async with open_door(tmp_path / "out", tls=certificates.server(mutual=mutual)) as door:
        location = f"grpc+tls://localhost:{door.server.bound_port}"
        options: dict[str, Any] = {"tls_root_certs": certificates.ca.read_bytes()}
        if mutual:
            with pytest.raises(flight.FlightError), flight.connect(location, **options) as stranger:
                await ask(lambda: list(stranger.list_flights(options=TIMEOUT)))
            issued = certificates.authority.issue_cert("client.example")
            options["cert_chain"] = issued.cert_chain_pems[0].bytes()
            options["private_key"] = issued.private_key_pem.bytes()
        with flight.connect(location, **options) as client:
            assert len(await ask(put, client, Signal.TRACES, TRACES)) == 1


async def test_a_put_under_way_at_the_end_is_told_to_come_back_and_nothing_hangs(tmp_path: Path):
    async with open_door(tmp_path, grace_s=0.1) as door:
        descriptor = flight.FlightDescriptor.for_path("traces")
        writer, reader = await ask(lambda: door.client.do_put(descriptor, TRACES.schema, options=TIMEOUT))
        await ask(writer.write_batch, TRACES)
        await ask(reader.read)
    with pytest.raises(flight.FlightError):
        await ask(writer.close)


async def test_a_port_that_is_taken_is_named(door: Door, tmp_path: Path):
    with pytest.raises(OtlpServerError, match=r"Arrow Flight cannot listen .* protocols\.arrow_flight_port"):
        async with open_door(tmp_path / "other", port=door.server.bound_port):
            pass


async def test_a_disk_that_refuses_is_a_retryable_error_and_ends_the_stream(
    door: Door, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any, **__: Any) -> None:
        raise Busy("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(type(door.pipeline.intake), "submit", refuse)
        with pytest.raises(flight.FlightUnavailableError, match="the disk is full"):
            await ask(put, door.client, Signal.TRACES, TRACES, TRACES)
        door.pipeline.intake._reserved_bytes = 0  # the stand-in did not take the tickets over
    assert door.meter.outcomes["busy"] == 1
