"""OTLP requests as no sender would write them, and all the ways in which protobuf allows it.

``requests`` follows the message descriptors: every field, in any order, repeated singular fields, packed and
unpacked numbers, unknown fields, groups, other wire types than declared, longer varints than needed, and now
and then what is malformed. ``mutated`` damages real requests. Both give the same bytes for the same seed.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otlp_arrow.model import Signal

REQUESTS = {
    Signal.TRACES: ExportTraceServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
}

_VARINT, _I64, _LEN, _START, _END, _I32 = range(6)
_WIRE_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: _I64,
    FieldDescriptor.TYPE_FIXED64: _I64,
    FieldDescriptor.TYPE_SFIXED64: _I64,
    FieldDescriptor.TYPE_FIXED32: _I32,
    FieldDescriptor.TYPE_STRING: _LEN,
    FieldDescriptor.TYPE_BYTES: _LEN,
    FieldDescriptor.TYPE_MESSAGE: _LEN,
}
_TEXTS = [
    *("", "a", "service.name", "service.name", "http.request.method", "$", "$bytes", "$$x", "\0", "\x7f"),
    *('say "hi"\\\n\t\r\b\f\x01\x1f', "Grüße, 世界 🌍", "x" * 31, "x" * 32, "y" * 33, "long " * 40, "é" * 20),
]
_BROKEN_TEXTS = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"abc\xe2\x82", b"x" * 40 + b"\x80"]
_DOUBLES = [0.0, -0.0, 1.0, 0.1, -2.5, 1e16, 1e-5, 123456789.123, 5e-324, 1.7976931348623157e308, 2.0**60, 1 / 3]
_ODD_DOUBLES = [float("nan"), float("inf"), float("-inf")]
_INTEGERS = [0, 1, 2, 3, 5, 127, 128, 300, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


class Writer:
    """Writes messages by their descriptors. ``oddity``: how often (0 to 1) a field is not as a sender has it."""

    def __init__(self, rng: random.Random, oddity: float = 0.03, malformed: float = 0.0) -> None:
        self._rng = rng
        self._oddity = oddity
        self._malformed = malformed

    def message(self, descriptor: Descriptor, depth: int = 0) -> bytes:
        rng = self._rng
        fields: list[bytes] = []
        for field in descriptor.fields:
            if field.containing_oneof and len(field.containing_oneof.fields) > 1 and rng.random() < 0.7:
                continue
            fields += [self.field(field, depth) for _ in range(self._times(field, depth))]
        if rng.random() < self._oddity:
            fields.append(self._unknown(depth))
        if self._odd() and self._odd():
            rng.shuffle(fields)
        return b"".join(fields)

    def _odd(self) -> bool:
        return self._rng.random() < self._oddity**0.5

    def _times(self, field: FieldDescriptor, depth: int) -> int:
        rng = self._rng
        if depth > 12:
            return 0
        if field.is_repeated:
            if field.message_type is None:
                return rng.choice([0, 0, 1, 2])
            many = [0, 1, 1, 2, 3] if depth < 4 else [0, 0, 0, 1, 2]
            return rng.choice(many)
        if field.message_type is not None and rng.random() < 0.9:
            return 1
        return 2 if rng.random() < self._oddity else int(rng.random() < 0.7)

    def field(self, field: FieldDescriptor, depth: int) -> bytes:
        rng = self._rng
        if rng.random() < self._oddity / 4:
            return self._unknown(depth, field.number)
        wire_type = _WIRE_TYPES.get(field.type, _VARINT)
        if field.is_repeated and wire_type != _LEN and rng.random() < 0.7:
            count = rng.choice([0, 1, 2, 11])
            return self._delimited(field.number, b"".join(self._scalar(field) for _ in range(count)))
        if field.message_type is not None:
            return self._delimited(field.number, self.message(field.message_type, depth + 1))
        if wire_type == _LEN:
            return self._delimited(field.number, self._bytes(field))
        return self._tag(field.number, wire_type) + self._scalar(field)

    def _bytes(self, field: FieldDescriptor) -> bytes:
        rng = self._rng
        if field.type == FieldDescriptor.TYPE_STRING:
            return rng.choice(_BROKEN_TEXTS) if rng.random() < self._malformed else rng.choice(_TEXTS).encode()
        if field.name.endswith("_id"):
            size = 16 if field.name == "trace_id" else 8
            if rng.random() < self._oddity:
                return rng.choice([b"", bytes(size), rng.randbytes(size + 1), rng.randbytes(3)])
            return rng.randbytes(size)
        return rng.randbytes(rng.choice([0, 1, 2, 3, 40]))

    def _scalar(self, field: FieldDescriptor) -> bytes:
        rng = self._rng
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            pool = _ODD_DOUBLES if rng.random() < 0.1 else _DOUBLES
            return struct.pack("<d", rng.choice(pool) if rng.random() < 0.8 else rng.random())
        if field.type in (FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64):
            if field.name.endswith("time_unix_nano"):
                late = rng.random() < self._oddity / 3
                return struct.pack("<Q", 2**63 if late else rng.choice([0, 1, 1_700_000_000_000_000_000, 2**63 - 1]))
            return struct.pack("<Q", rng.choice(_INTEGERS))
        if field.type == FieldDescriptor.TYPE_FIXED32:
            return struct.pack("<I", rng.choice(_INTEGERS) & 0xFFFFFFFF)
        return self._varint(rng.choice(_INTEGERS))

    def _unknown(self, depth: int, number: int | None = None) -> bytes:
        """A field that no message has, or one with another wire type."""
        rng = self._rng
        number = number or rng.choice([16, 17, 99, 2047, 2**29 - 1])
        wire_type = rng.choice([_VARINT, _I64, _LEN, _START, _I32])
        if rng.random() < self._malformed:
            wire_type, number = rng.choice([(_END, number), (6, number), (7, number), (_VARINT, 0)])
        tag = self._tag(number, wire_type)
        if wire_type == _VARINT:
            return tag + self._varint(rng.choice(_INTEGERS))
        if wire_type == _I64:
            return tag + rng.randbytes(8)
        if wire_type == _I32:
            return tag + rng.randbytes(4)
        if wire_type == _START and depth < 12:
            inside = b"".join(self._unknown(depth + 1) for _ in range(rng.choice([0, 1, 2])))
            end = number + 1 if rng.random() < self._malformed else number
            return tag + inside + self._tag(end, _END)
        return self._delimited(number, rng.randbytes(rng.choice([0, 1, 5])))

    def _delimited(self, number: int, content: bytes) -> bytes:
        length = len(content)
        if self._rng.random() < self._malformed / 4:
            length += self._rng.choice([-1, 1, 1000, 2**32, 2**63])
        return self._tag(number, _LEN) + self._varint(max(length, 0)) + content

    def _tag(self, number: int, wire_type: int) -> bytes:
        return self._varint(number << 3 | wire_type, longest=5)

    def _varint(self, value: int, longest: int = 10) -> bytes:
        octets = bytearray()
        while value > 0x7F:
            octets.append(value & 0x7F | 0x80)
            value >>= 7
        octets.append(value)
        if self._rng.random() < self._oddity / 10:  # a longer way to write the same number
            longest += self._rng.random() < self._malformed
            while len(octets) < longest:
                octets[-1] |= 0x80
                octets.append(0)
        return bytes(octets)


def requests(signal: Signal, count: int, seed: int) -> Iterator[bytes]:
    """Made-up requests: a third as senders write them, a third odd, a third odd and now and then malformed."""
    rng = random.Random(f"{signal.value} {seed}")
    for number in range(count):
        oddity, malformed = [(0.0, 0.0), (0.08, 0.0), (0.08, 0.0005)][number % 3]
        yield Writer(rng, oddity, malformed).message(REQUESTS[signal].DESCRIPTOR)


def shortened(signal: Signal, request: bytes) -> list[bytes]:
    """A request cut into small ones of a few records, so that one wrong byte does not spoil hundreds of others."""
    pieces = []
    whole = REQUESTS[signal].FromString(request)
    (groups,) = (field.name for field in whole.DESCRIPTOR.fields)
    for group in getattr(whole, groups):
        scopes = group.DESCRIPTOR.fields_by_number[2].name
        for scope in getattr(group, scopes):
            records = scope.DESCRIPTOR.fields_by_number[2].name
            count = len(getattr(scope, records))
            for start in range(0, count, max(3, count // 4)):
                piece = REQUESTS[signal]()
                small_group = getattr(piece, groups).add(resource=group.resource, schema_url=group.schema_url)
                small_scope = getattr(small_group, scopes).add(scope=scope.scope, schema_url=scope.schema_url)
                getattr(small_scope, records).extend(getattr(scope, records)[start : start + 3])
                pieces.append(piece.SerializeToString())
    return pieces


def mutated(originals: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Real requests with bytes changed, removed, repeated, exchanged, cut off, or lengths off by a little."""
    rng = random.Random(f"mutated {seed}")
    for _ in range(count):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            at = rng.randrange(len(data) + 1)
            span = rng.choice([1, 1, 2, 8, 50])
            match rng.randrange(8):
                case 0:
                    data[at : at + 1] = rng.randbytes(1)
                case 1:
                    if at < len(data):
                        data[at] ^= 1 << rng.randrange(8)
                case 2:
                    del data[at : at + span]
                case 3:
                    data[at:at] = data[at : at + span]
                case 4:
                    other = rng.randrange(len(data) + 1)
                    data[at : at + span], data[other : other + span] = data[other : other + span], data[at : at + span]
                case 5:
                    del data[at:]
                case 6:
                    if at < len(data):
                        data[at] = (data[at] + rng.choice([-1, 1])) % 256
                case 7:
                    data[at:at] = rng.choice([b"\xff" * 10, b"\x00", b"\x0b\x0c", b"\x80" * 5, b"\xc3\x28"])
        yield bytes(data)
