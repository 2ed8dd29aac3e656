"""Which web pages may send from a browser (the Fetch standard's CORS protocol).

Beacons always travel in credentials mode, so allowed origins are echoed and credentials allowed; this door
has no cookies that a page could misuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

LOCAL_ORIGINS = (
    "http://localhost",
    "https://localhost",
    "http://localhost:*",
    "https://localhost:*",
    "http://127.0.0.1:*",
    "https://127.0.0.1:*",
    "http://[::1]:*",
    "https://[::1]:*",
)
"""Always allowed: pages that the machine's own user runs."""

_HEADERS = "content-type, content-encoding, traceparent, tracestate, baggage, authorization, x-api-key"
_HEADER_LIST = re.compile(r"[\w!#$%&'*+.^`|~, -]{1,1000}", re.ASCII)
_MAX_AGE_S = "7200"  # the longest that Chromium keeps a preflight's answer

_VARY = {"Vary": "Origin"}


class CorsPolicy:
    """Answers for origins. ``origins`` are patterns with ``*`` for any characters; ``*`` alone allows all."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        patterns = (*LOCAL_ORIGINS, *(origin.strip().rstrip("/") for origin in origins))
        union = "|".join(".*".join(map(re.escape, pattern.split("*"))) for pattern in patterns)
        self._allowed = re.compile(union, re.IGNORECASE)

    def allows(self, origin: str) -> bool:
        """Whether pages of ``origin`` may send."""
        return self._allowed.fullmatch(origin) is not None

    def headers(self, origin: str) -> dict[str, str]:
        """For every answer, errors included: without them the page sees a network error instead."""
        if not self.allows(origin):
            return _VARY
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": "Retry-After",
            **_VARY,
        }

    def preflight(self, request: Mapping[str, str]) -> dict[str, str]:
        """The headers of the answer to a preflight that came with the headers ``request``.

        An allowed page may send any header: exporters are configured with all kinds of them.
        """
        origin = request.get("Origin", "")
        answer = self.headers(origin)
        if "Access-Control-Allow-Origin" not in answer:
            return answer
        wanted = request.get("Access-Control-Request-Headers", "")
        answer |= {
            "Access-Control-Allow-Methods": "POST, OPTIONS",
            "Access-Control-Allow-Headers": wanted if _HEADER_LIST.fullmatch(wanted) else _HEADERS,
            "Access-Control-Max-Age": _MAX_AGE_S,
        }
        if request.get("Access-Control-Request-Private-Network") == "true":
            answer["Access-Control-Allow-Private-Network"] = "true"
        return answer
