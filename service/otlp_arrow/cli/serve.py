"""``serve``: the settings, the log, the collector, and what to paste where the senders run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from otlp_arrow import __version__
from otlp_arrow.app.settings import Settings

if TYPE_CHECKING:
    from otlp_arrow.app.wiring import Collector

_ANY_ADDRESS = {"0.0.0.0": "localhost", "::": "localhost"}


def serve(config: Path | None, flags: Mapping[str, Any]) -> int:
    """Runs until a signal; the exit code. Raises ``OtlpError`` if it cannot start or a part dies."""
    loaded = Settings.load(flags=flags, config_file=config)
    settings = loaded.settings

    _leave_rich_out()
    # A second of imports, which whoever mistyped a setting need not wait for.
    from otlp_arrow.app import logging
    from otlp_arrow.app.run import run_until_stopped

    logging.configure(settings.log_level, settings.log_format)
    for note in loaded.notes:
        typer.secho(f"note: {note}", fg="yellow", err=True)
    run_until_stopped(settings, _greet)
    return 0


def _leave_rich_out() -> None:
    """Import structlog without rich, which it would take for tracebacks in colour: 6 MB for ever."""
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]
        try:
            import structlog  # noqa: F401
        finally:
            del sys.modules["rich"]


def _greet(collector: Collector) -> None:
    with contextlib.suppress(OSError):  # nobody reads our stdout; the collector runs on
        typer.echo("\n".join(greeting(collector)))


def greeting(collector: Collector) -> list[str]:
    """Where it listens, where it writes, and the lines that point an SDK at it."""
    from otlp_arrow.app.health import REFERENCE_COST
    from otlp_arrow.codec import KERNEL_ERROR, kernel_available

    settings = collector.settings
    secure = settings.tls.cert_file is not None
    host = _ANY_ADDRESS.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host

    def url(port: int) -> str:
        return f"{'https' if secure else 'http'}://{host}:{port}"

    bound = f"[{settings.host}]" if ":" in settings.host else settings.host
    lines = [f"otlp-arrow {__version__}"]
    if collector.grpc is not None:
        lines.append(f"  OTLP/gRPC   {bound}:{collector.grpc.bound_port}")
    if collector.http is not None:
        lines.append(f"  OTLP/HTTP   {bound}:{collector.http.bound_port}")
    if collector.flight is not None:
        lines.append(f"  Flight      {bound}:{collector.flight.bound_port}")
    if collector.admin is not None:
        lines.append(
            f"  health      {url(collector.admin.bound_port)}/health, {url(collector.admin.bound_port)}/metrics"
        )
    lines.append(f"  writes to   {settings.output_dir.resolve()}")
    if not kernel_available():
        lines += ["", f"  WARNING: running on the REFERENCE decoder: {KERNEL_ERROR}", f"  {REFERENCE_COST}"]
    lines += ["", "Point an OpenTelemetry SDK here:", ""]
    if collector.grpc is not None:
        lines.append(f"  export OTEL_EXPORTER_OTLP_ENDPOINT={url(collector.grpc.bound_port)}")
        lines.append("  export OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
    if collector.grpc is not None and collector.http is not None:
        lines += ["", "or over HTTP:", ""]
    if collector.http is not None:
        lines.append(f"  export OTEL_EXPORTER_OTLP_ENDPOINT={url(collector.http.bound_port)}")
        lines.append("  export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
    return [*lines, *_credentials(settings), ""]


def _credentials(settings: Settings) -> list[str]:
    """What else a sender needs; never the secret itself."""
    lines = []
    if settings.auth.bearer_tokens:
        lines.append('  export OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20<token>"')
    elif settings.auth.api_keys:
        lines.append('  export OTEL_EXPORTER_OTLP_HEADERS="x-api-key=<key>"')
    elif settings.auth.basic:
        lines.append('  export OTEL_EXPORTER_OTLP_HEADERS="authorization=Basic%20<base64 of user:password>"')
    if settings.tls.cert_file is not None:
        lines.append("  export OTEL_EXPORTER_OTLP_CERTIFICATE=<file of the authority, if it is not a public one>")
    if settings.tls.client_ca_file is not None:
        lines.append("  export OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=<file> OTEL_EXPORTER_OTLP_CLIENT_KEY=<file>")
    return ["", "and with either:", "", *lines] if lines else []
