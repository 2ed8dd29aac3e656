"""What ``serve`` prints at start."""

from __future__ import annotations

from pathlib import Path

import trustme

from otlp_arrow.app.settings import Settings
from otlp_arrow.app.wiring import open_collector
from otlp_arrow.cli.serve import greeting

PORTS = {"protocols.protobuf_port": 0, "protocols.http_port": 0, "protocols.arrow_flight_port": 0, "admin_port": 0}


async def greeted(directory: Path, **flags: object) -> str:
    settings = Settings.load(flags={"output_dir": directory, **PORTS, **flags}, environ={}).settings
    async with open_collector(settings) as collector:
        ports = collector.ports()
        text = "\n".join(greeting(collector))
    for name, port in ports.items():
        text = text.replace(str(port), f"<{name}>")
    return text


async def test_an_address_for_all_interfaces_becomes_one_that_a_sender_can_use(tmp_path: Path):
    text = await greeted(tmp_path, host="0.0.0.0")
    assert "OTLP/gRPC   0.0.0.0:<otlp_grpc>" in text
    assert "Flight      0.0.0.0:<flight>" in text
    assert "ENDPOINT=http://localhost:<otlp_grpc>" in text
    assert "http://localhost:<admin>/health" in text


async def test_a_door_that_is_closed_is_not_offered(tmp_path: Path):
    text = await greeted(tmp_path, **{"protocols.protobuf_enabled": False, "protocols.arrow_flight_enabled": False})
    assert "OTLP/gRPC" not in text
    assert "PROTOCOL=grpc" not in text
    assert "ENDPOINT=http://localhost:<otlp_http>" in text
    assert "Flight" not in text


async def test_what_senders_must_show_is_said_and_no_secret_is(tmp_path: Path):
    assert "authorization=Bearer%20<token>" in await greeted(tmp_path / "a", **{"auth.bearer_tokens": "hunter2"})
    assert 'x-api-key=<key>"' in await greeted(tmp_path / "b", **{"auth.api_keys": "hunter2"})
    text = await greeted(tmp_path / "c", **{"auth.basic": "u:hunter2"})
    assert "authorization=Basic%20<base64 of user:password>" in text
    assert "hunter2" not in text


async def test_encrypted_doors_are_https(tmp_path: Path):
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    both = tmp_path / "both.pem"
    flags = {"tls.cert_file": both, "tls.key_file": both, "tls.client_ca_file": tmp_path / "ca.pem"}
    text = await greeted(tmp_path, **flags)
    assert "ENDPOINT=https://localhost:<otlp_http>" in text
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE=" in text
    assert "OTEL_EXPORTER_OTLP_CLIENT_KEY=" in text
