"""The fields that can refuse a record: ids and times, from the protobuf message to the row and back."""

from __future__ import annotations

from otlp_arrow.codec.rejection import Check
from otlp_arrow.model import limits


class Refused(Exception):
    """This record breaks the data model; its payload goes on without it."""

    def __init__(self, check: Check, *, length: int = 0, member: int = 0) -> None:
        super().__init__(check.name)
        self.check = check
        self.length = length
        self.member = member


def required_id(value: bytes, expected: int, *, length: Check, zero: Check) -> bytes:
    """An id of ``expected`` bytes that is not all zero. Raises ``Refused``."""
    if len(value) != expected:
        raise Refused(length, length=len(value))
    if not any(value):
        raise Refused(zero)
    return value


def optional_id(value: bytes, expected: int, check: Check, member: int = 0) -> bytes | None:
    """An id, or None where it is empty or all zero. Raises ``Refused`` for another length."""
    if value and len(value) != expected:
        raise Refused(check, length=len(value), member=member)
    return value if any(value) else None


def time(unix_nano: int, check: Check, member: int = 0) -> int | None:
    """Nanoseconds since 1970, or None for 0, which means unset. Raises ``Refused``."""
    if unix_nano > limits.MAX_TIME_UNIX_NANO:
        raise Refused(check, member=member)
    return unix_nano or None
