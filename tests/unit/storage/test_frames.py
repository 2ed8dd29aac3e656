"""WAL frames as bytes."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.model import Encoding, Parts, Payload, Signal
from otlp_arrow.model.limits import MAX_FRAME_BYTES, RESYNC_BYTES_PER_BYTE
from otlp_arrow.storage import frames
from otlp_arrow.storage.frames import (
    FRAMES_BEGIN,
    Damage,
    Frame,
    file_header,
    frame_buffers,
    frame_size,
    read_file_header,
    scan,
    unsummed_frame,
)


def one_frame(
    sequence: int, signal: int, encoding: int, rows: int, received_ns: int, payload: Payload, padding: int | None = None
) -> bytes:
    if padding is None:
        padding = -len(payload) % 8
    return b"".join(frame_buffers([unsummed_frame(sequence, signal, encoding, rows, received_ns, payload, padding)]))


def frame(sequence: int, payload: bytes = b"payload", signal: Signal = Signal.LOGS, rows: int = 1) -> bytes:
    return one_frame(sequence, signal.code, Encoding.OTLP.value, rows, 1_000 + sequence, payload)


def log_of(*payloads: bytes, first: int = 1) -> bytes:
    return file_header(first, 7) + b"".join(frame(first + i, p) for i, p in enumerate(payloads))


def found_in(data: bytes) -> list[Frame | Damage]:
    return [found for _, found in scan(data)]


def sequences(data: bytes) -> list[int]:
    return [found.sequence for found in found_in(data) if isinstance(found, Frame)]


# -- the picture in docs/formats.md ----------------------------------------------------------------


def test_a_file_header_has_the_documented_bytes():
    head = b"OTLPWAL2" + struct.pack("<QQI", 42, 1_700_000_000, 0)
    assert file_header(42, 1_700_000_000) == head + struct.pack("<I", zlib.crc32(head)) + bytes(4096 - 32)
    assert read_file_header(file_header(42, 1_700_000_000)) == 42


def test_a_frame_has_the_documented_bytes():
    rest = struct.pack("<IIQQBBH4x", 5, 3, 42, 1_000, 2, 1, 3)
    expected = b"OTF2" + struct.pack("<I", zlib.crc32(rest + b"hello")) + rest + b"hello" + b"\0\0\0"
    assert one_frame(42, 2, 1, 3, 1_000, b"hello") == expected


@pytest.mark.parametrize("length", range(18))
def test_each_frame_begins_at_a_multiple_of_eight(length: int):
    data = frame(1, b"x" * length)
    assert len(data) == frame_size(length, -length % 8)
    assert len(data) % 8 == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Signal)), st.sampled_from(list(Encoding)), st.binary(max_size=50)), max_size=6
    )
)
def test_what_was_framed_is_found_again(written: list[tuple[Signal, Encoding, bytes]]):
    data = file_header(5, 0) + b"".join(
        one_frame(5 + i, signal.code, encoding.value, i, i * 10, payload)
        for i, (signal, encoding, payload) in enumerate(written)
    )
    assert found_in(data) == [
        Frame(5 + i, signal, encoding, i, i * 10, payload) for i, (signal, encoding, payload) in enumerate(written)
    ]


def test_the_next_frame_is_found_behind_whatever_padding_a_frame_names():
    paddings = [3, 11, 4091, 3 + 8 * 100]
    data = file_header(1, 0) + b"".join(
        one_frame(1 + i, 1, 1, 1, 0, b"hello", padding) for i, padding in enumerate(paddings)
    )
    frames = found_in(data)
    assert [(f.sequence, f.size) for f in frames if isinstance(f, Frame)] == [
        (1 + i, 45 + padding) for i, padding in enumerate(paddings)
    ]
    assert len(data) == FRAMES_BEGIN + sum(45 + padding for padding in paddings)


@given(st.lists(st.binary(max_size=20), max_size=5), st.none() | st.integers(0, 40).map(lambda n: n * 8))
def test_a_payload_in_parts_has_the_bytes_of_the_whole_one(parts: list[bytes], more: int | None):
    whole = b"".join(parts)
    padding = None if more is None else -len(whole) % 8 + more
    views = Parts([memoryview(p) if i % 2 else p for i, p in enumerate(parts)])
    assert len(views) == len(whole)
    assert views.joined() == whole
    assert one_frame(7, 2, 2, 3, 9, views, padding) == one_frame(7, 2, 2, 3, 9, whole, padding)


def test_the_length_of_parts_is_in_bytes_whatever_their_items_are():
    numbers = memoryview(struct.pack("<3q", 1, 2, 3)).cast("q")
    assert len(Parts([numbers, b"x"])) == 25
    assert Parts([numbers]).joined() == numbers.tobytes()
    assert repr(Parts([numbers, b"x"])) == "Parts(2 parts, 25 bytes)"


# -- damage ----------------------------------------------------------------------------------------


def test_a_file_that_ends_inside_its_last_frame_has_a_torn_tail_wherever_it_is_cut():
    data = log_of(b"first", b"the second, torn")
    start = len(log_of(b"first"))
    whole = start + 40 + len(b"the second, torn")  # the padding after a payload holds nothing
    for end in range(start + 1, whole):
        first, tail = found_in(data[:end])
        assert isinstance(first, Frame)
        assert tail == Damage(start, end, tail.reason, torn=True, rows=tail.rows, signal=tail.signal), end
    assert sequences(data[:whole]) == [1, 2]


def test_a_flipped_bit_anywhere_in_a_frame_is_noticed_and_the_frames_around_it_are_found():
    data = log_of(b"first", b"second!!", b"third")
    start, end = len(log_of(b"first")), len(log_of(b"first", b"second!!"))
    for position in range(start, end):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            first, damage, third = found_in(bytes(damaged))
            assert isinstance(damage, Damage), (position, bit)
            assert (damage.start, damage.end, damage.torn) == (start, end, False), (position, bit)
            assert (first.sequence, third.sequence) == (1, 3)  # type: ignore[union-attr]


def test_a_file_that_ends_inside_the_padding_of_its_last_frame_has_lost_nothing():
    data = log_of(b"first") + one_frame(2, 1, 1, 1, 0, b"second", 4090)
    for end in range(len(data) - 4090, len(data)):
        assert sequences(data[:end]) == [1, 2]
        assert len(found_in(data[:end])) == 2


def test_what_lies_in_the_padding_is_never_looked_at():
    padded = one_frame(1, 1, 1, 1, 0, b"first", 4091)
    for junk in (b"\xff", frame(2, b"injected")):
        at = FRAMES_BEGIN + len(padded) - 2048
        data = bytearray(file_header(1, 0) + padded + frame(2, b"second"))
        data[at : at + len(junk)] = junk
        assert [f.payload for f in found_in(bytes(data)) if isinstance(f, Frame)] == [b"first", b"second"]
        assert len(found_in(bytes(data))) == 2


@pytest.mark.parametrize("padding", [4, 4096 + 3, 65_528 + 3])
def test_a_frame_with_padding_that_cannot_be_is_damage(padding: int):
    (found,) = found_in(file_header(1, 0) + one_frame(1, 1, 1, 1, 0, b"hello", padding))
    assert isinstance(found, Damage)
    assert f"{padding} bytes of padding" in found.reason


def test_behind_a_damaged_frame_its_own_padding_is_believed_first():
    inner = frame(2, b"injected")
    damaged = bytearray(one_frame(1, 1, 1, 1, 0, inner, -len(inner) % 8 + 4000))
    damaged[4] ^= 1  # the checksum: the frame inside is whole
    data = file_header(1, 0) + bytes(damaged) + frame(2, b"second")
    assert [f.payload for f in found_in(data) if isinstance(f, Frame)] == [b"second"]


def test_damage_names_the_rows_and_the_signal_of_its_header_if_they_can_be():
    data = bytearray(file_header(1, 0) + frame(1, b"some spans", Signal.TRACES, rows=7))
    data[-1 - 6] ^= 1  # the payload's last byte; six bytes of padding follow
    (damage,) = found_in(bytes(data))
    assert (damage.rows, damage.signal) == (7, Signal.TRACES)
    data[FRAMES_BEGIN + 15] = 0xFF  # four billion rows in ten bytes
    (damage,) = found_in(bytes(data))
    assert damage.rows == 0


def test_zeros_up_to_the_end_are_no_damage():
    assert sequences(log_of(b"one") + bytes(64)) == [1]
    assert found_in(file_header(1, 0) + bytes(4096)) == []


def test_a_frame_that_claims_more_than_the_limit_is_not_read():
    oversized = b"OTF2" + bytes(4) + struct.pack("<I", MAX_FRAME_BYTES + 1) + bytes(28)
    (damage,) = found_in(file_header(1, 0) + oversized)
    assert "limit" in damage.reason
    assert not damage.torn


@pytest.mark.parametrize(("offset", "value", "word"), [(32, 9, "signal"), (33, 9, "encoding")])
def test_a_frame_of_a_kind_that_does_not_exist_is_damage(offset: int, value: int, word: str):
    data = bytearray(frame(1, b"abc"))
    data[offset] = value
    data[4:8] = struct.pack("<I", zlib.crc32(data[8:43]))
    (damage,) = found_in(file_header(1, 0) + bytes(data))
    assert word in damage.reason


def test_frames_inside_a_payload_are_not_taken_for_frames_of_the_log():
    inner = b"".join(frame(n, b"injected") for n in (3, 4, 5))
    data = bytearray(log_of(b"one", inner, b"three"))
    data[len(log_of(b"one")) + 4] ^= 0xFF  # the checksum of the frame that carries them
    assert sequences(bytes(data)) == [1, 3]
    assert found_in(bytes(data))[-1].payload == b"three"  # type: ignore[union-attr]


def test_frames_inside_a_payload_whose_sequences_do_not_follow_are_not_taken_even_if_its_length_is_lost():
    inner = frame(2**60, b"injected") + frame(1, b"injected")
    data = bytearray(log_of(b"one", inner, b"three"))
    data[len(log_of(b"one"))] ^= 0xFF  # the magic, so that the length is not believed
    assert sequences(bytes(data)) == [1, 3]


def test_a_damaged_file_header_does_not_hide_the_frames():
    data = bytearray(log_of(b"one", b"two", first=1000))
    data[3] ^= 1
    assert read_file_header(bytes(data)) is None
    assert sequences(bytes(data)) == [1000, 1001]
    assert sequences(bytes(data[: FRAMES_BEGIN + 1] + b"?" + data[FRAMES_BEGIN + 2 :])) == [1001]


def test_looking_for_the_next_frame_costs_a_bounded_number_of_bytes_whatever_a_payload_holds(monkeypatch):
    claims = b"OTF2" + bytes(4) + struct.pack("<IIQQBBH4x", 40_000, 1, 2, 0, 3, 1, 0) + bytes(24)
    data = bytearray(log_of(claims * 1_000, b"lost with it"))
    data[FRAMES_BEGIN] ^= 0xFF
    checksummed = []

    def counting(buffer: bytes, start: int) -> int:
        checksummed.append(len(buffer))
        return zlib.crc32(buffer, start)

    monkeypatch.setattr(frames, "crc32", counting)
    (damage,) = found_in(bytes(data))
    assert damage.end == len(data)
    assert sum(checksummed) <= (RESYNC_BYTES_PER_BYTE + 2) * len(data)


def test_many_damaged_frames_are_walked_without_copying_the_file_for_each(monkeypatch):
    count = 2_000
    data = bytearray(log_of(*[b"payload."] * count))
    for number in range(0, count, 2):
        data[FRAMES_BEGIN + number * 48 + 41] ^= 1

    class Counted(bytes):
        copied = 0

        def rstrip(self, *args: bytes) -> bytes:  # type: ignore[override]
            Counted.copied += 1
            return super().rstrip(*args)

    assert len(found_in(Counted(data))) == count
    assert Counted.copied == 1


@given(st.binary(max_size=400), st.integers(0, 3))
def test_any_bytes_are_accounted_for_from_the_header_to_the_end(junk: bytes, whole: int):
    data = log_of(*[b"payload"] * whole) + junk
    at = FRAMES_BEGIN
    for offset, found in scan(data):
        assert offset == at
        at = found.end if isinstance(found, Damage) else offset + found.size
    assert not data[at:].strip(b"\0")
