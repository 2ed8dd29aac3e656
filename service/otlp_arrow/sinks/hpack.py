"""Header blocks (RFC 7541) of a client that lets its peer keep no table: every block can be read by itself.

Pure, and slow; a peer's blocks are few and the same, so whoever reads them remembers them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Fields = list[tuple[str, str]]

# RFC 7541, appendix A.
_STATIC: tuple[tuple[str, str], ...] = (
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
)  # fmt: skip

# RFC 7541, appendix B. The code is canonical, so that the lengths of the 257 codes say it all.
_LENGTHS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28,
    28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15,
    6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22,
    20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23,
    23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22,
    22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26,
    27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27,
    26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
)  # fmt: skip
_END_OF_STRING = 256


def _codes() -> Iterator[tuple[tuple[int, int], int]]:
    code = length = 0
    for bits, symbol in sorted((bits, symbol) for symbol, bits in enumerate(_LENGTHS)):
        code <<= bits - length
        length = bits
        yield (length, code), symbol
        code += 1


_SYMBOLS = dict(_codes())


class HpackError(Exception):
    """A block that cannot be read; the connection is over."""


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """A block of fields, none of them for the peer's table."""
    block = bytearray()
    for name, value in fields:
        block.append(0)
        for text in (name.encode("latin-1"), value.encode("latin-1")):
            _put_integer(block, len(text))
            block += text
    return bytes(block)


def decode(block: bytes) -> Fields:
    """The fields of a block. Raises ``HpackError``, also for entries of a table that we did not allow."""
    fields: Fields = []
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            index, at = _integer(block, at, 7)
            fields.append(_entry(index))
            continue
        if first & 0xE0 == 0x20:
            size, at = _integer(block, at, 5)
            if size:
                raise HpackError("a header table where none is allowed")
            continue
        index, at = _integer(block, at, 6 if first & 0x40 else 4)
        if index:
            name = _entry(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        fields.append((name, value))
    return fields


def _entry(index: int) -> tuple[str, str]:
    if not 0 < index <= len(_STATIC):
        raise HpackError(f"no header with number {index}")
    return _STATIC[index - 1]


def _put_integer(block: bytearray, value: int) -> None:
    if value < 127:
        block.append(value)
        return
    block.append(127)
    value -= 127
    while value >= 128:
        block.append(value & 127 | 128)
        value >>= 7
    block.append(value)


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    mask = (1 << bits) - 1
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in (0, 7, 14, 21):
        if at >= len(block):
            break
        value += (block[at] & 127) << shift
        at += 1
        if block[at - 1] < 128:
            return value, at
    raise HpackError("a number that is cut off or too long")


def _string(block: bytes, at: int) -> tuple[str, int]:
    if at >= len(block):
        raise HpackError("a string that is cut off")
    coded = block[at] & 0x80
    length, at = _integer(block, at, 7)
    raw = block[at : at + length]
    if len(raw) < length:
        raise HpackError("a string that is cut off")
    return (_unhuffman(raw) if coded else raw).decode("latin-1"), at + length


def _unhuffman(raw: bytes) -> bytes:
    out = bytearray()
    code = length = 0
    for byte in raw:
        for bit in range(7, -1, -1):
            code = code << 1 | byte >> bit & 1
            length += 1
            symbol = _SYMBOLS.get((length, code))
            if symbol is None:
                continue
            if symbol == _END_OF_STRING:
                raise HpackError("the end of a string within it")
            out.append(symbol)
            code = length = 0
    if length > 7 or code != (1 << length) - 1:
        raise HpackError("a string that does not end on a symbol")
    return bytes(out)
