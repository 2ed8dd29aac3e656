"""The fields of a protobuf message, for the few small messages that doors read by hand: nothing is copied."""

from __future__ import annotations

from collections.abc import Iterator

from otlp_arrow.model import Rejected

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_64_BITS = (1 << 64) - 1


def fields(message: bytes | memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field, but for those of fixed width: none of these messages has any. Raises
    ``Rejected``."""
    view = memoryview(message)
    at = 0
    while at < len(view):
        tag, at = _read_varint(view, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _read_varint(view, at)
            yield number, value
            continue
        if kind == BYTES:
            length, at = _read_varint(view, at)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise Rejected(f"a message is damaged: wire type {kind}")
        if at + length > len(view):
            raise Rejected("a message ends early")
        if kind == BYTES:
            yield number, view[at : at + length]
        at += length


def last_bytes(message: bytes, wanted: int) -> bytes:
    """The field ``wanted`` as it comes last, empty if it is missing. Raises ``Rejected``."""
    found = b""
    for number, value in fields(message):
        if number == wanted and not isinstance(value, int):
            found = bytes(value)
    return found


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64 and at < len(view):
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _64_BITS, at
        shift += 7
    raise Rejected("a message is damaged: a number without end")
