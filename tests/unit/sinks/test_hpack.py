"""Header blocks of the forwarding client, against the library that browsers' tests use."""

from __future__ import annotations

import hpack as library
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otlp_arrow.sinks.hpack import HpackError, decode, encode

NAMES = st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=20)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=200)
FIELDS = st.lists(st.tuples(NAMES | st.sampled_from([":status", "content-type", "grpc-status"]), VALUES), max_size=8)


@given(fields=FIELDS, huffman=st.booleans())
def test_what_a_peer_without_a_table_writes_is_read(fields: list[tuple[str, str]], huffman: bool):
    encoder = library.Encoder()
    encoder.header_table_size = 0
    assert decode(encoder.encode(fields, huffman=huffman)) == fields


@given(fields=FIELDS)
@example(fields=[("authorization", "Bearer " + "x" * 40_000)])
def test_what_is_written_can_be_read_by_others(fields: list[tuple[str, str]]):
    found = [(str(name), str(value)) for name, value in library.Decoder().decode(encode(fields))]
    assert found == fields


@given(text=st.binary(max_size=100))
def test_every_byte_has_its_code(text: bytes):
    block = library.Encoder().encode([(b"x", text)], huffman=True)
    assert decode(block) == [("x", text.decode("latin-1"))]


@given(block=st.binary(max_size=60))
def test_nonsense_is_refused_or_read_and_nothing_else(block: bytes):
    try:
        decode(block)
    except HpackError:
        pass


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"\xbe", "no header with number 62"),  # the first of a dynamic table
        (b"\x80", "no header with number 0"),
        (b"\x3f\xe1\x1f", "a header table where none is allowed"),
        (b"\x00\x01x\x05abc", "cut off"),
        (b"\x00\x01x", "cut off"),
        (b"\xff", "cut off or too long"),
        (b"\xff\xff\xff\xff\xff\xff\xff", "cut off or too long"),
        (b"\x00\x01x\x84\xff\xff\xff\xff", "the end of a string within it"),
        (b"\x00\x01x\x81\x00", "does not end on a symbol"),
    ],
)
def test_damage_is_named(block: bytes, reason: str):
    with pytest.raises(HpackError, match=reason):
        decode(block)
