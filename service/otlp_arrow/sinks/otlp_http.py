"""OTLP over HTTP in protobuf, through aiohttp's client."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from types import TracebackType
from typing import Any, Self
from urllib.request import getproxies, proxy_bypass

import aiohttp
import pyarrow as pa
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from otlp_arrow import __version__
from otlp_arrow.model import Batch, Encoding, Parts
from otlp_arrow.model.limits import COMPRESS_INLINE_BYTES, KIB, MAX_REPLY_BYTES
from otlp_arrow.sinks import tls
from otlp_arrow.sinks.causes import Causes
from otlp_arrow.sinks.destination import Destination, signal_url
from otlp_arrow.sinks.replies import failure_message, partial_success, partial_success_json
from otlp_arrow.sinks.retry import judge_http, one_line, retry_after
from otlp_arrow.sinks.sink import DeliveryResult, Fault, Transient

_PROTOBUF = "application/x-protobuf"
# Level 1 of zlib takes a third of the time of its default for a tenth more bytes; zstd's is its fastest too.
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 1
_PIECE_BYTES = 64 * KIB


class OtlpHttpSink:
    """One client session to one remote."""

    encoding = Encoding.OTLP
    takes_parts = True

    def __init__(self, destination: Destination, executor: Executor | None = None) -> None:
        self._destination = destination
        self._causes = Causes(destination)
        self._executor = executor  # for compression
        self._session: aiohttp.ClientSession | None = None
        self._tls_version = tls.version_of(destination.tls)
        self._tls = self._load_tls()
        self._fixed = {"Content-Type": _PROTOBUF, "User-Agent": f"otlp-arrow/{__version__}"}
        if destination.compression != "none":
            self._fixed["Content-Encoding"] = destination.compression

    async def __aenter__(self) -> Self:
        self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(self, batch: Batch) -> DeliveryResult:
        """See ``Sink.send``."""
        assert batch.encoding is Encoding.OTLP
        await self._reconnect_if_rotated()
        assert self._session is not None
        body = await self._body(batch)
        headers = {**self._fixed, **dict(self._destination.request_headers())}
        try:
            async with self._session.post(
                signal_url(self._destination, batch.signal),
                data=body,
                headers=headers,
                allow_redirects=False,  # a redirected POST becomes a GET, and its page a success
            ) as response:
                result = self._judge(batch, response, await _read_reply(response))
        except TimeoutError:
            raise Transient(f"no answer within {self._destination.timeout_s:g} s") from None
        except (aiohttp.ClientError, ssl.SSLError) as error:
            raise await self._causes.explain(Transient(one_line(_cause(error)))) from None
        self._causes.worked()
        return result

    def _judge(self, batch: Batch, response: aiohttp.ClientResponse, reply: bytes) -> DeliveryResult:
        kind = response.content_type
        if response.ok and response.status < 300:
            if kind == "text/html":
                raise Transient(f"HTTP {response.status} with a web page: no OTLP server", fault=Fault.ADDRESS)
            if kind == "application/json":
                return partial_success_json(reply)
            return partial_success(batch.signal, reply) if kind == _PROTOBUF else DeliveryResult()
        message = failure_message(reply, kind)
        if location := response.headers.get("Location"):
            message = f"moved to {location}"
        elif not message:
            message = str(response.reason or "")
        raise judge_http(response.status, message, retry_after(response.headers.get("Retry-After"), time.time()))

    async def _body(self, batch: Batch) -> _Body:
        parts = batch.payload.parts if isinstance(batch.payload, Parts) else (batch.payload,)
        compress = {"gzip": _gzip, "zstd": _zstd}.get(self._destination.compression)
        if compress is None:
            return _Body(parts)
        if sum(map(len, parts)) <= COMPRESS_INLINE_BYTES:
            return _Body([compress(b"".join(parts))])
        loop = asyncio.get_running_loop()
        return _Body([await loop.run_in_executor(self._executor, lambda: compress(b"".join(parts)))])

    # -- the session -----------------------------------------------------------------------------

    def _connect(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True, limit=0),
            timeout=aiohttp.ClientTimeout(total=self._destination.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            **_proxy(self._destination),
        )

    def _load_tls(self) -> ssl.SSLContext | None:
        return tls.ssl_context(self._destination.tls) if self._destination.secure else None

    async def _reconnect_if_rotated(self) -> None:
        files = self._destination.tls
        if not files.paths() or (version := tls.version_of(files)) == self._tls_version:
            return
        self._tls = self._load_tls()
        self._tls_version = version
        former = self._session
        self._connect()
        if former is not None:
            await former.close()


def _proxy(destination: Destination) -> dict[str, Any]:
    """What HTTPS_PROXY and its like say. aiohttp's ``trust_env`` would read the environment and look for a .netrc
    before each request, on a thread: 1 ms, and credentials that nobody set here."""
    found = getproxies().get(destination.address.scheme)
    if not found or proxy_bypass(destination.address.hostname or ""):
        return {}
    return {"proxy": URL(found if "://" in found else f"http://{found}")}


class _Body(aiohttp.Payload):
    """A body in pieces that are written as they are. Joined, and read out of a ``BytesIO``, each byte would be copied
    three times more: 0.3 µs a span."""

    def __init__(self, parts: Sequence[bytes | memoryview]) -> None:
        super().__init__(parts, content_type=_PROTOBUF)
        self._size = sum(map(len, parts))

    async def write(self, writer: AbstractStreamWriter) -> None:
        for piece in _pieces(self._value):
            await writer.write(piece)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await self.write(writer)  # the length is ours

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("protobuf is no text")


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Small parts joined, since each write is a call; large ones as they are."""
    small: list[bytes] = []
    size = 0
    for part in parts:
        small.append(part)
        size += len(part)
        if size >= _PIECE_BYTES:
            yield small[0] if len(small) == 1 else b"".join(small)
            small, size = [], 0
    if small:
        yield b"".join(small)


async def _read_reply(response: aiohttp.ClientResponse) -> bytes:
    """The body as far as anybody may send one."""
    reply = bytearray()
    async for piece in response.content.iter_chunked(65_536):
        reply += piece
        if len(reply) > MAX_REPLY_BYTES:
            return b""
    return bytes(reply)


def _cause(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return str(error.os_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.os_error
        # asyncio's own text says less than the system's.
        text = os.strerror(reason.errno) if reason.errno and reason.errno > 0 else reason.strerror
        return f"cannot connect to {error.host}:{error.port}: {text or reason}"
    return str(error) or type(error).__name__


def _gzip(payload: bytes) -> bytes:
    return zlib.compress(payload, _GZIP_LEVEL, wbits=31)


def _zstd(payload: bytes) -> bytes:
    compressed: bytes = pa.Codec("zstd", compression_level=_ZSTD_LEVEL).compress(payload, asbytes=True)
    return compressed
