"""Headers made of credentials, and files that change."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from otlp_arrow.model import OtlpConfigError
from otlp_arrow.sinks.auth import Credentials, check_headers


@pytest.mark.parametrize(
    ("auth_type", "values", "headers"),
    [
        (None, {}, ()),
        ("api_key", {"key": "k"}, (("X-API-Key", "k"),)),
        ("api_key", {"key": "k", "header_name": "X-Honeycomb-Team"}, (("X-Honeycomb-Team", "k"),)),
        ("bearer_token", {"token": "t"}, (("Authorization", "Bearer t"),)),
        ("basic", {"username": "me", "password": "pass:wörd"}, (("Authorization", "Basic bWU6cGFzczp3w7ZyZA=="),)),
    ],
)
def test_each_kind_makes_its_header(auth_type: str | None, values: dict[str, str], headers: object):
    assert Credentials(auth_type, values).headers() == headers


@pytest.mark.parametrize(
    ("auth_type", "values"),
    [
        (None, {"token": "t"}),
        ("api_key", {}),
        ("bearer_token", {"token": ""}),
        ("bearer_token", {"token": "two\nlines"}),
        ("bearer_token", {"token": "nön-ascii"}),
        ("bearer_token", {"token": "t", "token_file": "/x"}),
        ("bearer_token", {"token": "t", "username": "me"}),
        ("basic", {"username": "me"}),
        ("api_key", {"key": "k", "header_name": "no header\r\n"}),
        ("api_key", {"key": "k", "header_name": "a b"}),
        ("bearer_token", {"token_file": "/does/not/exist"}),
    ],
)
def test_credentials_that_cannot_work_stop_the_start_and_are_not_shown(auth_type: str | None, values: dict[str, str]):
    with pytest.raises(OtlpConfigError) as caught:
        Credentials(auth_type, values, key="forwarding.destinations[2]")
    assert caught.value.key.startswith("forwarding.destinations[2].authentication.")
    secrets = [v for n, v in values.items() if n in ("token", "password", "key") and len(v) > 1]
    assert not any(secret in str(caught.value) for secret in secrets)


def replace(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


def test_a_file_is_read_again_when_it_changed(tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("first\n")
    credentials = Credentials("bearer_token", {"token_file": str(token)})
    assert credentials.headers() == (("Authorization", "Bearer first"),)
    replace(token, "second\n")
    assert credentials.headers() == (("Authorization", "Bearer second"),)


def test_a_file_that_cannot_be_used_keeps_its_last_value_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    token = tmp_path / "token"
    token.write_text("first")
    credentials = Credentials("bearer_token", {"token_file": str(token)})
    with caplog.at_level(logging.ERROR):
        for broken in ("", "\n", "b\x07d"):
            replace(token, broken)
            assert credentials.headers() == (("Authorization", "Bearer first"),)
        token.unlink()
        assert credentials.headers() == (("Authorization", "Bearer first"),)
    assert len(caplog.records) == 1
    assert str(token) in caplog.text
    token.write_text("second")
    assert credentials.headers() == (("Authorization", "Bearer second"),)


def test_nothing_secret_is_shown():
    assert "hunter2" not in repr(Credentials("basic", {"username": "me", "password": "hunter2"}))


@pytest.mark.parametrize("headers", [{"a b": "x"}, {"x": "two\nlines"}, {"x": ""}, {"grpc-timeout": "1"}])
def test_headers_that_no_request_may_have_are_refused(headers: dict[str, str]):
    with pytest.raises(OtlpConfigError, match=r"forwarding\.headers"):
        check_headers("forwarding.headers", headers)
