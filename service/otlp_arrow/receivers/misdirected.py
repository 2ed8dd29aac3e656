"""Senders at the wrong door: what their first bytes are, and what they are told.

gRPC's own library, where it serves (``otlp_grpc_aio``, ``flight_aio``), shows first bytes to nobody and closes the
connection: an HTTP client there reads a bad status line, a TLS client a wrong version number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from otlp_arrow.model import limits

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Mistake:
    """A protocol that this port does not speak. ``answer`` is sent before the connection is closed."""

    name: str
    hint: str

    @property
    def answer(self) -> bytes:
        # HTTP/1.1 to all of them: gRPC then reports "trying to connect an http1.x server" and backs off (a
        # GOAWAY frame in its own tongue makes it reconnect at once, for ever), and TLS clients report
        # a plaintext server.
        text = self.hint.encode()
        return (
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(text), text)
        )


GRPC = Mistake(
    "grpc",
    "This port speaks OTLP/HTTP, and a gRPC client came: send OTLP/gRPC to its own port (4317 by default), "
    "or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf.",
)
HTTP1 = Mistake(
    "http",
    "This port speaks OTLP/gRPC, and another client came: send OTLP/HTTP to its own port (4318 by default), "
    "or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc.",
)
NOT_FLIGHT = Mistake(
    "http",
    "This port speaks Arrow Flight, which is gRPC, and another client came: send OTLP/HTTP to its own port (4318 by "
    "default), and read with a client of Arrow Flight.",
)
TLS = Mistake(
    "tls",
    "This port is not encrypted, and a TLS client came: put http:// in front of the endpoint, "
    "or give the collector a certificate (settings tls.cert_file and tls.key_file).",
)


def recognize(first_bytes: bytes) -> Mistake | None:
    """What a client that is not HTTP/1 probably is."""
    if first_bytes.startswith(b"PRI * HTTP/2"):
        return GRPC
    if first_bytes[:1] == b"\x16":  # a TLS handshake record
        return TLS
    return None


class Hints:
    """Logs each mistake once in a while, however often it is made."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._next_s: dict[str, float] = {}

    def give(self, name: str, hint: str, **facts: object) -> None:
        """One warning for ``name``, unless there was one within the last minute. Names are few and ours."""
        now = self._monotonic()
        if now >= self._next_s.get(name, now):
            self._next_s[name] = now + limits.HINT_INTERVAL_S
            log.warning("misdirected client", mistake=name, hint=hint, **facts)
