"""From the settings under ``forwarding`` to destinations, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from otlp_arrow.app.settings import DestinationSettings, ForwardingSettings, Settings
from otlp_arrow.app.values import require_readable
from otlp_arrow.model import OtlpConfigError, Signal
from otlp_arrow.sinks.auth import Credentials, check_headers
from otlp_arrow.sinks.breaker import BreakerSettings
from otlp_arrow.sinks.destination import (
    COMPRESSIONS,
    NAME,
    Destination,
    TlsFiles,
    check_url,
    choose_transport,
    usual_batch_bytes,
)
from otlp_arrow.sinks.retry import RetrySettings

DEFAULT_NAME = "default"
"""What the destination of ``forwarding.endpoint_url`` is called."""

_LOOPBACK = {"localhost", "127.0.0.1", "::1", "0.0.0.0"}


def destinations_of(settings: Settings) -> list[Destination]:
    """Where to forward to; none if forwarding is off. Raises ``OtlpConfigError`` naming the key."""
    shared = settings.forwarding
    if not shared.enabled:
        return []
    found = list(_all(shared))
    if not found:
        raise OtlpConfigError(
            "forwarding.endpoint_url", None, "a URL with http or https, or forwarding.destinations to name some"
        )
    names = [destination.name for destination in found]
    for name in names:
        if names.count(name) > 1:
            raise OtlpConfigError("forwarding.destinations", name, "names that differ")
    for destination in found:
        _refuse_loop(settings, destination)
        if 0 < settings.max_disk_bytes < 2 * destination.max_backlog_bytes:
            raise OtlpConfigError(
                "forwarding.max_backlog_bytes",
                destination.max_backlog_bytes,
                f"at most half of max_disk_bytes ({settings.max_disk_bytes}): segments need the rest",
            )
    return found


def _all(shared: ForwardingSettings) -> Iterator[Destination]:
    if shared.endpoint_url is not None:
        yield _build(DEFAULT_NAME, "forwarding", shared, shared)
    for number, own in enumerate(shared.destinations):
        yield _build(own.name, f"forwarding.destinations[{number}]", own, shared)


def _build(
    name: str, key: str, own: ForwardingSettings | DestinationSettings, shared: ForwardingSettings
) -> Destination:
    """``own`` where it is set, else ``shared``; what a remote may see of us is never shared."""

    def value(setting: str) -> Any:
        found = getattr(own, setting)
        return getattr(shared, setting) if found is None else found

    if not NAME.fullmatch(name):
        raise OtlpConfigError(f"{key}.name", name, "up to 63 of a to z, 0 to 9, - and _")
    url = check_url(f"{key}.endpoint_url", own.endpoint_url, own.protocol)
    transport = choose_transport(url, own.protocol)
    compression = value("compression")
    if compression not in COMPRESSIONS[transport]:
        raise OtlpConfigError(
            f"{key}.compression", compression, f"{' or '.join(COMPRESSIONS[transport])} for {transport}"
        )
    retry, breaker = value("retry"), value("breaker")
    if retry.max_interval_secs < retry.initial_interval_secs:
        raise OtlpConfigError(
            f"{key}.retry.max_interval_secs",
            retry.max_interval_secs,
            f"at least initial_interval_secs ({retry.initial_interval_secs:g})",
        )
    plain_headers = {name: secret.get_secret_value() for name, secret in own.headers.items()}
    return Destination(
        name=name,
        url=url,
        transport=transport,
        signals=frozenset(Signal(signal) for signal in value("signals")),
        credentials=_credentials(key, own),
        headers=check_headers(f"{key}.headers", plain_headers),
        tls=_tls(key, own, url),
        compression=compression,
        timeout_s=value("timeout_secs"),
        max_batch_bytes=value("max_batch_bytes") or usual_batch_bytes(transport),
        max_in_flight=value("max_in_flight"),
        max_backlog_bytes=value("max_backlog_bytes"),
        retry=RetrySettings(retry.initial_interval_secs, retry.max_interval_secs),
        breaker=BreakerSettings(breaker.failures, breaker.open_secs),
    )


def _credentials(key: str, own: ForwardingSettings | DestinationSettings) -> Credentials:
    values: dict[str, SecretStr] = own.authentication.credentials
    return Credentials(
        own.authentication.auth_type, {name: secret.get_secret_value() for name, secret in values.items()}, key=key
    )


def _tls(key: str, own: ForwardingSettings | DestinationSettings, url: str) -> TlsFiles:
    tls = own.tls
    named: dict[str, Path | None] = {n: getattr(tls, n) for n in ("ca_file", "cert_file", "key_file")}
    for name, path in named.items():
        if path is not None and urlsplit(url).scheme != "https":
            raise OtlpConfigError(f"{key}.tls.{name}", str(path), "nothing: the URL is http, without encryption")
        require_readable(f"{key}.tls.{name}", path)
    if (tls.cert_file is None) != (tls.key_file is None):
        missing = "key_file" if tls.key_file is None else "cert_file"
        raise OtlpConfigError(f"{key}.tls.{missing}", None, "the path of a file: cert_file and key_file go together")
    return TlsFiles(tls.ca_file, tls.cert_file, tls.key_file)


def _refuse_loop(settings: Settings, destination: Destination) -> None:
    """A sidecar's own address stands in every SDK's variables; sent there, data would go round for ever."""
    host, port = destination.host_and_port()
    doors = settings.protocols
    own = {
        doors.protobuf_port if doors.protobuf_enabled else 0,
        doors.http_port if doors.http_enabled else 0,
        doors.arrow_flight_port if doors.arrow_flight_enabled else 0,
    }
    if host in _LOOPBACK | {settings.host} and port in own - {0}:
        raise OtlpConfigError(
            "forwarding.endpoint_url", destination.url, "another address: this one is the collector's own"
        )
