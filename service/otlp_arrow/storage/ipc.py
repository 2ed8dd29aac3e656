"""Walking an Arrow IPC stream message by message, without decoding its batches.

pyarrow reads batches but tells neither where a message ends nor what its metadata says without
decompressing it; recovery and the catalogue need just that. Only the few fields of the flatbuffer
``Message`` are read (format: https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format).

::

    FF FF FF FF | int32 metadata length | Message flatbuffer, padded to 8 | body
    FF FF FF FF | 00 00 00 00                                               end of stream
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

CONTINUATION = b"\xff\xff\xff\xff"
END_OF_STREAM = CONTINUATION + b"\0\0\0\0"

SCHEMA, DICTIONARY, RECORD_BATCH = 1, 2, 3

# A schema of ours takes 6 KiB, a batch's metadata 5 KiB; more than this is no message of ours.
_MAX_METADATA_BYTES = 16 * 1024 * 1024

# Slots in the vtable of org.apache.arrow.flatbuf.Message.
_HEADER_TYPE, _BODY_LENGTH, _CUSTOM_METADATA = 1, 3, 4


@dataclass(frozen=True, slots=True)
class Message:
    """One encapsulated message: bytes ``start`` to ``end`` of the file, its body beginning at ``body``."""

    start: int
    body: int
    end: int
    kind: int
    custom_metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndOfStream:
    """The end-of-stream marker; ``end`` is the first byte after it."""

    end: int


class NotAMessage(ValueError):
    """The bytes are no message. ``torn``: they may be the beginning of one. ``examined``: bytes looked at."""

    def __init__(self, offset: int, reason: str, *, torn: bool, examined: int = 8) -> None:
        super().__init__(f"at byte {offset}: {reason}")
        self.offset = offset
        self.torn = torn
        self.examined = examined


def walk(data: bytes | memoryview) -> Iterator[Message | EndOfStream]:
    """The messages of a stream in order. Ends silently where the data ends on a message border.

    Raises ``NotAMessage`` where it does not.
    """
    offset = 0
    while offset < len(data):
        found = read_message(data, offset)
        yield found
        if isinstance(found, EndOfStream):
            if found.end < len(data):
                raise NotAMessage(found.end, "bytes after the end of the stream", torn=False)
            return
        offset = found.end


def read_message(data: bytes | memoryview, offset: int) -> Message | EndOfStream:
    """The message at ``offset``. Raises ``NotAMessage``."""
    prefix = bytes(data[offset : offset + 8])
    if len(prefix) < 8:
        raise NotAMessage(offset, "the file ends inside a message's prefix", torn=CONTINUATION.startswith(prefix[:4]))
    if prefix[:4] != CONTINUATION:
        raise NotAMessage(offset, "no message begins here", torn=not bytes(data[offset:]).strip(b"\0"))
    (length,) = struct.unpack_from("<i", prefix, 4)
    if length == 0:
        return EndOfStream(offset + 8)
    if not 0 < length <= _MAX_METADATA_BYTES:
        raise NotAMessage(offset, f"a message claims {length} bytes of metadata", torn=False)
    body = offset + 8 + length
    if body > len(data):
        raise NotAMessage(offset, "the file ends inside a message's metadata", torn=True)
    try:
        kind, body_length, custom = _read_flatbuffer(bytes(data[offset + 8 : body]))
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        reason = f"the message's metadata is damaged ({error})"
        raise NotAMessage(offset, reason, torn=False, examined=length) from error
    if body_length < 0:
        reason = f"a message claims a body of {body_length} bytes"
        raise NotAMessage(offset, reason, torn=False, examined=length)
    if body + body_length > len(data):
        raise NotAMessage(offset, "the file ends inside a message's body", torn=True, examined=length)
    return Message(offset, body, body + body_length, kind, custom)


def _read_flatbuffer(buffer: bytes) -> tuple[int, int, dict[str, str]]:
    table = _u32(buffer, 0)
    kind = _field(buffer, table, _HEADER_TYPE)
    length = _field(buffer, table, _BODY_LENGTH)
    pairs = _field(buffer, table, _CUSTOM_METADATA)
    custom: dict[str, str] = {}
    if pairs:
        vector = pairs + _u32(buffer, pairs)
        count = _u32(buffer, vector)
        if count > len(buffer):
            raise IndexError(f"{count} pairs of metadata")
        for index in range(count):
            slot = vector + 4 + 4 * index
            pair = slot + _u32(buffer, slot)
            custom[_text(buffer, _field(buffer, pair, 0))] = _text(buffer, _field(buffer, pair, 1))
    return (
        buffer[kind] if kind else 0,
        struct.unpack_from("<q", buffer, length)[0] if length else 0,
        custom,
    )


def _u32(buffer: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", buffer, at)[0])


def _field(buffer: bytes, table: int, slot: int) -> int:
    """Where field number ``slot`` of a table lies; 0 if it is absent."""
    vtable = table - int(struct.unpack_from("<i", buffer, table)[0])
    if vtable < 0:
        raise IndexError(f"vtable at {vtable}")
    size = int(struct.unpack_from("<H", buffer, vtable)[0])
    at = 4 + 2 * slot
    if at + 2 > size:
        return 0
    relative = int(struct.unpack_from("<H", buffer, vtable + at)[0])
    return table + relative if relative else 0


def _text(buffer: bytes, at: int) -> str:
    if not at:
        return ""
    start = at + _u32(buffer, at)
    length = _u32(buffer, start)
    if start + 4 + length > len(buffer):
        raise IndexError(f"text of {length} bytes")
    return buffer[start + 4 : start + 4 + length].decode()
