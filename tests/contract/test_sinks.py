"""One suite, three sinks: what ``send`` promises, against real servers on loopback that fail on demand."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from certificates import Certificates
from otlp_arrow import codec
from otlp_arrow.model import Batch, Encoding, OtlpConfigError, Signal
from otlp_arrow.sinks.auth import Credentials
from otlp_arrow.sinks.convert import arrow_batch, convert
from otlp_arrow.sinks.destination import COMPRESSIONS, Destination, TlsFiles, build_sink
from otlp_arrow.sinks.sink import DeliveryResult, Fault, Permanent, Sink, Transient
from otlp_arrow.storage.frames import Frame
from remotes import SERVERS, Drop, FlightServer, GrpcServer, Partial, Refuse, Server, free_port, span_ids, spans
from samples import Sample

Code = grpc.StatusCode


LIBRARIES: dict[str, type[Server]] = {"grpc's library": GrpcServer, "pyarrow": FlightServer}
"""Who sends by gRPC and Flight without TLS where a proxy is named."""


@pytest.fixture(params=[*SERVERS, *LIBRARIES], ids=lambda kind: getattr(kind, "transport", kind))
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Server]:
    if request.param in LIBRARIES:
        for module in ("destination", "flight"):
            monkeypatch.setattr(f"otlp_arrow.sinks.{module}.is_direct", lambda destination: False)
        return LIBRARIES[request.param]
    found: type[Server] = request.param
    return found


@pytest.fixture
async def server(kind: type[Server]) -> AsyncIterator[Server]:
    async with kind() as running:
        yield running


def destination(server: Server, **more: Any) -> Destination:
    settings = {"timeout_s": 5.0, **more}
    return Destination("there", server.url, server.transport, **settings)


def batch_for(sink: Sink, payload: bytes, signal: Signal = Signal.TRACES) -> Batch:
    if sink.encoding is Encoding.OTLP:
        return Batch(signal, payload)
    if sink.takes_parts:
        frames = [Frame(1, signal, Encoding.OTLP, 1, 1, payload)]
        made = convert(frames, sink.encoding, codec.new_builder(signal), join=False, give_back=lambda builder: None)
        assert made.batch is not None
        return made.batch
    return arrow_batch(signal, codec.decode(signal, payload))


async def send(server: Server, payload: bytes, **more: Any) -> DeliveryResult:
    async with build_sink(destination(server, **more)) as sink:
        return await sink.send(batch_for(sink, payload))


async def test_send_returns_when_the_remote_has_the_batch(server: Server):
    payload = spans(3)
    assert await send(server, payload) == DeliveryResult()
    assert sorted(server.remote.ids) == span_ids(payload)


async def test_every_sample_arrives_as_it_was(server: Server, sample: Sample):
    async with build_sink(destination(server)) as sink:
        await sink.send(batch_for(sink, sample.payload, sample.signal))
    ((signal, payload),) = server.remote.payloads
    assert signal is sample.signal
    assert codec.decode(signal, payload).equals(codec.decode(sample.signal, sample.payload))


async def test_each_compression_arrives_the_same(kind: type[Server]):
    payload = spans(200)
    for compression in COMPRESSIONS[kind.transport]:
        async with kind() as server:
            await send(server, payload, compression=compression)
            assert sorted(server.remote.ids) == span_ids(payload), compression


async def test_credentials_and_headers_go_with_every_request(server: Server):
    credentials = Credentials("bearer_token", {"token": "open sesame"})
    await send(server, spans(1), credentials=credentials, headers=(("X-Scope-OrgID", "tenant"),))
    (headers,) = server.remote.headers
    assert headers["authorization"] == "Bearer open sesame"
    assert headers["x-scope-orgid"] == "tenant"


async def test_a_partial_success_is_reported_with_the_remotes_words(server: Server):
    server.remote.answers.append(Partial(2, "two are too old"))
    assert await send(server, spans(5)) == DeliveryResult(2, "two are too old")


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Refuse(Code.UNAVAILABLE), Fault.UNREACHABLE),
        (Refuse(Code.DEADLINE_EXCEEDED), Fault.UNREACHABLE),
        (Refuse(Code.UNAUTHENTICATED, "who are you"), Fault.CREDENTIALS),
        (Refuse(Code.PERMISSION_DENIED, "not you"), Fault.CREDENTIALS),
        (Refuse(Code.UNIMPLEMENTED, "nothing here"), Fault.ADDRESS),
        (Drop(), Fault.UNREACHABLE),
    ],
    ids=["unavailable", "deadline", "unauthenticated", "denied", "unimplemented", "dropped"],
)
async def test_what_may_be_taken_later_is_transient(server: Server, answer: Any, fault: Fault):
    server.remote.answers.append(answer)
    with pytest.raises(Transient) as caught:
        await send(server, spans(1))
    assert caught.value.fault is fault
    assert caught.value.retry_after_s is None
    assert "\n" not in str(caught.value)
    if isinstance(answer, Refuse):
        assert answer.message in str(caught.value)


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
async def test_a_remote_that_says_when_is_heard(server: Server, code: grpc.StatusCode):
    server.remote.answers.append(Refuse(code, after_s=7.0))
    with pytest.raises(Transient) as caught:
        await send(server, spans(1))
    assert (caught.value.fault, caught.value.retry_after_s) == (Fault.BUSY, 7.0)


@pytest.mark.parametrize("code", [Code.INVALID_ARGUMENT, Code.INTERNAL])
async def test_what_the_remote_refuses_is_permanent_and_names_its_reason(server: Server, code: grpc.StatusCode):
    server.remote.answers.append(Refuse(code, "the third span is bad"))
    with pytest.raises(Permanent, match="the third span is bad") as caught:
        await send(server, spans(1))
    assert not caught.value.too_large


async def test_what_is_too_large_says_so(server: Server):
    server.remote.answers.append(Refuse(Code.RESOURCE_EXHAUSTED, "4 MiB at most"))
    with pytest.raises(Permanent) as caught:
        await send(server, spans(1))
    assert caught.value.too_large


async def test_nobody_there_is_transient_and_comes_back_by_itself(server: Server):
    await server.down()
    async with build_sink(destination(server)) as sink:
        with pytest.raises(Transient) as caught:
            await sink.send(batch_for(sink, spans(1)))
        assert caught.value.fault is Fault.UNREACHABLE
        assert "refused" in str(caught.value).lower()
        await server.up()
        payload = spans(2)
        async with asyncio.timeout(10):
            while not server.remote.ids:
                try:
                    await sink.send(batch_for(sink, payload))
                except Transient:
                    await asyncio.sleep(0.1)
    assert sorted(server.remote.ids) == span_ids(payload)


async def test_a_remote_that_does_not_answer_is_given_up_after_the_timeout(server: Server):
    server.remote.delay_s = 30
    with pytest.raises(Transient) as caught:
        await send(server, spans(1), timeout_s=0.3)
    assert caught.value.fault is Fault.UNREACHABLE


async def test_many_batches_may_be_under_way_at_once(server: Server):
    server.remote.delay_s = 0.1
    async with build_sink(destination(server)) as sink:
        await asyncio.gather(*(sink.send(batch_for(sink, spans(1))) for _ in range(8)))
    assert len(server.remote.ids) == 8
    assert server.remote.most_at_once >= 4


async def test_a_cancelled_send_leaves_the_sink_whole(server: Server):
    server.remote.delay_s = 5
    async with build_sink(destination(server)) as sink:
        sending = asyncio.create_task(sink.send(batch_for(sink, spans(1))))
        await server.remote.wait_for(lambda remote: remote.requests == 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        server.remote.delay_s = 0
        assert await sink.send(batch_for(sink, spans(1))) == DeliveryResult()


async def test_a_name_that_does_not_exist_is_named(kind: type[Server]):
    nowhere = Destination("there", "http://nowhere.invalid:4317", kind.transport, timeout_s=5)
    async with build_sink(nowhere) as sink:
        with pytest.raises(Transient) as caught:
            await sink.send(batch_for(sink, spans(1)))
    assert caught.value.fault is Fault.UNREACHABLE


# -- TLS -----------------------------------------------------------------------------------------------
def credentials_of(kind: type[Server], certificates: Certificates, *, mutual: bool = False) -> Any:
    tls = certificates.server(mutual)
    if kind.transport == "http":
        return tls.ssl_context()
    roots = certificates.ca.read_bytes() if mutual else None
    pair = (certificates.key.read_bytes(), certificates.cert.read_bytes())
    return grpc.ssl_server_credentials([pair], roots, mutual)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def test_tls_with_an_authority_of_ones_own(kind: type[Server], certificates: Certificates):
    async with kind(credentials=credentials_of(kind, certificates)) as server:
        assert await send(server, spans(1), tls=TlsFiles(certificates.ca)) == DeliveryResult()


async def test_a_client_certificate_is_shown(kind: type[Server], certificates: Certificates, tmp_path: Path):
    issued = certificates.authority.issue_cert("client.example")
    chain, key = tmp_path / "client.pem", tmp_path / "client.key"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    async with kind(credentials=credentials_of(kind, certificates, mutual=True)) as server:
        with pytest.raises(Transient):
            await send(server, spans(1), tls=TlsFiles(certificates.ca))
        files = TlsFiles(certificates.ca, chain, key)
        assert await send(server, spans(1), tls=files) == DeliveryResult()


async def test_an_unknown_authority_is_refused_and_the_cause_is_named(kind: type[Server], certificates: Certificates):
    async with kind(credentials=credentials_of(kind, certificates)) as server:
        with pytest.raises(Transient, match=r"(?i)certificate") as caught:
            await send(server, spans(1))
    assert caught.value.fault is Fault.UNREACHABLE


async def test_an_expired_certificate_is_refused_and_the_cause_is_named(kind: type[Server], certificates: Certificates):
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    issued = certificates.authority.issue_cert("localhost", not_after=yesterday)
    certificates.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(certificates.key)
    async with kind(credentials=credentials_of(kind, certificates)) as server:
        with pytest.raises(Transient, match=r"(?i)certificate.*expired"):
            await send(server, spans(1), tls=TlsFiles(certificates.ca))


async def test_rotated_certificates_are_used_without_a_restart(kind: type[Server], certificates: Certificates):
    async with kind(credentials=credentials_of(kind, certificates)) as server:
        sent = destination(server, tls=TlsFiles(certificates.ca))
        async with build_sink(sent) as sink:
            assert await sink.send(batch_for(sink, spans(1))) == DeliveryResult()
            certificates.replace_authority()
            await server.down()
            server.credentials = credentials_of(kind, certificates)
            await server.up()
            async with asyncio.timeout(10):
                while len(server.remote.ids) < 2:
                    try:
                        await sink.send(batch_for(sink, spans(1)))
                    except Transient:
                        await asyncio.sleep(0.1)


def test_unusable_certificates_stop_the_start(kind: type[Server], tmp_path: Path):
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    with pytest.raises(OtlpConfigError, match=r"tls\.ca_file"):
        build_sink(Destination("there", f"https://localhost:{free_port()}", kind.transport, tls=TlsFiles(broken)))
    files = TlsFiles(None, broken, broken)
    with pytest.raises(OtlpConfigError, match=r"tls\.cert_file"):
        build_sink(Destination("there", f"https://localhost:{free_port()}", kind.transport, tls=files))


async def test_a_rotated_token_is_sent_with_the_next_request(server: Server, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("first\n")
    credentials = Credentials("bearer_token", {"token_file": str(token)})
    async with build_sink(destination(server, credentials=credentials)) as sink:
        await sink.send(batch_for(sink, spans(1)))
        token.with_suffix(".new").write_text("second\n")
        token.with_suffix(".new").replace(token)
        await sink.send(batch_for(sink, spans(1)))
    assert [h["authorization"] for h in server.remote.headers] == ["Bearer first", "Bearer second"]


def test_a_destination_shows_no_secret():
    credentials = Credentials("basic", {"username": "me", "password": "hunter2"})
    there = Destination("there", "http://localhost:1", "grpc", credentials=credentials)
    assert "hunter2" not in repr(there)
    assert "hunter2" not in str(dataclasses.asdict(there)["credentials"])
