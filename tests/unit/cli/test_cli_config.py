"""The settings shown can be given back, and hold no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from otlp_arrow.app.settings import Settings, setting_keys
from otlp_arrow.cli.commands import app
from otlp_arrow.cli.config import as_env, as_json, as_yaml, in_units

FLAGS = {
    "host": "0.0.0.0",
    "max_file_size": "70 MB",
    "write_interval_secs": 2.5,
    "protocols.http_cors_origins": ["https://a.example", "*"],
    "protocols.protobuf_enabled": False,
    "auth.bearer_tokens": "hunter2",
    "auth.basic": "user:hunter2",
    "output_dir": "with space/é",
}


@pytest.fixture
def loaded():
    return Settings.load(flags=FLAGS, environ={"OTLP_ACK": "write"})


def without_secrets(settings: Settings) -> dict:
    return {**settings.model_dump(), "auth": None}


def test_the_yaml_that_is_shown_says_the_same_when_it_is_read(loaded, tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(as_yaml(loaded), encoding="utf-8")
    again = Settings.load(environ={}, config_file=file).settings
    assert without_secrets(again) == without_secrets(loaded.settings)
    assert "# OTLP_ACK" in as_yaml(loaded)


def test_the_variables_that_are_shown_say_the_same_when_they_are_read(loaded):
    environ = dict(line.split("=", 1) for line in as_env(loaded).splitlines() if not line.startswith("#"))
    assert without_secrets(Settings.load(environ=environ).settings) == without_secrets(loaded.settings)


def test_json_gives_value_source_and_variable_of_every_key(loaded):
    shown = json.loads(as_json(loaded))
    assert set(shown) == set(setting_keys())
    assert shown["ack"] == {"value": "write", "source": "OTLP_ACK", "env": "OTLP_ACK"}
    assert shown["auth.bearer_tokens"]["value"] == "(1 not shown)"


def test_no_format_shows_a_secret(loaded):
    for text in (as_yaml(loaded), as_env(loaded), as_json(loaded)):
        assert "hunter2" not in text


@pytest.mark.parametrize("output", ["table", "yaml", "json", "env"])
def test_the_command_shows_every_key_with_flags_applied(output: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTLP_AUTH_API_KEYS", "hunter2")
    monkeypatch.setenv("OTLP_HTTP_PORT", "tcp://10.0.0.1:80")
    result = CliRunner().invoke(app, ["config", "--set", "log_level=error", "--format", output])
    assert result.exit_code == 0, result.output
    assert "hunter2" not in result.output
    assert "error" in result.output
    for path, key in setting_keys().items():
        assert (key.env if output == "env" else path.rpartition(".")[2]) in result.output


def test_check_says_that_settings_are_valid_and_finds_what_only_opening_would(tmp_path: Path):
    assert "valid" in CliRunner().invoke(app, ["config", "--check"]).output

    pem = tmp_path / "no.pem"
    pem.write_text("not a certificate")
    for arguments in (
        [f"tls.cert_file={pem}", f"tls.key_file={pem}"],
        [f"protocols.{name}_enabled=false" for name in ("protobuf", "http", "arrow_flight")],
    ):
        sets = [word for argument in arguments for word in ("--set", argument)]
        assert CliRunner().invoke(app, ["config", *sets]).exit_code == 0
        assert CliRunner().invoke(app, ["config", "--check", *sets]).exit_code != 0


def test_a_set_that_is_no_pair_is_a_usage_error():
    result = CliRunner().invoke(app, ["config", "--set", "nonsense"])
    assert result.exit_code == 2
    assert "KEY=VALUE" in result.output


def test_sizes_are_shown_in_the_largest_unit_that_divides_them():
    assert [in_units(size) for size in (0, 1000, 1024, 10 * 2**30)] == ["0", "1000", "1KiB", "10GiB"]
