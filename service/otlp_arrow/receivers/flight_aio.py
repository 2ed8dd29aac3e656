"""Arrow Flight by gRPC's own library, where the compiled door (``flight``) was not built or is not wanted.

What the methods do is in ``flight_service``. Size of a message: the library, by ``grpc.max_receive_message_length``,
before it is in memory as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
import structlog

from otlp_arrow.model import limits
from otlp_arrow.model.meter import REQUESTS, Meter
from otlp_arrow.receivers import replies
from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.flight_service import (
    DOOR,
    MESSAGE_OVERHEAD_BYTES,
    SERVICE,
    FlightService,
    Method,
    Put,
    Stored,
)
from otlp_arrow.receivers.grpc_common import Guarded, channel_options, listen, set_status
from otlp_arrow.receivers.inflating import Reservation
from otlp_arrow.receivers.intake import Intake
from otlp_arrow.receivers.listen import Place
from otlp_arrow.receivers.tls import ServerTls

log = structlog.get_logger(__name__)


class AioFlightServer:
    """The door for Arrow Flight, open inside ``async with``; leaving lets calls in flight finish.

    ``bound_port`` is the port it got (``port`` 0 takes a free one). ``auth`` guards every method. Opening raises
    ``OtlpServerError`` if the port is not to be had.
    """

    def __init__(
        self,
        intake: Intake[Any],
        stored: Stored,
        *,
        host: str,
        port: int,
        max_request_bytes: int = limits.MAX_REQUEST_BYTES,
        auth: Authenticator | None = None,
        tls: ServerTls | None = None,
        meter: Meter,
        health: Callable[[], Mapping[str, Any]] = dict,
        grace_s: float = limits.DOOR_GRACE_S,
    ) -> None:
        self._place = Place("Arrow Flight", host, port, "protocols.arrow_flight_port")
        self._tls = tls
        self._grace_s = grace_s
        self._options = channel_options(max_receive_bytes=max_request_bytes + MESSAGE_OVERHEAD_BYTES, max_send_bytes=-1)
        self._service = FlightService(intake, stored, meter, health, max_request_bytes)
        handler = _Methods(self._service)
        self._handler = handler if auth is None else Guarded(handler, auth, meter, DOOR)
        self._server: grpc.aio.Server | None = None
        self.bound_port = 0

    async def __aenter__(self) -> AioFlightServer:
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers([self._handler])
        self.bound_port = listen(server, self._place, self._tls)
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
        await self._server.stop(self._grace_s)
        # What outlived the grace was cancelled; the library does not wait for it to notice.
        await self._service.in_flight.none_left(self._grace_s + limits.DOOR_GRACE_S)
        self._service.close()


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The methods of the Flight protocol as the library wants them."""

    def __init__(self, service: FlightService) -> None:
        self._service = service
        self._methods = {
            f"/{SERVICE}/{name}": grpc.unary_stream_rpc_method_handler(self._served(_one_message(method)))
            for name, method in service.methods.items()
        }
        self._methods[f"/{SERVICE}/DoPut"] = grpc.stream_stream_rpc_method_handler(self._served(self._do_put))

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(details.method)

    def _served(
        self, method: Callable[[Any, grpc.aio.ServicerContext], Awaitable[None]]
    ) -> Callable[[Any, grpc.aio.ServicerContext], Awaitable[None]]:
        """``method`` with its errors as answers."""

        async def serve(request: Any, call: grpc.aio.ServicerContext) -> None:
            meter = self._service.meter
            try:
                with self._service.in_flight:
                    await method(request, call)
            except (asyncio.CancelledError, grpc.aio.BaseError):  # the client went away, or a stop has no more time
                if method != self._do_put:  # which counts by itself
                    meter.add(REQUESTS, 1, *DOOR, "cancelled")
                raise
            except Exception as error:
                refused = replies.refusal(error)
                if refused.outcome == "failed":
                    log.error("a Flight call failed for a reason of our own", exc_info=error)
                meter.add(REQUESTS, 1, *DOOR, refused.outcome)
                set_status(call, refused)

        return serve

    async def _do_put(self, _messages: Any, call: grpc.aio.ServicerContext) -> None:
        answers = _PutCall()
        put = Put(self._service, answers)
        reading = asyncio.create_task(answers.read(put, call))
        try:
            while isinstance(answer := await answers.next(put), bytes):
                await call.write(answer)
        finally:
            reading.cancel()
            put.abandon()
            await asyncio.gather(reading, return_exceptions=True)
        if answer is not None:
            raise answer


class _PutCall:
    """A ``DoPut`` between the library, which is awaited, and its ``Put``, which calls back."""

    def __init__(self) -> None:
        self._answers: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()  # as many as are in flight
        self._consumed = asyncio.Event()
        self._full = False

    async def read(self, put: Put, call: grpc.aio.ServicerContext) -> None:
        """Hand over message after message; a further one is read once the last one was looked at."""
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                self._consumed.clear()
                put.message(message)
                await self._consumed.wait()
            put.end()
        except Exception as error:
            put.refuse(error)

    async def next(self, put: Put) -> bytes | Exception | None:
        """What goes out next: a result, or the end of the call."""
        if self._full and self._answers.empty():
            self._full = False
            put.go_on()
        return await self._answers.get()

    def acknowledge(self, result: bytes) -> bool:
        self._answers.put_nowait(result)
        self._full = self._answers.qsize() >= limits.FLIGHT_PUTS_IN_FLIGHT
        return not self._full

    def consumed(self, nbytes: int) -> None:
        self._consumed.set()

    def lay_out(self, page_at: int) -> None:
        """gRPC's library decides where messages lie."""

    def ignore(self) -> None:
        """What still comes in is left to the library, which drops it at the end."""

    def finish(self, error: Exception | None) -> None:
        self._answers.put_nowait(error)

    async def inflated(self, message: bytes, reservation: Reservation) -> bytes:
        raise AssertionError("the library inflates by itself")


def _one_message(method: Method) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[None]]:
    async def serve(message: bytes, call: grpc.aio.ServicerContext) -> None:
        await method(message, _Call(call))

    return serve


class _Call:
    """A call that the library answers."""

    def __init__(self, call: grpc.aio.ServicerContext) -> None:
        self._call = call

    async def write(self, *parts: bytes | memoryview) -> None:
        await self._call.write(parts[0] if len(parts) == 1 else b"".join(parts))
