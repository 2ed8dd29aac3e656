"""``send``: stored telemetry to any OTLP or Flight endpoint, as fast as it takes it or as told."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from otlp_arrow.app.otel_variables import read_variables
from otlp_arrow.cli.stored_files import Piece, pieces
from otlp_arrow.model import Batch, Encoding, OtlpConfigError, OtlpError, Signal
from otlp_arrow.sinks.auth import check_headers
from otlp_arrow.sinks.convert import rows_as
from otlp_arrow.sinks.destination import (
    COMPRESSIONS,
    Destination,
    TlsFiles,
    build_sink,
    check_url,
    choose_transport,
)
from otlp_arrow.sinks.retry import RetrySettings, next_delay
from otlp_arrow.sinks.sink import DeliveryResult, Fault, Permanent, Sink, Transient
from otlp_arrow.storage.snapshot import TimeRange

IN_FLIGHT = 4
RETRY = RetrySettings(0.2, 10.0)

_TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


@dataclass(frozen=True, slots=True)
class Options:
    """What the flags say."""

    to: str
    protocol: str = "protobuf"
    headers: Sequence[str] = ()
    compression: str = "none"
    timeout_secs: float = 10.0
    retry_secs: float = 60.0
    rate: float | None = None
    start: str | None = None
    end: str | None = None
    signal: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


def send(files: Sequence[Path], options: Options, environ: Mapping[str, str] | None = None) -> int:
    """Sends the files in their order; 0 if the remote has confirmed every record, 1 if not.

    Raises ``OtlpConfigError`` for a flag that cannot be used, before anything is sent.
    """
    destination = _destination(options, os.environ if environ is None else environ)
    now_ns = time.time_ns()
    times = TimeRange(
        None if options.start is None else parse_time("--start", options.start, now_ns),
        None if options.end is None else parse_time("--end", options.end, now_ns),
    )
    for file in files:
        if not file.is_file():
            raise OtlpConfigError("FILES", str(file), "a file that exists")
    signal = None if options.signal is None else Signal(options.signal)
    outcome = asyncio.run(_send_all(files, signal, times, destination, options))
    return outcome.conclude(options.to)


def parse_time(flag: str, text: str, now_ns: int) -> int:
    """Nanoseconds since 1970: ISO 8601 (UTC unless it says otherwise), nanoseconds, or ``30m`` ago."""
    if found := _AGO.fullmatch(text):
        return now_ns - int(float(found[1]) * _TIME_UNITS[found[2]] * 1e9)
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise OtlpConfigError(flag, text, "2026-07-01T12:00, nanoseconds since 1970, or 30m (ago)") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def _destination(options: Options, environ: Mapping[str, str]) -> Destination:
    url = check_url("--to", options.to, options.protocol)
    transport = choose_transport(url, options.protocol)
    if options.compression not in COMPRESSIONS[transport]:
        raise OtlpConfigError("--compression", options.compression, f"{' or '.join(COMPRESSIONS[transport])}")
    # Other users of the machine can read flags; the variable of OpenTelemetry's exporters is for secrets.
    headers = dict(read_variables(environ).get("headers", ("", {}))[1])
    for pair in options.headers:
        name, equals, value = pair.partition("=")
        if not equals:
            raise OtlpConfigError("--header", name, "NAME=VALUE")
        headers[name.strip()] = value.strip()
    return Destination(
        "send",
        url,
        transport,
        headers=check_headers("--header", headers),
        tls=TlsFiles(options.ca_file, options.cert_file, options.key_file),
        compression=options.compression,
        timeout_s=options.timeout_secs,
    )


# -- sending -------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Outcome:
    """What became of the records. ``stopped``: why there is no point in going on."""

    sent: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)
    stopped: str = ""

    def conclude(self, to: str) -> int:
        for problem in dict.fromkeys(self.problems):
            typer.secho(problem, fg="yellow", err=True)
        if self.stopped:
            typer.secho(f"stopped: {self.stopped}", fg="red", err=True)
        refused = f", {self.refused:,} refused" if self.refused else ""
        typer.echo(f"{self.sent:,} records sent to {to}{refused}")
        return 1 if self.stopped or self.refused or self.problems else 0


class _Sender:
    """Sends pieces, a few at a time, through trouble that passes."""

    def __init__(self, sink: Sink, options: Options) -> None:
        self.outcome = _Outcome()
        self._sink = sink
        self._retry_secs = options.retry_secs
        self._rate = options.rate
        self._due = time.monotonic()
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._under_way: set[asyncio.Task[None]] = set()

    async def take(self, piece: Piece) -> None:
        """Returns when the piece is on its way, at the rate that was asked for."""
        columns = await asyncio.to_thread(piece.rows)
        if self._rate is not None:
            await asyncio.sleep(max(0.0, self._due - time.monotonic()))
            self._due = max(self._due, time.monotonic()) + columns.num_rows / self._rate
        await self._slots.acquire()
        task = asyncio.create_task(self._deliver(piece.signal, columns, piece.payload))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def finish(self) -> None:
        """Returns when nothing is under way any more."""
        await asyncio.gather(*self._under_way)

    async def _deliver(self, signal: Signal, columns: pa.RecordBatch, payload: bytes) -> None:
        try:
            await self._send(signal, columns, payload)
        finally:
            self._slots.release()

    async def _send(self, signal: Signal, columns: pa.RecordBatch, payload: bytes = b"") -> None:
        if payload and self._sink.encoding is Encoding.OTLP:
            batch: Batch | None = Batch(signal, payload)
            rows = columns.num_rows
        else:
            converted = await asyncio.to_thread(rows_as, signal, columns, self._sink.encoding)
            batch, rows = converted.batch, converted.rows
            for refusal in converted.refusals:
                self._refuse(refusal.rows, refusal.reason)
        if batch is None:
            return
        try:
            result = await self._until_answered(batch)
        except Permanent as error:
            if error.too_large and columns.num_rows > 1:
                half = columns.num_rows // 2
                await self._send(signal, columns.slice(0, half))
                await self._send(signal, columns.slice(half))
            else:
                self._refuse(rows, str(error))
            return
        if result is not None:
            rejected = min(result.rejected, rows)
            self.outcome.sent += rows - rejected
            if rejected:
                self._refuse(rejected, result.message or "no reason given")

    async def _until_answered(self, batch: Batch) -> DeliveryResult | None:
        """None if there is no point in going on. Raises ``Permanent``."""
        give_up_at = time.monotonic() + self._retry_secs
        for attempt in itertools.count():
            if self.outcome.stopped:
                break
            try:
                return await self._sink.send(batch)
            except Transient as error:
                hopeless = error.fault in (Fault.CREDENTIALS, Fault.ADDRESS)
                pause_s = max(error.retry_after_s or 0.0, next_delay(RETRY, attempt))
                if hopeless or time.monotonic() + pause_s > give_up_at:
                    self.outcome.stopped = self.outcome.stopped or str(error)
                    break
            await asyncio.sleep(pause_s)
        return None

    def _refuse(self, rows: int, reason: str) -> None:
        self.outcome.refused += rows
        self.outcome.problems.append(f"{rows:,} records refused: {reason}")


async def _send_all(
    files: Sequence[Path], signal: Signal | None, times: TimeRange, destination: Destination, options: Options
) -> _Outcome:
    async with build_sink(destination) as sink:
        sender = _Sender(sink, options)
        outcome = sender.outcome
        with _progress() as progress:
            for file in files:
                size = file.stat().st_size
                bar = progress.add_task(file.name, total=size, records=outcome.sent)
                try:
                    async for piece in _in_thread(file, signal, times):
                        await sender.take(piece)
                        progress.update(bar, completed=piece.end, records=outcome.sent)
                        if outcome.stopped:
                            break
                except (OtlpError, OSError) as error:
                    outcome.problems.append(str(error))
                await sender.finish()
                if outcome.stopped:
                    break
                progress.update(bar, completed=size, records=outcome.sent)
    return outcome


async def _in_thread(file: Path, signal: Signal | None, times: TimeRange) -> AsyncIterator[Piece]:
    found = pieces(file, signal, times)
    while (piece := await asyncio.to_thread(next, found, None)) is not None:
        yield piece


def _progress() -> Progress:
    """On a terminal, on stderr; otherwise nothing."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[records]:,} records"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
