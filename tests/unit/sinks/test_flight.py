"""The Flight messages that are written by hand, against pyarrow's own server."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from otlp_arrow import codec
from otlp_arrow.model import Signal
from otlp_arrow.sinks.convert import arrow_batch
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.flight import FlightSink, _app_metadata, encode_put
from otlp_arrow.sinks.sink import DeliveryResult, Permanent, Transient
from remotes import spans
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


async def put(server: Stock, signal: Signal, payload: bytes, compression: str = "none") -> DeliveryResult:
    there = Destination("d", f"http://127.0.0.1:{server.port}", "arrow_flight", compression=compression)
    async with FlightSink(there) as sink:
        return await sink.send(arrow_batch(signal, codec.decode(signal, payload)))


@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_a_stock_server_reads_what_is_put(sample: Sample, compression: str):
    with Stock(None) as server:
        assert await put(server, sample.signal, sample.payload, compression) == DeliveryResult()
        ((path, table),) = server.taken
    assert path == [sample.signal.value.encode()]
    assert table.combine_chunks().to_batches()[0].equals(codec.decode(sample.signal, sample.payload))


@pytest.mark.parametrize("answer", [None, b"", b"thanks", b"[1]", b'{"rows": 2}', b'{"rejected": "x"}'])
async def test_whatever_else_a_server_answers_is_a_success(answer: bytes | None):
    with Stock(answer) as server:
        assert await put(server, Signal.TRACES, spans(2)) == DeliveryResult()


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
async def test_errors_of_a_stock_server_are_told_apart(error: Exception, kind: type[Exception]):
    with Stock(None, error) as server, pytest.raises(kind):
        await put(server, Signal.TRACES, spans(1))


def test_long_answers_have_long_prefixes():
    answer = b'{"message": "' + b"x" * 300 + b'"}'
    wire = b"\x0a" + bytes([len(answer) & 0x7F | 0x80, len(answer) >> 7]) + answer
    assert _app_metadata(wire) == answer
    assert _app_metadata(b"") == b""
    assert _app_metadata(b"\x12\x01x") == b""


def test_the_schema_comes_first_and_only_it_names_the_signal():
    messages = encode_put(Signal.TRACES, codec.decode(Signal.TRACES, spans(3)))
    assert b"traces" in messages[0][:16]
    assert all(message[:1] != b"\x0a" for message in messages[1:])
