"""OTLP over gRPC by gRPC's own library, where the compiled door (``otlp_grpc``) was not built.

Nothing is deserialized, logged or looked up per call that can be prepared: a full success is one constant. Calls are
served as if they were client streams (on the wire the same thing): so the message is read by us, after authentication
and after a look at whether there is room, instead of by the library before either. It costs nothing (measured: equal
within noise to the unary kind).

Bounds, and who keeps them:

* Message size, before and after gzip: the library, by ``grpc.max_receive_message_length``; RESOURCE_EXHAUSTED
  without RetryInfo. Inflation stops at the bound from grpcio 1.82.3 on (1 MiB of gzip that holds 1 GiB:
  the process grew by 200 MB while two such calls were refused; with 1.82.0 by 1.1 GB).
* Calls at a time: ``MAX_CONCURRENT_STREAMS`` a connection, kept by the library on both sides; what it refuses
  is retryable. ``maximum_concurrent_rpcs`` is not used: it answers RESOURCE_EXHAUSTED, on which senders
  drop the data.
* Memory of messages: the intake, when the message is there. Once it has refused one, further calls
  are refused unread until it has room again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from otlp_arrow.model import Batch, Busy, Rejected, Signal, limits
from otlp_arrow.model.meter import REQUESTS, Meter
from otlp_arrow.receivers import replies
from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.grpc_common import Guarded, channel_options, listen, set_status
from otlp_arrow.receivers.in_flight import InFlight
from otlp_arrow.receivers.intake import Intake
from otlp_arrow.receivers.listen import Place
from otlp_arrow.receivers.services import SERVICES
from otlp_arrow.receivers.tls import ServerTls

log = structlog.get_logger(__name__)

_DOOR = ("otlp", "grpc")
_FULL_SUCCESS = b""


class AioOtlpGrpcServer:
    """The door for OTLP/gRPC, open inside ``async with``; leaving lets calls in flight finish.

    ``bound_port`` is the port it got (``port`` 0 takes a free one). ``auth`` guards the export services,
    never health. Opening raises ``OtlpServerError`` if the port is not to be had.
    """

    def __init__(
        self,
        intake: Intake[Any],
        *,
        host: str,
        port: int,
        max_request_bytes: int = limits.MAX_REQUEST_BYTES,
        auth: Authenticator | None = None,
        tls: ServerTls | None = None,
        meter: Meter,
        grace_s: float = limits.DOOR_GRACE_S,
    ) -> None:
        self._place = Place("OTLP/gRPC", host, port, "protocols.protobuf_port")
        self._tls = tls
        self._grace_s = grace_s
        self._options = channel_options(max_receive_bytes=max_request_bytes, max_send_bytes=limits.MAX_REPLY_BYTES)
        self._exports = _ExportServices(intake, meter)
        services: list[grpc.GenericRpcHandler] = [self._exports]
        if auth is not None:
            services = [Guarded(service, auth, meter, _DOOR) for service in services]
        self._services = services
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self.bound_port = 0

    async def __aenter__(self) -> AioOtlpGrpcServer:
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers(self._services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self.bound_port = listen(server, self._place, self._tls)
        await self.set_serving(True)
        self._server = server
        try:
            await server.start()
        except BaseException:
            await server.stop(None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._grace_s)
        await self._exports.in_flight.none_left(limits.DOOR_GRACE_S)

    async def set_serving(self, serving: bool) -> None:
        """What the health service answers, for the whole server and for each export service."""
        answer = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *SERVICES.values()):
            await self._health.set(name, answer)


class _ExportServices(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The three Export methods."""

    def __init__(self, intake: Intake[Any], meter: Meter) -> None:
        self._intake = intake
        self._meter = meter
        self._full = False  # the last call was refused for want of room
        self.in_flight = InFlight()
        self._methods = {
            f"/{service}/Export": grpc.stream_unary_rpc_method_handler(self._exporter(signal))
            for signal, service in SERVICES.items()
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(details.method)

    def _exporter(self, signal: Signal) -> Callable[[Any, grpc.aio.ServicerContext], Any]:
        accept = self._intake.accept
        add = self._meter.add
        in_flight = self.in_flight

        async def export(_messages: Any, call: grpc.aio.ServicerContext) -> bytes:
            try:
                with in_flight:
                    if self._full:
                        self._look_for_room()
                    payload = await call.read()
                    if payload is grpc.aio.EOF:
                        raise Rejected("the call ended without a message, or its message is over the limit")
                    receipt = await accept(Batch(signal, payload))
            except (asyncio.CancelledError, grpc.aio.BaseError):  # the client went away, or a stop has no more time
                add(REQUESTS, 1, *_DOOR, "cancelled")
                raise
            except Exception as error:
                return self._refuse(call, error)
            if receipt.rejected or receipt.message:
                add(REQUESTS, 1, *_DOOR, "partial" if receipt.rejected else "ok")
                return replies.partial_success(signal, receipt)
            add(REQUESTS, 1, "otlp", "grpc", "ok")
            return _FULL_SUCCESS

        return export

    def _look_for_room(self) -> None:
        """Raises ``Busy`` as long as the intake is full, so that senders who come at once again cost little."""
        self._intake.admit(1).release()
        self._full = False

    def _refuse(self, call: grpc.aio.ServicerContext, error: Exception) -> bytes:
        if isinstance(error, Busy):
            self._full = True
        refused = replies.refusal(error)
        if refused.outcome == "failed":
            log.error("a request failed for a reason of our own", exc_info=error)
        self._meter.add(REQUESTS, 1, *_DOOR, refused.outcome)
        # Set rather than ``abort``, which costs an exception; the reply bytes are dropped with an error.
        set_status(call, refused)
        return b""
