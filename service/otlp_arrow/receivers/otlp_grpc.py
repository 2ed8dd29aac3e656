"""OTLP over gRPC: the bytes of each call go to the intake as they came.

This is the hottest path of the product. gRPC's own library spends some 300 µs of CPU on a call before our code
sees it, six times what keeping a span costs (docs/decisions/0009); so HTTP/2 is read by a compiled module
(``_http2``), nothing is deserialized, logged or looked up per call that can be prepared, and no task is
made for a call: its answer is a callback of the intake's future.

Bounds, and who keeps them:

* Messages, calls and connections: ``http2_door``. A message over the limit, as sent or inflated, is RESOURCE_EXHAUSTED
  without RetryInfo.
* Memory of whole messages: the intake. Once it has refused one, further calls are refused at their headers
  until it has room again.
"""

from __future__ import annotations

import asyncio
import functools
from enum import Enum
from types import TracebackType
from typing import Any

from otlp_arrow.model import Batch, Busy, Receipt, Rejected, Signal, Unauthenticated, limits
from otlp_arrow.model.meter import REQUESTS, Meter
from otlp_arrow.receivers import replies
from otlp_arrow.receivers._http2 import GRPC_HEADERS, GRPC_OK, Stream
from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.http2_door import Door, DoorConnection, is_grpc, message
from otlp_arrow.receivers.inflating import Reservation
from otlp_arrow.receivers.intake import Intake
from otlp_arrow.receivers.listen import Place
from otlp_arrow.receivers.protobuf_fields import last_bytes
from otlp_arrow.receivers.services import SERVICES, Code
from otlp_arrow.receivers.tls import ServerTls

_DOOR = ("otlp", "grpc")
_HEALTH = "grpc.health.v1.Health"
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3  # HealthCheckResponse.ServingStatus


class _Health(Enum):
    CHECK = "Check"
    WATCH = "Watch"


class OtlpGrpcServer:
    """The door for OTLP/gRPC, open inside ``async with``; leaving lets calls in flight finish.

    ``bound_port`` is the port it got (``port`` 0 takes a free one). ``auth`` guards the export services, never
    health. Opening raises ``OtlpServerError`` if the port is not to be had.
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
        self._exports = _Exports(intake, max_message_bytes=max_request_bytes, auth=auth, meter=meter, name="otlp-grpc")
        self.bound_port = 0

    async def __aenter__(self) -> OtlpGrpcServer:
        self._exports.set_serving(_SERVING)
        self.bound_port = await self._exports.open(self._place, self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exports.close(self._grace_s)

    async def set_serving(self, serving: bool) -> None:
        """What the health service answers, for the whole server and for each export service."""
        self._exports.set_serving(_SERVING if serving else _NOT_SERVING)


class _Exports(Door):
    """What the connections of the door share."""

    labels = _DOOR

    def __init__(self, intake: Intake[Any], **options: Any) -> None:
        super().__init__(intake, **options)
        self.full = False  # the last call was refused for want of room
        self.methods: dict[bytes, Signal | _Health] = {
            f"/{service}/Export".encode(): signal for signal, service in SERVICES.items()
        }
        self.methods |= {f"/{_HEALTH}/{method.value}".encode(): method for method in _Health}
        self._status = _NOT_SERVING
        self._watchers: dict[Stream, _Connection] = {}

    def connection(self) -> _Connection:
        return _Connection(self)

    def look_for_room(self) -> None:
        """Raises ``Busy`` as long as the intake is full, so that senders who come at once again cost little."""
        self.intake.admit(1).release()
        self.full = False

    async def keep_compressed(self, signal: Signal, stream: Stream) -> Receipt:
        """Keep the message of a call that compressed it."""
        reservation = Reservation(self.intake, len(stream.message))
        try:
            body = await self.inflated(stream, stream.message, reservation)
        except BaseException:
            reservation.ticket.release()
            raise
        return await self.intake.accept(Batch(signal, body), reservation.ticket)

    async def close(self, grace_s: float) -> None:
        self.set_serving(_NOT_SERVING)
        for stream, connection in list(self._watchers.items()):
            connection.refuse(stream, replies.Refusal("ok", Code.UNAVAILABLE, 503, "the collector is stopping"))
        self._watchers.clear()
        await super().close(grace_s)

    # -- health ----------------------------------------------------------------------------------------
    def set_serving(self, status: int) -> None:
        """Set the answer, and tell those who watch."""
        if status != self._status:
            self._status = status
            for stream, connection in self._watchers.items():
                connection.tell(stream, _health_answer(status))

    def health_of(self, request: bytes) -> int | None:
        """The status of the service that a request names, None if there is none. Raises ``Rejected``."""
        try:
            service = last_bytes(request, 1).decode()
        except (Rejected, UnicodeDecodeError) as error:
            raise Rejected("the message is no HealthCheckRequest") from error
        return self._status if service in ("", *SERVICES.values()) else None

    def watch(self, stream: Stream, connection: _Connection) -> None:
        """Tell this call of changes."""
        self._watchers[stream] = connection

    def unwatch(self, stream: Stream) -> None:
        """The call has ended."""
        self._watchers.pop(stream, None)


class _Connection(DoorConnection):
    """One client."""

    _door: _Exports

    def tell(self, stream: Stream, answer: bytes) -> None:
        """One more message of an answer that goes on."""
        self._http2.push(stream, answer)
        self._flush_soon()

    def waits_for_message(self, stream: Stream) -> bool:
        return isinstance(stream.context, Signal)

    def begin(self, stream: Stream) -> None:
        exports = self._door
        headers = stream.headers
        method = exports.methods.get(headers[":path"])
        if not is_grpc(stream):
            self.refuse_stranger(stream)
            return
        if method is None:
            self.refuse_unknown(stream, ", ".join(SERVICES.values()))
            return
        stream.context = method
        if isinstance(method, Signal):
            try:
                if exports.auth is not None:
                    exports.auth.check(headers)
                if exports.full:
                    exports.look_for_room()
            except (Unauthenticated, Busy) as error:
                self.failed(stream, error)

    def complete(self, stream: Stream) -> None:
        method = stream.context
        if method.__class__ is not Signal:
            self._answer_health(stream, method)
            return
        exports = self._door
        future: asyncio.Future[Receipt]
        try:
            if stream.compressed:
                future = asyncio.ensure_future(exports.keep_compressed(method, stream))
            else:
                future = exports.intake.submit(Batch(method, stream.message))
        except Exception as error:
            self.failed(stream, error)
            return
        stream.context = future
        exports.in_flight.__enter__()
        future.add_done_callback(functools.partial(self._settled, stream, method))

    def reset(self, stream: Stream) -> None:
        if isinstance(stream.context, asyncio.Future):
            stream.context.cancel()
        elif stream.context is _Health.WATCH:
            self._door.unwatch(stream)
        elif stream.context is not None:
            self._door.meter.add(REQUESTS, 1, *_DOOR, "cancelled")

    def _settled(self, stream: Stream, signal: Signal, future: asyncio.Future[Receipt]) -> None:
        exports = self._door
        exports.in_flight.__exit__()
        if future.cancelled():
            exports.meter.add(REQUESTS, 1, *_DOOR, "cancelled")
            self._http2.abort(stream)
            self._flush_soon()
            return
        error = future.exception()
        if error is not None:
            self.failed(stream, error)
            return
        receipt = future.result()
        if receipt.rejected or receipt.message:
            exports.meter.add(REQUESTS, 1, *_DOOR, "partial" if receipt.rejected else "ok")
            self._http2.respond(stream, GRPC_HEADERS, message(replies.partial_success(signal, receipt)), GRPC_OK)
        else:
            exports.meter.add(REQUESTS, 1, "otlp", "grpc", "ok")
            self._http2.ok(stream)
        self._flush_soon()

    def failed(self, stream: Stream, error: BaseException) -> None:
        if isinstance(error, Busy):
            self._door.full = True
        self.refuse_for(stream, error)

    def _answer_health(self, stream: Stream, method: _Health) -> None:
        try:
            status = self._door.health_of(stream.message)
        except Rejected as error:
            self.refuse(stream, replies.refusal(error))
            return
        if method is _Health.WATCH:
            self._http2.begin(stream, GRPC_HEADERS)
            self._door.watch(stream, self)
            self.tell(stream, _health_answer(_SERVICE_UNKNOWN if status is None else status))
        elif status is None:
            self.refuse(stream, replies.Refusal("rejected", Code.NOT_FOUND, 404, "no such service"))
        else:
            self._http2.respond(stream, GRPC_HEADERS, _health_answer(status), GRPC_OK)
            self._flush_soon()


def _health_answer(status: int) -> bytes:
    return message(bytes((1 << 3, status)))  # HealthCheckResponse: field 1, a number below 128
