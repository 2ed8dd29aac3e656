"""Content types and codings: what is taken, what is refused, and how much it may become."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.model import Rejected, TooLarge, limits
from otlp_arrow.receivers.unpack import Coding, Media, Unsupported, codings, inflate, media_type, take

BIG = 1 << 30
TEXT = bytes(range(256)) * 5_000  # 1.28 MB, several pieces


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


PACKERS: dict[str, tuple[Coding, Callable[[bytes], bytes]]] = {
    "gzip": (Coding.GZIP, gzip.compress),
    "deflate": (Coding.DEFLATE, zlib.compress),
    "raw deflate": (Coding.DEFLATE, raw_deflate),
    "zstd": (Coding.ZSTD, zstd),
}
packers = pytest.mark.parametrize(("coding", "pack"), PACKERS.values(), ids=PACKERS)


def unpacked(body: bytes, *applied: Coding, max_bytes: int = BIG) -> bytes:
    return b"".join(inflate(body, applied, max_bytes))


# -- headers -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("application/x-protobuf", (Media.PROTOBUF, "application/x-protobuf")),
        ("Application/X-Protobuf ; foo=bar", (Media.PROTOBUF, "application/x-protobuf")),
        ("application/protobuf", (Media.PROTOBUF, "application/protobuf")),
        ("application/json", (Media.JSON, "application/json")),
        ("application/json;charset=UTF-8", (Media.JSON, "application/json")),
        ('application/json; charset="utf-8"', (Media.JSON, "application/json")),
    ],
)
def test_media_types_are_recognized_with_parameters(header: str, expected: tuple[Media, str]) -> None:
    assert media_type(header) == expected


@pytest.mark.parametrize("header", ["", "text/plain", "application/xml", "application/json; charset=latin-1"])
def test_other_media_types_are_refused_naming_what_would_do(header: str) -> None:
    with pytest.raises(Unsupported, match=r"send (application/x-protobuf or application/json|utf-8)"):
        media_type(header)


def test_a_grpc_body_is_sent_to_the_other_port() -> None:
    with pytest.raises(Unsupported, match="4317"):
        media_type("application/grpc+proto")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", ()),
        ("identity", ()),
        ("GZIP", (Coding.GZIP,)),
        ("x-gzip", (Coding.GZIP,)),
        ("zlib", (Coding.DEFLATE,)),
        ("deflate, zstd", (Coding.DEFLATE, Coding.ZSTD)),
        ("identity,gzip", (Coding.GZIP,)),
    ],
)
def test_codings_are_recognized_in_their_order(header: str, expected: tuple[Coding, ...]) -> None:
    assert codings(header) == expected


@pytest.mark.parametrize("header", ["br", "snappy", "gzip, lz4", "gzip,gzip,gzip"])
def test_other_codings_and_stacks_of_them_are_refused(header: str) -> None:
    with pytest.raises(Unsupported):
        codings(header)


# -- bodies --------------------------------------------------------------------------------------------
@packers
@pytest.mark.parametrize("text", [b"a", TEXT, bytes(3_000_000)], ids=["tiny", "several pieces", "zeros"])
def test_what_was_packed_comes_out(coding: Coding, pack: Callable[[bytes], bytes], text: bytes) -> None:
    assert unpacked(pack(text), coding) == text


@packers
def test_the_packed_form_of_nothing_is_nothing(coding: Coding, pack: Callable[[bytes], bytes]) -> None:
    assert unpacked(pack(b""), coding) == b""


@pytest.mark.parametrize("coding", Coding)
def test_an_empty_body_is_an_empty_request_in_any_coding(coding: Coding) -> None:
    assert unpacked(b"", coding) == b""


@pytest.mark.parametrize("first", PACKERS)
@pytest.mark.parametrize("second", PACKERS)
def test_two_codings_are_undone_last_one_first(first: str, second: str) -> None:
    (inner, pack_inner), (outer, pack_outer) = PACKERS[first], PACKERS[second]
    assert unpacked(pack_outer(pack_inner(TEXT)), inner, outer) == TEXT


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_members_one_after_the_other_are_one_body(name: str) -> None:
    coding, pack = PACKERS[name]
    assert unpacked(pack(b"one") + pack(b"") + pack(TEXT) + pack(b"two"), coding) == b"one" + TEXT + b"two"


@packers
@pytest.mark.parametrize("text", [b"hello", TEXT], ids=["tiny", "large"])
def test_a_body_that_ends_early_is_refused(coding: Coding, pack: Callable[[bytes], bytes], text: bytes) -> None:
    packed = pack(text)
    for length in {1, 2, len(packed) // 2, len(packed) - 1}:
        with pytest.raises(Rejected, match=r"ends early|damaged or cut"):
            unpacked(packed[:length], coding)


@packers
@pytest.mark.parametrize("garbage", [b"x", b"\0\0\0\0", b"hello world" * 20])
def test_a_body_that_goes_on_after_its_end_is_refused(
    coding: Coding, pack: Callable[[bytes], bytes], garbage: bytes
) -> None:
    with pytest.raises(Rejected):
        unpacked(pack(b"hello") + garbage, coding)


@packers
def test_a_damaged_body_is_refused(coding: Coding, pack: Callable[[bytes], bytes]) -> None:
    packed = bytearray(pack(TEXT))
    packed[len(packed) // 2] ^= 0xFF
    try:
        result = unpacked(bytes(packed), coding)
    except Rejected:
        return
    # Neither bare deflate nor the zstd of this writer carries a checksum.
    assert pack is raw_deflate or coding is Coding.ZSTD
    assert result != TEXT


@packers
def test_inflating_stops_at_the_ceiling(coding: Coding, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(bytes(1_000_000))
    assert len(unpacked(packed, coding, max_bytes=1_000_000)) == 1_000_000
    with pytest.raises(TooLarge, match="999999"):
        unpacked(packed, coding, max_bytes=999_999)


@packers
def test_a_bomb_takes_memory_for_one_piece_only(coding: Coding, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(bytes(100 << 20))
    tracemalloc.start()
    total = 0
    for piece in inflate(packed, (coding,), BIG):
        assert len(piece) <= limits.INFLATE_INLINE_BYTES
        total += len(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 100 << 20
    assert peak < 3 << 20


def test_a_bomb_inside_a_bomb_is_stopped_at_the_first_stage() -> None:
    members = gzip.compress(b"") * 2_000  # gives nothing in the end, however long it is
    with pytest.raises(TooLarge):
        unpacked(gzip.compress(members), Coding.GZIP, Coding.GZIP, max_bytes=10_000)


def test_millions_of_empty_members_are_not_worked_through() -> None:
    with pytest.raises(TooLarge, match="members"):
        unpacked(gzip.compress(b"") * (limits.MAX_GZIP_MEMBERS + 1), Coding.GZIP)


def test_taking_stops_at_the_budget_and_tells_the_end() -> None:
    pieces = iter([b"aa", b"bb", b"cc"])
    assert take(pieces, 3) == ([b"aa", b"bb"], False)
    assert take(pieces, 3) == ([b"cc"], True)


@given(st.binary(max_size=300), st.sampled_from(list(Coding)))
def test_any_bytes_are_inflated_or_refused(body: bytes, coding: Coding) -> None:
    try:
        unpacked(body, coding, max_bytes=10_000_000)
    except Rejected:
        pass
