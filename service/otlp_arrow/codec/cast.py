"""Batches of other programs, checked and brought into the storage schema.

What Arrow clients send is not trusted: the schema is held against ``SCHEMAS`` before any data is looked at, every
batch is validated in full before a value of it is touched, and then its values are held against the data model.

Taken are, in any order: all columns that are not nullable, and those nullable ones that the client has. A type may
differ from the stored one where no meaning is lost: any width of string, binary, list or integer, any dictionary
of them, any unit of timestamps (or plain integers of nanoseconds), and a list of ``{key, value}`` structs for a
map. Everything else is refused, by the name of the column.

The rules of the data model are those of the OTLP decoders (``rejection``, ``docs/decisions``): the ids of a span are
not all zero, an optional id that is all zero and a time of 0 are absent, times do not lie before 1970. Where
Arrow cannot say it in a schema: members of lists, and values and all fields of structs that OTLP has no absence
for, are not null.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, Protocol

import pyarrow as pa

from otlp_arrow.codec.lazy_compute import pc
from otlp_arrow.codec.origin import SERVICE_NAME
from otlp_arrow.codec.rejection import SPAN_ID_BYTES, TRACE_ID_BYTES
from otlp_arrow.codec.schema import BYTES, KEYWORD, MAP, SCHEMAS, SLICE, STR, TIME, VALUE, fields_of
from otlp_arrow.codec.values import from_value
from otlp_arrow.model import Rejected, Signal, TooLarge, limits

EXTENSION_KEY = b"ARROW:extension:name"
METRIC_TYPES = ("gauge", "sum", "histogram", "exponential_histogram", "summary")

# Fields of nested structs that may be null; all others are what protobuf has a default for.
OPTIONAL_FIELDS = frozenset(
    {"time_unix_nano", "trace_id", "span_id", "trace_state", "int_value", "double_value"}
    | {"str", "int", "double", "bool", "bytes"}
)


class Caster:
    """Brings batches of one client schema into ``SCHEMAS[signal]``.

    Raises ``Rejected``, naming the column, if the schema cannot be brought there.
    """

    def __init__(self, signal: Signal, schema: pa.Schema) -> None:
        self.signal = signal
        self._target = SCHEMAS[signal]
        self._exact = bool(schema.equals(self._target))
        _refuse_extensions(schema)
        positions = _positions(signal, schema)
        self._columns = [
            (positions.get(field.name), field, _plan(schema, positions.get(field.name), field))
            for field in self._target
        ]

    @property
    def exact(self) -> bool:
        """Whether the client's schema is the storage schema."""
        return self._exact

    def cast(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch in the storage schema: ``batch`` itself if it is exactly that already.

        Raises ``Rejected``; nothing of the batch may be used then.
        """
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as error:
            raise Rejected(f"the batch is damaged: {error}") from error
        if not batch.num_rows:
            return batch if self._exact else no_rows(self._target)
        taken: dict[str, pa.Array] = {}
        for position, field, node in self._columns:
            if position is None or (node is None and self._exact):
                continue
            array = batch.column(position)
            if array.offset:
                array = pa.concat_arrays([array])  # a copy that begins at 0, and so do its children
            fit = node.take(array) if node is not None else array
            if fit is not array or not self._exact:
                taken[field.name] = fit
        if not taken:
            return batch
        return pa.RecordBatch.from_arrays(list(self._filled(batch, taken)), schema=self._target)

    def _filled(self, batch: pa.RecordBatch, taken: dict[str, pa.Array]) -> Iterator[pa.Array]:
        """The columns, with what the client does not have put in: nulls, and the service's name from its resource."""
        for position, field, _ in self._columns:
            if field.name in taken:
                yield taken[field.name]
            elif position is not None:
                yield batch.column(position)
            elif field.name == "service_name":
                yield _service_names(taken["resource_attributes"])
            else:
                yield pa.nulls(batch.num_rows, field.type)


def conform(signal: Signal, batch: pa.RecordBatch) -> pa.RecordBatch:
    """One batch in the storage schema. Raises ``Rejected``."""
    return Caster(signal, batch.schema).cast(batch)


def no_rows(schema: pa.Schema) -> pa.RecordBatch:
    """A batch without rows."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


# -- the schema ----------------------------------------------------------------------------------


def _refuse_extensions(schema: pa.Schema) -> None:
    for field in schema:
        _refuse_extension(field, field.name)


def _refuse_extension(field: pa.Field, path: str) -> None:
    # The second spelling is that of ``arrow_messages.harmless_schema``.
    metadata = field.metadata or {}
    if isinstance(field.type, pa.BaseExtensionType) or EXTENSION_KEY in metadata or EXTENSION_KEY.lower() in metadata:
        raise Rejected(f"column {path!r} is of an extension type; send its storage type")
    for child in fields_of(field.type):
        _refuse_extension(child, f"{path}.{child.name}")


def _positions(signal: Signal, schema: pa.Schema) -> dict[str, int]:
    target = SCHEMAS[signal]
    positions: dict[str, int] = {}
    for position, name in enumerate(schema.names):
        if name not in target.names:
            raise Rejected(f"column {name[:100]!r} is not one of {signal.value}; the schema is in GetSchema")
        if name in positions:
            raise Rejected(f"column {name!r} is there twice")
        positions[name] = position
    for field in target:
        if not field.nullable and field.name not in positions:
            raise Rejected(f"column {field.name!r} of {signal.value} is missing; only nullable columns may be")
    return positions


class _Node(Protocol):
    """Takes the arrays of one column, or of a part of one: the same array if it is in order as it is."""

    def take(self, array: pa.Array) -> pa.Array:
        """Raises ``Rejected``."""


def _plan(schema: pa.Schema, position: int | None, target: pa.Field) -> _Node | None:
    if position is None:
        return None
    return _node(schema.field(position).type, target.type, target.name, required=not target.nullable)


def _node(source: pa.DataType, target: pa.DataType, path: str, *, required: bool) -> _Node | None:
    """What has to be done with arrays of ``source``; None if nothing."""
    if pa.types.is_null(source):
        if required:
            raise Rejected(f"column {path!r} is all null, which it may not be")
        return _Leaf(path, lambda array: pa.nulls(len(array), target), False, ())
    if pa.types.is_struct(target):
        return _struct(source, target, path, required)
    if pa.types.is_map(target):
        return _map(source, target, path, required)
    if pa.types.is_list(target):
        return _list(source, target, path, required)
    rules = _rules(target, path, required)
    convert = _conversion(source, target, path)
    return _Leaf(path, convert, required, rules) if convert or required or rules else None


def _unfit(path: str, source: pa.DataType, target: pa.DataType, reason: str = "") -> NoReturn:
    raise Rejected(f"column {path!r} is {_shown(source)}{reason}; {_shown(target)} is expected")


def _shown(type_: pa.DataType) -> str:
    text = str(type_)
    return text if len(text) <= 200 else text[:200] + "…"


# -- flat columns --------------------------------------------------------------------------------

_Convert = Callable[[pa.Array], pa.Array]
_Rule = Callable[[pa.Array, str], pa.Array]


class _Leaf:
    """A column without children."""

    def __init__(self, path: str, convert: _Convert | None, required: bool, rules: Iterable[_Rule]) -> None:
        self._path = path
        self._convert = convert
        self._required = required
        self._rules = tuple(rules)

    def take(self, array: pa.Array) -> pa.Array:
        if self._convert is not None:
            array = _converted(self._convert, array, self._path)
        if self._required and array.null_count:
            _refuse(self._path, array.is_null(), "is null")
        for rule in self._rules:
            array = rule(array, self._path)
        return array


def _converted(convert: _Convert, array: pa.Array, path: str) -> pa.Array:
    try:
        return convert(array)
    except (pa.ArrowException, OverflowError) as error:
        raise Rejected(f"column {path!r} does not fit: {error}") from error


def _refuse(path: str, mask: pa.Array, what: str) -> NoReturn:
    """``what`` is wrong where ``mask`` is true."""
    where = pc.index(mask, True).as_py()
    kind = "row" if "." not in path and "[" not in path else "entry"
    raise Rejected(f"column {path!r}: {kind} {where} {what}")


def _conversion(source: pa.DataType, target: pa.DataType, path: str) -> _Convert | None:
    if source == target:
        return None
    if pa.types.is_dictionary(target):
        if pa.types.is_dictionary(source) and _is_text(source.value_type):
            return _recoded
        if _is_text(source):
            return _encoded
    elif pa.types.is_dictionary(source):
        inner = _conversion(source.value_type, target, path)
        return functools.partial(_decoded, inner, path)
    elif _may_cast(source, target):
        if pa.types.is_fixed_size_binary(target):
            return functools.partial(_to_id, target)
        if target == TIME and pa.types.is_integer(source):
            return lambda array: array.cast(pa.int64()).cast(TIME)
        return lambda array: array.cast(target)
    reason = " without a time zone" if pa.types.is_timestamp(source) and source.tz is None else ""
    _unfit(path, source, target, reason)


def _may_cast(source: pa.DataType, target: pa.DataType) -> bool:
    is_binary = pa.types.is_binary(source) or pa.types.is_large_binary(source) or source == pa.binary_view()
    if pa.types.is_string(target):
        return _is_text(source)
    if pa.types.is_fixed_size_binary(target):
        return bool(is_binary)
    if pa.types.is_binary(target):
        return bool(is_binary or pa.types.is_fixed_size_binary(source))
    if pa.types.is_timestamp(target):
        return source.tz is not None if pa.types.is_timestamp(source) else source in (pa.int64(), pa.uint64())
    if pa.types.is_integer(target):
        return bool(pa.types.is_integer(source))
    if pa.types.is_floating(target):
        return bool(pa.types.is_floating(source) or pa.types.is_integer(source))
    return False


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or type_ == pa.string_view())


def _encoded(array: pa.Array) -> pa.Array:
    return array.cast(pa.utf8()).dictionary_encode()


def _recoded(array: pa.Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(array.indices.cast(pa.int32()), array.dictionary.cast(pa.utf8()))


def _decoded(inner: _Convert | None, path: str, array: pa.Array) -> pa.Array:
    _bound_repetition(array, path)
    plain = array.dictionary_decode()
    return inner(plain) if inner is not None else plain


def _to_id(target: pa.DataType, array: pa.Array) -> pa.Array:
    """Bytes of any length to ids; empty ones are absent. Raises ``pa.ArrowInvalid`` for other lengths."""
    array = array.cast(pa.binary())
    return pc.if_else(pc.equal(pc.binary_length(array), 0), _null(pa.binary()), array).cast(target)


# -- the rules of the data model -----------------------------------------------------------------
#
# Each looks at raw bytes first and asks Arrow only where they are suspicious: one kernel call from Python
# takes 10 to 25 µs, a look at the bytes of 512 rows one or two.

# The highest byte of a time that is neither 0 nor before 1970 nor, by 2**56 ns, before 1972.
PLAUSIBLE_HIGH_BYTES = bytes(range(1, 128))
_HIGH_BYTE = 7 if sys.byteorder == "little" else 0
# ``pa.scalar`` imports pandas where it is installed: half a second and 60 MB on the first batch.
_ZERO_IDS = {
    width: pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), 1, [None, pa.py_buffer(bytes(width))])[0]
    for width in (SPAN_ID_BYTES, TRACE_ID_BYTES)
}
FLAT_VALUE_TYPES = bytes(sorted(set(range(BYTES + 1)) - {MAP, SLICE}))


def _rules(target: pa.DataType, path: str, required: bool) -> tuple[_Rule, ...]:
    if target == TIME:
        return (_check_times,)
    if pa.types.is_fixed_size_binary(target):
        return (_check_ids if required else _check_optional_ids,)
    if target == KEYWORD:
        return (_check_keywords, _check_metric_types) if path == "metric_type" else (_check_keywords,)
    return ()


def _null(type_: pa.DataType) -> pa.Scalar:
    return pa.nulls(1, type_)[0]


def _bytes(array: pa.Array, width: int) -> bytes:
    """The values of an array of fixed width, those under nulls too."""
    data = array.buffers()[1]
    if data is None:
        return b""
    return memoryview(data)[array.offset * width : (array.offset + len(array)) * width].tobytes()


def _check_times(array: pa.Array, path: str) -> pa.Array:
    if not _bytes(array, 8)[_HIGH_BYTE::8].translate(None, PLAUSIBLE_HIGH_BYTES):
        return array
    unix_nano = array.view(pa.int64())
    least = pc.min(unix_nano).as_py()
    if least is None or least > 0:
        return array
    if least < 0:
        _refuse(path, pc.less(unix_nano, 0), "is before 1970")
    return pc.if_else(pc.equal(unix_nano, 0), _null(TIME), array)


def _zero_ids(array: pa.Array) -> pa.Array | None:
    zero = bytes(array.type.byte_width)
    if zero not in _bytes(array, len(zero)):
        return None
    zeros = pc.equal(array, _ZERO_IDS[len(zero)])
    return zeros if pc.any(zeros).as_py() else None


def _check_ids(array: pa.Array, path: str) -> pa.Array:
    zeros = _zero_ids(array)
    if zeros is not None:
        _refuse(path, zeros, "is all zero")
    return array


def _check_optional_ids(array: pa.Array, path: str) -> pa.Array:
    zeros = _zero_ids(array)
    return array if zeros is None else pc.if_else(zeros, _null(array.type), array)


def _check_keywords(array: pa.Array, path: str) -> pa.Array:
    if array.dictionary.null_count:
        raise Rejected(f"column {path!r}: its dictionary holds a null; nulls belong into the indices")
    _bound_repetition(array, path)
    return array


def _bound_repetition(array: pa.Array, path: str) -> None:
    """A dictionary of one huge string and a million indices is small until somebody writes it out."""
    dictionary = array.dictionary
    if dictionary.get_total_buffer_size() * len(array) <= limits.MAX_REPEATED_BYTES or not _is_long(dictionary.type):
        return
    total = pc.sum(pc.binary_length(dictionary).take(array.indices)).as_py() or 0
    if total > limits.MAX_REPEATED_BYTES:
        raise TooLarge(
            f"column {path!r} is too large: its dictionary repeated on every row takes {total} bytes; "
            f"send fewer rows a batch or shorter strings"
        )


def _is_long(type_: pa.DataType) -> bool:
    return _is_text(type_) or bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _check_metric_types(array: pa.Array, path: str) -> pa.Array:
    names = array.dictionary
    if len(names) > len(METRIC_TYPES) or not set(names.to_pylist()) <= set(METRIC_TYPES):
        known = pc.is_in(names, value_set=pa.array(METRIC_TYPES))
        unknown = pc.invert(known.take(array.indices))
        if pc.any(unknown).as_py():
            _refuse(path, unknown, f"is none of {', '.join(METRIC_TYPES)}")
    return array


# -- nested columns ------------------------------------------------------------------------------


class _Struct:
    """A struct; its fields may come in any order, and optional ones may be missing."""

    def __init__(self, path: str, target: pa.DataType, required: bool) -> None:
        self._path = path
        self._target = target
        self._required = required
        self._children: list[tuple[int | None, _Node | None]] = []
        self.exact = False

    def add(self, position: int | None, node: _Node | None) -> None:
        self._children.append((position, node))

    def take(self, array: pa.Array) -> pa.Array:
        if self._required and array.null_count:
            _refuse(self._path, array.is_null(), "is null")
        children = []
        changed = not self.exact
        for index, (position, node) in enumerate(self._children):
            if position is None:
                children.append(pa.nulls(len(array), self._target.field(index).type))
                continue
            if node is None and self.exact:
                children.append(None)
                continue
            child = array.field(position)
            taken = node.take(child) if node is not None else child
            changed |= taken is not child
            children.append(taken)
        if changed:
            whole = [array.field(i) if child is None else child for i, child in enumerate(children)]
            array = pa.StructArray.from_arrays(whole, fields=list(self._target), mask=_mask(array))
        if self._target == VALUE:
            _check_values(array, self._path)
        return array


class _Members:
    """A list or a map: offsets, and the arrays that they cut."""

    def __init__(self, path: str, target: pa.DataType, required: bool, exact: bool, *nodes: _Node | None) -> None:
        self._path = path
        self._target = target
        self._required = required
        self._exact = exact
        self._nodes = nodes

    def take(self, array: pa.Array) -> pa.Array:
        if self._required and array.null_count:
            _refuse(self._path, array.is_null(), "is null")
        members = self._members(array)
        if self._exact and not len(members[0]):
            return array
        taken = [
            node.take(member) if node is not None else member for node, member in zip(self._nodes, members, strict=True)
        ]
        if self._exact and all(new is old for new, old in zip(taken, members, strict=True)):
            return array
        if not len(array):
            return pa.nulls(0, self._target)
        return _converted(lambda whole: self._rebuilt(whole, taken), array, self._path)

    def _members(self, array: pa.Array) -> list[pa.Array]:
        if pa.types.is_map(array.type):
            return [array.keys, array.items]
        if pa.types.is_map(self._target):
            entries = array.values
            return [entries.field(0), entries.field(1)]
        return [array.values]

    def _rebuilt(self, array: pa.Array, members: list[pa.Array]) -> pa.Array:
        kind = pa.MapArray if pa.types.is_map(self._target) else pa.ListArray
        return kind.from_arrays(array.offsets.cast(pa.int32()), *members, type=self._target, mask=_mask(array))


def _mask(array: pa.Array) -> pa.Array | None:
    return array.is_null() if array.null_count else None


def _struct(source: pa.DataType, target: pa.DataType, path: str, required: bool) -> _Node:
    if not pa.types.is_struct(source):
        _unfit(path, source, target)
    names = [source.field(index).name for index in range(source.num_fields)]
    for name in names:
        if target.get_field_index(name) < 0 or names.count(name) > 1:
            raise Rejected(f"column {path!r} has an unknown or repeated field {name[:100]!r}")
    node = _Struct(path, target, required)
    node.exact = source == target
    for field in target:
        optional = field.name in OPTIONAL_FIELDS
        if field.name in names:
            position = names.index(field.name)
            inner = _node(source.field(position).type, field.type, f"{path}.{field.name}", required=not optional)
            node.add(position, inner)
        elif optional:
            node.add(None, None)
        else:
            raise Rejected(f"column {path!r} lacks the field {field.name!r}")
    return node


def _list(source: pa.DataType, target: pa.DataType, path: str, required: bool) -> _Node:
    if not (pa.types.is_list(source) or pa.types.is_large_list(source)):
        _unfit(path, source, target)
    inner = _node(source.value_type, target.value_type, f"{path}[]", required=True)
    return _Members(path, target, required, source == target, inner)


def _map(source: pa.DataType, target: pa.DataType, path: str, required: bool) -> _Node:
    if pa.types.is_map(source):
        key, item = source.key_type, source.item_type
    elif _is_list_of_pairs(source):
        key, item = (source.value_type.field(index).type for index in range(2))
    else:
        _unfit(path, source, target)
    keys = _node(key, target.key_type, f"{path}.key", required=True)
    items = _node(item, target.item_type, f"{path}.value", required=True)
    return _Members(path, target, required, source == target, keys, items)


def _is_list_of_pairs(type_: pa.DataType) -> bool:
    """What programs without a map type make of one."""
    if not (pa.types.is_list(type_) or pa.types.is_large_list(type_)) or not pa.types.is_struct(type_.value_type):
        return False
    return [field.name for field in type_.value_type] == ["key", "value"]


def _check_values(array: pa.Array, path: str) -> None:
    """Attribute values: known types; texts of lists and maps are what the codec can read back.

    A value whose own field is null is an empty one, for every reader.
    """
    types = array.field("type")
    if not _bytes(types, 1).translate(None, FLAT_VALUE_TYPES):
        return
    unknown = pc.greater(types, BYTES)
    if pc.any(unknown).as_py():
        _refuse(path, unknown, f"has a type above {BYTES}")
    nested = pc.indices_nonzero(pc.or_(pc.equal(types, MAP), pc.equal(types, SLICE)))
    texts = zip(types.take(nested).to_pylist(), array.field("str").take(nested).to_pylist(), strict=True)
    entries = dict(zip(texts, nested.to_pylist(), strict=True))  # a resource has the same list on every row
    for (type_, text), index in entries.items():
        try:
            from_value((type_, text, None, None, None, None))
        except ValueError as error:
            raise Rejected(f"column {path!r}: entry {index}: {error}") from error


def _service_names(resources: pa.Array) -> pa.Array:
    """The column ``service_name`` from ``resource_attributes``, as the decoders fill it."""
    named = pc.equal(resources.keys.cast(pa.utf8()), SERVICE_NAME)
    is_text = pc.equal(resources.items.field("type"), STR)
    found = pc.indices_nonzero(pc.and_(named, is_text)).to_pylist()
    ends = resources.offsets.to_pylist()
    entries: list[int | None] = []
    at = 0
    for begin, end in itertools.pairwise(ends):
        while at < len(found) and found[at] < begin:
            at += 1
        entries.append(found[at] if at < len(found) and found[at] < end else None)
    return resources.items.field("str").take(pa.array(entries, pa.int64())).dictionary_encode()
