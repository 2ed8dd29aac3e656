"""Addresses: which transport, which path, what is refused."""

from __future__ import annotations

import pytest

from otlp_arrow.model import OtlpConfigError, Signal
from otlp_arrow.sinks.destination import Destination, check_url, choose_transport, signal_url


@pytest.mark.parametrize(
    ("url", "protocol", "transport"),
    [
        ("http://gateway:4317", "protobuf", "grpc"),
        ("https://api.vendor.example", "protobuf", "grpc"),
        ("https://api.vendor.example:443/", "protobuf", "grpc"),
        ("http://gateway:4318", "protobuf", "http"),
        ("http://gateway:9000/otlp", "protobuf", "http"),
        ("http://gateway:4318", "grpc", "grpc"),
        ("http://gateway:4317", "http", "http"),
        ("http://gateway:4319", "arrow_flight", "arrow_flight"),
    ],
)
def test_protobuf_is_grpc_unless_path_or_port_say_http(url: str, protocol: str, transport: str):
    assert choose_transport(url, protocol) == transport
    assert check_url("k", url, protocol) == url


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "gateway:4317",
        "ftp://gateway",
        "http://",
        "http://gateway:99999",
        "http://gateway:0",
        "http://user:hunter2@gateway:4317",
        "http://gateway:4318/?a=b",
        "http://[broken",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str | None):
    with pytest.raises(OtlpConfigError) as caught:
        check_url("forwarding.endpoint_url", url, "protobuf")
    assert caught.value.key == "forwarding.endpoint_url"
    assert "hunter2" not in str(caught.value)


def test_grpc_has_no_path():
    with pytest.raises(OtlpConfigError, match="path"):
        check_url("k", "http://gateway:4317/v1/traces", "grpc")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://gateway:4318", "http://gateway:4318/v1/logs"),
        ("http://gateway:4318/", "http://gateway:4318/v1/logs"),
        ("https://vendor.example/otlp", "https://vendor.example/otlp/v1/logs"),
        ("https://vendor.example/otlp/", "https://vendor.example/otlp/v1/logs"),
        ("https://vendor.example/otlp/v1/traces", "https://vendor.example/otlp/v1/logs"),
    ],
)
def test_signals_are_posted_below_the_url(url: str, expected: str):
    assert signal_url(Destination("d", url, "http"), Signal.LOGS) == expected


@pytest.mark.parametrize(
    ("url", "transport", "expected"),
    [
        ("http://gateway", "grpc", ("gateway", 4317)),
        ("http://gateway", "arrow_flight", ("gateway", 4319)),
        ("http://gateway", "http", ("gateway", 80)),
        ("https://gateway", "grpc", ("gateway", 443)),
        ("http://[::1]:5", "grpc", ("::1", 5)),
    ],
)
def test_a_url_without_a_port_has_the_usual_one(url: str, transport: str, expected: tuple[str, int]):
    assert Destination("d", url, transport).host_and_port() == expected  # type: ignore[arg-type]
