"""What is particular to OTLP/gRPC: health, services, TLS, memory, ports."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from certificates import Certificates
from doors import SERVERS, CountingMeter, GrpcSender, MemoryIntake, OpenDoor, open_door, span_request, until
from otlp_arrow.model import OtlpServerError, Signal
from otlp_arrow.receivers import Authenticator, ServerTls
from otlp_arrow.receivers.services import SERVICES

SPAN = span_request("one")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(autouse=True, params=["grpc", "grpc-library"], ids=["compiled", "library"])
def _door_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds for the compiled door and for the one by gRPC's own library."""
    monkeypatch.setitem(SERVERS, "grpc", SERVERS[request.param])


def channel_of(door: OpenDoor) -> grpc.aio.Channel:
    assert isinstance(door.sender, GrpcSender)
    return door.sender.channel


async def health_of(door: OpenDoor, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel_of(door))
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return int(answer.status)


# -- services ------------------------------------------------------------------------------------------
async def test_the_generated_stub_gets_a_message_of_its_own_kind() -> None:
    async with open_door("grpc") as door:
        stub = trace_service_pb2_grpc.TraceServiceStub(channel_of(door))
        answer = await stub.Export(ExportTraceServiceRequest.FromString(SPAN), timeout=5)
        assert not answer.HasField("partial_success")


@pytest.mark.parametrize(
    "method",
    [
        "/opentelemetry.proto.collector.trace.v1.TraceService/Import",
        "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export",
        "/nothing",
    ],
)
@pytest.mark.parametrize("auth", [None, Authenticator(api_keys=["k"])], ids=["open", "guarded"])
async def test_an_unknown_method_is_unimplemented(method: str, auth: Authenticator | None) -> None:
    async with open_door("grpc", auth=auth) as door:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel_of(door).unary_unary(method)(b"", timeout=5)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_that_ends_without_a_message_is_refused() -> None:
    async with open_door("grpc") as door:
        call = channel_of(door).stream_unary(f"/{SERVICES[Signal.TRACES]}/Export")(timeout=5)
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_while_there_is_no_room_calls_are_refused_before_their_message_is_read() -> None:
    async with open_door("grpc") as door:
        door.intake.max_bytes = 10
        assert (await door.sender.send(Signal.TRACES, SPAN)).code == "UNAVAILABLE"
        door.intake.max_bytes = 0
        unsent = channel_of(door).stream_unary(f"/{SERVICES[Signal.TRACES]}/Export")(timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await unsent
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE

        door.intake.max_bytes = 1 << 20
        door.intake.asked_bytes.clear()
        for _ in range(3):
            assert (await door.sender.send(Signal.TRACES, SPAN)).ok
        assert door.intake.asked_bytes == [1, len(SPAN), len(SPAN), len(SPAN)]  # one look is enough


# -- health --------------------------------------------------------------------------------------------
async def test_health_answers_for_the_server_and_each_service_and_needs_no_credentials() -> None:
    async with open_door("grpc", auth=Authenticator(bearer_tokens=["t"])) as door:
        names = ["", *SERVICES.values()]
        assert [await health_of(door, name) for name in names] == [SERVING] * 4
        await door.server.set_serving(False)  # type: ignore[union-attr]
        assert [await health_of(door, name) for name in names] == [NOT_SERVING] * 4
        await door.server.set_serving(True)  # type: ignore[union-attr]
        assert await health_of(door, "") == SERVING


async def test_watchers_of_health_hear_of_the_stop() -> None:
    async with open_door("grpc", grace_s=0.2) as door:
        watch = health_pb2_grpc.HealthStub(channel_of(door)).Watch(health_pb2.HealthCheckRequest(), timeout=5)
        assert (await watch.read()).status == SERVING
        await door.server.__aexit__(None, None, None)
        assert (await watch.read()).status == NOT_SERVING


# -- memory and connections ----------------------------------------------------------------------------
_BOMB = """
import sys, grpc
options = [("grpc.max_send_message_length", -1)]
channel = grpc.insecure_channel("127.0.0.1:" + sys.argv[1], options, grpc.Compression.Gzip)
try:
    channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")(bytes(300 << 20), timeout=60)
except grpc.RpcError as error:
    print(error.code().name)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_third_of_a_megabyte_of_gzip_that_holds_a_third_of_a_gigabyte_is_refused_without_holding_it() -> None:
    async with open_door("grpc") as door:
        await door.sender.send(Signal.TRACES, SPAN)
        arguments = [sys.executable, "-c", _BOMB, str(door.server.bound_port)]
        environment = os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "0"}
        client = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE, env=environment)
        before = peak = resident_bytes()
        ending = asyncio.create_task(client.communicate())
        while not ending.done():
            peak = max(peak, resident_bytes())
            await asyncio.wait([ending], timeout=0.005)
        assert (await ending)[0].strip() == b"RESOURCE_EXHAUSTED"
        assert peak - before < 200 << 20
        assert (await door.sender.send(Signal.TRACES, SPAN)).ok


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_five_hundred_calls_at_once_on_one_connection_are_all_taken() -> None:
    async with open_door("grpc") as door:
        door.intake.gate.clear()
        calls = [asyncio.create_task(door.sender.send(Signal.TRACES, SPAN)) for _ in range(500)]
        await until(lambda: door.intake.waiting == 500)
        door.intake.gate.set()
        answers = await asyncio.gather(*calls)
        assert all(answer.ok for answer in answers)
        assert len(door.intake.batches) == 500


async def test_a_taken_port_gives_an_error_that_names_it() -> None:
    async with open_door("grpc") as door:
        port = door.server.bound_port
        other = SERVERS["grpc"](MemoryIntake(), host="127.0.0.1", port=port, meter=CountingMeter())
        with pytest.raises(OtlpServerError, match=rf"127\.0\.0\.1:{port}: another program .*OTLP_PROTOBUF_PORT"):
            await other.__aenter__()
        assert (await door.sender.send(Signal.TRACES, SPAN)).ok


async def test_a_client_finds_the_collector_again_after_a_restart() -> None:
    async with open_door("grpc") as door:
        port = door.server.bound_port
        client = GrpcSender(port)
        assert (await client.send(Signal.TRACES, SPAN)).ok
    async with open_door("grpc", port=port) as door:
        method = client.channel.unary_unary(f"/{SERVICES[Signal.TRACES]}/Export")
        await method(SPAN, wait_for_ready=True, timeout=20)
        assert len(door.intake.batches) == 1
        await client.close()


async def test_localhost_is_open_on_each_of_its_addresses() -> None:
    async with open_door("grpc", host="localhost") as door:
        sender = GrpcSender(door.server.bound_port, host="localhost")
        assert (await sender.send(Signal.TRACES, SPAN)).ok
        await sender.close()


# -- TLS -----------------------------------------------------------------------------------------------
@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def send_over_tls(port: int, credentials: grpc.ChannelCredentials) -> str:
    sender = GrpcSender(port, credentials, host="localhost")
    try:
        return (await sender.send(Signal.TRACES, SPAN, timeout=5)).code
    finally:
        await sender.close()


async def test_tls_clients_that_trust_the_authority_get_in(certificates: Certificates) -> None:
    async with open_door("grpc", tls=certificates.server()) as door:
        assert await send_over_tls(door.server.bound_port, certificates.grpc_client()) == "OK"
        stranger = grpc.ssl_channel_credentials(certificates.other_authority_pem())
        assert await send_over_tls(door.server.bound_port, stranger) == "UNAVAILABLE"
        assert (await door.sender.send(Signal.TRACES, SPAN, timeout=5)).code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


async def test_with_a_client_authority_only_clients_with_its_certificates_get_in(certificates: Certificates) -> None:
    async with open_door("grpc", tls=certificates.server(mutual=True)) as door:
        assert await send_over_tls(door.server.bound_port, certificates.grpc_client(mutual=True)) == "OK"
        assert await send_over_tls(door.server.bound_port, certificates.grpc_client()) == "UNAVAILABLE"
        assert len(door.intake.batches) == 1


async def test_a_renewed_certificate_is_shown_without_a_restart(certificates: Certificates) -> None:
    tls: ServerTls = certificates.server()
    async with open_door("grpc", tls=tls) as door:
        assert await send_over_tls(door.server.bound_port, certificates.grpc_client()) == "OK"
        old_client = certificates.grpc_client()
        certificates.replace_authority()
        assert await send_over_tls(door.server.bound_port, certificates.grpc_client()) == "OK"
        assert await send_over_tls(door.server.bound_port, old_client) == "UNAVAILABLE"
