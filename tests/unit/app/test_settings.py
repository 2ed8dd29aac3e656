"""What may be set, from where, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from otlp_arrow.app.settings import ProtocolSettings, Settings, setting_keys
from otlp_arrow.model import OtlpConfigError


def load(flags: dict[str, object] | None = None, environ: dict[str, str] | None = None, file: Path | None = None):
    return Settings.load(flags=flags or {}, environ=environ or {}, config_file=file)


@pytest.fixture
def yaml_file(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# -- precedence ----------------------------------------------------------------------------------------
def test_a_flag_wins_over_a_variable_a_variable_over_the_file_and_the_file_over_the_default(yaml_file):
    file = yaml_file("host: file\nack: write\nlog_level: debug\nprotocols:\n  http_port: 1\n  protobuf_port: 2\n")
    loaded = load({"host": "flag"}, {"OTLP_HOST": "variable", "OTLP_ACK": "memory", "OTLP_HTTP_PORT": "3"}, file)

    assert (loaded.settings.host, loaded.origin("host")) == ("flag", "flag")
    assert (loaded.settings.ack, loaded.origin("ack")) == ("memory", "OTLP_ACK")
    assert (loaded.settings.protocols.http_port, loaded.origin("protocols.http_port")) == (3, "OTLP_HTTP_PORT")
    assert (loaded.settings.protocols.protobuf_port, loaded.origin("protocols.protobuf_port")) == (2, str(file))
    assert (loaded.settings.log_level, loaded.origin("log_level")) == ("debug", str(file))
    assert (loaded.settings.log_format, loaded.origin("log_format")) == ("auto", "default")


def test_the_file_is_named_by_argument_else_by_variable(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"host: {name}\n")
    environ = {"OTLP_CONFIG": str(tmp_path / "a")}

    assert load(environ=environ).settings.host == "a"
    assert load(environ=environ, file=tmp_path / "b").settings.host == "b"


def test_a_program_gets_the_same_layers_from_the_constructor(monkeypatch: pytest.MonkeyPatch, yaml_file):
    monkeypatch.setenv("OTLP_CONFIG", str(yaml_file("host: file\nack: write\n")))
    monkeypatch.setenv("OTLP_HTTP_PORT", "0")
    monkeypatch.setenv("OTLP_ACK", "memory")
    settings = Settings(ack="fsync", protocols=ProtocolSettings(protobuf_port=0), auth={"bearer_tokens": ["t"]})

    assert (settings.host, settings.ack) == ("file", "fsync")
    assert (settings.protocols.protobuf_port, settings.protocols.http_port) == (0, 0)
    assert settings.auth.required
    with pytest.raises(OtlpConfigError, match="hots"):
        Settings(hots="x")


def test_settings_cannot_be_changed():
    settings = load().settings
    with pytest.raises(ValidationError, match="frozen"):
        settings.host = "x"  # type: ignore[misc]


# -- what values look like -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "size"),
    [("100MiB", 100 * 2**20), ("64 MB", 64_000_000), ("1.5GiB", 3 * 2**29), (70_000, 70_000), ("70000", 70_000)],
)
def test_sizes_are_numbers_or_have_units(text: object, size: int):
    assert load({"max_file_size": text}).settings.max_file_size == size


def test_lists_come_as_lists_as_json_or_with_commas(yaml_file):
    for value in (["a", "b"], '["a", "b"]', "a, b"):
        assert load({"auth.bearer_tokens": value}).settings.auth.bearer_tokens == (SecretStr("a"), SecretStr("b"))
    assert load(environ={"OTLP_HTTP_CORS_ORIGINS": "*"}).settings.protocols.http_cors_origins == ("*",)
    assert load(file=yaml_file("auth: {api_keys: [k]}")).settings.auth.api_keys == (SecretStr("k"),)


def test_users_come_as_a_mapping_as_json_or_as_pairs(yaml_file):
    for value in ({"u": "p:q", "v": "w"}, '{"u": "p:q", "v": "w"}', "u:p:q, v:w"):
        users = load({"auth.basic": value}).settings.auth.basic
        assert {name: secret.get_secret_value() for name, secret in users.items()} == {"u": "p:q", "v": "w"}
    assert set(load(file=yaml_file("auth:\n  basic:\n    u: p\n")).settings.auth.basic) == {"u"}


def test_secrets_come_from_files_and_add_to_those_written_out(tmp_path: Path):
    tokens, users = tmp_path / "tokens", tmp_path / "users"
    tokens.write_text("# who\nb\n\n  c\n")
    users.write_text("u:p\n")
    environ = {"OTLP_AUTH_BEARER_TOKENS": "a", "OTLP_AUTH_BEARER_TOKENS_FILE": str(tokens)}
    auth = load({"auth.basic_file": users, "auth.api_keys_file": tokens}, environ).settings.auth

    assert [token.get_secret_value() for token in auth.bearer_tokens] == ["a", "b", "c"]
    assert [key.get_secret_value() for key in auth.api_keys] == ["b", "c"]
    assert auth.basic["u"].get_secret_value() == "p"


def test_a_home_directory_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load({"output_dir": "~/otlp"}).settings.output_dir == tmp_path / "otlp"


def test_words_are_taken_in_any_case():
    assert load(environ={"OTLP_LOG_LEVEL": "INFO", "OTLP_ACK": "Write"}).settings.log_level == "info"


def test_an_empty_variable_counts_as_not_set():
    assert load(environ={"OTLP_TLS_CERT_FILE": "", "OTLP_HTTP_PORT": ""}).origin("protocols.http_port") == "default"


def test_a_null_in_the_file_counts_as_not_set(yaml_file):
    loaded = load(file=yaml_file("forwarding: null\nhost:\ntls: {cert_file: null}\n"))
    assert loaded.settings.host == "localhost"


def test_an_empty_file_says_nothing(yaml_file):
    assert load(file=yaml_file("# nothing yet\n")).settings == load().settings


# -- what is refused -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("write_interval_secs", 0.9),
        ("write_interval_secs", 3601),
        ("write_interval_secs", "nan"),
        ("write_interval_secs", True),
        ("trace_cleanup_interval_secs", 59),
        ("metric_cleanup_interval_secs", -1),
        ("log_cleanup_interval_secs", 1),
        ("max_file_size", "12 parsecs"),
        ("max_file_size", True),
        ("max_file_size", "1KiB"),
        ("max_file_age_secs", "inf"),
        ("max_batch_rows", 0),
        ("max_request_bytes", "300MiB"),
        ("max_request_bytes", 10),
        ("output_dir", ""),
        ("output_dir", "a\0b"),
        ("output_dir", "x" * 4097),
        ("host", ""),
        ("ack", "maybe"),
        ("admin_port", 65536),
        ("admin_port", True),
        ("protocols.protobuf_enabled", "perhaps"),
        ("protocols.http_cors_origins", "a,,b"),
        ("tls.cert_file", "/does/not/exist"),
        ("auth.bearer_tokens", "a,"),
        ("auth.bearer_tokens", '[""]'),
        ("auth.basic", "nobody"),
        ("auth.basic", "user:"),
        ("auth.basic", "{broken"),
        ("auth.api_keys_file", "/does/not/exist"),
        ("forwarding.enabled", "perhaps"),
        ("forwarding.protocol", "carrier pigeon"),
        ("log_level", "loud"),
        ("log_format", "xml"),
        ("shutdown_timeout_secs", 0),
    ],
)
def test_a_bad_value_is_refused_by_name_with_what_is_allowed(key: str, value: object):
    with pytest.raises(OtlpConfigError) as caught:
        load({key: value})
    assert caught.value.key == key
    secret = setting_keys()[key].secret
    assert caught.value.value == ("**********" if secret else value) or key.endswith(("_file", "_dir"))
    assert caught.value.allowed


def test_a_refusal_says_where_the_value_stands(yaml_file):
    with pytest.raises(OtlpConfigError, match="set by OTLP_WRITE_INTERVAL_SECS"):
        load(environ={"OTLP_WRITE_INTERVAL_SECS": "0"})
    with pytest.raises(OtlpConfigError, match=r"config\.yaml"):
        load(file=yaml_file("write_interval_secs: 0\n"))


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path):
    pem = tmp_path / "pem"
    pem.write_text("x")
    for flags, key in [
        ({"protocols.http_port": 13133}, "admin_port"),
        ({"protocols.http_port": 4317}, "protocols.http_port"),
        ({"max_buffer_bytes": "1MiB"}, "max_buffer_bytes"),
        ({"max_disk_bytes": "1MiB"}, "max_disk_bytes"),
        ({"tls.cert_file": pem}, "tls.key_file"),
        ({"tls.key_file": pem}, "tls.cert_file"),
        ({"tls.client_ca_file": pem}, "tls.cert_file"),
    ]:
        with pytest.raises(OtlpConfigError) as caught:
            load(flags)
        assert caught.value.key == key


def test_several_ports_may_be_any_free_one_and_a_closed_door_needs_none():
    load({"protocols.protobuf_port": 0, "protocols.http_port": 0, "admin_port": 0})
    load({"protocols.http_enabled": False, "protocols.http_port": 4317})
    load({"max_disk_bytes": 0, "trace_cleanup_interval_secs": 0})


@pytest.mark.parametrize(
    ("flags", "meant"),
    [
        ({"write_intervall_secs": 5}, "write_interval_secs"),
        ({"http_port": 4318}, "protocols.http_port"),
        ({"protocols": {"htp_port": 1}}, "protocols.http_port"),
        ({"quite_else": 1}, "otlp-arrow config"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(flags: dict[str, object], meant: str):
    with pytest.raises(OtlpConfigError, match=meant):
        load(flags)


def test_an_unknown_key_of_the_file_is_refused_naming_the_file(yaml_file):
    with pytest.raises(OtlpConfigError, match=r"dashboard.*config\.yaml"):
        load(file=yaml_file("dashboard:\n  enabled: true\n"))


def test_a_section_must_be_a_mapping(yaml_file):
    with pytest.raises(OtlpConfigError, match="a mapping of keys"):
        load(file=yaml_file("tls: yes\n"))


def test_an_unknown_variable_is_refused_with_the_nearest_known_one():
    with pytest.raises(OtlpConfigError, match="OTLP_PROTOBUF_PORT"):
        load(environ={"OTLP_PROTOBUFF_PORT": "1"})


def test_variables_of_the_opentelemetry_sdk_are_not_ours():
    load(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTLP_KERNEL": "reference", "PATH": "/bin"})


def test_what_kubernetes_tells_about_services_is_passed_over():
    """A service called `otlp-arrow`, or worse `otlp-http`, puts such variables into every pod of its namespace."""
    loaded = load(
        environ={
            "OTLP_ARROW_SERVICE_HOST": "10.0.0.7",
            "OTLP_ARROW_SERVICE_PORT": "4317",
            "OTLP_ARROW_SERVICE_PORT_GRPC": "4317",
            "OTLP_ARROW_PORT": "tcp://10.0.0.7:4317",
            "OTLP_ARROW_PORT_4317_TCP": "tcp://10.0.0.7:4317",
            "OTLP_ARROW_PORT_4317_TCP_ADDR": "10.0.0.7",
            "OTLP_HTTP_PORT": "tcp://10.0.0.8:4318",
        }
    )
    assert loaded.settings.protocols.http_port == 4318
    assert len(loaded.notes) == 7


@pytest.mark.parametrize(
    "text", ["host: [", "- a\n- b\n", "host: a\nhost: b\n", "host: 'a", "tls:\n  cert_file: a\n  cert_file: b\n"]
)
def test_a_file_that_is_no_settings_file_is_refused(yaml_file, text: str):
    with pytest.raises(OtlpConfigError) as caught:
        load(file=yaml_file(text))
    assert caught.value.key == "config"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(OtlpConfigError, match="No such file"):
        load(file=tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OtlpConfigError, match="a YAML file"):
        load(file=tmp_path / "binary")


# -- variables inside the file -------------------------------------------------------------------------
def test_the_file_may_refer_to_the_environment(yaml_file):
    file = yaml_file(
        "host: ${env:WHERE}\n"
        "output_dir: /data/${env:TENANT:-nobody}/$${x}\n"
        "protocols: {http_port: '${env:PORT}', http_cors_origins: ['${env:WHERE}']}\n"
        "auth: {basic: {u: '${env:WHERE}'}}\n"
    )
    settings = load(environ={"WHERE": "h", "PORT": "81"}, file=file).settings

    assert (settings.host, settings.protocols.http_port) == ("h", 81)
    assert settings.output_dir == Path("/data/nobody/${x}")
    assert settings.protocols.http_cors_origins == ("h",)
    assert settings.auth.basic["u"].get_secret_value() == "h"


def test_a_reference_to_nothing_is_refused(yaml_file):
    with pytest.raises(OtlpConfigError, match="NOTHING is empty or missing"):
        load(environ={"NOTHING": ""}, file=yaml_file("auth: {bearer_tokens: ['${env:NOTHING}']}\n"))


# -- secrets -------------------------------------------------------------------------------------------
def test_no_secret_is_ever_shown(yaml_file):
    settings = load(
        {
            "auth.bearer_tokens": "hunter2",
            "auth.basic": "u:hunter2",
            "auth.api_keys": ["hunter2"],
            "forwarding.authentication.credentials": {"token": "hunter2"},
        }
    ).settings
    assert "hunter2" not in repr(settings) + str(settings.model_dump()) + settings.model_dump_json()

    for attempt in (
        lambda: load({"auth.bearer_token": "hunter2"}),
        lambda: load(environ={"OTLP_AUTH_BEARER_TOKEN": "hunter2"}),
        lambda: load({"auth.basic": "hunter2"}),
        lambda: load({"auth.basic": "{hunter2", "auth.basic_file": __file__}),
        lambda: load({"auth": "hunter2"}),
        lambda: load(file=yaml_file("auth: {api_keys: {hunter2: hunter2}}")),
    ):
        with pytest.raises(OtlpConfigError) as caught:
            attempt()
        assert "hunter2" not in str(caught.value).replace("auth.api_keys.hunter2", "")


def test_an_empty_credential_never_opens_the_doors(tmp_path: Path):
    (tmp_path / "empty").write_text("# to be filled in\n")
    for flags, environ in [
        ({}, {"OTLP_AUTH_BEARER_TOKENS": ""}),
        ({}, {"OTLP_AUTH_API_KEYS_FILE": ""}),
        ({"auth.bearer_tokens_file": tmp_path / "empty"}, {}),
        ({"auth.api_keys": ","}, {}),
    ]:
        with pytest.raises(OtlpConfigError):
            load(flags, environ)
