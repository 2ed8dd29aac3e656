"""The door inside a program: requests as messages, as bytes or as Arrow, without a socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from otlp_arrow.codec.arrow_messages import to_stream
from otlp_arrow.codec.cast import Caster, no_rows
from otlp_arrow.model import Batch, Encoding, Receipt, Rejected, Signal, TooLarge, limits
from otlp_arrow.model.meter import REQUESTS, Meter
from otlp_arrow.receivers import replies
from otlp_arrow.receivers.intake import Intake

if TYPE_CHECKING:
    from google.protobuf.message import Message

DOOR = ("inprocess", "python")

Exportable: TypeAlias = "Message | bytes | pa.RecordBatch | pa.Table"
"""An ``Export…ServiceRequest``, its bytes, or rows in the storage schema (cast as ``codec.cast`` allows)."""

_REQUESTS = {
    Signal.TRACES: "opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest",
    Signal.METRICS: "opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest",
    Signal.LOGS: "opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest",
}


def prepare(signal: Signal, exported: Exportable, max_bytes: int = limits.MAX_REQUEST_BYTES) -> Batch:
    """What goes to the intake. May be called on any thread; what was exported may change afterwards.

    Raises ``Rejected`` or ``TooLarge``, and ``TypeError`` for what is none of the kinds.
    """
    if isinstance(exported, pa.RecordBatch | pa.Table):
        return _of_rows(signal, exported, max_bytes)
    if isinstance(exported, bytes | bytearray | memoryview):
        payload = bytes(exported)
    elif (descriptor := getattr(exported, "DESCRIPTOR", None)) is not None:
        if descriptor.full_name != _REQUESTS[signal]:
            raise TypeError(f"a {descriptor.name} was exported as {signal.value}; {_short(signal)} is expected")
        payload = exported.SerializeToString()
    else:
        raise TypeError(
            f"{type(exported).__name__} cannot be exported as {signal.value}; "
            f"expected {_short(signal)}, its bytes, a pyarrow RecordBatch or Table"
        )
    _bound(len(payload), max_bytes)
    return Batch(signal, payload, Encoding.OTLP, *DOOR)


def _short(signal: Signal) -> str:
    return _REQUESTS[signal].rpartition(".")[2]


def _of_rows(signal: Signal, rows: pa.RecordBatch | pa.Table, max_bytes: int) -> Batch:
    caster = Caster(signal, rows.schema)
    batches = rows.combine_chunks().to_batches() if isinstance(rows, pa.Table) else [rows]
    _bound(sum(batch.nbytes for batch in batches), max_bytes)
    # One of them: more there are only where a column would pass 2 GiB, which the bound excludes.
    cast = caster.cast(batches[0] if batches else no_rows(rows.schema))
    payload = to_stream(cast)
    # Read again: the columns are then nobody else's, and hold nothing but these rows.
    columns = pa.ipc.open_stream(pa.py_buffer(payload)).read_next_batch()
    return Batch(signal, payload, Encoding.ARROW, *DOOR, columns=columns)


def _bound(nbytes: int, max_bytes: int) -> None:
    if nbytes > max_bytes:
        raise TooLarge(f"{nbytes} bytes at once; max_request_bytes is {max_bytes}: export fewer records a call")


class InProcessDoor:
    """Counts and hands over. ``prepare`` on any thread, ``accept`` on the event loop of the intake."""

    def __init__(self, intake: Intake[Any], meter: Meter, max_request_bytes: int) -> None:
        self._intake = intake
        self._meter = meter
        self._max_bytes = max_request_bytes

    def prepare(self, signal: Signal, exported: Exportable) -> Batch:
        """As the function of this name."""
        try:
            return prepare(signal, exported, self._max_bytes)
        except Rejected:
            self._meter.add(REQUESTS, 1, *DOOR, "rejected")
            raise

    async def accept(self, batch: Batch) -> Receipt:
        """Returns when it is durable. Raises what ``Intake.accept`` raises."""
        if batch.columns is not None and not batch.columns.num_rows:
            return Receipt(0)
        try:
            receipt = await self._intake.accept(batch)
        except asyncio.CancelledError:
            self._meter.add(REQUESTS, 1, *DOOR, "cancelled")
            raise
        except Exception as error:
            self._meter.add(REQUESTS, 1, *DOOR, replies.refusal(error).outcome)
            raise
        self._meter.add(REQUESTS, 1, *DOOR, "partial" if receipt.rejected else "ok")
        return receipt
