"""OTLP/JSON ⇄ protobuf bytes, driven by the message descriptors.

OTLP's mapping differs from protobuf's own in three ways: ids are hex (in either case), enums are numbers,
and keys are lowerCamelCase only. ``google.protobuf.json_format`` knows none of them and cannot say
where in a body an error stands, so the walk is done here; errors name the path, as in
``resourceSpans[0].scopeSpans[0].spans[3].startTimeUnixNano: "soon" is no integer``.

Taken beyond the letter of the specification: ids in base64 (some exporters send protobuf's mapping), enums by
name, base64 in the URL alphabet or without padding. Unknown keys are ignored; null means absent. A
text id of a wrong length is left to the data model, which refuses that record alone.
"""

from __future__ import annotations

import base64
import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from google.protobuf.descriptor import Descriptor, EnumValueDescriptor, FieldDescriptor
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otlp_arrow.codec.rejection import SPAN_ID_BYTES, TRACE_ID_BYTES
from otlp_arrow.model import Rejected, Signal, limits

_REQUESTS: dict[Signal, type[Message]] = {
    Signal.TRACES: ExportTraceServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
}

_ID_BYTES = {"trace_id": TRACE_ID_BYTES, "span_id": SPAN_ID_BYTES, "parent_span_id": SPAN_ID_BYTES}
_MAX_PATH_CHARS = 1_000  # of an error message; a path can be a hundred keys long


class _Wrong(Exception):
    """What is wrong with a JSON value; each level that it rises through puts its key in front."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.path: list[str] = []

    def __str__(self) -> str:
        path = "".join(reversed(self.path)).removeprefix(".") or "the body"
        if len(path) > _MAX_PATH_CHARS:
            path = f"{path[: _MAX_PATH_CHARS // 2]}…{path[-_MAX_PATH_CHARS // 2 :]}"
        return f"{path}: {self.what}"[: limits.MAX_ERROR_MESSAGE_CHARS]


def json_to_protobuf(signal: Signal, text: bytes | str) -> bytes:
    """The Export…ServiceRequest that an OTLP/JSON body describes, in protobuf.

    Raises ``Rejected``, naming the path, if the body is no UTF-8, no JSON or no such request.
    """
    request = _REQUESTS[signal]()
    try:
        _fill(request, _parse(text), 0)
    except _Wrong as wrong:
        raise Rejected(str(wrong)) from None
    return request.SerializeToString()


def protobuf_to_json(signal: Signal, payload: bytes) -> str:
    """A valid Export…ServiceRequest as OTLP/JSON, compact, default values left out."""
    request = _REQUESTS[signal].FromString(payload)
    return json.dumps(_object(request), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


# -- from JSON -----------------------------------------------------------------------------------


def _parse(text: bytes | str) -> Any:
    try:
        text = text if isinstance(text, str) else text.decode()
        return json.loads(text, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _Wrong(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise _Wrong("nested too deeply") from None
    except ValueError as error:
        raise _Wrong(f"not JSON: {error}") from None


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f'{word} stands bare; JSON has it as the string "{word}"')


class _Field(NamedTuple):
    """How to set one field of a message."""

    name: str
    repeated: bool
    oneof: str | None
    read: Callable[[Any], Any] | None
    """From a JSON value to the field's; None for a message."""


@functools.cache
def _fields(descriptor: Descriptor) -> dict[str, _Field]:
    return {
        field.json_name: _Field(
            field.name,
            _is_repeated(field),
            field.containing_oneof.name if field.containing_oneof else None,
            None if field.message_type else _reader(field),
        )
        for field in descriptor.fields
    }


def _is_repeated(field: FieldDescriptor) -> bool:
    # FieldDescriptor.label is deprecated and is_repeated is newer than the oldest protobuf we take.
    return bool(field.default_value == [])


def _fill(message: Message, value: Any, depth: int) -> None:
    if depth > limits.MAX_MESSAGE_DEPTH:
        raise _Wrong(f"nested deeper than {limits.MAX_MESSAGE_DEPTH} messages")
    if not isinstance(value, dict):
        raise _Wrong(f"an object expected, not {_shown(value)}")
    fields = _fields(message.DESCRIPTOR)
    for key, member in value.items():
        field = fields.get(key)
        if field is None or member is None:
            continue
        try:
            if field.repeated:
                _fill_list(getattr(message, field.name), field, member, depth)
            else:
                _fill_field(message, field, member, depth)
        except _Wrong as wrong:
            wrong.path.append(f".{key}")
            raise


def _fill_field(message: Message, field: _Field, value: Any, depth: int) -> None:
    if field.oneof and (other := message.WhichOneof(field.oneof)):
        raise _Wrong(f"{other} is given as well; only one of them can be")
    if field.read:
        setattr(message, field.name, field.read(value))
    else:
        child = getattr(message, field.name)
        child.SetInParent()  # an empty object is present
        _fill(child, value, depth + 1)


def _fill_list(members: Any, field: _Field, value: Any, depth: int) -> None:
    if not isinstance(value, list):
        raise _Wrong(f"an array expected, not {_shown(value)}")
    for index, member in enumerate(value):
        try:
            if field.read:
                members.append(field.read(member))
            else:
                _fill(members.add(), member, depth + 1)
        except _Wrong as wrong:
            wrong.path.append(f"[{index}]")
            raise


def _shown(value: Any) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "an array"
        case None:
            return "null"
    text = json.dumps(value)  # ASCII: half a surrogate pair could not be sent back
    return text if len(text) <= 60 else f"{text[:60]}…"


def _reader(field: FieldDescriptor) -> Callable[[Any], Any]:
    """How the value of a scalar field is read from JSON; the reader raises ``_Wrong``."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_INT32:
            return functools.partial(_integer, -(2**31), 2**31 - 1)
        case FieldDescriptor.CPPTYPE_INT64:
            return functools.partial(_integer, -(2**63), 2**63 - 1)
        case FieldDescriptor.CPPTYPE_UINT32:
            return functools.partial(_integer, 0, 2**32 - 1)
        case FieldDescriptor.CPPTYPE_UINT64:
            return functools.partial(_integer, 0, 2**64 - 1)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return _double
        case FieldDescriptor.CPPTYPE_BOOL:
            return _bool
        case FieldDescriptor.CPPTYPE_ENUM:
            return functools.partial(_enum, field.enum_type.values_by_name if field.enum_type else {})
        case _ if field.name in _ID_BYTES:
            return functools.partial(_id, _ID_BYTES[field.name])
        case _ if field.type == FieldDescriptor.TYPE_BYTES:
            return _bytes
        case _:
            return _string


_DIGITS = re.compile(r"-?[0-9]{1,20}")  # 2^64 has 20


def _integer(lowest: int, highest: int, value: Any) -> int:
    match value:
        case bool():
            raise _Wrong(f"{_shown(value)} is no integer")
        case int():
            number = value
        case float() if value.is_integer():  # 1e9, as protobuf's own mapping takes it
            number = int(value)
        case str() if _DIGITS.fullmatch(value):
            number = int(value)
        case _:
            raise _Wrong(f"{_shown(value)} is no integer")
    if not lowest <= number <= highest:
        raise _Wrong(f"{_shown(value)} is out of range, {lowest} to {highest}")
    return number


_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def _double(value: Any) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if isinstance(value, bool) or not (
        isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value))
    ):
        raise _Wrong(f"{_shown(value)} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise _Wrong(f"{_shown(value)} is out of range of a double")
    return number


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(f"true or false expected, not {_shown(value)}")
    return value


def _enum(members: Mapping[str, EnumValueDescriptor], value: Any) -> int:
    if isinstance(value, str) and value in members:
        return members[value].number
    return _integer(-(2**31), 2**31 - 1, value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"a string expected, not {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Wrong(f"{_shown(value)} holds half of a surrogate pair") from None
    return value


def _id(expected: int, value: Any) -> bytes:
    text = _string(value)
    try:
        if re.fullmatch(r"[0-9a-fA-F]*", text):
            return bytes.fromhex(text)
        if len(found := base64.b64decode(text, validate=True)) == expected:
            return found
    except ValueError:
        pass
    raise _Wrong(f"{_shown(value)} is no id; {2 * expected} hex digits expected")


def _bytes(value: Any) -> bytes:
    text = _string(value).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise _Wrong(f"{_shown(value)} is no base64") from None


# -- to JSON -------------------------------------------------------------------------------------

_64_BIT = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def _object(message: Message) -> dict[str, Any]:
    return {
        field.json_name: [_json(field, member) for member in value] if _is_repeated(field) else _json(field, value)
        for field, value in message.ListFields()
    }


def _json(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type:
        return _object(value)
    if field.cpp_type in _64_BIT:
        return str(value)
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return value.hex() if field.name in _ID_BYTES else base64.b64encode(value).decode()
    return value
