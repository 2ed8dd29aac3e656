"""The variables of OpenTelemetry's exporters, as settings of the forwarder: the weakest layer above the defaults.

They are read only where forwarding is on; otherwise they are meant for a program that sends to us.
Specification: https://opentelemetry.io/docs/specs/otel/protocol/exporter/

==============================================  ======================================
``OTEL_EXPORTER_OTLP_…``                        setting under ``forwarding``
==============================================  ======================================
``ENDPOINT``, ``INSECURE``                      ``endpoint_url``
``PROTOCOL``                                    ``protocol``
``HEADERS``                                     ``headers``
``CERTIFICATE``                                 ``tls.ca_file``
``CLIENT_CERTIFICATE``, ``CLIENT_KEY``          ``tls.cert_file``, ``tls.key_file``
``COMPRESSION``                                 ``compression``
``TIMEOUT`` (milliseconds)                      ``timeout_secs``
``TRACES_…``, ``METRICS_…``, ``LOGS_ENDPOINT``  a destination of its own for the signal
==============================================  ======================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from otlp_arrow.model import OtlpConfigError, Signal

PREFIX = "OTEL_EXPORTER_OTLP_"

_TRUE = ("true", "1", "yes", "on")
_PROTOCOLS = {"grpc": "grpc", "http/protobuf": "http", "http/json": "http"}
"""OTLP/JSON is never sent: a server that takes it takes protobuf at the same path."""


def read_variables(environ: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """Settings by path below ``forwarding``, each with its variable. Raises ``OtlpConfigError``.

    ``destinations`` is among them if the signals go to different places.
    """
    found = _values_for(environ, "")
    own = {signal: _values_for(environ, f"{signal.value.upper()}_") for signal in Signal}
    own = {signal: values for signal, values in own.items() if "endpoint_url" in values}
    if not own:
        return found
    destinations = [
        {"name": signal.value, "signals": [signal.value], **_nested(without_idle_tls({**found, **values}))}
        for signal, values in own.items()
    ]
    others = [signal.value for signal in Signal if signal not in own]
    if others and "endpoint_url" in found:
        found["signals"] = (f"{PREFIX}ENDPOINT", others)
    else:
        found = {}
    found["destinations"] = (f"{PREFIX}{next(iter(own)).value.upper()}_ENDPOINT", destinations)
    return found


def _values_for(environ: Mapping[str, str], infix: str) -> dict[str, tuple[str, Any]]:
    found: dict[str, tuple[str, Any]] = {}

    def take(name: str) -> str:
        return environ.get(f"{PREFIX}{infix}{name}", "").strip()

    def put(path: str, name: str, value: Any) -> None:
        found[path] = (f"{PREFIX}{infix}{name}", value)

    if endpoint := take("ENDPOINT"):
        if "://" not in endpoint:  # SDKs take host:port for gRPC
            endpoint = f"{'http' if take('INSECURE').lower() in _TRUE else 'https'}://{endpoint}"
        put("endpoint_url", "ENDPOINT", endpoint)
    if protocol := take("PROTOCOL"):
        if protocol not in _PROTOCOLS:
            raise OtlpConfigError(f"{PREFIX}{infix}PROTOCOL", protocol, ", ".join(_PROTOCOLS))
        put("protocol", "PROTOCOL", _PROTOCOLS[protocol])
    if headers := take("HEADERS"):
        put("headers", "HEADERS", _headers(f"{PREFIX}{infix}HEADERS", headers))
    if compression := take("COMPRESSION"):
        put("compression", "COMPRESSION", compression)
    if timeout := take("TIMEOUT"):
        try:
            put("timeout_secs", "TIMEOUT", float(timeout) / 1000)
        except ValueError:
            raise OtlpConfigError(f"{PREFIX}{infix}TIMEOUT", timeout, "milliseconds") from None
    for name, path in _CERTIFICATES.items():
        if value := take(name):
            put(path, name, value)
    return without_idle_tls(found)


def without_idle_tls(found: dict[str, tuple[str, Any]], url: str = "") -> dict[str, tuple[str, Any]]:
    """Certificates say nothing to a plain connection. ``url``: if it is not among ``found``."""
    url = url or found.get("endpoint_url", ("", ""))[1]
    return {path: value for path, value in found.items() if not (url.startswith("http://") and path.startswith("tls."))}


_CERTIFICATES = {
    "CERTIFICATE": "tls.ca_file",
    "CLIENT_CERTIFICATE": "tls.cert_file",
    "CLIENT_KEY": "tls.key_file",
}


def _headers(variable: str, text: str) -> dict[str, str]:
    """``key=value`` pairs between commas, values percent-encoded as the specification has them."""
    headers = {}
    for pair in text.split(","):
        if not pair.strip():
            continue
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise OtlpConfigError(variable, "**********", "key=value pairs with commas between")
        headers[unquote(name.strip())] = unquote(value.strip())
    return headers


def _nested(values: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, (_variable, value) in values.items():
        section, dot, name = path.rpartition(".")
        (tree.setdefault(section, {}) if dot else tree)[name] = value
    return tree
