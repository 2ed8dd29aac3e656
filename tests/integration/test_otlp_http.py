"""What is particular to OTLP/HTTP: types, codings, browsers, slow and broken bodies, wrong doors."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import random
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow as pa
import pytest
from google.rpc.status_pb2 import Status
from structlog.testing import capture_logs

from certificates import Certificates
from doors import CountingMeter, GrpcSender, HttpSender, MemoryIntake, OpenDoor, open_door, span_request, until
from otlp_arrow.codec.otlp_json import protobuf_to_json
from otlp_arrow.model import OtlpServerError, Signal, limits
from otlp_arrow.receivers import Authenticator, OtlpHttpServer

SPAN = span_request("one")
SPAN_JSON = protobuf_to_json(Signal.TRACES, SPAN).encode()
LARGE = span_request(*(random.Random(n).randbytes(50).hex() for n in range(6_000)))  # leaves the loop, packed or not
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def door() -> AsyncIterator[OpenDoor]:
    async with open_door("http-protobuf") as opened:
        yield opened


async def post(
    door: OpenDoor, body: Any, headers: dict[str, str], path: str = "/v1/traces", method: str = "POST"
) -> tuple[aiohttp.ClientResponse, bytes]:
    """Any request at all; the response and its body."""
    assert isinstance(door.sender, HttpSender)
    url = f"{door.sender.base}{path}"
    skip = ["Content-Type"]
    async with door.sender.session.request(method, url, data=body, headers=headers, skip_auto_headers=skip) as response:
        return response, await response.read()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


# -- types ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sent", "replied"),
    [
        ("application/x-protobuf", "application/x-protobuf"),
        ("application/x-protobuf; charset=utf-8", "application/x-protobuf"),
        ("application/protobuf", "application/protobuf"),
        ("application/json", "application/json"),
        ("application/json; charset=utf-8", "application/json"),
    ],
)
async def test_the_reply_has_the_type_of_the_request(door: OpenDoor, sent: str, replied: str) -> None:
    body = SPAN_JSON if "json" in sent else SPAN
    response, answer = await post(door, body, {"Content-Type": sent})
    assert (response.status, response.headers["Content-Type"]) == (200, replied)
    assert answer == (b"{}" if "json" in sent else b"")
    assert "aiohttp" not in response.headers["Server"]


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/xml", "application/grpc"])
async def test_another_type_is_answered_415_naming_what_would_do(door: OpenDoor, content_type: str | None) -> None:
    response, answer = await post(door, SPAN, {"Content-Type": content_type} if content_type else {})
    assert (response.status, response.headers["Content-Type"]) == (415, "application/json")
    assert isinstance(json.loads(answer)["code"], int)
    assert "4317" in json.loads(answer)["message"] if content_type == "application/grpc" else b"x-protobuf" in answer
    assert door.intake.asked_bytes == []


async def test_an_unknown_coding_is_answered_415_with_the_known_ones(door: OpenDoor) -> None:
    response, answer = await post(door, SPAN, PROTOBUF | {"Content-Encoding": "snappy"})
    assert response.status == 415
    assert response.headers["Accept-Encoding"] == "gzip, deflate, zstd"
    assert response.headers["Content-Type"] == "application/x-protobuf"
    assert "snappy" in Status.FromString(answer).message


async def test_a_mistake_in_json_is_answered_with_its_path(door: OpenDoor) -> None:
    body = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":{"low":1,"high":2}}]}]}]}'
    response, answer = await post(door, body, JSON)
    assert response.status == 400
    assert "resourceSpans[0].scopeSpans[0].spans[0].startTimeUnixNano" in json.loads(answer)["message"]


# -- codings -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("payload", "content_type"),
    [(SPAN, "application/x-protobuf"), (LARGE, "application/x-protobuf"), (SPAN, "application/json")],
    ids=["small", "large", "json"],
)
@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("zstd", zstd),
        ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    ],
)
async def test_every_coding_of_both_types_is_taken(
    door: OpenDoor, payload: bytes, content_type: str, coding: str, pack: Any
) -> None:
    body = payload if "protobuf" in content_type else protobuf_to_json(Signal.TRACES, payload).encode()
    response, _ = await post(door, _chunks(pack(body)), {"Content-Type": content_type, "Content-Encoding": coding})
    assert response.status == 200
    assert door.intake.batches[0].payload == payload


async def test_a_large_json_body_is_taken(door: OpenDoor) -> None:
    response, _ = await post(door, _chunks(protobuf_to_json(Signal.TRACES, LARGE).encode()), JSON)
    assert response.status == 200
    assert door.intake.batches[0].payload == LARGE


async def _chunks(body: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    """Sent without a declared length."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(SPAN)[:-4]),
        ("gzip", gzip.compress(SPAN) + b"more"),
        ("gzip", SPAN),
        ("deflate", zlib.compress(SPAN)[:-1]),
        ("zstd", zstd(SPAN)[:-1]),
        ("zstd", b"nonsense"),
    ],
    ids=["gzip cut", "gzip and more", "no gzip", "deflate cut", "zstd cut", "no zstd"],  # gzip has the time in it
)
async def test_a_body_that_cannot_be_unpacked_is_answered_400(door: OpenDoor, coding: str, body: bytes) -> None:
    response, answer = await post(door, body, PROTOBUF | {"Content-Encoding": coding})
    assert response.status == 400
    assert coding in Status.FromString(answer).message


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_bomb_is_answered_413_without_being_held(coding: str) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd}[coding]
    bomb = pack(bytes(128 << 20))
    async with open_door("http-protobuf", max_request_bytes=16 << 20) as door:
        before = peak = resident_bytes()
        sending = asyncio.create_task(post(door, bomb, PROTOBUF | {"Content-Encoding": coding}))
        while not sending.done():
            peak = max(peak, resident_bytes())
            await asyncio.wait([sending], timeout=0.002)
        response, answer = await sending
        assert response.status == 413
        assert "inflates" in Status.FromString(answer).message
        assert peak - before < 80 << 20
        assert door.intake.peak_bytes <= (16 << 20) + limits.INFLATE_STEP_BYTES


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- admission -----------------------------------------------------------------------------------------
async def test_a_declared_length_over_the_limit_is_refused_before_the_body_is_sent() -> None:
    async with open_door("http-protobuf", max_request_bytes=1000) as door:
        async with raw(door) as client:
            client.send(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n")
            client.send(b"Content-Length: 1001\r\n\r\n")
            assert await client.status() == 413
        assert door.intake.asked_bytes == []


async def test_chunks_over_the_limit_are_refused_while_they_come() -> None:
    async with open_door("http-protobuf", max_request_bytes=100_000) as door:
        response, _ = await post(door, _chunks(bytes(300_000)), PROTOBUF)
        assert response.status == 413
        assert door.intake.peak_bytes <= 100_000


async def test_a_request_is_refused_before_its_body_when_there_is_no_room_for_it(door: OpenDoor) -> None:
    door.intake.max_bytes = 1000
    async with raw(door) as client:
        client.send(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n")
        client.send(b"Content-Length: 1001\r\n\r\n")
        assert await client.status() == 503


async def test_room_that_runs_out_while_chunks_come_is_a_refusal_for_now(door: OpenDoor) -> None:
    door.intake.max_bytes = 100_000
    response, _ = await post(door, _chunks(span_request("x" * 300_000)), PROTOBUF)
    assert response.status == 503
    assert door.intake.held_bytes == 0


async def test_room_that_runs_out_while_inflating_is_a_refusal_for_now(door: OpenDoor) -> None:
    door.intake.max_bytes = 100_000
    response, _ = await post(door, gzip.compress(bytes(1_000_000)), PROTOBUF | {"Content-Encoding": "gzip"})
    assert response.status == 503
    assert response.headers["Retry-After"] == "1"
    assert door.intake.held_bytes == 0


async def test_a_reservation_covers_the_largest_form_of_a_request_not_their_sum(door: OpenDoor) -> None:
    body = protobuf_to_json(Signal.TRACES, LARGE).encode()
    response, _ = await post(door, gzip.compress(body), JSON | {"Content-Encoding": "gzip"})
    assert response.status == 200
    assert door.intake.peak_bytes == len(body)


async def test_a_client_that_asks_before_sending_is_told_to_go_on(door: OpenDoor) -> None:
    async with raw(door) as client:
        client.send(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n")
        client.send(b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(SPAN))
        assert await client.line() == b"HTTP/1.1 100 Continue"
        assert await client.line() == b""
        client.send(SPAN)
        assert await client.status() == 200


async def test_a_client_that_asks_before_sending_is_told_no_at_once() -> None:
    async with open_door("http-protobuf", auth=Authenticator(api_keys=["k"])) as door, raw(door) as client:
        client.send(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n")
        client.send(b"Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
        assert await client.status() == 401


# -- slow and broken connections -----------------------------------------------------------------------
class RawClient:
    """A connection whose bytes are written by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def line(self) -> bytes:
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n"), 5)).removesuffix(b"\r\n")

    async def status(self) -> int:
        """The status of the next response, having read all of it."""
        status = int((await self.line()).split()[1])
        length = 0
        while line := await self.line():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        self.body = await asyncio.wait_for(self.reader.readexactly(length), 5)
        return status

    async def ended(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(), 5) == b""
        except ConnectionError:
            return True

    def drop(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()


class raw:
    """``async with raw(door) as client``."""

    def __init__(self, door: OpenDoor) -> None:
        self.port = door.server.bound_port

    async def __aenter__(self) -> RawClient:
        self.client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port))
        return self.client

    async def __aexit__(self, *_: object) -> None:
        self.client.writer.close()
        try:
            await self.client.writer.wait_closed()
        except ConnectionError:
            pass


HEAD = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"


async def test_a_body_that_trickles_in_is_cut_off_and_its_reservation_returns() -> None:
    async with open_door("http-protobuf", body_timeout_s=0.1) as door, raw(door) as client:
        client.send(HEAD + b"Content-Length: 1000\r\n\r\nab")
        await until(lambda: door.intake.held_bytes == 1000)
        assert await client.status() == 408
        assert door.intake.held_bytes == 0
        assert "seconds" in Status.FromString(client.body).message


async def test_a_connection_that_drops_within_the_body_leaves_nothing_behind(door: OpenDoor) -> None:
    for framing in (b"Content-Length: 1000\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"):
        async with raw(door) as client:
            client.send(HEAD + framing)
            await until(lambda: door.intake.held_bytes > 0)
            client.drop()
            await until(lambda: door.intake.held_bytes == 0)
    await until(lambda: door.meter.outcomes == {"cancelled": 2})
    assert door.intake.batches == []


async def test_broken_chunks_are_answered_400(door: OpenDoor) -> None:
    async with raw(door) as client:
        client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nnonsense\r\n")
        assert await client.status() == 400
        assert await client.ended()
    assert door.intake.held_bytes == 0


async def test_chunks_that_break_off_later_end_the_connection_and_the_reservation() -> None:
    async with open_door("http-protobuf", body_timeout_s=0.2) as door, raw(door) as client:
        client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await until(lambda: door.intake.held_bytes > 0)
        client.send(b"nonsense\r\n")
        assert await client.status() in (400, 408)
        assert door.intake.held_bytes == 0


async def test_pipelined_requests_on_a_kept_connection_are_answered_in_order(door: OpenDoor) -> None:
    async with raw(door) as client:
        for number in range(10):
            body = span_request(f"span {number}")
            client.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        client.send(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [await client.status() for _ in range(11)] == [200] * 10 + [404]
    assert [batch.payload for batch in door.intake.batches] == [span_request(f"span {n}") for n in range(10)]


@pytest.mark.parametrize("junk", [b"nonsense\r\n\r\n", b"POST /v1/traces HTTP/1.1\r\nContent-Length: -1\r\n\r\n"])
async def test_what_is_no_http_is_answered_400_without_a_stack_trace(
    door: OpenDoor, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with raw(door) as client:
            client.send(junk)
            assert await client.status() == 400
            assert "HTTP" in json.loads(client.body)["message"]
            assert await client.ended()
    assert "Traceback" not in caplog.text


async def test_a_mistake_outside_the_request_path_is_answered_500_as_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_door("http-protobuf", cors_origins=["https://a.example"]) as door:
        cors = door.server._cors  # type: ignore[union-attr]
        monkeypatch.setattr(cors, "_allowed", None)
        with capture_logs() as logs:
            response, answer = await post(door, SPAN, PROTOBUF | {"Origin": "https://a.example"})
        assert response.status == 500
        assert "AttributeError" not in answer.decode()
        assert any(line["log_level"] == "error" for line in logs)


# -- paths and methods ---------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/", "/v1/trace", "/v1/traces/", "/v1development/profiles", "/health", "/v1/%ff"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_another_path_is_answered_404_naming_the_right_ones(door: OpenDoor, method: str, path: str) -> None:
    response, answer = await post(door, None, {}, path, method)
    assert response.status == 404
    assert "/v1/traces" in json.loads(answer)["message"]


async def test_a_doubled_path_is_explained(door: OpenDoor) -> None:
    response, answer = await post(door, SPAN, PROTOBUF, "/v1/traces/v1/traces")
    assert response.status == 404
    assert "base URL" in Status.FromString(answer).message


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "PATCH"])
async def test_another_method_is_answered_405_with_the_allowed_ones(door: OpenDoor, method: str) -> None:
    response, answer = await post(door, None, {}, "/v1/logs", method)
    assert (response.status, response.headers["Allow"]) == (405, "POST, OPTIONS")
    assert method == "HEAD" or method in json.loads(answer)["message"]


async def test_a_query_string_does_not_change_the_path(door: OpenDoor) -> None:
    response, _ = await post(door, SPAN, PROTOBUF, "/v1/traces?tenant=1")
    assert response.status == 200


# -- credentials ---------------------------------------------------------------------------------------
async def test_a_401_says_which_credentials_are_taken() -> None:
    async with open_door("http-protobuf", auth=Authenticator(bearer_tokens=["t"], basic={"a": "b"})) as door:
        response, _ = await post(door, SPAN, PROTOBUF)
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith('Bearer realm="otlp-arrow", Basic ')


# -- browsers ------------------------------------------------------------------------------------------
PAGE = "http://localhost:3000"


async def test_a_preflight_from_localhost_is_answered_without_credentials() -> None:
    async with open_door("http-protobuf", auth=Authenticator(api_keys=["k"])) as door:
        wanted = "content-type,traceparent,tracestate,baggage,authorization,x-api-key"
        asked = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": wanted,
        }
        response, answer = await post(door, None, asked, method="OPTIONS")
        assert (response.status, answer) == (204, b"")
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
        assert response.headers["Access-Control-Allow-Headers"] == wanted
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        assert response.headers["Vary"] == "Origin"


async def test_pages_may_read_the_answers_and_the_errors(door: OpenDoor) -> None:
    for path, content_type, status in [
        ("/v1/traces", "application/x-protobuf", 200),
        ("/v1/traces", "image/png", 415),
        ("/v2/traces", "application/x-protobuf", 404),
    ]:
        response, _ = await post(door, SPAN, {"Origin": PAGE, "Content-Type": content_type}, path)
        assert response.status == status
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert response.headers["Vary"] == "Origin"


async def test_other_pages_are_allowed_only_when_configured() -> None:
    async with open_door("http-protobuf", cors_origins=["https://app.example.com"]) as door:
        response, _ = await post(door, SPAN, PROTOBUF | {"Origin": "https://app.example.com"})
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        response, _ = await post(door, None, {"Origin": "https://evil.example"}, method="OPTIONS")
        assert "Access-Control-Allow-Origin" not in response.headers
        assert response.headers["Vary"] == "Origin"


async def test_a_plain_text_beacon_is_taken_from_an_allowed_page_only(door: OpenDoor) -> None:
    beacon = {"Content-Type": "text/plain;charset=UTF-8"}
    response, answer = await post(door, SPAN_JSON, beacon | {"Origin": PAGE})
    assert (response.status, response.headers["Content-Type"], answer) == (200, "application/json", b"{}")
    for headers in (beacon, beacon | {"Origin": "https://evil.example"}):
        response, _ = await post(door, SPAN_JSON, headers)
        assert response.status == 415
    assert len(door.intake.batches) == 1


# -- wrong doors ---------------------------------------------------------------------------------------
async def test_a_grpc_client_at_this_port_fails_with_a_reason_and_the_log_has_a_hint(door: OpenDoor) -> None:
    with capture_logs() as logs:
        for _ in range(3):
            sender = GrpcSender(door.server.bound_port)
            answer = await sender.send(Signal.TRACES, SPAN, timeout=5)
            await sender.close()
            assert answer.code == "UNAVAILABLE"
            assert "http1.x server" in answer.message
    assert [line["mistake"] for line in logs] == ["grpc"]
    assert "4317" in logs[0]["hint"]


async def test_a_tls_client_at_a_plain_port_fails_and_the_log_has_a_hint(door: OpenDoor, tmp_path: Path) -> None:
    with capture_logs() as logs:
        sender = HttpSender(door.server.bound_port, "protobuf", Certificates(tmp_path).https_client())
        with pytest.raises(aiohttp.ClientConnectorSSLError):
            await sender.send(Signal.TRACES, SPAN)
        await sender.close()
    assert [line["mistake"] for line in logs] == ["tls"]
    assert "http://" in logs[0]["hint"]


# -- TLS and ports -------------------------------------------------------------------------------------
async def test_tls_clients_that_trust_the_authority_get_in(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    async with open_door("http-protobuf", tls=certificates.server()) as door:
        sender = HttpSender(door.server.bound_port, "protobuf", certificates.https_client())
        assert (await sender.send(Signal.TRACES, SPAN)).ok
        await sender.close()
        with pytest.raises(aiohttp.ClientError):
            await door.sender.send(Signal.TRACES, SPAN)


async def test_with_a_client_authority_only_clients_with_its_certificates_get_in(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    async with open_door("http-protobuf", tls=certificates.server(mutual=True)) as door:
        sender = HttpSender(door.server.bound_port, "protobuf", certificates.https_client(mutual=True))
        assert (await sender.send(Signal.TRACES, SPAN)).ok
        await sender.close()
        sender = HttpSender(door.server.bound_port, "protobuf", certificates.https_client())
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await sender.send(Signal.TRACES, SPAN)
        await sender.close()
        assert len(door.intake.batches) == 1


async def test_a_renewed_certificate_and_authority_are_in_force_without_a_restart(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    async with open_door("http-protobuf", tls=certificates.server(mutual=True)) as door:
        old = certificates.https_client(mutual=True)
        certificates.replace_authority()
        sender = HttpSender(door.server.bound_port, "protobuf", certificates.https_client(mutual=True))
        assert (await sender.send(Signal.TRACES, SPAN)).ok
        await sender.close()
        sender = HttpSender(door.server.bound_port, "protobuf", old)
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await sender.send(Signal.TRACES, SPAN)
        await sender.close()


async def test_a_taken_port_gives_an_error_that_names_it(door: OpenDoor) -> None:
    port = door.server.bound_port
    other = OtlpHttpServer(MemoryIntake(), host="127.0.0.1", port=port, meter=CountingMeter())
    with pytest.raises(OtlpServerError, match=rf"127\.0\.0\.1:{port}: another program .*OTLP_HTTP_PORT"):
        await other.__aenter__()
    assert (await door.sender.send(Signal.TRACES, SPAN)).ok


async def test_a_closed_door_refuses_connections() -> None:
    async with open_door("http-protobuf") as door:
        await door.server.__aexit__(None, None, None)
        with pytest.raises(aiohttp.ClientConnectionError):
            await door.sender.send(Signal.TRACES, SPAN)
