"""The settings tree: every key with its default, its bounds and its meaning.

``Settings(output_dir=…)`` is the whole truth for a program: explicit arguments over environment over
YAML file over defaults (``otlp_arrow.app.layers`` gathers them), validated at once. A wrong or unknown
key raises ``OtlpConfigError``. ``docs/configuration.md`` is checked against this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from otlp_arrow.app import defaults, layers
from otlp_arrow.app.values import (
    Bytes,
    Credentials,
    Headers,
    Integer,
    PathSetting,
    Port,
    Seconds,
    Secrets,
    Users,
    Words,
    lower,
    parse_list,
    parse_mapping,
    parse_path,
    parse_users,
    read_secrets,
    require_readable,
)
from otlp_arrow.model import limits
from otlp_arrow.model.errors import OtlpConfigError

SECRET = "**********"

_PORT = "a port, 0 to 65535 (0 takes a free one)"
_BOOL = "true or false"
_FILE = "the path of a readable file"
_RETENTION = "seconds, 60 or more; 0 keeps them for ever"
_SIZE = "bytes, as a number or like 100MiB or 64 MB"


def _setting(default: Any, meaning: str, allowed: str, env: str = "", **bounds: Any) -> Any:
    """A key of the tree. ``env`` is given where the name is not simply ``OTLP_`` and the path."""
    return Field(default, description=meaning, json_schema_extra={"allowed": allowed, "env": env}, **bounds)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


# -- the tree ------------------------------------------------------------------------------------------
class ProtocolSettings(_Section):
    """The doors. ``OTLP_`` names leave ``PROTOCOLS`` out."""

    protobuf_enabled: bool = _setting(True, "Opens OTLP/gRPC.", _BOOL, "OTLP_PROTOBUF_ENABLED")
    protobuf_port: Port = _setting(4317, "Port of OTLP/gRPC and its health service.", _PORT, "OTLP_PROTOBUF_PORT")
    protobuf_engine: Annotated[Literal["compiled", "grpcio"], BeforeValidator(lower)] = _setting(
        "compiled",
        "Who serves OTLP/gRPC: `compiled` our own module, `grpcio` gRPC's library, at five to ten times the CPU.",
        "compiled or grpcio",
        "OTLP_PROTOBUF_ENGINE",
    )
    http_enabled: bool = _setting(True, "Opens OTLP/HTTP (protobuf and JSON).", _BOOL, "OTLP_HTTP_ENABLED")
    http_port: Port = _setting(4318, "Port of OTLP/HTTP.", _PORT, "OTLP_HTTP_PORT")
    http_cors_origins: Words = _setting(
        (),
        "Origins of web pages that may send over OTLP/HTTP from a browser.",
        'origins such as https://app.example.com, or "*" for all; a list, or commas between them',
        "OTLP_HTTP_CORS_ORIGINS",
    )
    arrow_flight_enabled: bool = _setting(
        True, "Opens Arrow Flight (docs/flight.md).", _BOOL, "OTLP_ARROW_FLIGHT_ENABLED"
    )
    arrow_flight_port: Port = _setting(4319, "Port of Arrow Flight.", _PORT, "OTLP_ARROW_FLIGHT_PORT")
    arrow_flight_engine: Annotated[Literal["compiled", "grpcio"], BeforeValidator(lower)] = _setting(
        "compiled",
        "Who serves Arrow Flight: `compiled` our own module, `grpcio` gRPC's library, at several times the CPU.",
        "compiled or grpcio",
        "OTLP_ARROW_FLIGHT_ENGINE",
    )


class TlsSettings(_Section):
    """Encryption of every listener."""

    cert_file: PathSetting | None = _setting(None, "Certificate chain (PEM); every listener then speaks TLS.", _FILE)
    key_file: PathSetting | None = _setting(None, "Private key of the certificate (PEM).", _FILE)
    client_ca_file: PathSetting | None = _setting(
        None, "Authorities (PEM) that sign clients: senders must then show a certificate (mTLS).", _FILE
    )

    @model_validator(mode="after")
    def _whole(self) -> TlsSettings:
        for name in ("cert_file", "key_file", "client_ca_file"):
            require_readable(f"tls.{name}", getattr(self, name))
        if (self.cert_file is None) != (self.key_file is None):
            missing = "key_file" if self.key_file is None else "cert_file"
            raise OtlpConfigError(f"tls.{missing}", None, f"{_FILE}: tls.cert_file and tls.key_file go together")
        if self.client_ca_file is not None and self.cert_file is None:
            raise OtlpConfigError("tls.cert_file", None, f"{_FILE}: tls.client_ca_file has no meaning without it")
        return self


class AuthSettings(_Section):
    """Who may send. With none of them set, everybody who reaches the port may."""

    bearer_tokens: Secrets = _setting(
        (), "Tokens taken in `authorization: Bearer …`.", "tokens: a list, a JSON list, or commas between them"
    )
    bearer_tokens_file: PathSetting | None = _setting(None, "More tokens, one a line (`#` begins a comment).", _FILE)
    basic: Users = _setting(
        {},
        "Users taken in `authorization: Basic …`.",
        "a mapping of user to password, a JSON object, or user:password with commas between",
    )
    basic_file: PathSetting | None = _setting(None, "More users, `user:password` a line.", _FILE)
    api_keys: Secrets = _setting(
        (), "Keys taken in `x-api-key: …`.", "keys: a list, a JSON list, or commas between them"
    )
    api_keys_file: PathSetting | None = _setting(None, "More keys, one a line.", _FILE)

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, data: Any) -> Any:
        """Puts what the ``…_file`` keys hold beside the values that are written out."""
        if not isinstance(data, dict):
            return data
        read = dict(data)
        for name in ("bearer_tokens", "basic", "api_keys"):
            path = parse_path(data.get(f"{name}_file"))
            if not isinstance(path, Path):
                continue
            more = read_secrets(f"auth.{name}_file", path)
            if name == "basic":
                read[name] = {**_mapping(parse_users(data.get(name))), **_mapping(parse_users(more))}
            else:
                read[name] = [*_sequence(parse_list(data.get(name))), *more]
        return read

    @property
    def required(self) -> bool:
        """Whether senders must show credentials."""
        return bool(self.bearer_tokens or self.basic or self.api_keys)


class ForwardingAuthentication(_Section):
    """How the forwarder proves itself to the remote."""

    auth_type: Annotated[Literal["api_key", "bearer_token", "basic"] | None, BeforeValidator(lower)] = _setting(
        None, "How the forwarder authenticates.", "api_key, bearer_token or basic"
    )
    credentials: Credentials = _setting(
        {},
        "What it shows: `key` (and `header_name`), `token`, or `username` and `password`; with `_file` appended, "
        "the path of a file that holds it.",
        "a mapping, or a JSON object",
    )


class ForwardingTls(_Section):
    """Encryption of the way out, for URLs with https; changed files are noticed."""

    ca_file: PathSetting | None = _setting(
        None, "Authorities (PEM) that sign the remote; the machine's own if not given.", _FILE
    )
    cert_file: PathSetting | None = _setting(None, "Certificate (PEM) to show to the remote (mTLS).", _FILE)
    key_file: PathSetting | None = _setting(None, "Private key (PEM) of that certificate.", _FILE)


class ForwardingRetry(_Section):
    """The pause before a request is sent again; there is no limit to their number."""

    initial_interval_secs: Seconds = _setting(
        0.5,
        "Longest pause after the first failure; it doubles with each, and is random below that.",
        "seconds, 0.01 to 60",
        ge=0.01,
        le=60,
    )
    max_interval_secs: Seconds = _setting(30, "Longest pause of all.", "seconds, 0.01 to 3600", ge=0.01, le=3600)


class ForwardingBreaker(_Section):
    """When a remote is left alone for a while."""

    failures: Integer = _setting(
        5, "Failures in a row after which no request is sent for a while.", "1 to 1000", ge=1, le=1000
    )
    open_secs: Seconds = _setting(
        30, "How long that is; then one request tries.", "seconds, 0.01 to 3600", ge=0.01, le=3600
    )


_Protocol = Annotated[Literal["protobuf", "grpc", "http", "arrow_flight"], BeforeValidator(lower)]
_Compression = Annotated[Literal["none", "gzip", "zstd"], BeforeValidator(lower)]
_Signals = Annotated[tuple[Literal["traces", "metrics", "logs"], ...], Field(min_length=1), BeforeValidator(parse_list)]
_ForwardSeconds = Annotated[Seconds, Field(ge=0.1, le=3600)]
_BatchBytes = Annotated[Bytes, Field(ge=limits.KIB, le=limits.MAX_REQUEST_BYTES)]
_InFlight = Annotated[Integer, Field(ge=1, le=64)]
_BacklogBytes = Annotated[Bytes, Field(ge=limits.MIB)]


class DestinationSettings(_Section):
    """One of several remotes. What is not set comes from ``forwarding``, except what a remote may see of us:
    address, protocol, authentication, headers and certificates are each destination's own."""

    name: str
    endpoint_url: str
    protocol: _Protocol = "protobuf"
    authentication: ForwardingAuthentication = ForwardingAuthentication()
    headers: Headers = Field(default_factory=dict)
    tls: ForwardingTls = ForwardingTls()
    compression: _Compression | None = None
    timeout_secs: _ForwardSeconds | None = None
    signals: _Signals | None = None
    max_batch_bytes: _BatchBytes | None = None
    max_in_flight: _InFlight | None = None
    max_backlog_bytes: _BacklogBytes | None = None
    retry: ForwardingRetry | None = None
    breaker: ForwardingBreaker | None = None


Destinations = Annotated[tuple[DestinationSettings, ...], BeforeValidator(parse_mapping)]


class ForwardingSettings(_Section):
    """Sending on what is stored (docs/forwarding.md)."""

    enabled: bool = _setting(False, "Sends on what is accepted.", _BOOL)
    endpoint_url: str | None = _setting(
        None, "Where to; the destination is then called `default`.", "a URL with http or https"
    )
    protocol: _Protocol = _setting(
        "protobuf",
        "What the remote speaks; `protobuf` is gRPC, or HTTP if the URL has a path or port 4318.",
        "protobuf, grpc, http or arrow_flight",
    )
    authentication: ForwardingAuthentication = ForwardingAuthentication()
    headers: Headers = _setting(
        {}, "Further headers of every request.", "a mapping, a JSON object, or name=value with commas between"
    )
    tls: ForwardingTls = ForwardingTls()
    compression: _Compression = _setting(
        "none",
        "Of what is sent: gzip for gRPC and HTTP, zstd for HTTP and Flight.",
        "none, gzip or zstd",
    )
    timeout_secs: _ForwardSeconds = _setting(10, "Time for one request.", "seconds, 0.1 to 3600")
    signals: _Signals = _setting(
        ("traces", "metrics", "logs"), "Which signals are sent on.", "some of traces, metrics, logs"
    )
    max_batch_bytes: _BatchBytes | None = _setting(
        None,
        f"Stored requests are merged up to this size; {limits.FORWARD_BATCH_BYTES // limits.MIB} MiB if not given, "
        f"{limits.FORWARD_FLIGHT_BATCH_BYTES // limits.MIB} MiB to Arrow Flight.",
        f"{_SIZE}, 1KiB to {limits.MAX_REQUEST_BYTES // limits.MIB}MiB",
    )
    max_in_flight: _InFlight = _setting(4, "Requests of one signal under way at once.", "1 to 64")
    max_backlog_bytes: _BacklogBytes = _setting(
        limits.GIB,
        "What the WAL keeps for a destination that does not answer; past it the oldest is given up.",
        f"{_SIZE}, 1MiB or more, at most half of max_disk_bytes",
    )
    retry: ForwardingRetry = ForwardingRetry()
    breaker: ForwardingBreaker = ForwardingBreaker()
    destinations: Destinations = _setting(
        (),
        "Further destinations, each with a `name` and any of the keys above.",
        "a list of mappings, or a JSON list",
    )


class Settings(BaseSettings):
    """Everything a user may set; frozen. See the module's docstring."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    output_dir: PathSetting = _setting(
        Path("output_dir"), "Directory of all files; one process at a time.", "a path of up to 4096 characters"
    )
    host: str = _setting(
        defaults.HOST,
        "Address that every listener binds; 0.0.0.0 for all interfaces.",
        "a host name or an IP address",
        min_length=1,
    )
    write_interval_secs: Seconds = _setting(
        5, "Rows gathered this long become one record batch of a segment.", "seconds, 1 to 3600", ge=1, le=3600
    )
    trace_cleanup_interval_secs: Integer = _setting(604_800, "Age at which closed segments of traces go.", _RETENTION)
    metric_cleanup_interval_secs: Integer = _setting(604_800, "The same for metrics.", _RETENTION)
    log_cleanup_interval_secs: Integer = _setting(604_800, "The same for logs.", _RETENTION)
    max_disk_bytes: Bytes = _setting(
        10 * limits.GIB,
        "Segments and WAL together; above it the oldest closed segments are deleted.",
        f"{_SIZE}, not less than max_file_size; 0 for no bound",
        ge=0,
    )
    max_file_size: Bytes = _setting(
        100 * limits.MIB, "A segment is closed at this size.", f"{_SIZE}, 64KiB or more", ge=64 * limits.KIB
    )
    max_file_age_secs: Seconds = _setting(
        3600, "A segment is closed at this age.", "seconds, 1 or more", ge=1, le=10**9
    )
    max_batch_rows: Integer = _setting(
        65_536, "A record batch of this many rows is written before the interval ends.", "1 to 16777216", ge=1, le=2**24
    )
    max_buffer_bytes: Bytes = _setting(
        256 * limits.MIB,
        "Memory for what is accepted and not yet in a segment; past it senders are told to come back.",
        f"{_SIZE}, not less than max_request_bytes",
        ge=1,
    )
    max_request_bytes: Bytes = _setting(
        limits.MAX_REQUEST_BYTES,
        "Largest request, after decompression.",
        f"{_SIZE}, 1KiB to {limits.MAX_REPEATED_BYTES // limits.MIB}MiB",
        ge=limits.KIB,
        le=limits.MAX_REPEATED_BYTES,
    )
    ack: Annotated[Literal["fsync", "write", "memory"], BeforeValidator(lower)] = _setting(
        "fsync",
        "What OK promises: `fsync` on disk; `write` in the page cache (survives kill -9, not a power cut); "
        "`memory` nothing.",
        "fsync, write or memory",
    )
    protocols: ProtocolSettings = ProtocolSettings()
    admin_port: Port = _setting(defaults.ADMIN_PORT, "Port of health and /metrics.", _PORT)
    tls: TlsSettings = TlsSettings()
    auth: AuthSettings = AuthSettings()
    forwarding: ForwardingSettings = ForwardingSettings()
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = _setting(
        "info", "Least severe log line that is shown.", "debug, info, warning or error"
    )
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(lower)] = _setting(
        "auto", "How log lines look; `auto` is console on a terminal and json elsewhere.", "auto, console or json"
    )
    shutdown_timeout_secs: Seconds = _setting(
        limits.SHUTDOWN_TIMEOUT_S,
        "Time for a graceful stop; what is not in a segment by then is taken from the WAL at the next start.",
        "seconds, 0.1 to 3600",
        ge=0.1,
        le=3600,
    )

    if not TYPE_CHECKING:  # type checkers and editors see the fields

        def __init__(self, **explicit: Any) -> None:
            self._fill(layers.gather(setting_keys(), layers.flatten(explicit, "argument")))

    def _fill(self, found: layers.Layers) -> None:
        try:
            super().__init__(**found.tree())
        except ValidationError as error:
            raise _explain(error, found) from None
        except OtlpConfigError as error:
            raise _located(error, found) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``layers`` gathered: it refuses unknown names and knows where each value came from."""
        return (init_settings,)

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        """Bounds that two keys have together."""
        for name in ("trace", "metric", "log"):
            seconds = getattr(self, f"{name}_cleanup_interval_secs")
            if seconds < 0 or 0 < seconds < 60:
                raise OtlpConfigError(f"{name}_cleanup_interval_secs", seconds, _RETENTION)
        if self.max_request_bytes > self.max_buffer_bytes:
            raise OtlpConfigError(
                "max_buffer_bytes", self.max_buffer_bytes, f"at least max_request_bytes ({self.max_request_bytes})"
            )
        if 0 < self.max_disk_bytes < self.max_file_size:
            raise OtlpConfigError(
                "max_disk_bytes", self.max_disk_bytes, f"0, or at least max_file_size ({self.max_file_size})"
            )
        taken: dict[int, str] = {}
        for name, port in self._listeners():
            if port and port in taken:
                raise OtlpConfigError(name, port, f"a port that {taken[port]} does not have")
            taken[port] = name
        if self.forwarding.enabled:
            from otlp_arrow.app.forwarding import destinations_of  # it knows this module

            destinations_of(self)
        return self

    def _listeners(self) -> Iterator[tuple[str, int]]:
        doors = self.protocols
        if doors.protobuf_enabled:
            yield "protocols.protobuf_port", doors.protobuf_port
        if doors.http_enabled:
            yield "protocols.http_port", doors.http_port
        if doors.arrow_flight_enabled:
            yield "protocols.arrow_flight_port", doors.arrow_flight_port
        yield "admin_port", self.admin_port

    @classmethod
    def load(
        cls,
        *,
        flags: layers.Explicit | None = None,
        environ: layers.Environ | None = None,
        config_file: Path | str | None = None,
    ) -> LoadedSettings:
        """The settings and where each came from: ``flags`` (by path, ``{"protocols.http_port": "4318"}``, or
        nested) over ``environ`` (the process's own by default) over ``config_file`` (else ``OTLP_CONFIG``,
        else /etc/otlp-arrow/config.yaml if it exists) over defaults. Raises ``OtlpConfigError``.
        """
        found = layers.gather(setting_keys(), layers.flatten(flags or {}, "flag"), environ, config_file)
        settings = cls.__new__(cls)
        settings._fill(found)
        return LoadedSettings(settings, found)


# -- looking at the tree -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class SettingKey:
    """What is known of one key: ``path`` as in YAML (``tls.cert_file``), ``env`` its variable."""

    path: str
    env: str
    default: Any
    allowed: str
    meaning: str
    secret: bool


def setting_keys() -> dict[str, SettingKey]:
    """Every key by its path, in the order of the tree."""
    return _KEYS


def _walk(model: type[BaseModel], prefix: str = "") -> Iterator[SettingKey]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if isinstance(field.default, BaseModel):
            yield from _walk(type(field.default), f"{path}.")
            continue
        extra = field.json_schema_extra
        assert isinstance(extra, dict), path
        yield SettingKey(
            path=path,
            env=str(extra["env"]) or "OTLP_" + path.replace(".", "_").upper(),
            default=field.default,
            allowed=str(extra["allowed"]),
            meaning=str(field.description),
            secret="SecretStr" in str(field.annotation) or "DestinationSettings" in str(field.annotation),
        )


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings together with their origins."""

    settings: Settings
    layers: layers.Layers

    @property
    def config_file(self) -> Path | None:
        """The YAML file that was read, if any."""
        return self.layers.config_file

    @property
    def notes(self) -> tuple[str, ...]:
        """Things worth telling the user that are no errors."""
        return self.layers.notes

    def origin(self, path: str) -> str:
        """``flag``, ``argument``, the environment variable, the file, or ``default``."""
        return self.layers.origin(path)

    def value(self, path: str) -> Any:
        """The effective value of a key; secrets stay wrapped."""
        value: Any = self.settings
        for name in path.split("."):
            value = getattr(value, name)
        return value


# -- errors --------------------------------------------------------------------------------------------
def _explain(error: ValidationError, found: layers.Layers) -> OtlpConfigError:
    """The first complaint of pydantic in the words of the key that it concerns."""
    first = error.errors(include_url=False)[0]
    if first["loc"][:2] == ("forwarding", "destinations") and len(first["loc"]) > 3:
        return _located(_explain_destination(first["loc"], first["input"]), found)
    path = ".".join(str(part) for part in first["loc"])
    while path not in _KEYS and "." in path:
        path = path.rpartition(".")[0]  # an item of a list belongs to its key
    key = _KEYS.get(path)
    if key is None:  # a section that is no mapping; unknown keys never come this far
        return OtlpConfigError(path, layers.shown(path, first["input"]), "a mapping of keys")
    value = found.values[path].value if path in found.values else first["input"]
    return _located(OtlpConfigError(path, SECRET if key.secret else value, key.allowed), found)


def _explain_destination(loc: tuple[int | str, ...], value: object) -> OtlpConfigError:
    """A destination has the keys of ``forwarding``, and a name."""
    number, *names = loc[2:]
    path = ".".join(str(name) for name in names)
    key = _KEYS.get(f"forwarding.{path}")
    allowed = {"name": "a name"}.get(path, "a known key") if key is None else key.allowed
    shown = SECRET if key is None or key.secret else value
    return OtlpConfigError(f"forwarding.destinations[{number}].{path}", shown, allowed)


def _located(error: OtlpConfigError, found: layers.Layers) -> OtlpConfigError:
    """The same error, saying which variable, file or flag the value stands in."""
    origin = found.origin(error.key)
    if origin in ("default", "argument"):
        return error
    return OtlpConfigError(error.key, error.value, f"{error.allowed} (set by {origin})")


def _mapping(value: object) -> dict[Any, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _sequence(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


_KEYS = {key.path: key for key in _walk(Settings)}
