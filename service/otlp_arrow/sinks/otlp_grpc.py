"""OTLP over gRPC: the stored bytes go out as they are."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import grpc.aio

from otlp_arrow.model import Batch, Encoding, Signal
from otlp_arrow.sinks.channel import Channel, judge
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.replies import partial_success
from otlp_arrow.sinks.sink import DeliveryResult

METHODS = {
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    Signal.METRICS: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}


class OtlpGrpcSink:
    """One channel to one remote."""

    encoding = Encoding.OTLP

    def __init__(self, destination: Destination) -> None:
        self._timeout_s = destination.timeout_s
        self._channel: Channel[dict[Signal, Any]] = Channel(destination, _calls_of)

    async def __aenter__(self) -> Self:
        self._channel.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def send(self, batch: Batch) -> DeliveryResult:
        """See ``Sink.send``."""
        assert batch.encoding is Encoding.OTLP
        calls = await self._channel.calls()
        try:
            reply = await calls[batch.signal](batch.payload, metadata=self._channel.metadata(), timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise judge(error) from None
        return partial_success(batch.signal, reply)


def _calls_of(channel: grpc.aio.Channel) -> dict[Signal, Any]:
    return {signal: channel.unary_unary(method) for signal, method in METHODS.items()}
