"""The terminal: how wide it is, and how text that came with telemetry, times and numbers look on it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_COLUMNS = 200
"""A file or a pipe has no width to keep to."""

WIDE = 120
"""From this many columns on a record fits into one line."""

_GAP = 2
_LEAST_COLUMN = 6

ERROR = "bold red"
DIM = "dim"

# What moves the cursor, rings, or turns the order of letters round: never sent as it came.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def plain(text: object) -> str:
    """Text from outside that a terminal only shows: control characters as escapes such as ``\\x1b``."""
    return _CONTROLS.sub(_escape, str(text))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def cell(text: object, style: str = "") -> Text:
    """Text from outside as a cell: its markup is no markup."""
    return Text(plain(text), style=style, end="")


def one_line(text: Text, width: int) -> Text:
    """The same in at most so many columns."""
    text.truncate(max(1, width), overflow="ellipsis")
    return text


class _Answers(Console):
    """What rich makes of a reader that left is an exit code of its own."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console(file: IO[str] | None = None) -> Console:
    """For answers, on stdout. Rich honours NO_COLOR, COLUMNS and whether it is a terminal."""
    stream = file or sys.stdout
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # a terminal in ASCII shows question marks, not a traceback
    console = _Answers(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = PIPE_COLUMNS
    return console


def grid(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines. ``right``: the columns of numbers. ``fit`` it before it is printed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            Text(column), justify="right" if column in right else "left", no_wrap=True, overflow="ellipsis"
        )
    return table


def fit(table: Table, width: int, *loose: str) -> Table:
    """The same with widths: what does not fit is taken from the ``loose`` columns, the longest first."""
    names = [str(column.header) for column in table.columns]
    return fit_columns(table, width, [i for i, name in enumerate(names) if name in loose])


def fit_columns(table: Table, width: int, loose: Sequence[int]) -> Table:
    """As ``fit``, the loose columns by number."""
    natural = []
    for column in table.columns:
        cells = [column.header, *column.cells]
        lines = [line for each in cells for line in (each if isinstance(each, Text) else Text(str(each))).split("\n")]
        longest = max((line.cell_len for line in lines), default=0)
        natural.append(min(longest, column.max_width or longest))
    left = width - _GAP * (len(natural) - 1) - sum(n for i, n in enumerate(natural) if i not in loose)
    waiting = sorted((natural[i], i) for i in loose)
    for place, (wanted, i) in enumerate(waiting):
        natural[i] = max(_LEAST_COLUMN, min(wanted, left // (len(waiting) - place)))
        left -= natural[i]
    for column, columns in zip(table.columns, natural, strict=True):
        column.width = columns
    return table


def duration(nanoseconds: float | None) -> str:
    """Three digits and a unit: ``1.20 s``."""
    if nanoseconds is None:
        return ""
    if nanoseconds < 0:
        return "-" + duration(-nanoseconds)
    for limit, unit in ((1e3, "ns"), (1e6, "µs"), (1e9, "ms")):
        if nanoseconds < limit * 0.9995:
            return f"{_three(nanoseconds / limit * 1e3)} {unit}" if unit != "ns" else f"{nanoseconds:.0f} ns"
    seconds = nanoseconds / 1e9
    if seconds < 99.95:
        return f"{_three(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} m"


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def length(nanoseconds: int) -> str:
    """A duration that somebody chose, exactly: ``5 m``."""
    for unit, name in ((86_400 * 10**9, "d"), (3600 * 10**9, "h"), (60 * 10**9, "m"), (10**9, "s"), (10**6, "ms")):
        if nanoseconds % unit == 0:
            return f"{nanoseconds // unit} {name}"
    return f"{nanoseconds} ns"


def number(value: Any) -> str:
    """A number for people: thousands apart, four digits behind a point that matter."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.1f}"


def moment(unix_nano: int | None, *, date: bool = True) -> str:
    """A time in UTC to the millisecond; nothing for none."""
    if not unix_nano:
        return ""
    seconds, rest = divmod(unix_nano, 10**9)
    shape = "%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S"
    return f"{datetime.fromtimestamp(seconds, UTC):{shape}}.{rest // 10**6:03}"


def of_one_day(*times: int | None) -> bool:
    """Whether the date is the same for all, so that it need not be repeated."""
    days = {time // (86_400 * 10**9) for time in times if time}
    return len(days) <= 1


def pairs(attributes: Mapping[str, Any]) -> Text:
    """Attributes in one line: ``key=value``."""
    line = Text()
    for key, value in attributes.items():
        if line:
            line.append("  ")
        line.append(plain(key), "cyan")
        line.append("=")
        line.append(value_text(value))
    return line


def value_text(value: Any) -> str:
    """An attribute's value; strings without quotes."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if isinstance(value, dict | list):
        import json

        from otlp_arrow.query.results import jsonable

        return plain(json.dumps(jsonable(value), ensure_ascii=False))
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
