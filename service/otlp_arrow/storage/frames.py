"""WAL frames as bytes: build them, find them again. Pure; the picture stands in docs/formats.md."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from otlp_arrow.model import Encoding, Parts, Payload, Signal
from otlp_arrow.model.limits import DIRECT_BLOCK_BYTES, FRAME_HEAD_BYTES, MAX_FRAME_BYTES, RESYNC_BYTES_PER_BYTE
from otlp_arrow.model.value import value
from otlp_arrow.storage.checksum import crc32, crc32_each
from otlp_arrow.storage.disk import Buffer

FILE_MAGIC = b"OTLPWAL2"
FILE_HEADER = struct.Struct("<8sQQII")
FRAMES_BEGIN = DIRECT_BLOCK_BYTES
"""The first frame's place, whatever way the file is written: readers need not ask."""
FRAME_MAGIC = b"OTF2"
FRAME_HEADER = struct.Struct("<4sIIIQQBBH4x")
_CHECKED = struct.Struct("<IIQQBBH4x")  # the header from byte 8 on
_LENGTH = struct.Struct("<I")  # the header's field at byte 8
_PADDED = struct.Struct("<H")  # and at byte 34

assert FILE_HEADER.size == 32
assert FRAME_HEADER.size == FRAME_HEAD_BYTES
assert _CHECKED.size == 32

_PADDING = [bytes(n) for n in range(8)]
_HEADER_PADDING = bytes(FRAMES_BEGIN - FILE_HEADER.size)
_SMALL_BYTES = 2048  # copying so much costs less than two more buffers on the way to the disk
_BY_CODE = {s.code: s for s in Signal}
_ENCODINGS = {e.value for e in Encoding}


@dataclass(frozen=True, slots=True)
class Frame:
    """One acknowledged request of one signal. ``size`` is what it takes in its file, 0 if it comes from memory."""

    sequence: int
    signal: Signal
    encoding: Encoding
    rows: int
    received_ns: int
    payload: bytes
    size: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes ``start`` to ``end`` are no frame. ``torn``: the file simply ends too early.

    ``rows`` and ``signal`` are what the damaged header says, 0 and None if that cannot be.
    """

    start: int
    end: int
    reason: str
    torn: bool
    rows: int = 0
    signal: Signal | None = None


def file_header(first_sequence: int, created_ns: int) -> bytes:
    """What a WAL file begins with, up to its first frame."""
    head = FILE_HEADER.pack(FILE_MAGIC, first_sequence, created_ns, 0, 0)[:28]
    return head + struct.pack("<I", crc32(head, 0)) + _HEADER_PADDING


def read_file_header(data: bytes | memoryview) -> int | None:
    """The first sequence that a WAL file's header names, or None if the header is damaged."""
    if len(data) < FILE_HEADER.size:
        return None
    magic, first_sequence, _created, _zero, checksum = FILE_HEADER.unpack_from(data)
    if magic != FILE_MAGIC or crc32(bytes(data[:28]), 0) != checksum:
        return None
    return int(first_sequence)


@value
class Unsummed:
    """A frame without its checksum: the header from byte 8 on, the payload in its parts, the zeros behind it."""

    checked: bytes
    parts: Sequence[Buffer]
    zeros: bytes
    length: int


def unsummed_frame(
    sequence: int, signal_code: int, encoding_code: int, rows: int, received_ns: int, payload: Payload, padding: int
) -> Unsummed:
    """A frame to be, with so many bytes of padding; ``frame_buffers`` makes it one."""
    length = len(payload)
    checked = _CHECKED.pack(length, rows, sequence, received_ns, signal_code, encoding_code, padding)
    parts = payload.parts if isinstance(payload, Parts) else (payload,)
    return Unsummed(checked, parts, _PADDING[padding] if padding < 8 else bytes(padding), length)


def frame_buffers(frames: Sequence[Unsummed]) -> list[Buffer]:
    """Header, payload (the same objects, not copies, unless it is small) and padding of each frame."""
    buffers: list[Buffer] = []
    checksums = crc32_each([(each.checked, *each.parts) for each in frames])
    for each, checksum in zip(frames, checksums, strict=True):
        head = FRAME_MAGIC + checksum.to_bytes(4, "little") + each.checked
        if each.length <= _SMALL_BYTES:
            buffers.append(b"".join((head, *each.parts, each.zeros)))
        else:
            buffers += head, *each.parts, each.zeros
    return buffers


def frame_size(length: int, padding: int) -> int:
    """Bytes that a payload of ``length`` takes in the file."""
    return FRAME_HEADER.size + length + padding


def scan(data: bytes, after: int | None = None) -> Iterator[tuple[int, Frame | Damage]]:
    """Walk a WAL file after its header: ``(offset, frame)`` or ``(offset, damage)``, in file order.

    After damage the walk goes on at the next valid frame, if there is one. ``after`` is the sequence before
    the file's first one, by default what the header says. A run of zeros up to the end is no damage (a
    preallocated or sparse tail).
    """
    if after is None:
        first = read_file_header(data)
        after = None if first is None else first - 1
    offset = FRAMES_BEGIN
    size = len(data)
    used: int | None = None  # the file without a run of zeros at its end
    budget = RESYNC_BYTES_PER_BYTE * size
    sequence = after
    while offset < size:
        found = _frame_at(data, offset)
        if isinstance(found, Frame):
            sequence = found.sequence
            yield offset, found
            offset += found.size
            continue
        if used is None:
            used = len(data.rstrip(b"\0"))
        if used <= offset:
            return
        resume, budget = _next_frame(data, offset, sequence, budget)
        end = size if resume is None else resume
        torn = found.torn and resume is None
        yield offset, dataclasses.replace(found, start=offset, end=end, torn=torn)
        offset = end


def _frame_at(data: bytes, offset: int) -> Frame | Damage:
    """The frame at ``offset``, or why there is none; ``torn``: bytes are missing."""

    def damage(reason: str, *, torn: bool = False, rows: int = 0, signal: int = 0) -> Damage:
        plausible = rows <= len(data)  # the damage may be in the very number
        return Damage(offset, len(data), reason, torn, rows if plausible else 0, _BY_CODE.get(signal))

    left = len(data) - offset
    if left < FRAME_HEADER.size:
        return damage(f"a frame's header has {FRAME_HEADER.size} bytes, the file ends after {left}", torn=True)
    magic, checksum, length, rows, sequence, received_ns, signal, encoding, padding = FRAME_HEADER.unpack_from(
        data, offset
    )
    if magic != FRAME_MAGIC:
        return damage("no frame begins here")
    if length > MAX_FRAME_BYTES:
        return damage(f"a frame claims {length} bytes, the limit is {MAX_FRAME_BYTES}")
    if left < FRAME_HEADER.size + length:
        reason = f"a frame claims {length} bytes, the file has {left - FRAME_HEADER.size}"
        return damage(reason, torn=True, rows=rows, signal=signal)
    end = offset + FRAME_HEADER.size + length
    if crc32(memoryview(data)[offset + 8 : end], 0) != checksum:
        return damage(f"checksum of the frame with sequence {sequence} is wrong", rows=rows, signal=signal)
    if signal not in _BY_CODE or encoding not in _ENCODINGS:
        return damage(f"frame {sequence} is of unknown signal {signal} or encoding {encoding}", rows=rows)
    if padding >= DIRECT_BLOCK_BYTES or (length + padding) % 8:
        return damage(f"frame {sequence} of {length} bytes cannot have {padding} bytes of padding", rows=rows)
    payload = data[offset + FRAME_HEADER.size : end]
    size = frame_size(length, padding)
    return Frame(sequence, _BY_CODE[signal], Encoding(encoding), rows, received_ns, payload, size)


def _next_frame(data: bytes, damaged: int, sequence: int | None, budget: int) -> tuple[int | None, int]:
    """Where the first valid frame after the one at ``damaged`` begins, and what is left of ``budget``.

    The damaged header's own length is tried first. Only if that leads nowhere every place that looks like a
    frame is: a payload may hold such bytes by chance or by intent, so sequences have to follow, and no more
    than ``budget`` bytes are checksummed.
    """

    def is_next(at: int) -> bool:
        found = _frame_at(data, at)
        if not isinstance(found, Frame):
            return False
        return sequence is None or 0 < found.sequence - sequence <= len(data) // FRAME_HEADER.size

    if damaged + FRAME_HEADER.size <= len(data) and data.startswith(FRAME_MAGIC, damaged):
        (length,), (padding,) = _LENGTH.unpack_from(data, damaged + 8), _PADDED.unpack_from(data, damaged + 34)
        end = damaged + frame_size(length, padding)
        if data.startswith(FRAME_MAGIC, end) and is_next(end):
            return end, budget
    at = data.find(FRAME_MAGIC, damaged + 8)
    while at >= 0 and budget > 0:
        if at % 8 == 0 and at + FRAME_HEADER.size <= len(data):
            budget -= FRAME_HEADER.size
            length = _LENGTH.unpack_from(data, at + 8)[0]
            if length <= len(data) - at - FRAME_HEADER.size:
                budget -= length
                if is_next(at):
                    return at, budget
        at = data.find(FRAME_MAGIC, at + 1)
    return None, budget
