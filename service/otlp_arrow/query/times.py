"""Times and spans of time as people write them, in nanoseconds."""

from __future__ import annotations

import datetime
import math
import re
import time
from typing import TypeAlias

from otlp_arrow.model.limits import MAX_TIME_UNIX_NANO
from otlp_arrow.query.errors import BadQuery

Time: TypeAlias = int | float | str | datetime.datetime
"""Nanoseconds since 1970 (int, or digits as text), seconds since 1970 (float), a datetime (naive: UTC), ISO 8601,
``"now"``, or how long ago (``"30m"``)."""

Duration: TypeAlias = int | float | str | datetime.timedelta
"""Nanoseconds (int, or digits as text), seconds (float), a timedelta, or text such as ``"1h30m"``."""

SECOND = 1_000_000_000
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
    "d": 86_400 * SECOND,
    "w": 7 * 86_400 * SECOND,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|[smhdw])", re.IGNORECASE | re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern}\s*)+", re.IGNORECASE | re.ASCII)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_FRACTION = re.compile(r"(.*[T ]\d\d:\d\d:\d\d)[.,](\d{1,9})(.*)")


def duration_to_nanoseconds(value: Duration) -> int:
    """Nanoseconds of a duration, not negative. Raises ``BadQuery``."""
    found: int | None = None
    match value:
        case bool():
            pass
        case int():
            found = value
        case float() if math.isfinite(value):
            found = round(value * SECOND)
        case datetime.timedelta():
            found = value // datetime.timedelta(microseconds=1) * 1000
        case str() if value.strip().isdecimal() and value.isascii() and len(value) <= 19:
            found = int(value)
        case str() if _WHOLE.fullmatch(value.strip()):
            found = sum(_nanoseconds(number, unit) for number, unit in _PART.findall(value))
    if found is None or not 0 <= found <= MAX_TIME_UNIX_NANO:
        raise BadQuery(f"{value!r:.60} is no duration; expected text such as '30m' or '1h30m', or nanoseconds")
    return found


def time_to_nanoseconds(value: Time, *, now_ns: int | None = None) -> int:
    """Nanoseconds since 1970 of a time; text such as ``"30m"`` means so long before now. Raises ``BadQuery``."""
    found: int | None = None
    match value:
        case bool():
            pass
        case int():
            found = value
        case float() if math.isfinite(value):
            found = round(value * SECOND)
        case datetime.datetime():
            found = _of_datetime(value)
        case str():
            found = _of_text(value.strip(), time.time_ns() if now_ns is None else now_ns)
    if found is None or not 0 <= found <= MAX_TIME_UNIX_NANO:
        raise BadQuery(
            f"{value!r:.60} is no time; expected ISO 8601, nanoseconds since 1970, or how long ago, such as '30m'"
        )
    return found


def time_or_none(value: Time | None) -> int | None:
    """As ``time_to_nanoseconds``; None stays None."""
    return None if value is None else time_to_nanoseconds(value)


def to_iso(time_ns: int) -> str:
    """ISO 8601 in UTC with all nine digits."""
    seconds, rest = divmod(time_ns, SECOND)
    return f"{_EPOCH + datetime.timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def _nanoseconds(number: str, unit: str) -> int:
    whole, _, fraction = number.partition(".")
    scale = _UNITS[unit.lower()]
    return int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)


def _of_text(text: str, now_ns: int) -> int | None:
    if text.lower() == "now":
        return now_ns
    if text.isdecimal() and text.isascii():
        return int(text) if len(text) <= 19 else None
    if _WHOLE.fullmatch(text):
        return now_ns - duration_to_nanoseconds(text)
    nanoseconds = 0
    if fraction := _FRACTION.fullmatch(text):  # datetime keeps six digits
        text = fraction[1] + fraction[3]
        nanoseconds = int(fraction[2].ljust(9, "0"))
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return _of_datetime(found) + nanoseconds


def _of_datetime(value: datetime.datetime) -> int:
    aware = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
    return (aware - _EPOCH) // datetime.timedelta(microseconds=1) * 1000
