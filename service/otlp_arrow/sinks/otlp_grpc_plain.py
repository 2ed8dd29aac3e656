"""OTLP over gRPC without TLS: the stored requests go out from where they lie."""

from __future__ import annotations

import asyncio
import zlib
from types import TracebackType
from typing import Self

from otlp_arrow.model import Batch, Encoding, Parts
from otlp_arrow.model.limits import COMPRESS_INLINE_BYTES
from otlp_arrow.sinks.destination import GRPC_METHODS, Destination
from otlp_arrow.sinks.plain_grpc import PlainGrpc, framed
from otlp_arrow.sinks.replies import partial_success
from otlp_arrow.sinks.sink import DeliveryResult

_GZIP_LEVEL = 1  # a third of the time of the default for a tenth more bytes


class PlainGrpcSink:
    """One connection to one remote."""

    encoding = Encoding.OTLP
    takes_parts = True

    def __init__(self, destination: Destination) -> None:
        self._grpc = PlainGrpc(destination)
        self._gzip = destination.compression == "gzip"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._grpc.close()

    async def send(self, batch: Batch) -> DeliveryResult:
        """See ``Sink.send``."""
        assert batch.encoding is Encoding.OTLP
        parts = batch.payload.parts if isinstance(batch.payload, Parts) else (batch.payload,)
        method = GRPC_METHODS[batch.signal]
        if self._gzip:
            small = await _compressed(parts)
            message = framed(len(small), compressed=True), small
            replies = await self._grpc.call(method, message, [("grpc-encoding", "gzip")])
        else:
            replies = await self._grpc.call(method, (framed(len(batch.payload)), *parts))
        return partial_success(batch.signal, replies[0] if replies else b"")


async def _compressed(parts: tuple[bytes | memoryview, ...]) -> bytes:
    def compress() -> bytes:
        return zlib.compress(b"".join(parts), _GZIP_LEVEL, wbits=31)

    return compress() if sum(map(len, parts)) <= COMPRESS_INLINE_BYTES else await asyncio.to_thread(compress)
