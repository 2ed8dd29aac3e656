"""What all commands that ask share: whom they ask, the time range, and what an error looks like to a script.

Exit codes: 0 something was found; 1 nothing was; 2 the question is wrong; 3 the target cannot be read or reached, or
did not answer in time; 130 interrupted.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from otlp_arrow.cli import ask_options as options

if TYPE_CHECKING:
    from otlp_arrow.query import AttributeFilter, SpanStore

FOUND, NOTHING, WRONG, UNREADABLE, INTERRUPTED = 0, 1, 2, 3, 130
DEFAULT_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a command asks, and how the answer is to look."""

    dir: Path | None = None
    url: str | None = None
    header: Sequence[str] | None = None
    token: str | None = None
    cafile: Path | None = None
    timeout_secs: float = DEFAULT_TIMEOUT_S
    format: options.Format = options.Format.TABLE

    def open(self) -> SpanStore:
        """Raises ``OtlpConfigError`` for options that contradict each other, ``QueryError`` if it is not there."""
        from otlp_arrow.model import OtlpConfigError
        from otlp_arrow.query import SpanStore

        if self.url is None:
            for name in ("header", "token", "cafile"):
                if getattr(self, name):
                    raise OtlpConfigError(f"--{name}", "given", "only together with --url")
            return SpanStore.open(self.dir or _configured_directory(), timeout_s=self.timeout_secs)
        if self.dir is not None:
            raise OtlpConfigError("--dir, --url", "both", "one of the two")
        if not self.url.startswith(("http://", "https://")):
            raise OtlpConfigError("--url", self.url, "http://… or https://…")
        if self.cafile is not None and not self.cafile.is_file():
            raise OtlpConfigError("--cafile", str(self.cafile), "a file that exists")
        return SpanStore.open(self.url, timeout_s=self.timeout_secs, headers=self._headers(), cafile=self.cafile)

    def _headers(self) -> dict[str, str]:
        from otlp_arrow.app.otel_variables import read_variables
        from otlp_arrow.model import OtlpConfigError
        from otlp_arrow.sinks.auth import check_headers

        # Other users of the machine can read flags; the variable of OpenTelemetry's exporters is for secrets.
        headers = dict(read_variables(os.environ).get("headers", ("", {}))[1])
        for pair in self.header or ():
            name, equals, value = pair.partition("=")
            if not equals:
                raise OtlpConfigError("--header", name, "NAME=VALUE")
            headers[name.strip()] = value.strip()
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        return dict(check_headers("--header, --token", headers))

    @property
    def for_people(self) -> bool:
        """Whether a table is wanted."""
        return self.format is options.Format.TABLE


def _configured_directory() -> Path:
    from otlp_arrow.app.settings import Settings

    return Path(Settings.load(flags={}, config_file=None).settings.output_dir)


def filters(texts: Sequence[str] | None) -> tuple[AttributeFilter, ...]:
    """The filters of ``--attr``. Raises ``BadQuery``."""
    from otlp_arrow.query import AttributeFilter

    return tuple(AttributeFilter.parse(text) for text in texts or ())


def time_range(
    since: str | None, start: str | None, end: str | None, default_since: str | None = None
) -> tuple[int | None, int | None]:
    """Nanoseconds of ``--since``, ``--start``, ``--end``. Raises ``BadQuery``."""
    from otlp_arrow.query import BadQuery, duration_to_nanoseconds, time_to_nanoseconds

    if since is not None and start is not None:
        raise BadQuery("--since and --start are two words for one thing; give one")
    if since is None and start is None and end is None:
        since = default_since
    last = None if end is None else time_to_nanoseconds(end)
    first = None if start is None else time_to_nanoseconds(start)
    if since is not None:
        until = time_to_nanoseconds("now") if last is None else last
        first = max(0, until - duration_to_nanoseconds(since))
    if first is not None and last is not None and first >= last:
        raise BadQuery("--start is not before --end")
    return first, last


# -- as commands -----------------------------------------------------------------------------------
_COMMON: dict[str, tuple[Any, Any]] = {
    "dir": (options.Directory, None),
    "url": (options.Url, None),
    "header": (options.Header, None),
    "token": (options.Token, None),
    "cafile": (options.CaFile, None),
    "timeout_secs": (options.Timeout, DEFAULT_TIMEOUT_S),
    "format": (options.Output, options.Format.TABLE),
}


def asking(function: Callable[..., int]) -> Callable[..., None]:
    """A command out of a function ``(target, its own options) -> exit code``: adds the options of ``Target``, and ends
    the process quietly with the exit codes above."""
    signature = inspect.signature(function, eval_str=True)
    own = {name: parameter for name, parameter in signature.parameters.items() if name != "target"}
    common = {name: each for name, each in _COMMON.items() if name not in own}

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        target = Target(**{name: arguments.pop(name) for name in common})
        raise typer.Exit(_ended(functools.partial(function, target, **arguments)))

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [each.replace(kind=keyword) for each in own.values()]
    parameters += [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for name, (annotation, default) in common.items()
    ]
    run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _ended(work: Callable[[], int]) -> int:
    """The exit code. Errors that were raised on purpose become a line on stderr; those of settings go through."""
    try:
        code = work()
        if sys.stdout is not None:  # closed by who started us
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except Exception as error:
        from otlp_arrow.model import OtlpConfigError, OtlpError
        from otlp_arrow.query import BadQuery

        if isinstance(error, OtlpConfigError) or not isinstance(error, OtlpError | OSError):
            raise
        complain(str(error))
        return WRONG if isinstance(error, BadQuery) else UNREADABLE


def complain(text: str) -> None:
    """One line on stderr."""
    from otlp_arrow.cli.screen import plain

    typer.secho(f"otlp-arrow: {plain(text)}", fg=None if os.environ.get("NO_COLOR") else "red", err=True)


def note(text: str) -> None:
    """Something beside the answer, on stderr."""
    from otlp_arrow.cli.screen import plain

    typer.echo(plain(text), err=True)


def said_nothing(target: Target, text: str) -> int:
    """The exit code of finding nothing, and for people a line that says so."""
    if target.for_people:
        note(text)
    return NOTHING
