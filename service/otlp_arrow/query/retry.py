"""Whether it is worth doing again what a trace recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from otlp_arrow.query.results import StoredSpan

WAIT_SECONDS = 5

_PERMANENT = (
    *("validation", "authentication", "authorization", "unauthorized", "forbidden", "permission", "notfound"),
    *("valueerror", "typeerror", "keyerror", "badrequest", "invalidargument", "unauthenticated", "assertion"),
)
_TRANSIENT = (
    *("timeout", "connection", "serviceunavailable", "ratelimit", "toomanyrequests", "unavailable", "deadlineexceeded"),
    *("temporary", "throttl", "resourceexhausted"),
)


@dataclass(frozen=True, slots=True)
class RetryAdvice:
    """``decision`` and why; ``span_id`` is the failed span that decided."""

    decision: Literal["RETRY", "ABORT", "WAIT"]
    reason: str
    wait_seconds: int
    trace_id: str
    span_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {name: getattr(self, name) for name in self.__slots__}


def advise(trace_id: str, spans: Sequence[StoredSpan]) -> RetryAdvice:
    """The advice of the failed spans: one that cannot be helped by trying again decides, then one that can, else wait.

    ``error.retriable`` says it outright; else the kind of error does (``error.type``, or the exception's).
    """
    found: dict[str, RetryAdvice] = {}
    for span in spans:
        if span.is_error:
            decision, reason = _judge(span)
            wait = 0 if decision == "ABORT" else WAIT_SECONDS
            found.setdefault(decision, RetryAdvice(decision, reason, wait, trace_id, span.span_id))
    for decision in ("ABORT", "RETRY", "WAIT"):
        if decision in found:
            return found[decision]
    return RetryAdvice("ABORT", "No errors found in trace", 0, trace_id)


def _judge(span: StoredSpan) -> tuple[Literal["RETRY", "ABORT", "WAIT"], str]:
    retriable = span.attributes.get("error.retriable")
    if isinstance(retriable, str):
        retriable = {"true": True, "false": False}.get(retriable.lower())
    if retriable is True:
        return "RETRY", "error.retriable is true"
    if retriable is False:
        return "ABORT", "error.retriable is false"
    kind = error_kind(span)
    if kind is None:
        return "WAIT", "the error has no type"
    plain = "".join(letter for letter in kind.lower() if letter.isalnum())
    if any(word in plain for word in _PERMANENT):
        return "ABORT", f"{kind} is permanent"
    if any(word in plain for word in _TRANSIENT):
        return "RETRY", f"{kind} is transient"
    return "WAIT", f"{kind} is unknown"


def error_kind(span: StoredSpan) -> str | None:
    """``error.type``, else the type of the exception that was recorded last."""
    for attributes in (span.attributes, *(event.attributes for event in reversed(span.events))):
        for key in ("error.type", "exception.type"):
            if isinstance(found := attributes.get(key), str) and found:
                return found
    return None
