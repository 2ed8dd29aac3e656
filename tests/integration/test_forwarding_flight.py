"""The Flight sink against pyarrow's own server, as anybody would write one."""

from __future__ import annotations

import asyncio
import threading

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from otlp_arrow import codec
from otlp_arrow.model import Batch, Encoding, Signal
from otlp_arrow.sinks.convert import arrow_batch, convert
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.flight import FlightSink
from otlp_arrow.sinks.sink import DeliveryResult, Permanent, Transient
from otlp_arrow.storage.frames import Frame
from remotes import spans, until
from samples import Sample


class Stock(flight.FlightServerBase):
    """pyarrow's server as anybody would write it."""

    def __init__(self, answer: bytes | None, error: Exception | None = None) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self.answer = answer
        self.error = error
        self.taken: list[tuple[list[bytes], pa.Table]] = []

    def do_put(self, context, descriptor, reader, writer) -> None:
        if self.error is not None:
            raise self.error
        self.taken.append((descriptor.path, reader.read_all()))
        if self.answer is not None:
            writer.write(self.answer)


def messages(signal: Signal, payload: bytes) -> Batch:
    """As ours go out where nothing stands between."""
    frame = Frame(1, signal, Encoding.OTLP, 1, 1, payload)
    builder = codec.new_builder(signal)
    made = convert([frame], Encoding.ARROW, builder, join=False, give_back=lambda builder: None).batch
    assert made is not None
    return made


async def put(
    server: Stock, signal: Signal, payload: bytes, compression: str = "none", *, ours: bool = False
) -> DeliveryResult:
    there = Destination("d", f"http://127.0.0.1:{server.port}", "arrow_flight", compression=compression)
    async with FlightSink(there) as sink:
        batch = messages(signal, payload) if ours else arrow_batch(signal, codec.decode(signal, payload))
        return await sink.send(batch)


@pytest.mark.parametrize(("compression", "ours"), [("none", True), ("none", False), ("zstd", False)])
async def test_a_stock_server_reads_what_is_put(sample: Sample, compression: str, ours: bool):
    with Stock(None) as server:
        assert await put(server, sample.signal, sample.payload, compression, ours=ours) == DeliveryResult()
        ((path, table),) = server.taken
    assert path == [sample.signal.value.encode()]
    assert table.combine_chunks().to_batches()[0].equals(codec.decode(sample.signal, sample.payload))


async def test_a_large_batch_goes_in_parts_that_are_one_put(sample: Sample, monkeypatch: pytest.MonkeyPatch):
    from otlp_arrow.sinks import flight as sink

    columns = codec.decode(sample.signal, sample.payload)
    monkeypatch.setattr(sink, "FLIGHT_PUT_BYTES", columns.nbytes // 3)
    parts = list(sink._parts(columns))
    assert len(parts) == min(3, columns.num_rows) or len(parts) == 4
    with Stock(None) as server:
        assert await put(server, sample.signal, sample.payload) == DeliveryResult()
        ((_path, table),) = server.taken
    assert table.num_rows == columns.num_rows
    assert table.combine_chunks().to_batches()[0].equals(columns)


@pytest.mark.parametrize("answer", [None, b"", b"thanks", b"[1]", b'{"rows": 2}', b'{"rejected": "x"}'])
@pytest.mark.parametrize("ours", [True, False])
async def test_whatever_else_a_server_answers_is_a_success(answer: bytes | None, ours: bool):
    with Stock(answer) as server:
        assert await put(server, Signal.TRACES, spans(2), ours=ours) == DeliveryResult()


async def test_rejected_rows_are_never_more_than_were_put():
    with Stock(b'{"rejected": 99, "message": "no"}') as server:
        assert await put(server, Signal.TRACES, spans(2)) == DeliveryResult(2, "no")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (flight.FlightUnavailableError("later"), Transient),
        (flight.FlightUnauthenticatedError("who"), Transient),
        (NotImplementedError(), Transient),
        (pa.ArrowInvalid("bad column"), Permanent),
        (ValueError("a mistake of the server"), Permanent),
    ],
)
@pytest.mark.parametrize("ours", [True, False])
async def test_errors_of_a_stock_server_are_told_apart(error: Exception, kind: type[Exception], ours: bool):
    with Stock(None, error) as server, pytest.raises(kind):
        await put(server, Signal.TRACES, spans(1), ours=ours)


async def test_a_call_that_hangs_holds_up_neither_the_others_nor_the_end():
    release = threading.Event()

    class Hanging(Stock):
        def do_put(self, context, descriptor, reader, writer) -> None:
            if len(self.taken) == 0:
                self.taken.append(([], reader.read_all()))
                release.wait(30)
            else:
                super().do_put(context, descriptor, reader, writer)

    with Hanging(b"{}") as server:
        there = Destination("d", f"http://127.0.0.1:{server.port}", "arrow_flight", timeout_s=30)
        batch = arrow_batch(Signal.TRACES, codec.decode(Signal.TRACES, spans(1)))
        async with FlightSink(there) as sink:
            hanging = asyncio.create_task(sink.send(batch))
            await until(lambda: server.taken)
            assert await sink.send(batch) == DeliveryResult()
            hanging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hanging
            assert await sink.send(batch) == DeliveryResult()
        release.set()
        await until(lambda: not any(t.name.startswith("otlp-flight-d") for t in threading.enumerate()))
