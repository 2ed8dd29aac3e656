"""Opening ports: all addresses of a host, and errors that say what to do."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from otlp_arrow.model import OtlpServerError
from otlp_arrow.receivers.listen import Place, bind, free_addresses


def place(host: str = "127.0.0.1", port: int = 0) -> Place:
    return Place("OTLP/HTTP", host, port, "protocols.http_port")


def test_every_address_of_a_host_gets_the_same_free_port() -> None:
    sockets = bind(place("localhost"))
    try:
        expected = {address[4][0] for address in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
        assert {s.getsockname()[0] for s in sockets} <= expected
        assert len({s.getsockname()[1] for s in sockets}) == 1
    finally:
        for s in sockets:
            s.close()


def test_a_taken_port_is_named_with_the_settings_that_would_help() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for attempt in (bind, free_addresses):
            with pytest.raises(OtlpServerError) as error:
                attempt(place(port=port))
            for part in ("OTLP/HTTP", f"127.0.0.1:{port}", "another program", "http_port", "OTLP_HTTP_PORT"):
                assert part in str(error.value)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address")
def test_a_port_that_is_taken_on_one_of_two_addresses_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: both)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OtlpServerError, match="another program"):
        bind(place("two-addresses", other.getsockname()[1]))
    sockets = bind(place("two-addresses"))
    assert [s.getsockname()[0] for s in sockets] == ["127.0.0.2", "127.0.0.1"]
    assert len({s.getsockname()[1] for s in sockets}) == 1
    for s in sockets:
        s.close()


def test_a_foreign_address_is_told_from_a_taken_one() -> None:
    with pytest.raises(OtlpServerError, match="no address of this machine"):
        bind(place("192.0.2.1", 4318))


def test_a_host_that_does_not_exist_is_said_so() -> None:
    with pytest.raises(OtlpServerError, match="cannot be resolved"):
        bind(place("no-such-host.invalid", 4318))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may open any port")
def test_a_privileged_port_is_said_to_be_one() -> None:
    with pytest.raises(OtlpServerError, match="privilege"):
        bind(place(port=1))


def test_ipv6_addresses_are_written_in_brackets() -> None:
    try:
        addresses, port = free_addresses(place("::1"))
    except OtlpServerError:
        pytest.skip("no IPv6 here")
    assert addresses == ["[::1]"]
    assert port > 0
    assert "[::1]:0" in str(place("::1").taken())
