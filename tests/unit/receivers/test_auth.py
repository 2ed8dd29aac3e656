"""Credentials: what opens the door, and that no secret is ever shown."""

from __future__ import annotations

import base64

import pytest

from otlp_arrow.model import OtlpConfigError, Unauthenticated
from otlp_arrow.receivers.auth import Authenticator


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


ALL = Authenticator(
    bearer_tokens=["alpha", "beta"], basic={"ann": "a:b", "bob": "ö"}, api_keys=["key1"], api_key_header="X-My-Key"
)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer alpha"},
        {"Authorization": "BEARER beta"},
        {"authorization": b"Bearer beta"},
        {"authorization": ["Bearer wrong", "Bearer beta"]},
        {"authorization": basic("ann:a:b")},
        {"authorization": basic("bob:ö")},
        {"x-my-key": "key1"},
        {"X-MY-KEY": "key1", "authorization": "Bearer wrong"},
    ],
)
def test_any_one_valid_credential_is_enough(headers: dict[str, str]) -> None:
    ALL.check(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer alph"},
        {"authorization": "Bearer alphax"},
        {"authorization": "Bearer ALPHA"},
        {"authorization": "Bearer key1"},
        {"authorization": "Digest alpha"},
        {"authorization": "Basic"},
        {"authorization": "Basic ====="},
        {"authorization": basic("ann:a")},
        {"authorization": basic("ann")},
        {"authorization": "Bearer \udcff"},
        {"x-api-key": "key1"},
        {"x-my-key": "alpha"},
        {"x-my-key": ""},
    ],
)
def test_anything_else_is_refused_without_saying_what_would_have_been_right(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated) as refused:
        ALL.check(headers)
    assert not any(secret in str(refused.value) for secret in ("alpha", "beta", "a:b", "key1"))


def test_the_refusal_and_the_challenge_name_the_kinds_that_are_taken() -> None:
    only_keys = Authenticator(api_keys=["k"])
    with pytest.raises(Unauthenticated, match="x-api-key") as refused:
        only_keys.check({})
    assert "Bearer" not in str(refused.value)
    assert only_keys.challenge == 'ApiKey realm="otlp-arrow", header="x-api-key"'
    assert ALL.challenge.startswith('Bearer realm="otlp-arrow", Basic realm="otlp-arrow", charset="UTF-8", ApiKey ')


def test_without_any_credential_configured_nobody_gets_in() -> None:
    with pytest.raises(Unauthenticated):
        Authenticator().check({"authorization": "Bearer "})


def test_no_secret_is_kept_in_the_object_or_shown_by_it() -> None:
    assert repr(ALL) == "Authenticator(bearer_tokens=2, basic=2, api_keys=1)"
    kept = repr(vars(ALL))
    assert not any(secret in kept for secret in ("alpha", "beta", "key1", "a:b"))


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"bearer_tokens": [""]}, "auth.bearer_tokens"),
        ({"api_keys": ["k", " "]}, "auth.api_keys"),
        ({"basic": {"ann": ""}}, "auth.basic"),
        ({"basic": {"": "secret"}}, "auth.basic"),
        ({"basic": {"a:b": "secret"}}, "auth.basic"),
    ],
)
def test_a_secret_that_would_let_everybody_in_stops_the_start(arguments: dict[str, object], key: str) -> None:
    with pytest.raises(OtlpConfigError) as error:
        Authenticator(**arguments)  # type: ignore[arg-type]
    assert error.value.key == key
    assert "secret" not in str(error.value.value)
