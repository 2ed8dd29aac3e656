"""OTLP over gRPC by gRPC's own library, for TLS and proxies: the stored bytes go out as they are."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from otlp_arrow.model import Batch, Encoding, Signal
from otlp_arrow.model.limits import MAX_REPLY_BYTES
from otlp_arrow.sinks import tls
from otlp_arrow.sinks.causes import Causes
from otlp_arrow.sinks.destination import GRPC_METHODS, Destination
from otlp_arrow.sinks.replies import partial_success
from otlp_arrow.sinks.retry import judge_grpc, retry_info
from otlp_arrow.sinks.sink import DeliveryError, DeliveryResult, Transient

# gRPC waits up to two minutes before it connects again; our own breaker decides when to try.
_RECONNECT_MS = 1_000
_MAX_RECONNECT_MS = 5_000
_KEEPALIVE_MS = 60_000


class OtlpGrpcSink:
    """One channel to one remote; gRPC mends the connection by itself."""

    encoding = Encoding.OTLP
    takes_parts = False

    def __init__(self, destination: Destination) -> None:
        """Raises ``OtlpConfigError`` for certificates that cannot be used."""
        self._destination = destination
        self._causes = Causes(destination)
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[Signal, Any] = {}
        self._tls_version = tls.version_of(destination.tls)
        self._credentials = self._load_credentials()

    async def __aenter__(self) -> Self:
        self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def send(self, batch: Batch) -> DeliveryResult:
        """See ``Sink.send``."""
        assert batch.encoding is Encoding.OTLP
        await self._reconnect_if_rotated()
        metadata = tuple((name.lower(), value) for name, value in self._destination.request_headers())
        try:
            reply = await self._calls[batch.signal](
                batch.payload_bytes, metadata=metadata, timeout=self._destination.timeout_s
            )
        except grpc.aio.AioRpcError as error:
            judged = _judge(error)
            raise await self._causes.explain(judged) if isinstance(judged, Transient) else judged from None
        self._causes.worked()
        return partial_success(batch.signal, reply)

    # -- the channel -----------------------------------------------------------------------------

    def _connect(self) -> None:
        destination = self._destination
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
        target = destination.target()
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(target, options=options, compression=compression)
        else:
            channel = grpc.aio.secure_channel(target, self._credentials, options=options, compression=compression)
        # Bytes in, bytes out: no message is built here.
        self._calls = {signal: channel.unary_unary(method) for signal, method in GRPC_METHODS.items()}
        self._channel = channel

    def _load_credentials(self) -> grpc.ChannelCredentials | None:
        if not self._destination.secure:
            return None
        files = self._destination.tls
        chain, key = tls.client_certificate(files) or (None, None)
        return grpc.ssl_channel_credentials(tls.root_certificates(files), key, chain)

    async def _reconnect_if_rotated(self) -> None:
        files = self._destination.tls
        if not files.paths() or (version := tls.version_of(files)) == self._tls_version:
            return
        self._credentials = self._load_credentials()
        self._tls_version = version
        former = self._channel
        self._connect()
        if former is not None:
            await former.close(self._destination.timeout_s)  # calls under way may finish


def _judge(error: grpc.aio.AioRpcError) -> DeliveryError:
    after_s = retry_info((key, value) for key, value in error.trailing_metadata() or ())
    # gRPC tells its whole way to a failure to connect; the cause comes last.
    cause = (error.details() or "").rpartition("last error: ")[2]
    return judge_grpc(error.code().name, cause, after_s)
