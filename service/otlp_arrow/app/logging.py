"""Log lines for people and for machines: structlog and the standard library in one shape, on stderr."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

_CHATTY = ("aiohttp.access", "asyncio", "grpc", "aiohttp")
"""Libraries that tell at ``info`` what only their developers ask."""


def leave_to_host() -> None:
    """Hands our lines to the standard library's ``logging``, as a library should: what becomes of them is the
    host's affair. Does nothing if the host has configured structlog, whose own default prints to stdout."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[structlog.stdlib.filter_by_level, _as_sentence],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=False,
        )


def _as_sentence(_logger: object, _method: str, line: EventDict) -> tuple[tuple[str], dict[str, Any]]:
    kept = {"exc_info": line.pop("exc_info")} if "exc_info" in line else {}
    event = str(line.pop("event"))
    return (" ".join([event, *(f"{name}={value!r}" for name, value in line.items())]),), kept


def _begin_with_the_event(_logger: object, _method: str, line: EventDict) -> EventDict:
    """When, how bad, what; then the rest: for those who read JSON lines by eye."""
    first = {key: line.pop(key) for key in ("timestamp", "level", "event") if key in line}
    return {**first, **line}


def configure(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Sends every log line of the process to ``stream`` (stderr). ``log_format`` is ``console``, ``json``, or
    ``auto``: console on a terminal."""
    stream = sys.stderr if stream is None else stream
    on_terminal = stream.isatty()
    as_json = log_format == "json" or (log_format == "auto" and not on_terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        final += [
            structlog.processors.format_exc_info,
            _begin_with_the_event,
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        final.append(
            structlog.dev.ConsoleRenderer(
                colors=on_terminal, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            )
        )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=final))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a test, and an embedding program, may configure again
    )
