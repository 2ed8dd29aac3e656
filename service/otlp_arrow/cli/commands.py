"""The command line: what can be asked. Each command imports what it needs when it runs, so that
``--help`` answers in about the time that Python takes to start."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from otlp_arrow.cli import query_commands
from otlp_arrow.cli.ask_options import SignalName
from otlp_arrow.cli.healthcheck import DEFAULT_TIMEOUT_S

app = typer.Typer(
    name="otlp-arrow",
    help="A collector for OpenTelemetry: OTLP in, durable before it says OK, Arrow files out.",
    no_args_is_help=True,
    rich_markup_mode=None,  # importing rich for coloured help would double the time to the first line
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file of settings.", show_default=False)
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, as in --set protocols.http_port=4318; repeatable."),
]


class ConfigFormat(enum.StrEnum):
    """How ``config`` shows the settings."""

    TABLE = "table"
    YAML = "yaml"
    JSON = "json"
    ENV = "env"


class InspectFormat(enum.StrEnum):
    """How ``inspect`` shows what it found."""

    TABLE = "table"
    JSON = "json"


class Protocol(enum.StrEnum):
    """What a remote speaks."""

    PROTOBUF = "protobuf"
    GRPC = "grpc"
    HTTP = "http"
    ARROW_FLIGHT = "arrow_flight"


class Compression(enum.StrEnum):
    """Of what is sent."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from otlp_arrow import __version__

        typer.echo(f"otlp-arrow {__version__}")
        raise typer.Exit


@app.command()
def serve(
    config: ConfigFile = None,
    output_dir: Annotated[Path | None, typer.Option(help="Directory of all files.", show_default=False)] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; 0.0.0.0 for all.", show_default=False)] = None,
    protobuf_port: Annotated[int | None, typer.Option(help="Port of OTLP/gRPC.", show_default=False)] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of OTLP/HTTP.", show_default=False)] = None,
    arrow_flight_port: Annotated[int | None, typer.Option(help="Port of Arrow Flight.", show_default=False)] = None,
    admin_port: Annotated[int | None, typer.Option(help="Port of health and metrics.", show_default=False)] = None,
    ack: Annotated[str | None, typer.Option(help="What OK promises: fsync, write, memory.", show_default=False)] = None,
    write_interval_secs: Annotated[
        float | None, typer.Option(help="Rows gathered this long become one batch.", show_default=False)
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.", show_default=False)] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, console, json.", show_default=False)] = None,
    sets: Sets = None,
) -> None:
    """Run the collector until SIGTERM or SIGINT.

    Every setting is a key of the YAML file, an OTLP_ variable and a --set; flags win over the
    environment, the environment over the file. `otlp-arrow config` shows them all.
    """
    from otlp_arrow.cli.serve import serve as run

    flags = {
        "output_dir": output_dir,
        "host": host,
        "protocols.protobuf_port": protobuf_port,
        "protocols.http_port": http_port,
        "protocols.arrow_flight_port": arrow_flight_port,
        "admin_port": admin_port,
        "ack": ack,
        "write_interval_secs": write_interval_secs,
        "log_level": log_level,
        "log_format": log_format,
    }
    raise typer.Exit(run(config, {**_pairs(sets), **{name: v for name, v in flags.items() if v is not None}}))


@app.command()
def healthcheck(
    url: Annotated[
        str | None, typer.Option(help="Where to ask; from the settings if not given.", show_default=False)
    ] = None,
    config: ConfigFile = None,
    timeout_secs: Annotated[float, typer.Option(help="Give up after so long.")] = DEFAULT_TIMEOUT_S,
) -> None:
    """Ask a running collector whether it is ready: exit code 0 if so, 1 otherwise, and one line."""
    from otlp_arrow.cli.healthcheck import healthcheck as ask

    raise typer.Exit(ask(url, config, timeout_secs))


@app.command("config")
def show_config(
    config: ConfigFile = None,
    sets: Sets = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether they are valid.")] = False,
    output: Annotated[ConfigFormat, typer.Option("--format", help="How to show them.")] = ConfigFormat.TABLE,
) -> None:
    """Show the settings that would be in effect and where each comes from; secrets are not shown."""
    from otlp_arrow.cli import config as command

    command.show(config, _pairs(sets), check=check, output=output)


@app.command()
def inspect(
    directory: Annotated[Path, typer.Argument(help="An output directory.", metavar="DIR")],
    output: Annotated[InspectFormat, typer.Option("--format", help="How to show it.")] = InspectFormat.TABLE,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every checksum; reads all bytes.")] = False,
) -> None:
    """Show what lies in an output directory: WAL, segments, cursors, quarantine.

    Takes no lock and changes nothing, so that it may look on while a collector writes.
    """
    from otlp_arrow.cli import inspect as command

    raise typer.Exit(command.show(directory, output=output, verify=verify))


@app.command()
def send(
    files: Annotated[
        list[Path],
        typer.Argument(help="Segments (.arrows), requests (.pb), OTLP/JSON lines (.jsonl).", metavar="FILES…"),
    ],
    to: Annotated[str, typer.Option("--to", metavar="URL", help="An OTLP or Flight endpoint.")],
    protocol: Annotated[Protocol, typer.Option(help="protobuf: gRPC, or HTTP by the URL's path or port.")] = (
        Protocol.PROTOBUF
    ),
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Repeatable; secrets rather in OTEL_EXPORTER_OTLP_HEADERS."),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Records a second at most.", min=0.001, show_default=False)] = None,
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="From: ISO 8601, nanoseconds, or 30m (ago).", show_default=False)
    ] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Before.", show_default=False)] = None,
    signal: Annotated[
        SignalName | None, typer.Option(help="Of .pb files whose name does not say.", show_default=False)
    ] = None,
    compression: Annotated[Compression, typer.Option(help="Of what is sent.")] = Compression.NONE,
    timeout_secs: Annotated[float, typer.Option(help="Time for one request.", min=0.1)] = 10.0,
    retry_secs: Annotated[float, typer.Option(help="How long a request is tried again.", min=0)] = 60.0,
    ca_file: Annotated[Path | None, typer.Option(help="Authorities (PEM) for https.", show_default=False)] = None,
    cert_file: Annotated[Path | None, typer.Option(help="Certificate to show (PEM).", show_default=False)] = None,
    key_file: Annotated[Path | None, typer.Option(help="Its private key (PEM).", show_default=False)] = None,
) -> None:
    """Send stored telemetry to an OTLP or Flight endpoint.

    Exit code 0: the remote has confirmed every record; 1: it has not, stderr says why; 2: a flag is wrong.
    """
    from otlp_arrow.cli.send import Options
    from otlp_arrow.cli.send import send as run

    options = Options(
        to=to,
        protocol=protocol.value,
        headers=header or (),
        compression=compression.value,
        timeout_secs=timeout_secs,
        retry_secs=retry_secs,
        rate=rate,
        start=start,
        end=end,
        signal=None if signal is None else signal.value,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )
    raise typer.Exit(run(files, options))


query_commands.register(app)


def _pairs(sets: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in sets or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--set")
        pairs[key.strip()] = value
    return pairs
