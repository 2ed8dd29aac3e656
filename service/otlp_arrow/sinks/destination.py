"""Where to forward to, as frozen values; and the sink that goes there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit
from urllib.request import proxy_bypass

from otlp_arrow.model import OtlpConfigError, Signal
from otlp_arrow.model.limits import FORWARD_BATCH_BYTES, FORWARD_FLIGHT_BATCH_BYTES, GIB
from otlp_arrow.sinks.auth import Credentials, Headers
from otlp_arrow.sinks.breaker import BreakerSettings
from otlp_arrow.sinks.retry import RetrySettings
from otlp_arrow.sinks.sink import Sink

Transport = Literal["grpc", "http", "arrow_flight"]

OTLP_HTTP_PORT = 4318
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""Names stand in file names, in metric labels and in log lines."""

COMPRESSIONS: Mapping[Transport, tuple[str, ...]] = {
    "grpc": ("none", "gzip"),
    "http": ("none", "gzip", "zstd"),
    "arrow_flight": ("none", "zstd"),
}
"""What each transport can do; gRPC knows no zstd, Arrow's IPC no gzip."""

GRPC_METHODS: Mapping[Signal, str] = {
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    Signal.METRICS: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}

_SIGNAL_PATH = re.compile(r"(.*)/v1/(traces|metrics|logs)/?")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificates of the way out (PEM). Without ``ca_file`` the machine's authorities are trusted."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def paths(self) -> list[Path]:
        """The files that are named."""
        return [path for path in (self.ca_file, self.cert_file, self.key_file) if path is not None]


@dataclass(frozen=True, slots=True)
class Destination:
    """One remote and how to treat it."""

    name: str
    url: str
    transport: Transport
    signals: frozenset[Signal] = frozenset(Signal)
    credentials: Credentials = field(default_factory=lambda: Credentials(None, {}))
    headers: Headers = ()
    tls: TlsFiles = field(default_factory=TlsFiles)
    compression: str = "none"
    timeout_s: float = 10.0
    max_batch_bytes: int = FORWARD_BATCH_BYTES
    max_in_flight: int = 4
    max_backlog_bytes: int = GIB
    retry: RetrySettings = field(default_factory=RetrySettings)
    breaker: BreakerSettings = field(default_factory=BreakerSettings)

    @property
    def address(self) -> SplitResult:
        """The parts of the URL."""
        return urlsplit(self.url)

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.address.scheme == "https"

    def host_and_port(self) -> tuple[str, int]:
        """Where to connect to; the usual port of the transport if the URL has none."""
        address = self.address
        usual = {"grpc": 4317, "arrow_flight": 4319, "http": 80}[self.transport]
        return address.hostname or "", address.port or (443 if self.secure else usual)

    def target(self) -> str:
        """The same as one text, for gRPC."""
        host, port = self.host_and_port()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def request_headers(self) -> Headers:
        """Every header of a request, credentials as they are now."""
        return (*self.headers, *self.credentials.headers())


def choose_transport(url: str, protocol: str) -> Transport:
    """The transport for a ``protocol`` setting; ``protobuf`` is gRPC unless path or port say HTTP."""
    if protocol == "arrow_flight":
        return "arrow_flight"
    if protocol in ("grpc", "http"):
        return "grpc" if protocol == "grpc" else "http"
    address = urlsplit(url)
    return "http" if address.path.strip("/") or address.port == OTLP_HTTP_PORT else "grpc"


def usual_batch_bytes(transport: Transport) -> int:
    """Up to what size stored requests are merged if nobody says."""
    return FORWARD_FLIGHT_BATCH_BYTES if transport == "arrow_flight" else FORWARD_BATCH_BYTES


def check_url(key: str, url: str | None, protocol: str) -> str:
    """The URL, if a forwarder can use it. Raises ``OtlpConfigError`` naming ``key``."""
    allowed = "a URL with http or https, such as http://gateway:4317"
    try:
        address = urlsplit(url or "")
        port = address.port
    except ValueError:
        raise OtlpConfigError(key, url, allowed) from None
    if address.username or address.password:
        shown = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()
        raise OtlpConfigError(key, shown, "a URL without user and password; they belong to authentication")
    if address.scheme not in ("http", "https") or not address.hostname or port == 0:
        raise OtlpConfigError(key, url, allowed)
    if address.query or address.fragment:
        raise OtlpConfigError(key, url, "a URL without query and fragment")
    transport = choose_transport(url or "", protocol)
    if transport != "http" and address.path.strip("/"):
        raise OtlpConfigError(key, url, f"a URL without a path for protocol {protocol}, or protocol http")
    return url or ""


def signal_url(destination: Destination, signal: Signal) -> str:
    """Where OTLP/HTTP posts a signal: the path of the specification, below the URL's own."""
    address = destination.address
    path = address.path.rstrip("/")
    if found := _SIGNAL_PATH.fullmatch(address.path):  # a URL meant for one signal, given for all of them
        path = found[1]
    return address._replace(path=f"{path}/v1/{signal.value}").geturl()


def is_direct(destination: Destination) -> bool:
    """Whether gRPC goes there without TLS and without a proxy, by the variables that its library looks at."""
    if destination.secure:
        return False
    named = any(os.environ.get(name) for name in ("grpc_proxy", "https_proxy", "http_proxy"))
    return not named or bool(proxy_bypass(destination.host_and_port()[0]))


def build_sink(destination: Destination) -> Sink:
    """The sink of a destination; enter it before use. Raises ``OtlpConfigError`` for unusable certificates."""
    match destination.transport:
        case "grpc" if is_direct(destination):
            from otlp_arrow.sinks.otlp_grpc_plain import PlainGrpcSink

            return PlainGrpcSink(destination)
        case "grpc":
            from otlp_arrow.sinks.otlp_grpc import OtlpGrpcSink

            return OtlpGrpcSink(destination)
        case "http":
            from otlp_arrow.sinks.otlp_http import OtlpHttpSink

            return OtlpHttpSink(destination)
        case "arrow_flight":
            from otlp_arrow.sinks.flight import FlightSink

            return FlightSink(destination)
