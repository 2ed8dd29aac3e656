"""``inspect``: what lies in an output directory, for people and for programs."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from otlp_arrow.model import Signal
from otlp_arrow.storage.inspection import DestinationView, DirectoryView, SegmentView, WalFileView, inspect_directory

_PIPE_COLUMNS = 200


def show(directory: Path, *, output: str, verify: bool) -> int:
    """Prints what was found; 0 if all of it is whole, 1 if something is damaged. Raises ``OtlpIOError`` if
    there is no output directory."""
    view = inspect_directory(directory, verify=verify)
    problems = problems_of(view)
    if output == "json":
        print(json.dumps(as_json(view, problems), indent=2, ensure_ascii=False))
    else:
        console = Console()
        if not console.is_terminal:  # a file or a pipe has no width to keep to
            console.width = _PIPE_COLUMNS
        _print(console, view, problems, verify=verify)
    return 1 if problems else 0


def problems_of(view: DirectoryView) -> list[str]:
    """Everything that is damaged, a sentence each."""
    return [
        *view.problems,
        *(f"{segment.path.name}: {segment.problem}" for segment in view.segments if segment.problem),
        *(f"{file.path.name}: {problem}" for file in view.wal for problem in file.problems),
    ]


# -- for programs --------------------------------------------------------------------------------------
def as_json(view: DirectoryView, problems: list[str]) -> dict[str, Any]:
    """Times in ns since 1970, sizes in bytes, paths below ``root``."""
    return {
        "root": str(view.root),
        "problems": problems,
        "signals": {signal.value: _totals(view, signal) for signal in Signal},
        "segments": [_segment(view.root, segment) for segment in view.segments],
        "wal": [_wal_file(view.root, file) for file in view.wal],
        "destinations": [_destination(view, time.time_ns()) for view in view.destinations],
        "cursors": {name: _by_name(sequences) for name, sequences in view.cursors.items()},
        "quarantine": [
            {"path": _below(view.root, item.path), "bytes": item.size_bytes, "reason": item.reason}
            for item in view.quarantine
        ],
    }


def _totals(view: DirectoryView, signal: Signal) -> dict[str, int]:
    segments = [segment for segment in view.segments if segment.signal is signal]
    return {
        "segments": len(segments),
        "rows": sum(segment.rows for segment in segments),
        "bytes": sum(segment.size_bytes for segment in segments),
        "rows_only_in_wal": view.unstored_rows[signal],
    }


def _segment(root: Path, segment: SegmentView) -> dict[str, Any]:
    return {
        "path": _below(root, segment.path),
        "signal": segment.signal.value,
        "rows": segment.rows,
        "bytes": segment.size_bytes,
        "batches": segment.units,
        "wal_first": segment.wal_first,
        "wal_last": segment.wal_last,
        "time_min": segment.time_min,
        "time_max": segment.time_max,
        "closed": segment.closed,
        "problem": segment.problem,
    }


def _wal_file(root: Path, file: WalFileView) -> dict[str, Any]:
    return {
        "path": _below(root, file.path),
        "bytes": file.size_bytes,
        "first_sequence": file.first_sequence,
        "last_sequence": file.last_sequence,
        "frames": _by_name(file.frames),
        "rows": _by_name(file.rows),
        "problems": file.problems,
    }


def _destination(view: DestinationView, now_ns: int) -> dict[str, Any]:
    age_s = 0.0 if view.oldest_ns is None else max(0.0, (now_ns - view.oldest_ns) / 1e9)
    return {
        "name": view.name,
        "cursor": min(view.sequences.values(), default=0),
        "cursors": _by_name(view.sequences),
        "lag_records": _by_name(view.lag_rows),
        "lag_bytes": view.lag_bytes,
        "lag_secs": round(age_s, 3),
    }


def _by_name(values: dict[Signal, int]) -> dict[str, int]:
    return {signal.value: number for signal, number in values.items()}


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


# -- for people ----------------------------------------------------------------------------------------
def _print(console: Console, view: DirectoryView, problems: list[str], *, verify: bool) -> None:
    console.print(f"[bold]{escape(str(view.root))}[/]", highlight=False)
    console.print(_signals_table(view))
    if view.segments:
        console.print(_segments_table(view))
    if view.wal:
        console.print(_wal_table(view))
    if view.destinations:
        console.print(_destinations_table(view))
    for name, sequences in view.cursors.items():
        positions = ", ".join(f"{signal.value} {number}" for signal, number in sequences.items())
        console.print(f"cursor {name}: {positions}", highlight=False)
    for item in view.quarantine:
        line = f"quarantine: {item.path.name}, {_size(item.size_bytes)}: {item.reason or 'no reason noted'}"
        console.print(escape(line), style="yellow", highlight=False)
    for problem in problems:
        console.print(escape(f"damaged: {problem}"), style="red", highlight=False)
    if verify and not problems:
        console.print("every checksum is right", style="green")


def _signals_table(view: DirectoryView) -> Table:
    table = _table("signal", "segments", "rows", "bytes", "rows only in the WAL")
    for signal in Signal:
        totals = _totals(view, signal)
        table.add_row(
            signal.value,
            str(totals["segments"]),
            f"{totals['rows']:,}",
            _size(totals["bytes"]),
            f"{totals['rows_only_in_wal']:,}",
        )
    return table


def _segments_table(view: DirectoryView) -> Table:
    table = _table("segment", "rows", "bytes", "batches", "WAL sequences", "from", "to", "state")
    for segment in view.segments:
        table.add_row(
            segment.path.name,
            f"{segment.rows:,}",
            _size(segment.size_bytes),
            str(segment.units),
            _range(segment.wal_first, segment.wal_last),
            _time(segment.time_min),
            _time(segment.time_max),
            "damaged" if segment.problem else "closed" if segment.closed else "open",
        )
    return table


def _wal_table(view: DirectoryView) -> Table:
    table = _table("WAL file", "bytes", "sequences", "frames", "rows", "state")
    for file in view.wal:
        table.add_row(
            file.path.name,
            _size(file.size_bytes),
            _range(file.first_sequence, file.last_sequence),
            f"{sum(file.frames.values()):,}",
            f"{sum(file.rows.values()):,}",
            "damaged" if file.problems else "whole",
        )
    return table


def _destinations_table(view: DirectoryView) -> Table:
    table = _table("destination", "cursor", "records behind", "bytes behind", "seconds behind")
    for destination in view.destinations:
        found = _destination(destination, time.time_ns())
        table.add_row(
            destination.name,
            str(found["cursor"]),
            f"{sum(destination.lag_rows.values()):,}",
            _size(destination.lag_bytes),
            f"{found['lag_secs']:.0f}",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    return table


def _range(first: int | None, last: int | None) -> str:
    return "" if first is None else f"{first}–{last}"


def _time(unix_nano: int | None) -> str:
    if unix_nano is None:
        return ""
    return datetime.fromtimestamp(unix_nano / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _size(size: int) -> str:
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"
