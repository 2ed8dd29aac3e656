"""``sql``: one statement, or a prompt."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otlp_arrow.cli import listings, written
from otlp_arrow.cli.ask import FOUND, NOTHING, Target, complain, note
from otlp_arrow.cli.screen import duration, make_console
from otlp_arrow.query import QueryError, SpanStore, Table

_HISTORY_LINES = 1000
_VIEWS = (
    *("traces", "logs", "metrics", "metrics_gauge", "metrics_sum", "metrics_histogram"),
    *("metrics_exponential_histogram", "metrics_summary", "otel_traces", "otel_logs", "otel_metrics_gauge"),
    *("otel_metrics_sum", "otel_metrics_histogram", "otel_metrics_exponential_histogram", "otel_metrics_summary"),
)
_WORDS = (
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "HAVING",
    "attributes",
    "service_name",
    "INTERVAL",
)
# What other prompts for SQL have taught people to type, too: no statement begins so.
_COMMAND = re.compile(r"\s*(?P<word>[.\\?]\S*|help|quit|exit)(?:\s+(?P<name>.*?))?\s*;?\s*", re.IGNORECASE)
_LEAVING = ("\\q", "\\quit", ".q", ".quit", ".exit", "quit", "exit")
_DESCRIBING = ("\\d", "\\dt", ".tables", ".schema")
_HELP = """\
A statement goes on until its semicolon. Ctrl-C forgets what was typed, or stops a question.
  \\d        the views          \\d NAME   the columns of one
  \\?        this               \\q        leave (or Ctrl-D)"""


def run(target: Target, store: SpanStore, statement: str, parameters: Sequence[str], max_rows: int) -> int:
    """One statement; the exit code. Raises ``QueryError``."""
    found = _ask(store, statement.strip().removesuffix(";"), list(parameters), max_rows)
    if not target.for_people:
        written.table(found, target.format.value)
    else:
        listings.table(make_console(), found.columns, found.rows)
    if found.truncated:
        note(f"the first {max_rows:,} rows; --max-rows gives more")
    return FOUND if len(found) else NOTHING


def prompt(target: Target, store: SpanStore, max_rows: int) -> int:
    """Asks for statements until ``\\q`` or the end of input."""
    _use_readline()
    print("SQL over traces, logs and metrics; \\? helps, \\q leaves.")
    waiting = ""
    while True:
        try:
            line = input("  ...> " if waiting else "otlp> ")
        except EOFError:
            print()
            return FOUND
        except KeyboardInterrupt:
            print()
            waiting = ""
            continue
        if not waiting and (command := _COMMAND.fullmatch(line)):
            if command["word"].lower() in _LEAVING:
                return FOUND
            _answer(target, store, _meaning(command["word"].lower(), command["name"] or ""), max_rows)
            continue
        waiting = f"{waiting}\n{line}" if waiting else line
        statements, waiting = split(waiting)
        for statement in statements:
            _answer(target, store, statement, max_rows)


def _meaning(word: str, name: str) -> str:
    """The SQL of a command; nothing after its help was shown."""
    if word in _DESCRIBING and not name:
        print("\n".join(_VIEWS))
    elif word in _DESCRIBING and name in _VIEWS:
        return f"DESCRIBE SELECT * FROM {name}"
    else:
        print(_HELP)
    return ""


def _answer(target: Target, store: SpanStore, statement: str, max_rows: int) -> None:
    if not statement.strip():
        return
    began = time.monotonic()
    try:
        if statement.startswith("DESCRIBE "):
            _describe(store, statement.rpartition(" ")[2])
            return
        found = _ask(store, statement, (), max_rows)
        if target.for_people:
            listings.table(make_console(), found.columns, found.rows)
            took = duration((time.monotonic() - began) * 1e9)
            more = f", of more; --max-rows is {max_rows:,}" if found.truncated else ""
            print(f"{len(found):,} row{'' if len(found) == 1 else 's'}{more}, {took}")
        else:
            written.table(found, target.format.value)
    except QueryError as error:
        complain(str(error))
    except KeyboardInterrupt:
        print("stopped")


def _ask(store: SpanStore, statement: str, parameters: Sequence[str], max_rows: int) -> Table:
    """On a thread: in DuckDB's hands the main one would hear of Ctrl-C only when the question is answered."""
    return asyncio.run(store.run(store.sql, statement, parameters, max_rows))


def _describe(store: SpanStore, view: str) -> None:
    """The columns of a view, read off an empty answer."""
    schema = store.sql(f"SELECT * FROM {view} LIMIT 0").to_arrow().schema  # the name is one of ours
    listings.table(make_console(), ("column", "type"), [(each.name, str(each.type)) for each in schema])


def split(text: str) -> tuple[list[str], str]:
    """Statements that end in a semicolon, and what is left. Semicolons in quotes and comments end nothing."""
    found, begin, at = [], 0, 0
    while at < len(text):
        if text.startswith("--", at):
            at = _after(text, "\n", at + 2)
        elif text.startswith("/*", at):
            at = _after(text, "*/", at + 2)
        elif text[at] in "'\"":
            at = _after(text, text[at], at + 1)
        elif text[at] == ";":
            found.append(text[begin:at].strip())
            at += 1
            begin = at
        else:
            at += 1
    rest = text[begin:]
    return found, rest if rest.strip() else ""


def _after(text: str, mark: str, start: int) -> int:
    place = text.find(mark, start)
    return len(text) if place < 0 else place + len(mark)


def _use_readline() -> None:
    """Editing, history over sessions, completion; where there is readline."""
    try:
        import readline
    except ImportError:  # Windows
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "otlp-arrow"
    history = state / "sql_history"
    with contextlib.suppress(OSError):
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if history.exists():
            readline.read_history_file(history)
        readline.set_history_length(_HISTORY_LINES)
        atexit.register(_keep_history, readline, history)
    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n,;()=<>'\"[]")
    readline.parse_and_bind("tab: complete")


def _keep_history(readline: Any, history: Path) -> None:
    with contextlib.suppress(OSError):
        readline.write_history_file(history)
        history.chmod(0o600)


def complete(begun: str, number: int) -> str | None:
    """The completions of a word, one by one."""
    fitting = [word for word in (*_VIEWS, *_WORDS) if word.lower().startswith(begun.lower())]
    return fitting[number] if number < len(fitting) else None
