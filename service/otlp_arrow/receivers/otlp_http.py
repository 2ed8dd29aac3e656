"""OTLP over HTTP/1.1: protobuf and JSON, compressed or not, from services and from browsers.

A request passes, in this order: path, method, credentials, types, length, admission; only then is its body
read. Its reservation covers the largest form it has had so far: as sent, inflated, as protobuf.

aiohttp's low-level server is used, without its router and application: three fixed paths need neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from otlp_arrow.codec import json_to_protobuf
from otlp_arrow.model import Batch, Receipt, Rejected, Signal, TooLarge, limits
from otlp_arrow.model.meter import REQUESTS, Meter
from otlp_arrow.receivers import misdirected, replies, unpack
from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.cors import CorsPolicy
from otlp_arrow.receivers.in_flight import InFlight
from otlp_arrow.receivers.inflating import Reservation, inflate
from otlp_arrow.receivers.intake import Intake
from otlp_arrow.receivers.listen import Place, bind
from otlp_arrow.receivers.replies import Refusal
from otlp_arrow.receivers.services import Code
from otlp_arrow.receivers.tls import ServerTls
from otlp_arrow.receivers.unpack import Media

log = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

PATHS = {f"/v1/{signal.value}": signal for signal in Signal}
_METHODS = "POST, OPTIONS"
_WORKERS = 2
_CHUNKED_BYTES = 64 * limits.KIB  # reserved at first for a body that does not declare its length
_SERVER = {"Server": "otlp-arrow"}  # without the versions that aiohttp would tell everybody
_TYPES = {Media.PROTOBUF: "application/x-protobuf", Media.JSON: "application/json"}


class OtlpHttpServer:
    """The door for OTLP/HTTP, open inside ``async with``; leaving lets requests in flight finish.

    ``bound_port`` is the port it got (``port`` 0 takes a free one). ``cors_origins`` are allowed beside those of
    localhost (``receivers.cors``). Opening raises ``OtlpServerError`` if the port is not to be had.
    """

    def __init__(
        self,
        intake: Intake[Any],
        *,
        host: str,
        port: int,
        max_request_bytes: int = limits.MAX_REQUEST_BYTES,
        auth: Authenticator | None = None,
        tls: ServerTls | None = None,
        cors_origins: Iterable[str] = (),
        meter: Meter,
        body_timeout_s: float = limits.BODY_READ_TIMEOUT_S,
        grace_s: float = limits.DOOR_GRACE_S,
    ) -> None:
        self._intake = intake
        self._place = Place("OTLP/HTTP", host, port, "protocols.http_port")
        self._max_request_bytes = max_request_bytes
        self._auth = auth
        self._tls = tls
        self._cors = CorsPolicy(cors_origins)
        self._meter = meter
        self._body_timeout_s = body_timeout_s
        self._grace_s = grace_s
        self._in_flight = InFlight()
        self._connections: _Connections | None = None
        self._listeners: list[asyncio.Server] = []
        # Threads start when the first large body comes.
        self._workers = ThreadPoolExecutor(_WORKERS, "otlp-http")
        # One large JSON body at a time: while it is read it takes many times its size as Python objects.
        self._json_turn = asyncio.Lock()
        self.bound_port = 0

    async def __aenter__(self) -> OtlpHttpServer:
        loop = asyncio.get_running_loop()
        self._connections = _Connections(self._serve)
        context = self._tls.ssl_context() if self._tls else None
        sockets = bind(self._place)
        self.bound_port = sockets[0].getsockname()[1]
        try:
            for listening in sockets:
                self._listeners.append(await loop.create_server(self._connections, sock=listening, ssl=context))
        except BaseException:
            for listening in sockets:
                listening.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._connections is not None
        for listener in self._listeners:
            listener.close()
        await self._connections.shutdown(self._grace_s)  # idle ones close at once, the others after their request
        await self._in_flight.none_left(limits.DOOR_GRACE_S)
        for listener in self._listeners:
            await listener.wait_closed()
        self._workers.shutdown(wait=False, cancel_futures=True)

    # -- one request -----------------------------------------------------------------------------------
    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers every request, with the CORS headers that its origin calls for."""
        signal = PATHS.get(request.path)
        if signal is not None and request.method == "POST":
            response = await self._export(signal, request)
        else:
            response = self._elsewhere(signal, request)
        origin = request.headers.get("Origin")
        if origin is not None:
            response.headers.update(self._cors.headers(origin))
        return response

    async def _export(self, signal: Signal, request: web.BaseRequest) -> web.Response:
        media, content_type = _reply_type(request)
        try:
            with self._in_flight:
                receipt = await self._receive(signal, request)
        except (asyncio.CancelledError, ConnectionError):  # the client went away, or the grace of a stop is over
            self._count("cancelled")
            raise
        except Exception as error:
            return self._refuse(request, error)
        if receipt.rejected or receipt.message:
            self._count("partial" if receipt.rejected else "ok")
            body = replies.http_partial_success_body(signal, receipt, media)
        else:
            self._count("ok")
            body = replies.FULL_SUCCESS[media]
        return web.Response(body=body, headers={"Content-Type": content_type, **_SERVER})

    async def _receive(self, signal: Signal, request: web.BaseRequest) -> Receipt:
        """From headers to a durable batch."""
        headers = request.headers
        if self._auth is not None:
            self._auth.check(headers)
        media = self._media(request)
        applied = unpack.codings(", ".join(headers.getall("Content-Encoding", ())))
        length = request.content_length
        if length is not None and length > self._max_request_bytes:
            raise self._too_large()
        reservation = Reservation(self._intake, _CHUNKED_BYTES if length is None else length)
        try:
            if headers.get("Expect", "").lower() == "100-continue":
                await _continue(request)
            body = await self._read(request, reservation)
            if applied:
                body = await inflate(body, applied, self._max_request_bytes, reservation, self._workers)
            if media is Media.JSON:
                body = await self._from_json(signal, body)
                reservation.cover(len(body))
            batch = Batch(signal, body, transport="http")
        except BaseException:
            reservation.ticket.release()
            raise
        return await self._intake.accept(batch, reservation.ticket)

    def _media(self, request: web.BaseRequest) -> Media:
        content_type = request.headers.get("Content-Type", "")
        if content_type.startswith("text/plain") and self._cors.allows(request.headers.get("Origin", "")):
            # Old browser SDKs label JSON so in their beacons. Only from allowed pages: for this type browsers
            # ask no permission first, and any page could reach the collector of who visits it.
            return Media.JSON
        return unpack.media_type(content_type)[0]

    # -- the body --------------------------------------------------------------------------------------
    async def _read(self, request: web.BaseRequest, reservation: Reservation) -> bytes:
        """The body as it was sent."""
        content = request.content
        chunks: list[bytes] = []
        total = 0
        try:
            # Small bodies arrive with their headers and need no clock.
            async with contextlib.nullcontext() if content.is_eof() else asyncio.timeout(self._body_timeout_s):
                while chunk := await content.readany():
                    total += len(chunk)
                    if total > self._max_request_bytes:
                        raise self._too_large()
                    reservation.cover(total)
                    chunks.append(chunk)
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except TimeoutError:
            raise _Slow(f"the body did not arrive within {self._body_timeout_s:g} seconds") from None
        except (RequestPayloadError, HttpProcessingError) as error:
            # From aiohttp's parser in Python; its compiled one leaves the reader waiting for the timeout.
            raise Rejected(f"the body is not well-formed HTTP: {error}") from error

    async def _from_json(self, signal: Signal, body: bytes) -> bytes:
        if not body:
            return b""
        if len(body) <= limits.JSON_INLINE_BYTES:
            return json_to_protobuf(signal, body)
        async with self._json_turn:
            return await self._in_thread(json_to_protobuf, signal, body)

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._workers, call)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request is larger than {self._max_request_bytes} bytes (setting max_request_bytes)")

    # -- refusals --------------------------------------------------------------------------------------
    def _refuse(self, request: web.BaseRequest, error: Exception) -> web.Response:
        headers = {}
        if isinstance(error, unpack.Unsupported):
            refused = Refusal("rejected", Code.INVALID_ARGUMENT, 415, str(error))
            headers["Accept-Encoding"] = unpack.ACCEPTED_CODINGS
        elif isinstance(error, _Slow):
            refused = Refusal("rejected", Code.DEADLINE_EXCEEDED, 408, str(error))
        else:
            refused = replies.refusal(error)
        if refused.outcome == "failed":
            log.error("a request failed for a reason of our own", exc_info=error)
        elif refused.http_status == 401 and self._auth is not None:
            headers["WWW-Authenticate"] = self._auth.challenge
        self._count(refused.outcome)
        return self._refusal_response(request, refused, headers)

    def _elsewhere(self, signal: Signal | None, request: web.BaseRequest) -> web.Response:
        """Requests that are no export: preflights, wrong methods, wrong paths."""
        if signal is None:
            return self._refusal_response(request, Refusal("", Code.NOT_FOUND, 404, _not_found(request.path)))
        if request.method == "OPTIONS":
            headers = {"Allow": _METHODS, "Vary": "Origin", **_SERVER, **self._cors.preflight(request.headers)}
            return web.Response(status=204, headers=headers)
        message = f"{request.path} takes POST with telemetry of an exporter; there is nothing to {request.method} here"
        refused = Refusal("", Code.UNIMPLEMENTED, 405, message)
        return self._refusal_response(request, refused, {"Allow": _METHODS})

    def _refusal_response(
        self, request: web.BaseRequest, refused: Refusal, headers: dict[str, str] | None = None
    ) -> web.Response:
        media, content_type = _reply_type(request)
        headers = {**(headers or {}), "Content-Type": content_type, **_SERVER}
        if refused.retry_after_s is not None:
            headers["Retry-After"] = replies.retry_after(refused.retry_after_s)
        body = replies.http_status_body(refused, media)
        response = web.Response(status=refused.http_status, body=body, headers=headers)
        if refused.http_status == 408:
            response.force_close()
        return response

    def _count(self, outcome: str) -> None:
        self._meter.add(REQUESTS, 1, "otlp", "http", outcome)


class _Slow(Exception):
    """A body that does not come; whoever holds its reservation should not wait."""


def _reply_type(request: web.BaseRequest) -> tuple[Media, str]:
    """Replies are written as the request is; JSON to those who send something else (people, mostly)."""
    try:
        return unpack.media_type(request.headers.get("Content-Type", ""))
    except unpack.Unsupported:
        return Media.JSON, _TYPES[Media.JSON]


def _not_found(path: str) -> str:
    shown = ascii(path[:200])
    base = next((known for known in PATHS if path.count("/v1/") and path.rstrip("/").endswith(known)), None)
    if base is not None:
        return (
            f"nothing is served at {shown}; did you mean {base}? OTEL_EXPORTER_OTLP_ENDPOINT is a base URL to which "
            f"exporters add the path themselves"
        )
    return (
        f"nothing is served at {shown}; this is OTLP/HTTP, which takes POST at {', '.join(PATHS)}. "
        "OTLP/gRPC (4317 by default) and health (13133 by default) have ports of their own"
    )


async def _continue(request: web.BaseRequest) -> None:
    """The interim answer to a client that waits for leave to send its body."""
    writer: Any = request.writer
    await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    writer.output_size = 0  # aiohttp takes any output as the beginning of the real answer


class _Connections(web.Server):
    """Makes the protocol of each new connection."""

    def __init__(self, handler: Any) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._hints = misdirected.Hints()

    def __call__(self) -> RequestHandler:
        return _Connection(self, self._hints, asyncio.get_running_loop())


class _Connection(RequestHandler):
    """aiohttp's protocol, which also looks at the first bytes and answers bad HTTP as OTLP wants it."""

    __slots__ = ("_begun", "_hints")

    def __init__(self, server: web.Server, hints: misdirected.Hints, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=limits.HTTP_KEEPALIVE_S,
            lingering_time=limits.LINGER_S,
            max_line_size=limits.MAX_HEADER_BYTES,
            max_field_size=limits.MAX_HEADER_BYTES,
            auto_decompress=False,
        )
        self._hints = hints
        self._begun = False

    def data_received(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            mistake = misdirected.recognize(data)
            if mistake is not None and self.transport is not None:
                peer = self.transport.get_extra_info("peername")
                self._hints.give(mistake.name, mistake.hint, peer=peer[0] if peer else None)
                self.transport.write(mistake.answer)
                self.force_close()
                return
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """For what never reached the handler (400: no valid HTTP) and for mistakes of ours (500)."""
        if status >= 500:
            log.error("a request failed for a reason of our own", exc_info=exc)
            refused = Refusal("failed", Code.INTERNAL, 500, replies.UNEXPECTED)
        else:
            first_line = (message or str(exc)).partition("\n")[0]
            refused = replies.refusal(Rejected(f"this is not valid HTTP: {first_line}"))
        response = web.Response(
            status=refused.http_status,
            body=replies.http_status_body(refused, Media.JSON),
            headers={"Content-Type": _TYPES[Media.JSON], **_SERVER},
        )
        response.force_close()
        return response
