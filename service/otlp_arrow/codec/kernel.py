"""The compiled codec: what ``reference`` does, from bytes to columns without an object per record.

``_kernel`` scans requests into growing buffers; here they get their Arrow types, and what it reports in
numbers gets its words. Importing this module fails where the kernel was not built.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from otlp_arrow.codec import _kernel, rejection
from otlp_arrow.codec._kernel import crc32, crc32_each
from otlp_arrow.codec.interface import ColumnMemory, Outcome
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import ArrowMessage, Rejected, Signal, limits

__all__ = ["KernelBuilder", "crc32", "crc32_each", "decode_with_outcome", "encode"]

TOO_LARGE_TO_HOLD = (
    "request too large: with the rows that wait to be written its columns would pass "
    f"{limits.MAX_HELD_BYTES} bytes, or one of them {limits.MAX_COLUMN_OFFSET} members; send fewer records a request"
)

_BUILDERS = {
    Signal.TRACES: _kernel.TracesBuilder,
    Signal.METRICS: _kernel.MetricsBuilder,
    Signal.LOGS: _kernel.LogsBuilder,
}
_APPENDED, _MALFORMED, _TOO_LARGE_TO_REPEAT, _TOO_LARGE_TO_HOLD = range(4)


class KernelBuilder:
    """The kernel's ``BatchBuilder``.

    ``clear`` keeps the memory while batches of late needed at least a quarter of it, so that its pages are
    not faulted in again (1 µs a span); clearing a builder that is empty already gives it all back.
    """

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self._builder = _BUILDERS[signal]()

    @property
    def rows(self) -> int:
        return self._builder.rows

    @property
    def nbytes(self) -> int:
        return self._builder.nbytes

    def append(self, payloads: Sequence[bytes]) -> list[Outcome]:
        results = self._builder.append(
            payloads, limits.MAX_REPEATED_BYTES, limits.MAX_COLUMN_OFFSET, limits.MAX_HELD_BYTES
        )
        return [_outcome(self._signal, *result) for result in results]

    def gather(self, messages: Sequence[ArrowMessage]) -> list[Outcome | None]:
        results = self._builder.gather(
            [(message.header, message.body, message.dictionaries) for message in messages],
            limits.MAX_REPEATED_BYTES,
            limits.MAX_COLUMN_OFFSET,
            limits.MAX_HELD_BYTES,
        )
        return [
            Outcome(rows)
            if status == _APPENDED
            else None
            if status == _MALFORMED
            else Outcome(0, error=TOO_LARGE_TO_HOLD)
            for status, rows in results
        ]

    def truncate(self, rows: int) -> None:
        self._builder.truncate(rows)

    def snapshot(self) -> pa.RecordBatch:
        return _Assembly(self._builder, copy=True).batch(self._signal)

    def finish(self) -> pa.RecordBatch:
        return _Assembly(self._builder, copy=False).batch(self._signal)

    def memory(self, *, runs: bool = False) -> ColumnMemory:
        return ColumnMemory(self._builder.rows, self._builder.parts(runs), self._builder)

    def clear(self) -> None:
        self._builder.clear()


def decode_with_outcome(signal: Signal, payload: bytes) -> tuple[pa.RecordBatch, Outcome]:
    """The rows of an Export…ServiceRequest, and what became of it; an error is in the outcome, beside no rows."""
    builder = KernelBuilder(signal)
    (outcome,) = builder.append([payload])
    return builder.finish(), outcome  # nobody clears this builder; the batch keeps it


def encode(signal: Signal, batch: pa.RecordBatch) -> bytes:
    """As ``reference.encode``, which is also asked where a batch is not as the decoder would have made it."""
    try:
        if batch.schema.equals(SCHEMAS[signal]):
            batch.validate()  # lengths and last offsets; what lies between the kernel checks on its way
            _, array = batch.__arrow_c_array__()
            payload = _kernel.encode(signal.value, array)
            if payload is not None:
                return payload
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        raise Rejected(f"no valid Arrow data: {error}") from error
    from otlp_arrow.codec import reference

    return reference.encode(signal, batch)


def _outcome(
    signal: Signal, status: int, rows: int, rejected: int, reasons: list[tuple[int, int, int, int]]
) -> Outcome:
    if status == _APPENDED:
        if not rejected:
            return Outcome(rows)
        words = [rejection.reason(signal, *reason) for reason in reasons[: limits.MAX_REJECTION_REASONS]]
        return Outcome(rows, rejected, rejection.message(words, rejected))
    if status == _MALFORMED:
        return Outcome(0, error=rejection.malformed(signal))
    if status == _TOO_LARGE_TO_REPEAT:
        return Outcome(0, error=rejection.TOO_LARGE_TO_REPEAT)
    return Outcome(0, error=TOO_LARGE_TO_HOLD)


class _Assembly:
    """Arrow arrays over the buffers of a builder, named by their path in the schema."""

    def __init__(self, builder: _kernel.Builder, *, copy: bool) -> None:
        self._builder = builder
        self._parts = builder.parts()
        self._copy = copy

    def batch(self, signal: Signal) -> pa.RecordBatch:
        schema = SCHEMAS[signal]
        return pa.RecordBatch.from_arrays([self._array(field.name, field.type) for field in schema], schema=schema)

    def _array(self, path: str, type_: pa.DataType) -> pa.Array:
        rows, memory = self._parts[path]
        # An IPC writer keeps the dictionaries of the last batch to see whether the next one's differ; over shared
        # memory that the builder has filled anew it would compare the new words with themselves.
        copy = self._copy or path.endswith("{}")
        buffers = [self._buffer(each, copy=copy) for each in memory]
        if pa.types.is_dictionary(type_):
            words = self._array(path + "{}", type_.value_type)
            return pa.DictionaryArray.from_buffers(type_, rows, buffers, words)
        return pa.Array.from_buffers(type_, rows, buffers, children=self._children(path, type_))

    def _children(self, path: str, type_: pa.DataType) -> list[pa.Array] | None:
        if pa.types.is_map(type_):
            key, value = self._array(path + ".key", type_.key_type), self._array(path + ".value", type_.item_type)
            return [pa.StructArray.from_arrays([key, value], fields=[type_.key_field, type_.item_field])]
        if pa.types.is_list(type_):
            return [self._array(path + "[]", type_.value_type)]
        if pa.types.is_struct(type_):
            return [self._array(f"{path}.{field.name}", field.type) for field in type_]
        return None

    def _buffer(self, memory: tuple[int, int] | None, *, copy: bool) -> pa.Buffer | None:
        if memory is None:
            return None
        shared = pa.foreign_buffer(*memory, base=self._builder)
        return pa.py_buffer(shared.to_pybytes()) if copy else shared
