"""The time range of a batch, which segments carry so that readers can pass them over."""

from __future__ import annotations

from types import ModuleType

import pyarrow as pa

from otlp_arrow.codec.interface import ColumnMemory
from otlp_arrow.codec.lazy_compute import pc
from otlp_arrow.codec.schema import TIME_COLUMN
from otlp_arrow.model import Signal

_kernel: ModuleType | None
try:
    from otlp_arrow.codec import _kernel
except ImportError:
    _kernel = None


def time_bounds(signal: Signal, batch: pa.RecordBatch | ColumnMemory) -> tuple[int, int] | None:
    """Earliest and latest time of the rows in ns since 1970; None if no row has one.

    A log record without a time counts with the time it was observed.
    """
    if isinstance(batch, ColumnMemory):
        return _by_memory(signal, batch)
    column = batch.column(TIME_COLUMN[signal])
    other = batch.column("observed_time_unix_nano") if signal is Signal.LOGS else None
    if _kernel is None:
        return _by_compute(column, other)
    bounds: tuple[int, int] | None = _kernel.time_bounds(len(column), *_memory(column), *_memory(other))
    return bounds


def _by_memory(signal: Signal, columns: ColumnMemory) -> tuple[int, int] | None:
    assert _kernel is not None, "only the kernel's builder has memory"
    paths = [TIME_COLUMN[signal]] + ["observed_time_unix_nano"] * (signal is Signal.LOGS)
    places = []
    for path in paths:
        validity, values = columns.parts[path][1]
        places += [values[0] if values else 0, validity[0] if validity else 0, 0]
    places += [0, 0, 0] * (2 - len(paths))
    bounds: tuple[int, int] | None = _kernel.time_bounds(columns.rows, *places)
    return bounds


def _memory(column: pa.Array | None) -> tuple[int, int, int]:
    """Addresses of values and validity, and the offset in both."""
    if column is None:
        return 0, 0, 0
    validity, values = column.buffers()
    return values.address if values is not None else 0, validity.address if validity is not None else 0, column.offset


def _by_compute(column: pa.Array, other: pa.Array | None) -> tuple[int, int] | None:
    found = pc.min_max(column if other is None else pc.coalesce(column, other))
    return (found["min"].value, found["max"].value) if found["min"].is_valid else None
