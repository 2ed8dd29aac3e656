"""Messages of a client's schema as messages of the storage schema, where the columns are the same but for their order.

A client that has all columns as they are stored need not send them in our order, need not call them "not null", and
may leave out those that are all null. None of this is in the buffers: so they stay what they are, and only the
flatbuffer in front of them is written anew. Columns that are missing get buffers of zeros behind the body. What the
batch holds is not looked at here: the kernel does that afterwards, as with any other. On spans 2.2 to 2.7 µs of CPU
a row in all, instead of 5 by way of ``cast``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from otlp_arrow.codec.arrow_messages import Buffer, Kind, dictionary_ids, layout
from otlp_arrow.codec.arrow_writing import plain_header
from otlp_arrow.codec.schema import SCHEMAS, fields_of
from otlp_arrow.model import Signal


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the nodes, the buffers and the dictionaries of a column lie among all of its schema."""

    node: slice
    buffer: slice
    dictionary: slice


class Rearrangement:
    """From one client schema to ``SCHEMAS[signal]``.

    ``dictionaries``: for each encoded field of the storage schema, depth first, the client's number of its dictionary;
    ``numbers``: the storage schema's own. ``schema``: its message.
    """

    def __init__(
        self, signal: Signal, places: Sequence[_Place | pa.DataType], numbers: Sequence[int], nodes: int, buffers: int
    ) -> None:
        """See ``rearrangement``."""
        target = SCHEMAS[signal]
        self.schema = target.serialize().to_pybytes()[8:]
        self.numbers = dictionary_ids(self.schema)
        self.dictionaries = [n for place in places if isinstance(place, _Place) for n in numbers[place.dictionary]]
        self._places = places
        self._expected = 2 * nodes, 2 * buffers
        present = (field.type for place, field in zip(places, target, strict=True) if isinstance(place, _Place))
        self._least_bits_per_row = sum(_least_bits_per_row(type_) for type_ in present)

    def batch(self, header: Buffer, body: Buffer) -> tuple[bytes, Buffer] | None:
        """A record batch's flatbuffer and its body; None if it is compressed, or in any doubt."""
        found = layout(header, Kind.RECORD_BATCH, len(body))
        if found is None or (len(found.nodes), len(found.buffers)) != self._expected:
            return None
        if found.rows * self._least_bits_per_row > 8 * len(
            body
        ):  # no row without its bytes, before zeros are put to it
            return None
        nodes: list[int] = []
        buffers: list[int] = []
        size = len(body)
        for place in self._places:
            if isinstance(place, _Place):
                nodes += found.nodes[place.node]
                buffers += found.buffers[place.buffer]
            else:
                for rows, sizes in _nulls(place, found.rows):
                    nodes += rows, rows
                    for nbytes in sizes:
                        buffers += size, nbytes
                        size += nbytes + -nbytes % 8
        if size > len(body):
            body = b"".join((body, bytes(size - len(body))))
        return plain_header(found.rows, nodes, buffers, size), body

    def dictionary(self, header: Buffer, body: Buffer, number: int) -> bytes | None:
        """The flatbuffer of a client's dictionary under another number; None if it is compressed, or in any doubt."""
        found = layout(header, Kind.DICTIONARY, len(body))
        return None if found is None else plain_header(found.rows, found.nodes, found.buffers, len(body), number)


def rearrangement(signal: Signal, schema: pa.Schema, numbers: Sequence[int]) -> Rearrangement | None:
    """How batches of ``schema``, whose dictionaries have these ``numbers``, become batches in the storage schema; None
    if a column is of another type, or one is missing that nulls do not stand for."""
    own: dict[str, _Place] = {}
    nodes = buffers = encoded = 0
    for field in schema:
        more_nodes, more_buffers, more_encoded = _extent(field.type)
        own[field.name] = _Place(
            slice(2 * nodes, 2 * (nodes + more_nodes)),
            slice(2 * buffers, 2 * (buffers + more_buffers)),
            slice(encoded, encoded + more_encoded),
        )
        nodes += more_nodes
        buffers += more_buffers
        encoded += more_encoded
    places: list[_Place | pa.DataType] = []
    for field in SCHEMAS[signal]:
        place = own.get(field.name)
        if place is not None and schema.field(field.name).type == field.type:
            places.append(place)
        elif place is None and field.nullable and not pa.types.is_dictionary(field.type):
            places.append(field.type)
        else:
            return None
    return Rearrangement(signal, places, numbers, nodes, buffers) if encoded == len(numbers) else None


def _extent(type_: pa.DataType) -> tuple[int, int, int]:
    """Nodes, buffers and dictionaries of a column. Of types that are not in the storage schema the figures are wrong,
    and of no use."""
    if pa.types.is_dictionary(type_):
        return 1, 2, 1
    if pa.types.is_nested(type_):
        inner = [_extent(field.type) for field in fields_of(type_)]
        nodes, buffers, encoded = (sum(figures) for figures in zip(*inner, strict=True))
        if pa.types.is_map(type_):  # the struct of its entries
            nodes, buffers = nodes + 1, buffers + 1
        return nodes + 1, buffers + (1 if pa.types.is_struct(type_) else 2), encoded
    return 1, 3 if pa.types.is_string(type_) or pa.types.is_binary(type_) else 2, 0


def _least_bits_per_row(type_: pa.DataType) -> int:
    """What a row of a column takes at least in a batch, bitmaps apart."""
    if pa.types.is_struct(type_):
        return sum(_least_bits_per_row(field.type) for field in fields_of(type_))
    if pa.types.is_nested(type_) or pa.types.is_string(type_) or pa.types.is_binary(type_):
        return 32
    return int(type_.index_type.bit_width if pa.types.is_dictionary(type_) else type_.bit_width)


def _nulls(type_: pa.DataType, rows: int) -> list[tuple[int, list[int]]]:
    """Of a column that is all null, or has no rows: for each node its rows, and the sizes of its buffers."""
    bitmap = (rows + 7) // 8
    if pa.types.is_struct(type_):
        found = [(rows, [bitmap])]
        for field in fields_of(type_):
            found += _nulls(field.type, rows)
        return found
    if pa.types.is_list(type_):
        return [(rows, [bitmap, 4 * (rows + 1)]), *_nulls(type_.value_type, 0)]
    if pa.types.is_string(type_):
        return [(rows, [bitmap, 4 * (rows + 1), 0])]
    return [(rows, [bitmap, (rows * type_.bit_width + 7) // 8])]
