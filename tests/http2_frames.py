"""HTTP/2 by hand, for tests of the compiled gRPC door."""

from __future__ import annotations

from collections.abc import Iterable

import hpack

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, HAS_PRIORITY = 1, 4, 8, 32
PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
CALL = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "localhost:4317"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("user-agent", "a test"),
]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GREETING = PREFACE + frame(SETTINGS)


def block(fields: Iterable[tuple[str, str]] = CALL, encoder: hpack.Encoder | None = None) -> bytes:
    return (encoder or hpack.Encoder()).encode(list(fields))


def call(stream: int, body: bytes, fields: Iterable[tuple[str, str]] = CALL) -> bytes:
    head = frame(HEADERS, END_HEADERS, stream, block(fields))
    return head + frame(DATA, END_STREAM, stream, message(body))
