"""Text that the kernel compresses string by string is what any decoder reads."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.codec import _kernel

ZSTD = pa.Codec("zstd")
BLOCK = 128 * 1024
WINDOW = 1024 * 1024
FIRST = 8 * 1024
MOST_SEQUENCES = 8192


def frame_of(strings: list[bytes], *, ends: list[int] | None = None) -> bytes | None:
    """From memory that ends where text and ends do: a read past them is found by the sanitizers."""
    text = np.frombuffer(b"".join(strings), np.uint8).copy()
    places = np.array(np.cumsum([0, *map(len, strings)]) if ends is None else ends, np.int32)
    frame = _kernel.zstd_text(text.ctypes.data, text.nbytes, places.ctypes.data, len(places))
    if frame is not None:
        assert ZSTD.decompress(frame, text.nbytes, asbytes=True) == text.tobytes()
        if not isinstance(_kernel.zstd_beginning(frame, text.nbytes), int):
            assert _kernel.zstd_beginning(frame, text.nbytes // 4 * 4) is None, "for the library to read"
    return frame


def attributes(rows: int, seed: int = 1) -> list[bytes]:
    """As spans have them: most as in some row before, paths and addresses with a number."""
    draw = np.random.default_rng(seed)
    strings = []
    for _ in range(rows):
        table = draw.choice([b"orders", b"users", b"carts"])
        if draw.random() < 0.5:
            path = b"/api/v1/%s/%d" % (table, draw.integers(1_000_000))
            strings += [b"GET", path, b"", b"shop.example.com", b"203.0.113.%d" % draw.integers(256), b"okhttp/5.1.0"]
        else:
            strings += [b"postgresql", b"SELECT * FROM %s WHERE id = $1" % table, b"db-%d.internal" % draw.integers(4)]
    return strings


@pytest.mark.parametrize("rows", [100, 1000, 20_000])
def test_attributes_take_little_more_than_the_library_makes_of_them(rows: int) -> None:
    strings = attributes(rows)
    frame = frame_of(strings)
    assert frame is not None
    assert len(frame) < 1.5 * len(ZSTD.compress(b"".join(strings))) + 200


@pytest.mark.parametrize("size", [2048, FIRST - 1, FIRST, FIRST + 1, FIRST + BLOCK, FIRST + BLOCK + 1, 3 * WINDOW + 5])
def test_rows_over_and_over_are_told_once_a_block(size: int) -> None:
    row = [b"GET", b"", b"/api/v1/products/{product_id}", b"https", b"shop.example.com"]
    times, rest = divmod(size, sum(map(len, row)))
    frame = frame_of([*row * times, b"x" * rest])
    assert frame is not None
    assert len(frame) < 250 + 30 * (size // BLOCK + 1)


def test_text_that_is_no_more_than_two_kilobytes_is_left_to_the_library() -> None:
    assert frame_of([b"abcdefgh"] * 255) is None
    assert frame_of([b"abcdefgh"] * 256) is not None


def test_random_text_is_left_to_the_library() -> None:
    draw = np.random.default_rng(3)
    assert frame_of([draw.bytes(20).hex().encode() for _ in range(2000)]) is None
    assert frame_of([draw.bytes(100_000)]) is None


def test_text_that_turns_random_is_left_to_the_library() -> None:
    draw = np.random.default_rng(4)
    assert frame_of([b"the same again"] * 2000 + [draw.bytes(1000) for _ in range(100)]) is None


def test_words_of_long_strings_are_found_where_no_string_begins() -> None:
    draw = np.random.default_rng(5)
    strings = [
        b"order %d could not be paid for by card as the bank did not answer within %d s, and it waits for another try"
        % tuple(draw.integers(0, 10_000, 2))
        for _ in range(3000)
    ]
    frame = frame_of(strings)
    assert frame is not None
    assert len(frame) < 20 * len(strings)


def test_an_end_that_repeats_is_found_backwards_from_the_next_string() -> None:
    """What stands behind the number of a path, up to more than eight bytes of it, has no beginning of its own."""
    draw = np.random.default_rng(6)
    strings = []
    for _ in range(3000):
        strings += [b"/carts/%dxitems_that_wait" % draw.integers(1_000_000), b"example.com"]
    frame = frame_of(strings)
    assert frame is not None
    assert len(frame) < 12 * 3000


def test_more_matches_than_a_block_has_sequences_for() -> None:
    draw = np.random.default_rng(7)
    words = [draw.bytes(10) for _ in range(64)]
    strings = [words[k] for k in draw.integers(0, 64, 60_000)]
    frame = frame_of(strings)
    assert frame is not None
    assert BLOCK // 10 > MOST_SEQUENCES


@pytest.mark.parametrize("apart", [WINDOW - 64, WINDOW - 16, WINDOW, WINDOW + 16, WINDOW + 64, 2 * WINDOW])
def test_what_stood_further_back_than_the_window_is_not_referred_to(apart: int) -> None:
    draw = np.random.default_rng(8)
    once = draw.bytes(200)
    between = [b"again and again "] * ((apart - len(once)) // 16)
    frame = frame_of([once, *between, once])
    assert frame is not None
    assert (len(frame) < 500) == (apart <= WINDOW), "told once or twice"


def test_empty_strings_and_one_huge_string() -> None:
    assert frame_of([b""] * 5000 + [b"abc"] * 3000 + [b""] * 5000) is not None
    assert frame_of([b"to be or not to be, "] * 2 + [b"that is the question: " * 100_000]) is not None
    assert frame_of([b"x" * 3_000_000]) is not None


@pytest.mark.parametrize(
    "ends", [[], [0], [0, 5000], [5000] * 40, list(range(5001)), [4999, 5000], [100, 100, 100, 4000]], ids=str
)
def test_whatever_the_ends_say_the_text_reads_back(ends: list[int]) -> None:
    frame_of([b"abcde" * 1000], ends=ends)
    frame_of([bytes(range(33, 83)) * 100], ends=ends)


@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=30),
    st.lists(st.integers(0, 29), min_size=200, max_size=2000),
    st.integers(0, 2**32 - 1),
    st.floats(0, 0.2),
)
def test_any_strings_read_back(kinds: list[bytes], order: list[int], seed: int, fresh: float) -> None:
    draw = np.random.default_rng(seed)
    strings = [
        kinds[k % len(kinds)] + (draw.bytes(int(draw.integers(12))) if draw.random() < fresh else b"") for k in order
    ]
    frame_of(strings * int(draw.integers(1, 9)))


@given(st.lists(st.text(max_size=60).map(str.encode), min_size=20, max_size=60), st.integers(10, 400))
def test_any_text_read_back(strings: list[bytes], times: int) -> None:
    frame_of(strings * times)
