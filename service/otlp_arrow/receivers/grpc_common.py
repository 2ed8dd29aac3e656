"""What the doors that stand on gRPC's own library have in common: options, ports, credentials, refusals."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from otlp_arrow.model import Unauthenticated, limits
from otlp_arrow.model.meter import REQUESTS, Meter
from otlp_arrow.receivers import replies
from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.listen import Place, free_addresses
from otlp_arrow.receivers.tls import ServerTls


def channel_options(*, max_receive_bytes: int, max_send_bytes: int) -> list[tuple[str, int]]:
    """The options of a server; the bounds are those of one message."""
    return [
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_send_message_length", max_send_bytes),
        ("grpc.max_concurrent_streams", limits.MAX_CONCURRENT_STREAMS),
        ("grpc.so_reuseport", 0),  # two collectors on one port would share the senders by chance
        ("grpc.keepalive_time_ms", limits.GRPC_KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", limits.GRPC_KEEPALIVE_S * 1000 // 3),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", limits.GRPC_MIN_PING_INTERVAL_S * 1000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", limits.GRPC_MIN_PING_INTERVAL_S * 1000),
    ]


def listen(server: grpc.aio.Server, place: Place, tls: ServerTls | None) -> int:
    """Give the server its ports; the number. Raises ``OtlpServerError``."""
    addresses, port = free_addresses(place)
    credentials = tls.grpc_credentials() if tls else None
    try:
        for address in addresses:
            if credentials is None:
                server.add_insecure_port(f"{address}:{port}")
            else:
                server.add_secure_port(f"{address}:{port}", credentials)
    except RuntimeError as error:  # taken in the moment since we looked
        raise place.taken() from error
    return port


class Guarded(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Asks for credentials before the message of a call is read; unknown methods stay UNIMPLEMENTED.

    ``door`` are the labels receiver and transport that a refusal is counted under.
    """

    def __init__(self, inner: grpc.GenericRpcHandler, auth: Authenticator, meter: Meter, door: tuple[str, str]) -> None:
        self._inner = inner
        self._auth = auth
        self._meter = meter
        self._door = door

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        handler = self._inner.service(details)
        if handler is None:
            return None
        try:
            self._auth.check(dict(details.invocation_metadata))
        except Unauthenticated as error:
            self._meter.add(REQUESTS, 1, *self._door, "unauthenticated")
            return _refusing(replies.refusal(error))
        return handler


def _refusing(refused: replies.Refusal) -> grpc.RpcMethodHandler:
    """A method that refuses every call, whatever its kind, without reading."""

    async def refuse(_messages: Any, call: grpc.aio.ServicerContext) -> None:
        set_status(call, refused)

    return grpc.stream_stream_rpc_method_handler(refuse)


def set_status(call: grpc.aio.ServicerContext, refused: replies.Refusal) -> None:
    """End the call with a refusal once its handler returns."""
    message, trailers = replies.trailers(refused)
    call.set_code(grpc.StatusCode[refused.grpc_code.name])
    call.set_details(message)
    call.set_trailing_metadata(trailers)
