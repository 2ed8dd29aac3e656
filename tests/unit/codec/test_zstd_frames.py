"""Frames that the kernel compresses by itself are what any decoder reads."""

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
    return frame


def offsets(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths).astype(np.int32)


@pytest.mark.parametrize("size", [1, 2, 100, 131_071, 131_072, 131_073, 400_000])
def test_one_byte_over_and_over_takes_some_bytes(size: int) -> None:
    frame = frame_of(np.full(size, 7, np.uint8), words=False)
    assert frame is not None
    assert len(frame) < 32


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
