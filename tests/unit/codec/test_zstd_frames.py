"""Frames that the kernel compresses by itself are what any decoder reads, and its own."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.codec import _kernel

ZSTD = pa.Codec("zstd")


def frame_of(data: np.ndarray, *, words: bool) -> bytes | None:
    data = np.ascontiguousarray(data)
    frame = _kernel.zstd_frame(data.ctypes.data, data.nbytes, words)
    if frame is not None:
        assert ZSTD.decompress(frame, data.nbytes, asbytes=True) == data.tobytes()
        if isinstance(found := _kernel.zstd_beginning(frame, data.nbytes), int):
            assert data.tobytes() == bytes([found]) * data.nbytes
        else:
            assert_read_back(frame, data)
    return frame


def assert_read_back(frame: bytes, data: np.ndarray) -> None:
    """All of it, and the beginning of it."""
    for count in {data.nbytes, data.nbytes // 12 * 4, 1024, 4}:
        assert _kernel.zstd_beginning(frame, count) == data.tobytes()[:count]
    assert _kernel.zstd_beginning(frame, data.nbytes + 4) is None


def offsets(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths).astype(np.int32)


@pytest.mark.parametrize("size", [1, 2, 100, 131_071, 131_072, 131_073, 400_000])
def test_one_byte_over_and_over_takes_some_bytes(size: int) -> None:
    frame = frame_of(np.full(size, 7, np.uint8), words=False)
    assert frame is not None
    assert len(frame) < 32


def test_frames_of_the_library_are_not_read() -> None:
    words = offsets(np.full(4000, 3))
    for frame in (
        ZSTD.compress(words.tobytes(), asbytes=True),
        ZSTD.compress(bytes(4000), asbytes=True),
        b"",
        b"(\xb5/\xfd",
    ):
        assert _kernel.zstd_beginning(frame, 4000) is None


@pytest.mark.parametrize("kind", ["even", "repeating", "two blocks"])
def test_a_damaged_frame_is_refused_or_read_as_the_library_reads_it(kind: str) -> None:
    draw = np.random.default_rng(13)
    count = {"even": 1500, "repeating": 3000, "two blocks": 256 + 32_768 + 40}[kind]
    words = offsets(draw.integers(0, 40, count) * (draw.random(count) < (0.3 if kind == "repeating" else 1)))
    frame = _kernel.zstd_frame(words.ctypes.data, words.nbytes, True)
    assert frame is not None
    read = refused = 0
    for at in range(len(frame)) if len(frame) < 6000 else draw.integers(0, len(frame), 3000):
        damaged = bytearray(frame)
        damaged[at] ^= 1 << int(draw.integers(8))
        found = _kernel.zstd_beginning(bytes(damaged), words.nbytes)
        if not isinstance(found, bytes):
            refused += 1
            continue
        read += 1
        try:
            expected = ZSTD.decompress(bytes(damaged), words.nbytes, asbytes=True)
        except OSError:
            continue  # the library checks a little more
        assert found == expected
    assert read
    assert refused


@pytest.mark.parametrize("size", [1, 9, 13, 14, 20, 21])
def test_a_frame_that_is_cut_is_refused(size: int) -> None:
    words = offsets(np.full(2000, 17))
    frame = _kernel.zstd_frame(words.ctypes.data, words.nbytes, True)
    assert frame is not None
    assert _kernel.zstd_beginning(frame[:size], words.nbytes) is None
    zeros = np.zeros(300_000, np.uint8)
    constant = _kernel.zstd_frame(zeros.ctypes.data, zeros.nbytes, False)
    assert constant is not None
    assert len(constant) == 22
    assert _kernel.zstd_beginning(constant[:size], zeros.nbytes) is None


def test_bytes_that_differ_are_left_to_the_library() -> None:
    assert frame_of(np.array([7] * 1000 + [8], np.uint8), words=False) is None


# Around the borders of the first block (256 words) and of the following ones (32,768).
@pytest.mark.parametrize("count", [512, 513, 1000, 256 + 32_768, 256 + 2 * 32_768, 256 + 32_768 + 300, 200_001])
@pytest.mark.parametrize(
    ("longest", "share", "bytes_a_word"),
    [(20, 1.0, 1.4), (60, 1.0, 1.7), (3, 0.5, 1.4), (20, 0.1, 0.5), (120, 0.9, 2.2)],
)
def test_offsets_take_little_more_than_a_byte_each(count: int, longest: int, share: float, bytes_a_word: float) -> None:
    draw = np.random.default_rng(count + longest)
    frame = frame_of(offsets(draw.integers(0, longest, count) * (draw.random(count) < share)), words=True)
    assert frame is not None
    assert len(frame) < bytes_a_word * count + 100


def test_offsets_of_long_strings_are_left_to_the_library() -> None:
    assert frame_of(offsets(np.full(2000, 1000)), words=True) is None


def test_a_lone_word_behind_a_full_block_is_left_to_the_library() -> None:
    assert frame_of(offsets(np.full(256 + 32_768 + 1, 300)), words=True) is None


@given(
    st.lists(
        st.tuples(st.integers(1, 3000), st.sampled_from([0, 1, 3, 17, 90, 255, 256, 300, 70_000])),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 2**31 - 1),
)
def test_any_run_of_lengths_reads_back(runs: list[tuple[int, int]], start: int) -> None:
    lengths = np.concatenate([np.full(count, length, np.int64) for count, length in runs])
    frame_of((start + np.cumsum(lengths)).astype(np.uint32), words=True)


@given(st.binary(min_size=2048, max_size=4096).map(lambda data: data[: len(data) // 4 * 4]))
def test_words_that_are_no_offsets_read_back(data: bytes) -> None:
    frame_of(np.frombuffer(data, np.uint32), words=True)


@given(st.lists(st.sampled_from([0, 1, 2, 0x100, 0x101, 0x10000]), min_size=512, max_size=3000))
def test_words_of_few_kinds_read_back(words: list[int]) -> None:
    frame_of(np.array(words, np.uint32), words=True)
