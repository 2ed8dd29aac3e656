"""Arrow Flight: ``DoPut`` of batches in the storage schema, confirmed by the server's ``PutResult``.

Flight is gRPC with four little messages, and they are written here by hand: pyarrow's client blocks a thread
for each call, cannot be cancelled, and hides what a server says about when to come back.
Format: https://arrow.apache.org/docs/format/Flight.html#protocol-buffer-definitions

::

    DoPut       stream of FlightData → stream of PutResult
    FlightData  1 descriptor (first message only), 2 data_header, 1000 data_body
    descriptor  1 type = 1 (path), 3 path        PutResult  1 app_metadata
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc.aio
import pyarrow as pa

from otlp_arrow.model import Batch, Encoding, Signal
from otlp_arrow.sinks.channel import Channel, judge
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.retry import one_line
from otlp_arrow.sinks.sink import DeliveryResult, Transient
from otlp_arrow.storage.ipc import Message, walk

METHOD = "/arrow.flight.protocol.FlightService/DoPut"

_DESCRIPTOR, _HEADER, _BODY, _APP_METADATA = b"\x0a", b"\x12", b"\xc2\x3e", b"\x0a"
_LOST_STATUS = "Internal error from Core"
_PREFIX_BYTES = 8  # before the flatbuffer of an encapsulated IPC message


class FlightSink:
    """One channel to one remote; each batch is a ``DoPut`` of its own."""

    encoding = Encoding.ARROW

    def __init__(self, destination: Destination) -> None:
        self._timeout_s = destination.timeout_s
        self._compression = "zstd" if destination.compression == "zstd" else None
        self._channel: Channel[Any] = Channel(destination, lambda channel: channel.stream_stream(METHOD))

    async def __aenter__(self) -> Self:
        self._channel.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def send(self, batch: Batch) -> DeliveryResult:
        """See ``Sink.send``."""
        assert batch.columns is not None
        do_put = await self._channel.calls()
        messages = await asyncio.to_thread(encode_put, batch.signal, batch.columns, self._compression)
        try:
            answers = await self._put(do_put, messages)
        except grpc.aio.AioRpcError as error:
            if error.details() == _LOST_STATUS:
                await self._ask_why(do_put, messages)
            raise judge(error) from None
        return _result(answers, batch.columns.num_rows)

    async def _put(self, do_put: Any, messages: list[bytes]) -> list[bytes]:
        call = do_put(messages, metadata=self._channel.metadata(), timeout=self._timeout_s)
        try:
            return [_app_metadata(answer) async for answer in call]
        finally:
            call.cancel()  # of no effect once it is done

    async def _ask_why(self, do_put: Any, messages: list[bytes]) -> None:
        """A server that refuses before it has read everything is not heard: gRPC's client stumbles over the
        message that it cannot send any more. The schema alone is through before the answer comes.

        Raises what the server says to it, and ``Transient`` if it has nothing against it.
        """
        try:
            await self._put(do_put, messages[:1])
        except grpc.aio.AioRpcError as error:
            if error.details() != _LOST_STATUS:
                raise judge(error) from None
        raise Transient("the remote ended the call before it had read everything") from None


def encode_put(signal: Signal, columns: pa.RecordBatch, compression: str | None = None) -> list[bytes]:
    """The messages of a ``DoPut`` of one batch: schema, dictionaries, rows."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
    with pa.ipc.new_stream(sink, columns.schema, options=options) as writer:
        writer.write_batch(columns)
    stream = memoryview(sink.getvalue())
    path = signal.value.encode()
    descriptor = b"\x08\x01\x1a" + _length(path) + path
    return list(_flight_data(stream, _DESCRIPTOR + _length(descriptor) + descriptor))


def _flight_data(stream: memoryview, descriptor: bytes) -> Iterator[bytes]:
    for message in walk(stream):
        if isinstance(message, Message):
            header = stream[message.start + _PREFIX_BYTES : message.body]
            body = stream[message.body : message.end]
            yield b"".join((descriptor, _HEADER, _length(header), header, _BODY, _length(body), body))
            descriptor = b""


def _length(data: bytes | memoryview) -> bytes:
    """The varint before a field of bytes."""
    left = len(data)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def _app_metadata(put_result: bytes) -> bytes:
    """The one field of a ``PutResult``; empty if it is absent or something else."""
    length = shift = 0
    for at, byte in enumerate(put_result[1:11], 2):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return put_result[at : at + length] if put_result.startswith(_APP_METADATA) else b""
    return b""


def _result(answers: list[bytes], rows: int) -> DeliveryResult:
    """Of the metadata that servers of ours send; others send what they like, or nothing."""
    rejected, message = 0, ""
    for answer in answers:
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            found = json.loads(answer)
            rejected += int(found.get("rejected", 0))
            message = str(found.get("message", "")) or message
    return DeliveryResult(min(max(0, rejected), rows), one_line(message))
