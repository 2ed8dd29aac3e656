"""The reference codec: OTLP messages ⇄ record batches over the objects of ``opentelemetry-proto``.

It says what is right and is never fast (some 40 µs a span to rows, 150 back): the compiled kernel is
checked against it, and it stands in where no kernel could be built.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import pyarrow as pa
from google.protobuf.message import DecodeError

from otlp_arrow.codec import columns, otlp_logs, otlp_metrics, otlp_traces, rejection
from otlp_arrow.codec.checks import Refused
from otlp_arrow.codec.interface import Outcome
from otlp_arrow.codec.origin import Row
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import ArrowMessage, Rejected, Signal, limits

_CODECS: dict[Signal, ModuleType] = {
    Signal.TRACES: otlp_traces,
    Signal.METRICS: otlp_metrics,
    Signal.LOGS: otlp_logs,
}


def decode(signal: Signal, payload: bytes) -> pa.RecordBatch:
    """The rows of an Export…ServiceRequest in ``SCHEMAS[signal]``, refused records left out.

    Raises ``Rejected`` if the payload as a whole is in error.
    """
    batch, outcome = decode_with_outcome(signal, payload)
    if outcome.error is not None:
        raise Rejected(outcome.error)
    return batch


def decode_with_outcome(signal: Signal, payload: bytes) -> tuple[pa.RecordBatch, Outcome]:
    """As ``decode``, with what became of the payload; an error is in the outcome, beside no rows."""
    rows, outcome, _ = _decode_rows(signal, payload)
    return _batch(signal, rows), outcome


def encode(signal: Signal, batch: pa.RecordBatch) -> bytes:
    """An Export…ServiceRequest of the rows, regrouped by resource, scope and metric as first seen.

    ``batch`` has the columns of ``SCHEMAS[signal]``; plain strings do for dictionary-encoded ones.
    Raises ``Rejected`` if a row holds what no message can (batches of ``decode`` never do).
    """
    encoder = _CODECS[signal].Encoder()
    values = {field.name: columns.read(batch.column(field.name)) for field in SCHEMAS[signal]}
    for index, row in enumerate(zip(*values.values(), strict=True)):
        try:
            encoder.add(dict(zip(values, row, strict=True)))
        except (ValueError, TypeError) as error:
            raise Rejected(f"row {index}: {error}") from error
    payload: bytes = encoder.request.SerializeToString()
    try:
        encoder.request.FromString(payload)
    except DecodeError:  # the only thing that a request can have and its readers do not take
        raise Rejected(f"attribute values nested deeper than {limits.MAX_MESSAGE_DEPTH} messages") from None
    return payload


class ReferenceBuilder:
    """The reference's ``BatchBuilder``: keeps row values and makes arrays of them when asked."""

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self._rows: list[Row] = []
        # For each row, the bytes held up to its end.
        self._held_bytes: list[int] = []

    @property
    def rows(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        return self._held_bytes[-1] if self._held_bytes else 0

    def append(self, payloads: Sequence[bytes]) -> list[Outcome]:
        return [self._append(payload) for payload in payloads]

    def _append(self, payload: bytes) -> Outcome:
        rows, outcome, repeated_bytes = _decode_rows(self._signal, payload)
        held = _HELD_PER_BYTE * (len(payload) + repeated_bytes)
        before = self.nbytes
        self._rows += rows
        self._held_bytes += [before + held * (index + 1) // len(rows) for index in range(len(rows))]
        return outcome

    def gather(self, messages: Sequence[ArrowMessage]) -> list[Outcome | None]:
        return [None] * len(messages)

    def truncate(self, rows: int) -> None:
        del self._rows[rows:]
        del self._held_bytes[rows:]

    def snapshot(self) -> pa.RecordBatch:
        return _batch(self._signal, self._rows)

    def finish(self) -> pa.RecordBatch:
        return self.snapshot()

    def memory(self, *, runs: bool = False) -> None:
        return None

    def clear(self) -> None:
        self.truncate(0)


_HELD_PER_BYTE = 6
"""Memory for each byte of a row's message, its share of the resource included: 2.4 to 5 bytes of Python
objects were measured, and 1.2 of the arrays made of them."""


def _decode_rows(signal: Signal, payload: bytes) -> tuple[list[Row], Outcome, int]:
    """The rows, the outcome, and the bytes that repeating shared columns on those rows costs."""
    codec = _CODECS[signal]
    try:
        request = codec.Request.FromString(payload)
    except DecodeError:
        return [], Outcome(0, error=rejection.malformed(signal)), 0
    rows: list[Row] = []
    reasons: list[str] = []
    rejected = repeated_bytes = 0
    for index, (shared, record) in enumerate(codec.records(request)):
        try:
            row = codec.to_row(record)
        except Refused as refused:
            rejected += 1
            if len(reasons) < limits.MAX_REJECTION_REASONS:
                reasons.append(rejection.reason(signal, index, refused.check, refused.length, refused.member))
            continue
        repeated_bytes += shared.repeated_bytes
        if repeated_bytes > limits.MAX_REPEATED_BYTES:
            return [], Outcome(0, error=rejection.TOO_LARGE_TO_REPEAT), 0
        rows.append(shared.columns | row)
    return rows, Outcome(len(rows), rejected, rejection.message(reasons, rejected)), repeated_bytes


def _batch(signal: Signal, rows: Sequence[Row]) -> pa.RecordBatch:
    schema = SCHEMAS[signal]
    arrays = [columns.build(field.type, [row[field.name] for row in rows]) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
