"""gRPC without TLS, by a client of our own: requests go out from where they lie.

gRPC's library wants a request joined, copies it, and writes it from threads of its own: forwarding costs twice as much
with it. It remains for TLS and for proxies, of which it knows more (docs/decisions/0014).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
from collections.abc import Sequence
from urllib.parse import unquote

from otlp_arrow import __version__
from otlp_arrow.sinks import hpack
from otlp_arrow.sinks.causes import Causes, in_plain_words
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.http2 import Answer, BrokenCall, Channel
from otlp_arrow.sinks.retry import judge_grpc, one_line, retry_info
from otlp_arrow.sinks.sink import Transient

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


def framed(size: int, *, compressed: bool = False) -> bytes:
    """What stands before a message of so many bytes."""
    return (b"\1" if compressed else b"\0") + size.to_bytes(4, "big")


class PlainGrpc:
    """Calls to one remote over one connection, made anew when it breaks."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._causes = Causes(destination)
        self._channel = Channel(*destination.host_and_port())

    async def close(self) -> None:
        """End the calls that are under way."""
        await self._channel.close()

    async def call(
        self, path: str, messages: Sequence[bytes | memoryview], extra: Sequence[tuple[str, str]] = ()
    ) -> list[bytes]:
        """The messages of the answer. ``messages`` are in gRPC's frames, in any pieces. Raises ``Transient`` or
        ``Permanent``."""
        timeout_s = self._destination.timeout_s
        headers = hpack.encode([*self._headers(path), *extra])
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._channel.call(headers, messages)
        except TimeoutError:
            raise Transient(f"no answer within {timeout_s:g} s") from None
        except (BrokenCall, OSError) as error:
            words = in_plain_words(_text(error, self._destination.target()), self._destination)
            raise await self._causes.explain(Transient(one_line(words))) from None
        _judge(answer)
        self._causes.worked()
        return _messages(answer.body)

    def _headers(self, path: str) -> list[tuple[str, str]]:
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", self._destination.target()),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", f"otlp-arrow/{__version__}"),
            ("grpc-timeout", f"{max(1, round(self._destination.timeout_s * 1000))}m"),
        ]
        return fields + [(name.lower(), value) for name, value in self._destination.request_headers()]


def _judge(answer: Answer) -> None:
    """Raises ``Transient`` or ``Permanent`` for all but an OK."""
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


def _messages(body: bytearray) -> list[bytes]:
    """Out of gRPC's frames; none that is cut, or compressed though nobody asked for that."""
    found, at = [], 0
    while at + 5 <= len(body):
        end = at + 5 + int.from_bytes(body[at + 1 : at + 5], "big")
        if body[at] or end > len(body):
            break
        found.append(bytes(body[at + 5 : end]))
        at = end
    return found


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
