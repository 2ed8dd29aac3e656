"""What a question may come to, named by what whoever asked does next."""

from __future__ import annotations

from otlp_arrow.model import OtlpError


class QueryError(OtlpError):
    """The target cannot be read or reached; see the message."""


class BadQuery(QueryError, ValueError):
    """The question is wrong: change it."""


def require_text(name: str, value: str) -> None:
    """Raises ``BadQuery`` for half surrogates, which JSON and Python's text may have and no stored text has."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadQuery(f"{name}: {value!a:.60} is no Unicode text") from error


class QueryTimeout(QueryError):
    """It took longer than it may: ask for less, or allow more time."""


class QueryCancelled(QueryError):
    """Whoever asked does not wait any more."""
