"""Which pages may send."""

from __future__ import annotations

import pytest

from otlp_arrow.receivers.cors import CorsPolicy


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True),
        ("http://localhost:3000", True),
        ("https://127.0.0.1:8443", True),
        ("http://[::1]:5173", True),
        ("https://app.example.com", True),
        ("https://APP.example.com", True),
        ("https://a.b.example.org", True),
        ("https://example.org", False),
        ("https://app.example.com.evil.net", False),
        ("http://app.example.com", False),
        ("http://localhost.evil.net", False),
        ("null", False),
        ("", False),
    ],
)
def test_localhost_and_the_configured_origins_may_send(origin: str, allowed: bool) -> None:
    policy = CorsPolicy(["https://app.example.com/", "https://*.example.org"])
    assert policy.allows(origin) is allowed
    assert ("Access-Control-Allow-Origin" in policy.headers(origin)) is allowed


def test_a_star_allows_every_origin_and_still_echoes_it() -> None:
    headers = CorsPolicy(["*"]).headers("https://anywhere.example")
    assert headers["Access-Control-Allow-Origin"] == "https://anywhere.example"
    assert headers["Access-Control-Allow-Credentials"] == "true"


def test_answers_vary_by_origin_whether_allowed_or_not() -> None:
    for origin in ("http://localhost:1", "https://evil.example"):
        assert CorsPolicy().headers(origin)["Vary"] == "Origin"


def test_a_preflight_allows_the_headers_that_it_asks_for() -> None:
    asked = {"Origin": "http://localhost:1", "Access-Control-Request-Headers": "content-type,traceparent,x-team"}
    assert CorsPolicy().preflight(asked)["Access-Control-Allow-Headers"] == "content-type,traceparent,x-team"


@pytest.mark.parametrize("wanted", ["", "bad\x00name", "a" * 2000])
def test_a_preflight_that_asks_for_none_or_nonsense_gets_the_usual_list(wanted: str) -> None:
    answer = CorsPolicy().preflight({"Origin": "http://localhost:1", "Access-Control-Request-Headers": wanted})
    for name in ("content-type", "traceparent", "tracestate", "baggage", "authorization", "x-api-key"):
        assert name in answer["Access-Control-Allow-Headers"]


def test_a_page_from_outside_may_reach_a_private_address_only_if_its_origin_is_allowed() -> None:
    wish = {"Access-Control-Request-Private-Network": "true"}
    assert CorsPolicy().preflight({"Origin": "https://evil.example", **wish}) == {"Vary": "Origin"}
    answer = CorsPolicy(["https://a.example"]).preflight({"Origin": "https://a.example", **wish})
    assert answer["Access-Control-Allow-Private-Network"] == "true"
