"""Clients at the wrong door."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from otlp_arrow.model import limits
from otlp_arrow.receivers import misdirected


@pytest.mark.parametrize(
    ("first_bytes", "mistake"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", misdirected.GRPC),
        (b"\x16\x03\x01\x02\x00\x01\x00", misdirected.TLS),
        (b"POST /v1/traces HTTP/1.1\r\n", None),
        (b"P", None),
        (b"", None),
    ],
)
def test_first_bytes_tell_what_a_client_speaks(first_bytes: bytes, mistake: misdirected.Mistake | None) -> None:
    assert misdirected.recognize(first_bytes) is mistake


def test_a_mistake_is_logged_once_a_minute_however_often_it_is_made() -> None:
    minute = limits.HINT_INTERVAL_S
    clock = iter([0.0, 1.0, minute - 1, minute, minute + 1, minute + 2])
    hints = misdirected.Hints(monotonic=lambda: next(clock))
    with capture_logs() as logs:
        for _ in range(5):
            hints.give("grpc", "use the other port", peer="10.0.0.1")
        hints.give("tls", "no certificate")
    assert [line["mistake"] for line in logs] == ["grpc", "grpc", "tls"]
    assert logs[0]["hint"] == "use the other port"
