"""A gRPC channel to a destination that carries bytes as they are: for OTLP and for Flight, which is gRPC too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import grpc
import grpc.aio

from otlp_arrow.model.limits import MAX_REPLY_BYTES
from otlp_arrow.sinks import tls
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.retry import judge_grpc, retry_info
from otlp_arrow.sinks.sink import DeliveryError

# gRPC waits up to two minutes before it connects again; our own breaker decides when to try.
_RECONNECT_MS = 1_000
_MAX_RECONNECT_MS = 5_000
_KEEPALIVE_MS = 60_000

Calls = TypeVar("Calls")


class Channel(Generic[Calls]):
    """One connection that gRPC mends by itself, made anew when the certificates' files change."""

    def __init__(self, destination: Destination, calls_of: Callable[[grpc.aio.Channel], Calls]) -> None:
        """``calls_of`` names the methods. Raises ``OtlpConfigError`` for certificates that cannot be used."""
        self._destination = destination
        self._calls_of = calls_of
        self._tls_version = tls.version_of(destination.tls)
        self._credentials = self._load_credentials()
        self._channel: grpc.aio.Channel | None = None

    def open(self) -> None:
        """On the event loop; connects at the first call."""
        destination = self._destination
        host, port = destination.host_and_port()
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        options = [
            ("grpc.enable_retries", 0),  # the forwarder's own rules count
            ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MS),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
            ("grpc.use_local_subchannel_pool", 1),  # two destinations at one address share no fate
        ]
        compression = grpc.Compression.Gzip if destination.compression == "gzip" else grpc.Compression.NoCompression
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=options, compression=compression)
        else:
            self._channel = grpc.aio.secure_channel(target, self._credentials, options=options, compression=compression)
        self._calls = self._calls_of(self._channel)

    async def close(self) -> None:
        """Calls under way are cancelled."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def calls(self) -> Calls:
        """The methods, over a channel with the present certificates."""
        files = self._destination.tls
        if files.paths() and (version := tls.version_of(files)) != self._tls_version:
            self._credentials = self._load_credentials()
            self._tls_version = version
            former = self._channel
            self.open()
            if former is not None:
                await former.close(self._destination.timeout_s)  # calls under way may finish
        return self._calls

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Headers of a request."""
        return tuple((name.lower(), value) for name, value in self._destination.request_headers())

    def _load_credentials(self) -> grpc.ChannelCredentials | None:
        if not self._destination.secure:
            return None
        files = self._destination.tls
        chain, key = tls.client_certificate(files) or (None, None)
        return grpc.ssl_channel_credentials(tls.root_certificates(files), key, chain)


def judge(error: grpc.aio.AioRpcError) -> DeliveryError:
    """What to do after a call that failed."""
    after_s = retry_info((key, value) for key, value in error.trailing_metadata() or ())
    # gRPC tells its whole way to a failure to connect; the cause comes last.
    cause = (error.details() or "").rpartition("last error: ")[2]
    return judge_grpc(error.code().name, cause, after_s)
