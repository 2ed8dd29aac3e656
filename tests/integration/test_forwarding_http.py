"""OTLP/HTTP: what servers, proxies and web sites answer that are no OTLP servers, or not quite."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from otlp_arrow.model import Batch, Parts, Signal
from otlp_arrow.model.limits import MAX_REPLY_BYTES
from otlp_arrow.sinks.destination import COMPRESSIONS, Destination
from otlp_arrow.sinks.otlp_http import OtlpHttpSink
from otlp_arrow.sinks.sink import DeliveryResult, Fault, Permanent, Transient
from remotes import HttpServer, spans

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def site(answer: Answer) -> AsyncIterator[Destination]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Destination("there", f"http://127.0.0.1:{runner.addresses[0][1]}", "http", timeout_s=5)
    finally:
        await runner.cleanup()


async def send_to(answer: Answer) -> DeliveryResult:
    async with site(answer) as there, OtlpHttpSink(there) as sink:
        return await sink.send(Batch(Signal.TRACES, spans(1)))


def always(**response: object) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.Response(**response)  # type: ignore[arg-type]

    return answer


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_success_counts_whatever_stands_in_it(status: int):
    assert await send_to(always(status=status)) == DeliveryResult()
    assert await send_to(always(status=status, text="thanks")) == DeliveryResult()


async def test_a_remote_may_answer_in_json():
    partial = {"partialSuccess": {"rejectedSpans": "1", "errorMessage": "no"}}
    assert await send_to(always(text=json.dumps(partial), content_type="application/json")) == DeliveryResult(1, "no")


async def test_a_web_page_is_no_success():
    with pytest.raises(Transient, match="web page") as caught:
        await send_to(always(text="<html>welcome</html>", content_type="text/html"))
    assert caught.value.fault is Fault.ADDRESS


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_says_where_it_leads(status: int):
    followed = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/elsewhere":
            followed.append(request.method)
            return web.Response()
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    with pytest.raises(Transient, match=f"HTTP {status}: moved to /elsewhere") as caught:
        await send_to(answer)
    assert caught.value.fault is Fault.ADDRESS
    assert not followed


async def test_an_endless_answer_is_not_read():
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(MAX_REPLY_BYTES // 65_536 + 2):
            await response.write(b"x" * 65_536)
        return response

    assert await send_to(answer) == DeliveryResult()


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ({"status": 400}, "HTTP 400: Bad Request"),
        ({"status": 400, "text": "span 3\nis bad"}, "HTTP 400: span 3 is bad"),
        ({"status": 500, "text": '{"message": "broken"}', "content_type": "application/json"}, "HTTP 500: broken"),
        ({"status": 418, "text": "<html>", "content_type": "text/html"}, "HTTP 418: I'm a Teapot"),
    ],
)
async def test_the_words_of_a_refusal_are_one_line(response: dict[str, object], message: str):
    with pytest.raises(Permanent) as caught:
        await send_to(always(**response))
    assert str(caught.value).lower() == message.lower()


async def test_a_body_that_breaks_off_is_transient():
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"x")
        assert request.transport is not None
        request.transport.abort()
        return response

    with pytest.raises(Transient) as caught:
        await send_to(answer)
    assert caught.value.fault is Fault.UNREACHABLE


@pytest.mark.parametrize("compression", COMPRESSIONS["http"])
async def test_requests_that_were_not_joined_arrive_joined(compression: str):
    """Small ones are written together, large ones as they are."""
    parts = tuple(spans(n, pad=pad) for n, pad in ((1, 0), (2, 0), (3, 50_000), (1, 0), (2, 40_000), (1, 0)))
    async with HttpServer() as server:
        there = Destination("d", server.url, "http", compression=compression)
        async with OtlpHttpSink(there) as sink:
            await sink.send(Batch(Signal.TRACES, Parts(parts)))
        assert server.remote.payloads == [(Signal.TRACES, b"".join(parts))]
        assert server.remote.headers[0]["content-type"] == "application/x-protobuf"
        if compression == "none":
            assert server.remote.headers[0]["content-length"] == str(sum(map(len, parts)))
