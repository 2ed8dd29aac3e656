"""From keys, variables and files to destinations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from otlp_arrow.app.forwarding import destinations_of
from otlp_arrow.app.otel_variables import read_variables
from otlp_arrow.app.settings import Settings
from otlp_arrow.model import OtlpConfigError, Signal
from otlp_arrow.sinks.breaker import BreakerSettings
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.retry import RetrySettings


def load(tmp_path: Path, environ: dict[str, str] | None = None, yaml: str = "", **flags: Any) -> dict[str, Destination]:
    file = tmp_path / "config.yaml"
    file.write_text(yaml)
    named = {f"forwarding.{name.replace('__', '.')}": value for name, value in flags.items()}
    settings = Settings.load(flags=named, environ=environ or {}, config_file=file).settings
    return {destination.name: destination for destination in destinations_of(settings)}


def test_forwarding_is_off_by_default(tmp_path: Path):
    assert load(tmp_path) == {}
    assert load(tmp_path, endpoint_url="http://gateway:4317") == {}


def test_one_url_is_enough(tmp_path: Path):
    (there,) = load(tmp_path, enabled=True, endpoint_url="http://gateway:4317").values()
    assert there.name == "default"
    assert there.transport == "grpc"
    assert there.signals == set(Signal)
    assert there.retry == RetrySettings()
    assert there.breaker == BreakerSettings(5, 30.0)
    assert there.max_backlog_bytes == 1 << 30
    assert there.compression == "none"
    assert there.request_headers() == ()


def test_every_key_reaches_the_destination(tmp_path: Path):
    (there,) = load(
        tmp_path,
        enabled=True,
        endpoint_url="http://gateway:4318",
        protocol="protobuf",
        authentication__auth_type="basic",
        authentication__credentials='{"username": "me", "password": "pw"}',
        headers="X-Scope-OrgID=tenant, x-other = b",
        compression="zstd",
        timeout_secs=3,
        signals="traces,logs",
        max_batch_bytes="1MiB",
        max_in_flight=2,
        max_backlog_bytes="2GiB",
        retry__initial_interval_secs=1,
        retry__max_interval_secs=7,
        breaker__failures=3,
        breaker__open_secs=9,
    ).values()
    assert there.transport == "http"
    assert there.signals == {Signal.TRACES, Signal.LOGS}
    assert dict(there.request_headers()) == {
        "X-Scope-OrgID": "tenant",
        "x-other": "b",
        "Authorization": "Basic bWU6cHc=",
    }
    assert (there.compression, there.timeout_s, there.max_batch_bytes) == ("zstd", 3, 1 << 20)
    assert (there.max_in_flight, there.max_backlog_bytes) == (2, 2 << 30)
    assert (there.retry, there.breaker) == (RetrySettings(1, 7), BreakerSettings(3, 9))


def test_the_environment_says_it_too(tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    (there,) = load(
        tmp_path,
        {
            "OTLP_FORWARDING_ENABLED": "true",
            "OTLP_FORWARDING_ENDPOINT_URL": "https://vendor.example",
            "OTLP_FORWARDING_AUTHENTICATION_AUTH_TYPE": "bearer_token",
            "OTLP_FORWARDING_AUTHENTICATION_CREDENTIALS": json.dumps({"token_file": str(token)}),
            "OTLP_FORWARDING_RETRY_MAX_INTERVAL_SECS": "5",
        },
    ).values()
    assert there.request_headers() == (("Authorization", "Bearer secret"),)
    assert there.retry.max_s == 5


SEVERAL = """
forwarding:
  enabled: true
  timeout_secs: 4
  headers: {x-tenant: shared}
  breaker: {failures: 2}
  destinations:
    - name: gateway
      endpoint_url: http://gateway:4319
      protocol: arrow_flight
      compression: zstd
    - name: vendor
      endpoint_url: https://vendor.example/otlp
      signals: [traces]
      timeout_secs: 20
      authentication: {auth_type: api_key, credentials: {key: "${env:KEY}", header_name: X-Key}}
      breaker: {open_secs: 5}
"""


def test_several_destinations_share_what_no_remote_sees(tmp_path: Path):
    found = load(tmp_path, {"KEY": "hunter2"}, SEVERAL)
    gateway, vendor = found["gateway"], found["vendor"]
    assert set(found) == {"gateway", "vendor"}
    assert (gateway.transport, gateway.timeout_s, gateway.compression) == ("arrow_flight", 4, "zstd")
    assert gateway.request_headers() == (), "headers are each destination's own"
    assert gateway.breaker == BreakerSettings(2, 30)
    assert (vendor.transport, vendor.timeout_s, vendor.signals) == ("http", 20, {Signal.TRACES})
    assert vendor.request_headers() == (("X-Key", "hunter2"),)
    assert vendor.breaker == BreakerSettings(5, 5)


def test_a_url_beside_a_list_is_one_more(tmp_path: Path):
    found = load(tmp_path, {"KEY": "k"}, SEVERAL, endpoint_url="http://third:4317")
    assert set(found) == {"default", "gateway", "vendor"}
    assert dict(found["default"].request_headers()) == {"x-tenant": "shared"}


def test_a_list_may_stand_in_one_variable(tmp_path: Path):
    found = load(
        tmp_path,
        {
            "OTLP_FORWARDING_ENABLED": "1",
            "OTLP_FORWARDING_DESTINATIONS": '[{"name": "a", "endpoint_url": "http://a:4317"}]',
        },
    )
    assert set(found) == {"a"}


def test_no_secret_is_shown_anywhere(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(SEVERAL)
    loaded = Settings.load(environ={"KEY": "hunter2"}, config_file=file)
    assert "hunter2" not in repr(loaded.settings)
    assert "hunter2" not in str(destinations_of(loaded.settings))


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ({}, "forwarding.endpoint_url"),
        ({"endpoint_url": "gateway:4317"}, "forwarding.endpoint_url"),
        ({"endpoint_url": "http://localhost:4317"}, "forwarding.endpoint_url"),
        ({"endpoint_url": "http://127.0.0.1:4318"}, "forwarding.endpoint_url"),
        ({"endpoint_url": "http://x:1", "compression": "zstd"}, "forwarding.compression"),
        ({"endpoint_url": "http://x:1", "protocol": "arrow_flight", "compression": "gzip"}, "forwarding.compression"),
        ({"endpoint_url": "http://x:1", "compression": "lz4"}, "forwarding.compression"),
        ({"endpoint_url": "http://x:1", "signals": "profiles"}, "forwarding.signals"),
        ({"endpoint_url": "http://x:1", "signals": "[]"}, "forwarding.signals"),
        ({"endpoint_url": "http://x:1", "headers": "novalue"}, "forwarding.headers"),
        ({"endpoint_url": "http://x:1", "headers": '{"a b": "c"}'}, "forwarding.headers"),
        ({"endpoint_url": "http://x:1", "max_in_flight": 0}, "forwarding.max_in_flight"),
        ({"endpoint_url": "http://x:1", "max_batch_bytes": "65MiB"}, "forwarding.max_batch_bytes"),
        ({"endpoint_url": "http://x:1", "max_backlog_bytes": "6GiB"}, "forwarding.max_backlog_bytes"),
        ({"endpoint_url": "http://x:1", "tls__ca_file": __file__}, "forwarding.tls.ca_file"),
        ({"endpoint_url": "https://x:1", "tls__ca_file": "/does/not/exist"}, "forwarding.tls.ca_file"),
        ({"endpoint_url": "https://x:1", "tls__cert_file": __file__}, "forwarding.tls.key_file"),
        ({"endpoint_url": "http://x:1", "retry__max_interval_secs": 0.1}, "forwarding.retry.max_interval_secs"),
        ({"endpoint_url": "http://x:1", "breaker__failures": 0}, "forwarding.breaker.failures"),
        (
            {"endpoint_url": "http://x:1", "authentication__auth_type": "bearer_token"},
            "forwarding.authentication.credentials",
        ),
        ({"destinations": '[{"name": "a"}]'}, "forwarding.destinations[0].endpoint_url"),
        ({"destinations": '[{"name": "a", "endpoint_url": "x"}]'}, "forwarding.destinations[0].endpoint_url"),
        ({"destinations": '[{"name": "A b", "endpoint_url": "http://x:1"}]'}, "forwarding.destinations[0].name"),
        (
            {"destinations": '[{"name": "a", "endpoint_url": "http://x:1", "timeout_secs": 0}]'},
            "forwarding.destinations[0].timeout_secs",
        ),
        (
            {"destinations": '[{"name": "a", "endpoint_url": "http://x:1", "compresion": "gzip"}]'},
            "forwarding.destinations[0].compresion",
        ),
        (
            {
                "destinations": '[{"name": "a", "endpoint_url": "http://x:1"}, {"name": "a", "endpoint_url": "http://y:1"}]'
            },
            "forwarding.destinations",
        ),
        ({"destinations": "nothing"}, "forwarding.destinations"),
    ],
)
def test_a_bad_value_stops_the_start_and_is_named(tmp_path: Path, flags: dict[str, Any], key: str):
    with pytest.raises(OtlpConfigError) as caught:
        load(tmp_path, enabled=True, **flags)
    assert caught.value.key == key


# -- the variables of OpenTelemetry's exporters --------------------------------------------------------
OTEL = {
    "OTLP_FORWARDING_ENABLED": "true",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "https://vendor.example:4317",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b,x-y=z",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
    "OTEL_EXPORTER_OTLP_CERTIFICATE": __file__,
}


def test_they_are_honoured_where_ours_are_not_set(tmp_path: Path):
    (there,) = load(tmp_path, OTEL).values()
    assert (there.url, there.transport, there.compression) == ("https://vendor.example:4317", "http", "gzip")
    assert (there.timeout_s, dict(there.headers)) == (2.5, {"api-key": "a b", "x-y": "z"})
    assert there.tls.ca_file == Path(__file__)


def test_ours_win_from_wherever_they_come(tmp_path: Path):
    (there,) = load(tmp_path, OTEL, "forwarding: {compression: none, endpoint_url: 'https://x:1'}").values()
    assert (there.url, there.compression, there.timeout_s) == ("https://x:1", "none", 2.5)


def test_without_forwarding_they_are_not_even_looked_at(tmp_path: Path):
    environ = {**OTEL, "OTEL_EXPORTER_OTLP_PROTOCOL": "carrier pigeon"}
    del environ["OTLP_FORWARDING_ENABLED"]
    assert load(tmp_path, environ) == {}


def test_signals_that_go_elsewhere_become_destinations_of_their_own(tmp_path: Path):
    found = load(
        tmp_path,
        {
            **OTEL,
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://logs.example:4318/v1/logs",
            "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "x=logs",
        },
    )
    assert set(found) == {"default", "logs"}
    assert found["default"].signals == {Signal.TRACES, Signal.METRICS}
    assert found["logs"].signals == {Signal.LOGS}
    assert found["logs"].headers == (("x", "logs"),)
    assert found["logs"].url == "http://logs.example:4318/v1/logs"


def test_every_signal_may_go_elsewhere(tmp_path: Path):
    endpoints = {f"OTEL_EXPORTER_OTLP_{s.value.upper()}_ENDPOINT": f"http://{s.value}:4317" for s in Signal}
    found = load(tmp_path, {"OTLP_FORWARDING_ENABLED": "true", **endpoints})
    assert {name: d.signals for name, d in found.items()} == {s.value: {s} for s in Signal}


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"ENDPOINT": "gateway:4317"}, "https://gateway:4317"),
        ({"ENDPOINT": "gateway:4317", "INSECURE": "true"}, "http://gateway:4317"),
    ],
)
def test_an_endpoint_without_a_scheme_is_encrypted_unless_it_says_otherwise(variables: dict[str, str], url: str):
    found = read_variables({f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()})
    assert found["endpoint_url"] == ("OTEL_EXPORTER_OTLP_ENDPOINT", url)


@pytest.mark.parametrize("name", ["PROTOCOL", "HEADERS", "TIMEOUT"])
def test_a_variable_that_makes_no_sense_is_named(name: str):
    with pytest.raises(OtlpConfigError) as caught:
        read_variables({f"OTEL_EXPORTER_OTLP_{name}": "nonsense"})
    assert caught.value.key == f"OTEL_EXPORTER_OTLP_{name}"


def test_certificates_say_nothing_to_a_plain_connection(tmp_path: Path):
    (there,) = load(tmp_path, {**OTEL, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://vendor.example:4318"}).values()
    assert there.tls.ca_file is None
    (ours,) = load(tmp_path, OTEL, endpoint_url="http://vendor.example:4318").values()
    assert ours.tls.ca_file is None
