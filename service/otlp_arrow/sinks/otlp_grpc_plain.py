"""OTLP over gRPC without TLS, by a client of our own: the stored requests go out from where they lie.

gRPC's library (``otlp_grpc``) wants a request joined, copies it, and writes it from threads of its own: forwarding
costs twice as much with it. It remains for TLS and for proxies, of which it knows more (docs/decisions/0014).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import zlib
from collections.abc import Sequence
from types import TracebackType
from typing import Self
from urllib.parse import unquote

from otlp_arrow import __version__
from otlp_arrow.model import Batch, Encoding, Parts, Signal
from otlp_arrow.model.limits import COMPRESS_INLINE_BYTES
from otlp_arrow.sinks import hpack
from otlp_arrow.sinks.causes import Causes, in_plain_words
from otlp_arrow.sinks.destination import GRPC_METHODS, Destination
from otlp_arrow.sinks.http2 import Answer, BrokenCall, Channel
from otlp_arrow.sinks.replies import partial_success
from otlp_arrow.sinks.retry import judge_grpc, one_line, retry_info
from otlp_arrow.sinks.sink import DeliveryResult, Transient

_GZIP_LEVEL = 1  # a third of the time of the default for a tenth more bytes
_ERRNO = re.compile(r"\[Errno (\d+)\]")
_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"),
    *("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
_OF_HTTP = {
    "400": "INTERNAL",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "UNIMPLEMENTED",
    **dict.fromkeys(("429", "502", "503", "504"), "UNAVAILABLE"),
}
"""The code for an HTTP status of whoever stands between, as gRPC's specification has it."""


class PlainGrpcSink:
    """One connection to one remote; made anew when it breaks."""

    encoding = Encoding.OTLP
    takes_parts = True

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._causes = Causes(destination)
        self._channel = Channel(*destination.host_and_port())
        self._gzip = destination.compression == "gzip"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._channel.close()

    async def send(self, batch: Batch) -> DeliveryResult:
        """See ``Sink.send``."""
        assert batch.encoding is Encoding.OTLP
        headers = hpack.encode(self._headers(batch.signal))
        message = await self._message(batch)
        timeout_s = self._destination.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._channel.call(headers, message)
        except TimeoutError:
            raise Transient(f"no answer within {timeout_s:g} s") from None
        except (BrokenCall, OSError) as error:
            words = in_plain_words(_text(error, self._destination.target()), self._destination)
            raise await self._causes.explain(Transient(one_line(words))) from None
        result = _read(batch.signal, answer)
        self._causes.worked()
        return result

    def _headers(self, signal: Signal) -> list[tuple[str, str]]:
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", GRPC_METHODS[signal]),
            (":authority", self._destination.target()),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", f"otlp-arrow/{__version__}"),
            ("grpc-timeout", f"{max(1, round(self._destination.timeout_s * 1000))}m"),
        ]
        if self._gzip:
            fields.append(("grpc-encoding", "gzip"))
        return fields + [(name.lower(), value) for name, value in self._destination.request_headers()]

    async def _message(self, batch: Batch) -> Sequence[bytes | memoryview]:
        """In gRPC's frame: whether it is compressed, its length, its bytes."""
        parts = batch.payload.parts if isinstance(batch.payload, Parts) else (batch.payload,)
        size = len(batch.payload)
        if not self._gzip:
            return (b"\0" + size.to_bytes(4, "big"), *parts)
        if size <= COMPRESS_INLINE_BYTES:
            small = zlib.compress(b"".join(parts), _GZIP_LEVEL, wbits=31)
        else:
            small = await asyncio.to_thread(lambda: zlib.compress(b"".join(parts), _GZIP_LEVEL, wbits=31))
        return (b"\1" + len(small).to_bytes(4, "big"), small)


def _read(signal: Signal, answer: Answer) -> DeliveryResult:
    """Raises ``Transient`` or ``Permanent``."""
    headers = dict(answer.headers)
    if (status := headers.get(":status", "")) != "200":
        raise judge_grpc(_OF_HTTP.get(status, "UNKNOWN"), f"HTTP {status}")
    kind = headers.get("content-type", "")
    if not kind.startswith("application/grpc"):
        raise judge_grpc("UNIMPLEMENTED", f"an answer of {kind or 'no type'} is none of gRPC's")
    trailers = answer.trailers or answer.headers
    found = dict(trailers)
    number = found.get("grpc-status", "")
    if not number.isdigit():
        raise Transient("the answer ended without a status")
    code = _CODES[int(number)] if int(number) < len(_CODES) else "UNKNOWN"
    if code != "OK":
        after_s = retry_info((name, _bytes(value)) for name, value in trailers if name.endswith("-bin"))
        raise judge_grpc(code, unquote(found.get("grpc-message", "")), after_s)
    return partial_success(signal, _reply(answer.body))


def _reply(body: bytearray) -> bytes:
    """The message in gRPC's frame; nothing of what is cut, or compressed though nobody asked for that."""
    if len(body) < 5 or body[0] or int.from_bytes(body[1:5], "big") != len(body) - 5:
        return b""
    return bytes(body[5:])


def _bytes(value: str) -> bytes:
    with contextlib.suppress(ValueError):
        return base64.b64decode(value + "=" * (-len(value) % 4))
    return b""


def _text(error: Exception, target: str) -> str:
    if isinstance(error, BrokenCall):
        return str(error)
    # asyncio's own text says less than the system's; of several addresses it tells each one's.
    found = _ERRNO.search(str(error))
    number = int(found[1]) if found else error.errno if isinstance(error, OSError) else None
    words = os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or str(error)
    return f"cannot connect to {target}: {words}"
