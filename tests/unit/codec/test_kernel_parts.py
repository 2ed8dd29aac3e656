"""The kernel's small tools: the checksum of the WAL, and doubles as text."""

from __future__ import annotations

import math
import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

kernel = pytest.importorskip("otlp_arrow.codec.kernel")
_kernel = pytest.importorskip("otlp_arrow.codec._kernel")


@given(st.binary(max_size=1500), st.integers(0, 2**32 - 1))
def test_crc32_is_that_of_zlib_on_every_kind_of_machine(data: bytes, value: int) -> None:
    assert {kernel.crc32(data, value), *_kernel.crc32_ways(data, value)} == {zlib.crc32(data, value)}


@pytest.mark.parametrize(
    "size", [0, 1, 15, 16, 63, 64, 65, 127, 128, 511, 512, 513, 767, 768, 831, 832, 1_000, 65_536, 65_537, 1 << 20]
)
def test_crc32_of_parts_is_that_of_the_whole(size: int) -> None:
    data = random.Random(size).randbytes(size)
    for cut in {0, size // 3, size}:
        assert kernel.crc32(data[cut:], kernel.crc32(data[:cut])) == zlib.crc32(data)
    assert kernel.crc32(bytearray(data)) == kernel.crc32(memoryview(data)) == zlib.crc32(data)


def test_crc32_wants_bytes() -> None:
    with pytest.raises(TypeError):
        kernel.crc32("text")


@pytest.mark.parametrize("size", [0, 1, 15, 4_095, 4_096, 4_097, 4_159, 65_536, 65_537, 200_001])
@pytest.mark.parametrize("at", [0, 1, 16, 33])
def test_what_is_copied_out_lies_where_it_shall_and_nothing_beside_it_changes(size: int, at: int) -> None:
    data = random.Random(size).randbytes(size + 3)[3:]
    target = bytearray(b"\xa5" * (at + size + 40))
    _kernel.copy_out(target, at, memoryview(data))
    assert target == b"\xa5" * at + data + b"\xa5" * 40


@pytest.mark.parametrize("at", [-1, 9, 1 << 62])
def test_nothing_is_copied_out_beyond_the_end(at: int) -> None:
    with pytest.raises(ValueError, match="do not fit into 16"):
        _kernel.copy_out(bytearray(16), at, bytes(8))


def test_nothing_is_copied_out_to_memory_that_must_not_change() -> None:
    with pytest.raises(BufferError):
        _kernel.copy_out(bytes(16), 0, bytes(8))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_is_written_as_repr_writes_it(value: float) -> None:
    assert _kernel.double_text(value) == repr(value)


def test_doubles_at_all_the_borders_are_written_as_repr_writes_them() -> None:
    rng = random.Random(1)
    values = [math.ldexp(mantissa, exponent) for exponent in range(-1074, 1024) for mantissa in (1.0, 1.5, 2 - 2**-52)]
    values += [math.nextafter(value, 0) for value in values]
    values += [float(f"{digits}e{exponent}") for exponent in range(-330, 309) for digits in ("1", "9.5", "5.000000001")]
    values += [round(rng.uniform(-1e6, 1e6), rng.randrange(12)) for _ in range(5_000)]
    values += [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(5_000)]
    for value in filter(math.isfinite, values):
        assert _kernel.double_text(value) == repr(value)
        assert _kernel.double_text(-value) == repr(-value)


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,22})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_numbers_of_json_are_read_as_python_reads_them(text: str) -> None:
    assert repr(_kernel.text_double(text.encode())) == repr(float(text))


@pytest.mark.parametrize("value", [2**53 - 1, 2**53, 2**53 + 1, 2**63, 10**19 - 1, 10**19, 10**22])
def test_numbers_around_the_last_that_a_division_gives_exactly_are_read_as_python_reads_them(value: int) -> None:
    for places in range(25):
        digits = str(value).rjust(places + 1, "0")
        text = f"{digits[: len(digits) - places]}.{digits[len(digits) - places :] or '0'}"
        assert _kernel.text_double(text.encode()) == float(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_that_was_written_reads_back(value: float) -> None:
    assert repr(_kernel.text_double(_kernel.double_text(value).encode())) == repr(value)


@given(st.lists(st.lists(st.binary(max_size=50), max_size=4), max_size=5), st.integers(0, 70_000))
def test_checksums_of_many_are_those_of_each(pieces: list[list[bytes]], large: int) -> None:
    pieces = [*pieces, [bytes(large), b"end"]]
    assert _kernel.crc32_each(pieces) == [zlib.crc32(b"".join(each)) for each in pieces]
