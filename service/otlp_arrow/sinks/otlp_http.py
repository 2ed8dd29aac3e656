"""OTLP over HTTP in protobuf, through aiohttp's client."""

from __future__ import annotations

import asyncio
import io
import os
import ssl
import time
import zlib
from concurrent.futures import Executor
from types import TracebackType
from typing import Self

import aiohttp
import pyarrow as pa

from otlp_arrow import __version__
from otlp_arrow.model import Batch, Encoding
from otlp_arrow.model.limits import COMPRESS_INLINE_BYTES, MAX_REPLY_BYTES
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


class OtlpHttpSink:
    """One client session to one remote."""

    encoding = Encoding.OTLP

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
        body = await self._compressed(batch.payload)
        headers = {**self._fixed, **dict(self._destination.request_headers())}
        try:
            async with self._session.post(
                signal_url(self._destination, batch.signal),
                data=io.BytesIO(body),  # read piece by piece; plain bytes would be written in one go
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

    async def _compressed(self, payload: bytes) -> bytes:
        compress = {"gzip": _gzip, "zstd": _zstd}.get(self._destination.compression)
        if compress is None:
            return payload
        if len(payload) <= COMPRESS_INLINE_BYTES:
            return compress(payload)
        return await asyncio.get_running_loop().run_in_executor(self._executor, compress, payload)

    # -- the session -----------------------------------------------------------------------------

    def _connect(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True, limit=0),
            timeout=aiohttp.ClientTimeout(total=self._destination.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,  # HTTPS_PROXY and its like
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
