"""Errors as problem details (RFC 9457), in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

from otlp_arrow.model import Unauthenticated
from otlp_arrow.query.errors import BadQuery, QueryCancelled, QueryError, QueryTimeout

CONTENT_TYPE = "application/problem+json"

_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (BadQuery, 400, "The question is wrong"),
    (QueryTimeout, 504, "The question took too long"),
    (QueryCancelled, 503, "The question was given up"),
    (QueryError, 503, "The data cannot be read"),
    (Unauthenticated, 401, "Credentials are needed"),
)


class Problem(Exception):
    """A refusal that is no error of a query."""

    def __init__(self, status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail
        self.headers = dict(headers or {})


def response(error: Exception, headers: Mapping[str, str] | None = None) -> web.Response:
    """The reply that an error becomes."""
    match error:
        case Problem():
            return _response(error.status, error.title, error.detail, error.headers)
        case web.HTTPException():
            kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
            return _response(error.status, error.reason, error.text or error.reason, kept)
    for kind, status, title in _STATUS:
        if isinstance(error, kind):
            return _response(status, title, str(error), headers or {})
    return _response(500, "Internal error", "an error of ours; see the log", headers or {})


def _response(status: int, title: str, detail: str, headers: Mapping[str, str]) -> web.Response:
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return web.Response(
        text=json.dumps(content) + "\n",
        status=status,
        content_type=CONTENT_TYPE,
        headers={**headers, "Cache-Control": "no-store"},
    )
