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
    frame = _kernel.zstd_frame(data.ctypes.data, data.nbytes, 4 if words else 0, words)
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
    frame = _kernel.zstd_frame(words.ctypes.data, words.nbytes, 4, True)
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
    frame = _kernel.zstd_frame(words.ctypes.data, words.nbytes, 4, True)
    assert frame is not None
    assert _kernel.zstd_beginning(frame[:size], words.nbytes) is None
    zeros = np.zeros(300_000, np.uint8)
    constant = _kernel.zstd_frame(zeros.ctypes.data, zeros.nbytes, 1)
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


def words_unlike_at(places: np.ndarray, count: int) -> np.ndarray:
    """Words like the one before but for their lowest byte, and some wholly unlike it."""
    unlike = np.zeros(count, np.int64)
    unlike[places] = 1
    return ((np.cumsum(unlike) << 8) + np.random.default_rng(len(places)).integers(0, 256, count)).astype(np.uint32)


@pytest.mark.parametrize("apart", [2, 3, 4, 5, 7, 8, 9, 15, 16, 17])
@pytest.mark.parametrize("shift", range(9))
def test_words_of_which_any_of_eight_is_wholly_another(apart: int, shift: int) -> None:
    """Where none or one of eight is, they are written at once; one such place may follow another."""
    count = 256 + 8 * 400
    assert frame_of(words_unlike_at(np.arange(256 + shift, count, apart), count), words=True) is not None


@pytest.mark.parametrize("run", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shift", range(9))
def test_up_to_three_words_in_a_row_may_be_wholly_others(run: int, shift: int) -> None:
    count = 256 + 4000
    places = np.concatenate([np.arange(256 + 40 + shift + at, count, 64) for at in range(run)])
    assert (frame_of(words_unlike_at(places, count), words=True) is not None) == (run <= 3)


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


# -- columns of elements ---------------------------------------------------------------------------

WIDTHS = [1, 4, 8, 16]
BLOCK = 128 * 1024


def column_frame(data: bytes, width: int) -> bytes | None:
    """From memory that ends where the column does: a read past it is found by the sanitizers."""
    held = np.frombuffer(data, np.uint8).copy()
    frame = _kernel.zstd_frame(held.ctypes.data, len(data), width)
    if frame is not None:
        assert ZSTD.decompress(frame, len(data), asbytes=True) == data
        for count in (len(data), len(data) // 8 * 4):
            found = _kernel.zstd_beginning(frame, count)
            assert found is None or (bytes([found]) * count if isinstance(found, int) else found) == data[:count]
    return frame


def times(count: int, seed: int = 1) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return 1_760_000_000_000_000_000 + np.cumsum(draw.integers(-500_000, 1_500_000, count))


@pytest.mark.parametrize("count", [256, 511, 512, 513, 8_192, 8_193, 16_384, 16_896, 16_897, 100_000])
def test_times_take_less_than_the_library_makes_of_them(count: int) -> None:
    data = times(count).tobytes()
    frame = column_frame(data, 8)
    assert frame is not None
    assert len(frame) < len(ZSTD.compress(data)) + 200


def test_ids_of_traces_are_told_once() -> None:
    draw = np.random.default_rng(2)
    ids = [draw.bytes(16) for _ in range(4000)]
    data = b"".join(id_ * int(times) for id_, times in zip(ids, draw.integers(1, 5, len(ids)), strict=True))
    frame = column_frame(data, 16)
    assert frame is not None
    assert len(frame) < 17 * len(ids)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_over_and_over_is_told_once_a_block(width: int) -> None:
    row = np.random.default_rng(width).bytes(12 * width)
    data = row * (3 * BLOCK // len(row))
    frame = column_frame(data, width)
    assert frame is not None
    assert len(frame) < len(row) + 200


def test_sparse_numbers_take_no_more_than_the_library_makes_of_them() -> None:
    draw = np.random.default_rng(3)
    rows = np.zeros((8000, 10), np.int64)
    server = draw.random(8000) < 0.4
    rows[server, 2] = draw.choice([200, 200, 204, 404], server.sum())
    rows[server, 6] = 443
    rows[~server, 5] = draw.integers(0, 100, (~server).sum())
    rows[~server, 7] = 5432
    frame = column_frame(rows.tobytes(), 8)
    assert frame is not None
    assert len(frame) < len(ZSTD.compress(rows.tobytes()))


@pytest.mark.parametrize("size", [64, 2047, 2048, 4095, 4096, 4097])
def test_small_columns_read_back(size: int) -> None:
    data = (bytes(range(16)) * (size // 16 + 1))[:size]
    for width in WIDTHS:
        frame = column_frame(data, width)
        assert (frame is not None) == (size >= 2048 and size % width == 0)


@pytest.mark.parametrize("width", WIDTHS)
def test_random_bytes_are_left_to_the_library(width: int) -> None:
    assert column_frame(np.random.default_rng(4).bytes(65_536), width) is None


@pytest.mark.parametrize("width", [0, 2, 3, 12, 32, -1])
def test_elements_of_another_width_are_left_to_the_library(width: int) -> None:
    assert column_frame(times(2000).tobytes(), width) is None


def test_text_of_few_repetitions_is_left_to_the_library() -> None:
    draw = np.random.default_rng(5)
    text = b"".join(b"/api/v1/products/%d?page=%d" % tuple(draw.integers(0, 100_000, 2)) for _ in range(3000))
    assert column_frame(text, 1) is None


@pytest.mark.parametrize("width", WIDTHS)
def test_a_column_that_changes_its_kind_reads_back(width: int) -> None:
    """Blocks as they are, between such that refer across them."""
    draw = np.random.default_rng(6)
    like = bytes(range(16)) * (4 * BLOCK // 16)
    frame = column_frame(like + draw.bytes(BLOCK) + like[: BLOCK // 2] + draw.bytes(BLOCK // 2) + like, width)
    assert frame is not None or width == 1


def test_a_distance_from_a_block_that_is_written_as_it_is_is_told_again() -> None:
    """The one match in the block saves less than its telling takes; the block behind goes on at that distance."""
    draw = np.random.default_rng(8)
    like = bytes(range(16)) * ((4096 + BLOCK) // 16)
    three = draw.bytes(24)
    data = like + three + three[:8] + draw.bytes(BLOCK - 32) + draw.bytes(24) * 1000
    frame = column_frame(data, 8)
    assert frame is not None
    assert three + three[:8] in frame


def test_lengths_of_every_code_read_back() -> None:
    """Literals and matches of one element to nearly a block of them, at distances up to what a frame may refer to."""
    draw = np.random.default_rng(7)
    sizes = sorted({*range(8, 512, 8), *(1 << step for step in range(9, 17)), 3 << 14, 120_000})
    parts = [bytes(5 * BLOCK)]
    for size in sizes:
        piece = draw.bytes(size)
        parts += [bytes(-sum(map(len, parts)) % BLOCK)] if size > 4096 else []
        parts += [piece, bytes(2 * size), piece, bytes(size), piece[:-8], bytes(BLOCK // 2 - 2 * size % 4096), piece]
    assert column_frame(b"".join(parts), 8) is not None


# -- elements that differ in their lowest bytes ----------------------------------------------------


@pytest.mark.parametrize("low", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("count", [512, 513, 8_192, 16_384 + 512, 16_384 + 513, 16_384 + 520, 50_000])
def test_numbers_take_their_lowest_bytes_and_little_more(low: int, count: int) -> None:
    draw = np.random.default_rng(low)
    data = ((1 << 60) + draw.integers(0, 256**low, count)).astype(np.uint64)
    frame = column_frame(data.tobytes(), 8)
    assert frame is not None
    assert len(frame) < (low + 0.1) * count + 400


@pytest.mark.parametrize("kinds", [5, 16, 200])
@pytest.mark.parametrize("count", [1024, 1025, 20_000, 70_000])
def test_small_numbers_of_four_bytes_take_a_byte_each(kinds: int, count: int) -> None:
    draw = np.random.default_rng(kinds)
    frame = column_frame(draw.integers(0, kinds, count).astype(np.int32).tobytes(), 4)
    assert frame is not None
    assert len(frame) < 1.1 * count + 400


@pytest.mark.parametrize("run", range(1, 11))
def test_numbers_that_differ_wholly_one_behind_another_read_back(run: int) -> None:
    """Seven have a symbol; where there are more a block is written as any other."""
    draw = np.random.default_rng(run)
    data = ((1 << 60) + draw.integers(0, 1 << 24, 40_000)).astype(np.uint64)
    for at in range(run):
        data[600 + at :: 700] = draw.integers(0, 1 << 63, len(data[600 + at :: 700]))
    frame = column_frame(data.tobytes(), 8)
    assert frame is not None
    assert len(frame) < 3.4 * len(data)


def test_numbers_of_which_the_first_say_another_distance_read_back() -> None:
    """The first block ends in matches of two elements back; those behind it say anew how far an element is."""
    draw = np.random.default_rng(9)
    first = np.tile(draw.integers(0, 1 << 63, 2), 8)
    times_ = (1_760_000_000_000_000_000 + np.cumsum(draw.integers(0, 1 << 20, 20_000))).astype(np.int64)
    data = np.concatenate([times_[:496], first, times_[496:]])
    frame = column_frame(data.tobytes(), 8)
    assert frame is not None
    assert len(frame) < 3.3 * len(data)


@given(
    st.sampled_from([4, 8]),
    st.integers(1, 5),
    st.integers(512, 40_000),
    st.floats(0, 0.2),
    st.floats(0, 0.2),
    st.integers(0, 2**32 - 1),
)
def test_any_numbers_read_back(width: int, low: int, count: int, other: float, same: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    data = draw.integers(0, 256 ** min(low, width - 1), count).astype(np.uint64)
    data[draw.random(count) < same] = 7
    elsewhere = draw.random(count) < other
    data[elsewhere] = draw.integers(0, 1 << 63, elsewhere.sum())
    column_frame(data.astype(f"<u{width}").tobytes(), width)


# -- columns of any kind ---------------------------------------------------------------------------

# Kinds of stretches of a column: the next of them, from a generator.
STRETCHES = {
    "random": lambda draw, count, width: draw.bytes(count * width),
    "one element": lambda draw, count, width: draw.bytes(width) * count,
    "runs": lambda draw, count, width: b"".join(draw.bytes(width) * int(n) for n in draw.integers(1, 9, count // 4)),
    "few kinds": lambda draw, count, width: draw.integers(0, 4, (count, width), np.uint8).tobytes(),
    "growing": lambda draw, count, width: b"".join(
        (int(n) % 256**width).to_bytes(width, "little") for n in np.cumsum(draw.integers(0, 1000, count))
    ),
    "nearly constant": lambda draw, count, width: (
        ((draw.random((count, width)) < 0.01) * draw.integers(0, 256, (count, width))).astype(np.uint8).tobytes()
    ),
    "rows": lambda draw, count, width: draw.bytes(7 * width) * (count // 7),
}


@given(
    st.sampled_from(WIDTHS),
    st.lists(st.tuples(st.sampled_from(sorted(STRETCHES)), st.integers(1, 6000)), min_size=1, max_size=8),
    st.integers(0, 2**32 - 1),
    st.integers(0, 3),
)
def test_any_column_reads_back(width: int, stretches: list[tuple[str, int]], seed: int, odd: int) -> None:
    draw = np.random.default_rng(seed)
    data = b"".join(STRETCHES[kind](draw, count, width) for kind, count in stretches) + bytes(odd)
    frame = column_frame(data, width)
    if len(data) % width and len(set(data)) > 1:
        assert frame is None


@given(st.sampled_from(WIDTHS), st.binary(min_size=1, max_size=64), st.integers(2048, 300_000), st.binary(max_size=40))
def test_any_repetition_reads_back(width: int, piece: bytes, size: int, between: bytes) -> None:
    data = (piece * 200 + between) * (size // (200 * len(piece) + len(between)) + 1)
    column_frame(data[: size // width * width], width)


@given(st.sampled_from(WIDTHS), st.lists(st.binary(min_size=16, max_size=300), min_size=1, max_size=60))
def test_any_bytes_read_back(width: int, pieces: list[bytes]) -> None:
    data = b"".join(pieces) * 8
    column_frame(data[: len(data) // 16 * 16], width)
