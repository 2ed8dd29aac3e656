"""A proxy named by the environment is used for what it is named for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from otlp_arrow.model import Batch, Signal
from otlp_arrow.sinks.destination import Destination, build_sink
from otlp_arrow.sinks.sink import DeliveryResult
from remotes import GrpcServer, HttpServer, span_ids, spans

_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "grpc_proxy", "no_grpc_proxy")


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def tunnel(to: int) -> AsyncIterator[tuple[int, list[str]]]:
    """A proxy that takes CONNECT and leads everybody to one port: its own port, and what it was asked for."""
    asked: list[str] = []
    ended = asyncio.Event()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[0])
        there = await asyncio.open_connection("localhost", to)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
        await asyncio.gather(writer.wait_closed(), there[1].wait_closed(), return_exceptions=True)
        ended.set()

    server = await asyncio.start_server(accept, "localhost", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
        async with asyncio.timeout(10):
            await ended.wait()
    finally:
        server.close()


async def send(url: str, transport: str, payload: bytes) -> DeliveryResult:
    async with build_sink(Destination("there", url, transport, timeout_s=5)) as sink:  # type: ignore[arg-type]
        return await sink.send(Batch(Signal.TRACES, payload))


async def test_http_goes_by_the_proxy_with_its_credentials(monkeypatch: pytest.MonkeyPatch):
    async with HttpServer() as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:secret@localhost:{proxy.port}")
        payload = spans(2)
        await send("http://gateway.invalid:4318", "http", payload)
        assert sorted(proxy.remote.ids) == span_ids(payload)
        (headers,) = proxy.remote.headers
        assert headers["host"] == "gateway.invalid:4318"
        assert headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"


async def test_a_proxy_may_be_named_without_a_scheme(monkeypatch: pytest.MonkeyPatch):
    async with HttpServer() as proxy:
        monkeypatch.setenv("http_proxy", f"localhost:{proxy.port}")
        await send("http://gateway.invalid:4318", "http", spans(2))
        assert proxy.remote.requests == 1


async def test_grpc_goes_by_the_proxy(monkeypatch: pytest.MonkeyPatch):
    async with GrpcServer() as server, tunnel(server.port) as (port, asked):
        monkeypatch.setenv("http_proxy", f"http://localhost:{port}")
        payload = spans(2)
        await send("http://gateway.invalid:4317", "grpc", payload)
        assert sorted(server.remote.ids) == span_ids(payload)
        assert asked == ["CONNECT gateway.invalid:4317 HTTP/1.1"]


@pytest.mark.parametrize("of", [GrpcServer, HttpServer], ids=lambda of: of.transport)
async def test_whom_no_proxy_names_is_reached_directly(
    of: type[GrpcServer | HttpServer], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("http_proxy", "http://localhost:1")
    monkeypatch.setenv("no_proxy", "localhost")
    async with of() as server:
        await send(server.url, of.transport, spans(2))
        assert server.remote.requests == 1
