"""``export``: all records of a signal in a file that is whole or not there."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from otlp_arrow.cli import csv_columns
from otlp_arrow.codec import encode_json
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import OtlpConfigError, Signal
from otlp_arrow.query import SpanStore

_SUFFIXES = {
    ".parquet": "parquet",
    ".jsonl": "otlp",
    ".ndjson": "otlp",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".csv": "csv",
}
_ROWS = 4_096  # in one line of OTLP/JSON or one turn of CSV: some 10 MB


def format_of(file: Path, named: str | None, *, force: bool) -> str:
    """The format. Raises ``OtlpConfigError`` if the file cannot be written."""
    form = named or _SUFFIXES.get(file.suffix.lower())
    if form is None:
        raise OtlpConfigError("FILE", str(file), f"a suffix of {', '.join(_SUFFIXES)}, or --format")
    if file.is_dir() or not file.parent.is_dir():
        raise OtlpConfigError("FILE", str(file), "a file in a directory that exists")
    if file.exists() and not force:
        raise OtlpConfigError("FILE", str(file), "a file that is not there yet, or --force")
    return form


def export(store: SpanStore, signal_name: str, file: Path, form: str, start: int | None, end: int | None) -> int:
    """Records written; 0 and no file if there are none."""
    signal = Signal(signal_name)
    with _replaced(file) as (temporary, keep), _progress() as progress:
        bar = progress.add_task(file.name, records=0)
        rows = 0

        def counted() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            for batch in store.read(signal, start, end):
                yield batch
                rows += batch.num_rows
                progress.update(bar, records=rows)

        _WRITERS[form](signal, counted(), temporary)
        if rows:
            keep()
    return rows


@contextlib.contextmanager
def _replaced(file: Path) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """A temporary file beside, synced and renamed if ``keep`` is called, gone otherwise."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".partial", dir=file.parent)
    kept = False

    def keep() -> None:
        nonlocal kept
        kept = True

    try:
        with os.fdopen(descriptor, "wb") as temporary:
            yield temporary, keep
            temporary.flush()
            os.fsync(temporary.fileno())
        if kept:
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)  # mkstemp's are for nobody else's eyes
            os.replace(name, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _parquet(signal: Signal, batches: Iterable[pa.RecordBatch], file: IO[bytes]) -> None:
    from pyarrow import parquet

    with parquet.ParquetWriter(file, SCHEMAS[signal], compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def _arrow(signal: Signal, batches: Iterable[pa.RecordBatch], file: IO[bytes]) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=True)
    with pa.ipc.new_stream(file, SCHEMAS[signal], options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _otlp(signal: Signal, batches: Iterable[pa.RecordBatch], file: IO[bytes]) -> None:
    for batch in _small(batches):
        file.write(encode_json(signal, batch).encode() + b"\n")


def _csv(signal: Signal, batches: Iterable[pa.RecordBatch], file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    csv_columns.write_head(signal, text)
    for batch in _small(batches):
        csv_columns.write_rows(signal, batch, text)
    text.detach()


def _small(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            yield batch.slice(start, _ROWS)


_WRITERS: dict[str, Callable[[Signal, Iterable[pa.RecordBatch], IO[bytes]], None]] = {
    "parquet": _parquet,
    "otlp": _otlp,
    "arrow": _arrow,
    "csv": _csv,
}


def _progress() -> Progress:
    """On a terminal, on stderr; otherwise nothing."""
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[records]:,} records"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
