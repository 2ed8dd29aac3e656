"""A setting that is wrong: log and health name the destination and the cause in one line, and storage goes on."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import re
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from certificates import Certificates
from otlp_arrow.app.settings import Settings
from otlp_arrow.app.wiring import Collector, open_collector
from otlp_arrow.model import Batch, Signal
from otlp_arrow.sinks import causes
from otlp_arrow.sinks.causes import Causes, in_plain_words
from otlp_arrow.sinks.destination import Destination, TlsFiles, build_sink
from otlp_arrow.sinks.sink import Fault, Transient
from remotes import SERVERS, Drop, FlightServer, GrpcServer, HttpServer, Refuse, Server, free_port, spans, until
from served import Served

FAST = {
    "retry": {"initial_interval_secs": 0.01, "max_interval_secs": 0.05},
    "breaker": {"failures": 1000, "open_secs": 0.1},
    "timeout_secs": 5,
}


@pytest.fixture(params=SERVERS, ids=lambda kind: kind.transport)
def kind(request: pytest.FixtureRequest) -> type[Server]:
    found: type[Server] = request.param
    return found


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    directory = tmp_path / "certificates"
    directory.mkdir()
    return Certificates(directory)


@dataclass(frozen=True, slots=True)
class Mistake:
    """Settings that cannot work, and what a person should read."""

    settings: dict[str, Any]
    words: str


def with_tls(kind: type[Server], certificates: Certificates, *, mutual: bool = False) -> Server:
    if kind is HttpServer:
        return kind(credentials=certificates.server(mutual).ssl_context())
    pair = (certificates.key.read_bytes(), certificates.cert.read_bytes())
    roots = certificates.ca.read_bytes() if mutual else None
    return kind(credentials=grpc.ssl_server_credentials([pair], roots, mutual))


def reissue(certificates: Certificates, name: str, **more: Any) -> None:
    issued = certificates.authority.issue_cert(name, **more)
    certificates.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(certificates.key)


async def wrong_credential(kind: type[Server], certificates: Certificates, stack: AsyncExitStack) -> Mistake:
    server = await stack.enter_async_context(kind())
    server.remote.decide = lambda n, signal, payload: Refuse(grpc.StatusCode.UNAUTHENTICATED, "unknown token")
    authentication = {"auth_type": "bearer_token", "credentials": {"token": "hunter2"}}
    return Mistake(
        {"endpoint_url": server.url, "authentication": authentication},
        r"does not accept the credentials: .*unknown token",
    )


async def wrong_host(kind: type[Server], certificates: Certificates, stack: AsyncExitStack) -> Mistake:
    return Mistake({"endpoint_url": "http://nowhere.invalid:4317"}, r"no address is known for nowhere\.invalid")


async def wrong_port(kind: type[Server], certificates: Certificates, stack: AsyncExitStack) -> Mistake:
    port = free_port()
    return Mistake(
        {"endpoint_url": f"http://localhost:{port}"}, rf"cannot connect to localhost:{port}: connection refused"
    )


async def expired_certificate(kind: type[Server], certificates: Certificates, stack: AsyncExitStack) -> Mistake:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    reissue(certificates, "localhost", not_after=yesterday)
    server = await stack.enter_async_context(with_tls(kind, certificates))
    return Mistake(
        {"endpoint_url": server.url, "tls": {"ca_file": certificates.ca}},
        "cannot be reached: its certificate has expired",
    )


async def certificate_of_another_host(kind: type[Server], certificates: Certificates, stack: AsyncExitStack) -> Mistake:
    reissue(certificates, "other.example")
    server = await stack.enter_async_context(with_tls(kind, certificates))
    return Mistake(
        {"endpoint_url": server.url, "tls": {"ca_file": certificates.ca}},
        "its certificate is for another host than localhost",
    )


async def unknown_authority(kind: type[Server], certificates: Certificates, stack: AsyncExitStack) -> Mistake:
    server = await stack.enter_async_context(with_tls(kind, certificates))
    other = certificates.ca.with_name("other.pem")
    other.write_bytes(certificates.other_authority_pem())
    return Mistake(
        {"endpoint_url": server.url, "tls": {"ca_file": other}},
        r"of an authority that is not trusted here \(tls\.ca_file\)",
    )


async def no_certificate_of_ours(kind: type[Server], certificates: Certificates, stack: AsyncExitStack) -> Mistake:
    server = await stack.enter_async_context(with_tls(kind, certificates, mutual=True))
    return Mistake({"endpoint_url": server.url, "tls": {"ca_file": certificates.ca}}, r"certificate.*\(tls\.cert_file")


async def tls_towards_a_plain_port(kind: type[Server], certificates: Certificates, stack: AsyncExitStack) -> Mistake:
    server = await stack.enter_async_context(kind())
    return Mistake(
        {"endpoint_url": f"https://localhost:{server.port}", "tls": {"ca_file": certificates.ca}},
        rf"does not speak TLS at port {server.port}: http instead of https\?",
    )


async def plain_text_towards_a_tls_port(
    kind: type[Server], certificates: Certificates, stack: AsyncExitStack
) -> Mistake:
    server = await stack.enter_async_context(with_tls(kind, certificates))
    return Mistake(
        {"endpoint_url": f"http://localhost:{server.port}"},
        rf"speaks TLS at port {server.port}: https instead of http\?",
    )


async def another_protocol(kind: type[Server], certificates: Certificates, stack: AsyncExitStack) -> Mistake:
    other: type[Server] = GrpcServer if kind is HttpServer else HttpServer
    server = await stack.enter_async_context(other())
    words = "does not speak HTTP/1 at port" if kind is HttpServer else "speaks HTTP/1 at port"
    return Mistake({"endpoint_url": server.url}, words)


MISTAKES: tuple[Callable[[type[Server], Certificates, AsyncExitStack], Awaitable[Mistake]], ...] = (
    wrong_credential,
    wrong_host,
    wrong_port,
    expired_certificate,
    certificate_of_another_host,
    unknown_authority,
    no_certificate_of_ours,
    tls_towards_a_plain_port,
    plain_text_towards_a_tls_port,
    another_protocol,
)


def settings_for(directory: Path, kind: type[Server], forwarding: dict[str, Any]) -> Settings:
    doors = {"protobuf_port": 0, "http_port": 0, "arrow_flight_enabled": False}
    there = {"enabled": True, "protocol": kind.transport, **FAST, **forwarding}
    return Settings(output_dir=directory, protocols=doors, forwarding=there, write_interval_secs=1)


def part(running: Collector) -> dict[str, Any]:
    parts: list[dict[str, Any]] = running.health.report().as_json()["parts"]
    return next(p for p in parts if p["name"] == "forwarding:default")


@pytest.mark.parametrize("make", MISTAKES, ids=lambda make: make.__name__)
async def test_one_line_in_the_log_and_in_health_names_destination_and_cause_while_storage_goes_on(
    make: Any, kind: type[Server], certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with AsyncExitStack() as stack:
        mistake = await make(kind, certificates, stack)
        settings = settings_for(tmp_path / "data", kind, mistake.settings)
        running = await stack.enter_async_context(open_collector(settings, admin=False))
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                await running.pipeline.intake.accept(Batch(Signal.TRACES, spans(2)))
            await until(lambda: re.search(mistake.words, part(running)["reason"]))
            await running.pipeline.intake.accept(Batch(Signal.TRACES, spans(2)))
        lines = [r.getMessage() for r in caplog.records if r.name.startswith("otlp_arrow")]
        assert len(lines) == 1, lines
        url = mistake.settings["endpoint_url"]
        assert lines[0].startswith(f"forwarding to default ({url}): ")
        assert re.search(mistake.words, lines[0])
        assert "\n" not in lines[0]
        assert "hunter2" not in lines[0]
        assert part(running)["state"] == "degraded"
        assert part(running)["details"]["url"] == url
        await running.pipeline.flush()
        snapshot = await running.pipeline.snapshot(Signal.TRACES)
        assert sum(segment.rows for segment in snapshot.segments) == 8
        assert part(running)["details"]["lag_records"] == 8, "it waits, and is not thrown away"
        assert running.health.report().ready


async def test_nothing_but_that_line_is_on_stderr(kind: type[Server], certificates: Certificates, tmp_path: Path):
    """gRPC's libraries print lines of their own about handshakes, in no format of ours."""
    reissue(certificates, "other.example")
    async with with_tls(kind, certificates) as server:
        forwarding = {"enabled": "true", "protocol": kind.transport, "endpoint_url": server.url}
        forwarding["tls.ca_file"] = str(certificates.ca)
        forwarding["retry.initial_interval_secs"] = "0.01"
        arguments = [f"--set=forwarding.{name}={value}" for name, value in forwarding.items()]
        served = await asyncio.to_thread(Served(tmp_path / "data", *arguments).__enter__)
        try:
            await asyncio.to_thread(post, f"http://localhost:{served.http_port}/v1/traces", spans(2))
            line = json.loads(await asyncio.to_thread(served.await_line, "cannot be reached"))
            assert line["event"].startswith(f"forwarding to default ({server.url}): ")
            assert "its certificate is for another host than localhost" in line["event"]
            health = json.loads((await asyncio.to_thread(served.get, "/health"))[1])
            (reason,) = [p["reason"] for p in health["parts"] if p["name"] == "forwarding:default"]
            assert reason in line["event"]
            assert await asyncio.to_thread(served.stop) == 0
        finally:
            await asyncio.to_thread(served.close)
    assert [line for line in served.log if not line.startswith("{")] == []


def post(url: str, payload: bytes) -> None:
    request = urllib.request.Request(url, payload, {"Content-Type": "application/x-protobuf"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 200


# -- in words ------------------------------------------------------------------------------------------
GRPC = Destination("there", "http://gateway:4317", "grpc")
HTTP = Destination("there", "http://gateway:4318", "http")


async def test_what_a_proxy_says_of_those_behind_it_is_not_said_of_the_remote():
    said = Transient("UNAVAILABLE: upstream connect error: Connection refused")
    assert await Causes(GRPC).explain(said) is said


async def test_a_remote_that_is_busy_is_not_explained():
    said = Transient("HTTP 503: connection refused", 1.0, Fault.BUSY)
    assert await Causes(HTTP).explain(said) is said


def test_what_is_not_known_stays_as_it_is():
    assert in_plain_words("the moon is full", GRPC) == "the moon is full"


@pytest.mark.parametrize("of", [GrpcServer, HttpServer, FlightServer], ids=lambda of: of.transport)
async def test_a_remote_that_has_worked_is_not_greeted_again(of: type[Server], monkeypatch: pytest.MonkeyPatch):
    """It dies, or restarts; a second connection would only be in its way."""
    greeted: list[Destination] = []
    monkeypatch.setattr(causes, "_greet_plain_port", lambda destination: greeted.append(destination) or "")
    async with of() as server:
        there = Destination("there", server.url, of.transport, timeout_s=5)
        for first, expected in (([None], 0), ([], 1)):
            async with build_sink(there) as sink:
                server.remote.answers += [*first, Drop(), Drop()]
                for _ in first:
                    await sink.send(batch_for(sink))
                for _ in range(2):
                    with pytest.raises(Transient):
                        await sink.send(batch_for(sink))
            assert len(greeted) == expected, "once in a while before, and never after"


def batch_for(sink: Any) -> Batch:
    from otlp_arrow import codec
    from otlp_arrow.model import Encoding
    from otlp_arrow.sinks.convert import arrow_batch

    payload = spans(1)
    if sink.encoding is Encoding.OTLP:
        return Batch(Signal.TRACES, payload)
    return arrow_batch(Signal.TRACES, codec.decode(Signal.TRACES, payload))


def test_a_server_that_does_not_answer_the_greeting_is_given_up(monkeypatch: pytest.MonkeyPatch):
    import socket

    monkeypatch.setattr(causes, "LOOK_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert causes._greet_plain_port(Destination("d", f"http://localhost:{port}", "grpc")) == ""
        assert causes._greet_tls_port(Destination("d", f"https://localhost:{port}", "grpc", tls=TlsFiles())) == ""
