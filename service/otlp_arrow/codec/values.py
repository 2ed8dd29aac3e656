"""OTLP's ``AnyValue`` and the ``VALUE`` and ``ATTRIBUTES`` columns: the one place that knows the mapping.

Scalars have a child of their own. Arrays and key-value lists are JSON text in ``str``, compact (no
spaces), in UTF-8 (only what JSON demands is escaped: ``"``, ``\\`` and U+0000 to U+001F, the latter as
``\\b \\t \\n \\f \\r`` or ``\\u00xx`` in lower case), so that text and value determine each other:

=============  =================================================================
empty          ``null``
string, bool   themselves
int            digits
double         Python's ``repr``: shortest that reads back, always with ``.`` or ``e``
NaN, ±infinity ``{"$double":"NaN"}``, ``"Infinity"``, ``"-Infinity"``
bytes          ``{"$bytes":"<base64, standard alphabet, padded>"}``
array          ``[…]``
key-value list ``{…}``: order and duplicates kept; ``$`` before a key that begins with ``$``
=============  =================================================================

``string_value_strindex`` and ``key_strindex`` belong to profiles; elsewhere OTLP has them treated as
absent, so the former is an empty value here and the latter is ignored.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from otlp_arrow.codec.schema import BOOL, BYTES, DOUBLE, EMPTY, INT, MAP, SLICE, STR
from otlp_arrow.model import limits

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1 import common_pb2 as pb
else:  # for what comes as OTLP the kernel needs no messages
    from otlp_arrow.model.lazy import LazyModule

    pb = LazyModule("opentelemetry.proto.common.v1.common_pb2")

Value = tuple[int, str | None, int | None, float | None, bool | None, bytes | None]
"""A row value of ``VALUE``: type, str, int, double, bool, bytes."""

Attributes = list[tuple[str, Value]]
"""A row value of ``ATTRIBUTES``."""

_EMPTY: Value = (EMPTY, None, None, None, None, None)
_MAX_LEVELS = limits.MAX_MESSAGE_DEPTH // 2  # each is two messages: the list and its value

_quoted = json.encoder.encode_basestring


def to_attributes(key_values: Iterable[pb.KeyValue]) -> Attributes:
    """The row value of a list of attributes."""
    return [(key_value.key, to_value(key_value.value)) for key_value in key_values]


def to_value(value: pb.AnyValue) -> Value:
    """The row value of one ``AnyValue``."""
    match value.WhichOneof("value"):
        case "string_value":
            return (STR, value.string_value, None, None, None, None)
        case "int_value":
            return (INT, None, value.int_value, None, None, None)
        case "double_value":
            return (DOUBLE, None, None, value.double_value, None, None)
        case "bool_value":
            return (BOOL, None, None, None, value.bool_value, None)
        case "bytes_value":
            return (BYTES, None, None, None, None, value.bytes_value)
        case "kvlist_value":
            return (MAP, _to_text(value), None, None, None, None)
        case "array_value":
            return (SLICE, _to_text(value), None, None, None, None)
        case _:
            return _EMPTY


def from_attributes(attributes: Attributes) -> list[pb.KeyValue]:
    """The reverse of ``to_attributes``. Raises ``ValueError``."""
    return [pb.KeyValue(key=key, value=from_value(value)) for key, value in attributes]


def from_value(value: Value | None) -> pb.AnyValue:
    """The reverse of ``to_value``; a null where the value should be is an empty one.

    Raises ``ValueError`` for a type or a text that no value has.
    """
    match value or _EMPTY:
        case (1, str(text), _, _, _, _):
            return pb.AnyValue(string_value=text)
        case (2, _, int(integer), _, _, _):
            return pb.AnyValue(int_value=integer)
        case (3, _, _, float(double), _, _):
            return pb.AnyValue(double_value=double)
        case (4, _, _, _, bool(boolean), _):
            return pb.AnyValue(bool_value=boolean)
        case (5, str(text), _, _, _, _):
            return _from_text(text, "kvlist_value", "object")
        case (6, str(text), _, _, _, _):
            return _from_text(text, "array_value", "array")
        case (7, _, _, _, _, bytes(octets)):
            return pb.AnyValue(bytes_value=octets)
        case (type_, *_) if type_ is None or type_ <= BYTES:
            return pb.AnyValue()
        case (type_, *_):
            raise ValueError(f"a value of type {type_}; 0 to {BYTES} are known")


def _to_text(value: pb.AnyValue) -> str:
    match value.WhichOneof("value"):
        case "string_value":
            return _quoted(value.string_value)
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return _double_text(value.double_value)
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "bytes_value":
            return f'{{"$bytes":"{base64.b64encode(value.bytes_value).decode()}"}}'
        case "array_value":
            return "[" + ",".join(_to_text(member) for member in value.array_value.values) + "]"
        case "kvlist_value":
            return "{" + ",".join(_member_text(member) for member in value.kvlist_value.values) + "}"
        case _:
            return "null"


def _member_text(member: pb.KeyValue) -> str:
    key = "$" + member.key if member.key.startswith("$") else member.key
    return f"{_quoted(key)}:{_to_text(member.value)}"


def _double_text(double: float) -> str:
    if math.isnan(double):
        return '{"$double":"NaN"}'
    if math.isinf(double):
        return '{"$double":"Infinity"}' if double > 0 else '{"$double":"-Infinity"}'
    return repr(double)


class _Object(list[tuple[str, Any]]):
    """A JSON object as its members in order, duplicates kept."""


def _from_text(text: str, member: str, kind: str) -> pb.AnyValue:
    try:
        value = _from_json(json.loads(text, object_pairs_hook=_Object, parse_constant=_no_constant), 0)
    except RecursionError:
        raise ValueError(f"a value nested deeper than {_MAX_LEVELS} levels") from None
    if value.WhichOneof("value") != member:
        raise ValueError(f"a value whose type wants a JSON {kind}, not {text[:40]!r}")
    return value


def _from_json(value: Any, level: int) -> pb.AnyValue:
    if level > _MAX_LEVELS:
        raise ValueError(f"a value nested deeper than {_MAX_LEVELS} levels")
    match value:
        case None:
            return pb.AnyValue()
        case str():
            return pb.AnyValue(string_value=value)
        case bool():  # before int: Python's bool is one
            return pb.AnyValue(bool_value=value)
        case int():
            return pb.AnyValue(int_value=value)
        case float():
            return pb.AnyValue(double_value=value)
        case _Object([("$bytes", str(encoded))]):
            return pb.AnyValue(bytes_value=base64.b64decode(encoded, validate=True))
        case _Object([("$double", "NaN" | "Infinity" | "-Infinity" as word)]):
            return pb.AnyValue(double_value=float(word))
        case _Object():
            members = [pb.KeyValue(key=_from_key(key), value=_from_json(member, level + 1)) for key, member in value]
            return pb.AnyValue(kvlist_value=pb.KeyValueList(values=members))
        case _:
            return pb.AnyValue(array_value=pb.ArrayValue(values=[_from_json(member, level + 1) for member in value]))


def _from_key(key: str) -> str:
    if key.startswith("$") and not key.startswith("$$"):
        raise ValueError(f"a key {key[:40]!r} that begins with a single $")
    return key[1:] if key.startswith("$$") else key


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"a bare {word}, which JSON does not have")
