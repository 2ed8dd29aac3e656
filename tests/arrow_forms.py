"""The same rows in the types that other Arrow programs give them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from otlp_arrow import codec
from otlp_arrow.codec import columns
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Signal
from samples import samples


def batch_of(signal: Signal) -> pa.RecordBatch:
    """Rows of every recorded request of a signal."""
    builder = codec.new_builder(signal)
    builder.append([sample.payload for sample in samples() if sample.signal is signal])
    return builder.snapshot()


def foreign(batch: pa.RecordBatch) -> pa.RecordBatch:
    """As a program with wide types and no maps would send it, columns and fields in the opposite order."""
    arrays = [_foreign(batch.column(name)) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(arrays[::-1], names=batch.schema.names[::-1])


def _foreign(array: pa.Array) -> pa.Array:
    type_ = array.type
    if pa.types.is_dictionary(type_):
        return array.cast(pa.large_string())
    if pa.types.is_string(type_):
        return array.cast(pa.large_string()).dictionary_encode()
    if pa.types.is_timestamp(type_):
        return array.cast(pa.int64()).cast(pa.uint64())
    if pa.types.is_fixed_size_binary(type_):
        return array.cast(pa.large_binary())
    if pa.types.is_binary(type_):
        return array.cast(pa.large_binary())
    if pa.types.is_integer(type_) and type_.bit_width < 64:
        return array.cast(pa.int64())
    mask = array.is_null() if array.null_count else None
    if pa.types.is_map(type_):
        pairs = pa.StructArray.from_arrays([_foreign(array.keys), _foreign(array.items)], names=["key", "value"])
        return pa.ListArray.from_arrays(array.offsets, pairs, mask=mask)
    if pa.types.is_list(type_):
        return pa.LargeListArray.from_arrays(array.offsets.cast(pa.int64()), _foreign(array.values), mask=mask)
    if pa.types.is_struct(type_):
        names = [field.name for field in type_]
        children = [_foreign(array.field(index)) for index in range(type_.num_fields)]
        return pa.StructArray.from_arrays(children[::-1], names=names[::-1], mask=mask)
    return array


def with_column(batch: pa.RecordBatch, name: str, array: pa.Array) -> pa.RecordBatch:
    """The batch with another array in place of a column."""
    index = batch.schema.get_field_index(name)
    field = batch.schema.field(index)
    return batch.set_column(index, field if field.type == array.type else name, array)


def with_values(batch: pa.RecordBatch, name: str, **changed: Any) -> pa.RecordBatch:
    """The batch with another value in row 0 of a column, as ``columns.build`` knows values."""
    values = columns.read(batch.column(name))
    values[0] = changed["first"]
    type_ = SCHEMAS[Signal(batch.schema.metadata[b"otlp_arrow.signal"].decode())].field(name).type
    return with_column(batch, name, columns.build(type_, values))
