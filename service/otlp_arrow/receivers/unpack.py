"""From an HTTP body as it was sent to the request it holds: media types and content codings.

Codings are undone lazily in pieces, so that whoever pulls them decides where that happens and when to stop; no
piece is larger than ``limits.INFLATE_INLINE_BYTES``, and no stage gives more than the ceiling.
"""

from __future__ import annotations

import enum
import functools
import re
import zlib
from collections.abc import Iterable, Iterator

import pyarrow as pa

from otlp_arrow.model import Rejected, TooLarge, limits

_PIECE_BYTES = limits.INFLATE_INLINE_BYTES
# zlib hands back what it has not used yet as a copy; with slices the copies stay small.
_SLICE_BYTES = 64 * limits.KIB

_GZIP_WINDOW = 31
_ZLIB_WINDOW = 15
_RAW_WINDOW = -15


class Media(enum.Enum):
    """What a body is written in."""

    PROTOBUF = "protobuf"
    JSON = "json"

    __hash__ = object.__hash__


class Coding(enum.Enum):
    """A content coding that can be undone."""

    GZIP = "gzip"
    DEFLATE = "deflate"
    ZSTD = "zstd"


class Unsupported(Rejected):
    """A media type or content coding that this door does not take."""


_MEDIA = {
    "application/x-protobuf": Media.PROTOBUF,
    "application/protobuf": Media.PROTOBUF,  # the name in the IETF's draft; some senders use it
    "application/json": Media.JSON,
}
_CODINGS = {
    "identity": None,
    "gzip": Coding.GZIP,
    "x-gzip": Coding.GZIP,
    "deflate": Coding.DEFLATE,
    "zlib": Coding.DEFLATE,  # what OpenTelemetry collectors call it
    "zstd": Coding.ZSTD,
}
ACCEPTED_CODINGS = "gzip, deflate, zstd"
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^";\s]+)', re.IGNORECASE)


# The headers of a sender do not change from request to request.
@functools.lru_cache(maxsize=64)
def media_type(content_type: str) -> tuple[Media, str]:
    """The media and the bare type (the reply carries the same). Raises ``Unsupported``."""
    bare = content_type.partition(";")[0].strip().lower()
    media = _MEDIA.get(bare)
    if media is None:
        if bare.startswith("application/grpc"):
            raise Unsupported("this port speaks OTLP/HTTP; OTLP/gRPC has its own port, 4317 by default")
        shown = f"content type {bare[:100]!r}" if bare else "a request without content type"
        raise Unsupported(f"{shown} is not taken; send application/x-protobuf or application/json")
    charset = _CHARSET.search(content_type)
    if media is Media.JSON and charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Unsupported(f"JSON in charset {charset[1][:100]!r} is not taken; send utf-8")
    return media, bare


@functools.lru_cache(maxsize=64)
def codings(content_encoding: str) -> tuple[Coding, ...]:
    """The codings of a Content-Encoding header in the order they were applied. Raises ``Unsupported``."""
    found = []
    for name in content_encoding.lower().split(","):
        name = name.strip()
        if name and name not in _CODINGS:
            raise Unsupported(f"content encoding {name[:100]!r} is not taken; send identity, {ACCEPTED_CODINGS}")
        coding = _CODINGS.get(name)
        if coding is not None:
            found.append(coding)
    if len(found) > limits.MAX_BODY_ENCODINGS:
        raise Unsupported(f"{len(found)} content encodings on one body; at most {limits.MAX_BODY_ENCODINGS} are taken")
    return tuple(found)


def inflate(body: bytes, applied: tuple[Coding, ...], max_bytes: int) -> Iterator[bytes]:
    """The pieces of the body with its codings undone; work happens as they are pulled.

    Raises ``Rejected`` while pulling if the body is damaged, ends early or goes on after its end, and ``TooLarge``
    if any stage gives more than ``max_bytes``.
    """
    pieces: Iterator[bytes] = iter((body,) if body else ())  # an empty body is an empty request in any coding
    for coding in reversed(applied):
        pieces = _bounded(_STAGES[coding](pieces), max_bytes)
    return pieces


def take(pieces: Iterator[bytes], nbytes: int) -> tuple[list[bytes], bool]:
    """Pull until there are ``nbytes`` or no more; whether the end was reached."""
    taken: list[bytes] = []
    total = 0
    for piece in pieces:
        taken.append(piece)
        total += len(piece)
        if total >= nbytes:
            return taken, False
    return taken, True


def _bounded(pieces: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > max_bytes:
            raise TooLarge(f"the body inflates to more than {max_bytes} bytes")
        yield piece


def _inflate_gzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """RFC 1952: any number of members, one after the other, and nothing else."""
    decoder = None
    members = 0
    for data in _slices(pieces):
        rest: bytes | memoryview = data
        while rest:
            if decoder is None or decoder.eof:
                members += 1
                if members > limits.MAX_GZIP_MEMBERS:
                    raise TooLarge(f"the gzip body has more than {limits.MAX_GZIP_MEMBERS} members")
                decoder = zlib.decompressobj(_GZIP_WINDOW)
            piece = _decompress(decoder, rest, "gzip")
            if piece:
                yield piece
            rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
    if decoder is not None:
        yield from _drain(decoder, "gzip")


def _inflate_deflate(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """ "deflate" is RFC 1950 by the book, and bare RFC 1951 from some senders; the first two bytes tell."""
    decoder = None
    for data in _slices(pieces):
        if decoder is None:
            zlib_header = len(data) >= 2 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
            decoder = zlib.decompressobj(_ZLIB_WINDOW if zlib_header else _RAW_WINDOW)
        rest: bytes | memoryview = data
        while rest:
            piece = _decompress(decoder, rest, "deflate")
            if piece:
                yield piece
            if decoder.unused_data:
                raise Rejected("the deflate body goes on after its end")
            rest = decoder.unconsumed_tail
    if decoder is not None:
        yield from _drain(decoder, "deflate")


def _inflate_zstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """RFC 8878, frames one after the other.

    Arrow's reader rather than a binding of zstd: it is there in any case, gives bounded pieces
    whatever the input expands to, and knows a stream that was cut from one that ended.
    """
    body = b"".join(pieces)
    if not body:
        return
    try:
        with pa.CompressedInputStream(pa.BufferReader(body), "zstd") as stream:
            while piece := stream.read(_PIECE_BYTES):
                yield piece
    except OSError as error:
        raise Rejected(f"the zstd body is damaged or cut: {error}") from error


_STAGES = {Coding.GZIP: _inflate_gzip, Coding.DEFLATE: _inflate_deflate, Coding.ZSTD: _inflate_zstd}


def _slices(pieces: Iterable[bytes]) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        if len(piece) <= _SLICE_BYTES:
            yield piece
        else:
            view = memoryview(piece)
            yield from (view[start : start + _SLICE_BYTES] for start in range(0, len(view), _SLICE_BYTES))


def _decompress(decoder: zlib._Decompress, data: bytes | memoryview, name: str) -> bytes:
    try:
        return decoder.decompress(data, _PIECE_BYTES)
    except zlib.error as error:
        raise Rejected(f"the {name} body is damaged: {error}") from error


def _drain(decoder: zlib._Decompress, name: str) -> Iterator[bytes]:
    """What the decoder still holds once all input is in it."""
    while not decoder.eof:
        piece = _decompress(decoder, b"", name)
        if not piece and not decoder.eof:
            raise Rejected(f"the {name} body ends early")
        if piece:
            yield piece
