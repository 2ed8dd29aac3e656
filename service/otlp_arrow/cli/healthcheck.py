"""Asking a running collector whether it is ready, with the standard library alone: a container starts this
every few seconds."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from otlp_arrow.app import defaults

DEFAULT_TIMEOUT_S = 5.0
_MAX_ANSWER_BYTES = 1 << 20
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "localhost"}


def healthcheck(url: str | None = None, config: Path | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> int:
    """Prints one line; 0 if the collector is ready, 1 for every other case, because Docker knows no third."""
    try:
        ready, line = check(url, config, timeout_s)
    except Exception as error:
        ready, line = False, str(error)
    print(line)
    return 0 if ready else 1


def check(url: str | None, config: Path | None, timeout_s: float) -> tuple[bool, str]:
    """Whether the collector at ``url`` (else at the place that the settings name) is ready, and a line to print.
    Raises ``OtlpConfigError`` if the settings are wrong."""
    url = url or url_of_settings(config)
    try:
        status, body = get(url, timeout_s)
    except (OSError, ValueError) as error:
        return False, f"no answer from {url}: {error}"
    health = _parse(body)
    if status == 200:
        return True, f"ready: {health.get('status', 'ok')}"
    reasons = "; ".join(str(reason) for reason in health.get("reasons") or [])
    return False, f"not ready: {health.get('status', f'HTTP {status}')}" + (f": {reasons}" if reasons else "")


def url_of_settings(config: Path | None) -> str:
    """The health address of the collector that has the same settings. Without a settings file three
    variables tell it; otherwise the whole tree is read."""
    environ = os.environ
    named = config or environ.get(defaults.CONFIG_VARIABLE) or os.path.exists(defaults.CONFIG_FILE)
    port = environ.get("OTLP_ADMIN_PORT") or str(defaults.ADMIN_PORT)
    if not named and port.isdigit():
        return _url(environ.get("OTLP_HOST") or defaults.HOST, port, tls=bool(environ.get("OTLP_TLS_CERT_FILE")))
    from otlp_arrow.app.settings import Settings

    settings = Settings.load(config_file=config).settings
    return _url(settings.host, str(settings.admin_port), tls=settings.tls.cert_file is not None)


def _url(host: str, port: str, *, tls: bool) -> str:
    host = _ANY_ADDRESS.get(host, host)
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}/health"


def get(url: str, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of a GET. Raises ``OSError`` if nobody answers in time, ``ValueError`` if it is not HTTP."""
    deadline = time.monotonic() + timeout_s
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http or https URL")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname, port), timeout_s) as connection:
        if parts.scheme == "https":
            connection = _encrypted(connection, parts.hostname)
        with connection:
            # 1.0: the answer ends where the connection does.
            connection.sendall(f"GET {parts.path or '/health'} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
            answer = b""
            while len(answer) < _MAX_ANSWER_BYTES:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                chunk = connection.recv(65536)
                if not chunk:
                    break
                answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ValueError("the answer is not HTTP")
    return int(words[1]), body


def _encrypted(connection: socket.socket, hostname: str) -> socket.socket:
    """The collector's own host is asked, with no secret in the question: any certificate will do."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection, server_hostname=hostname)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
