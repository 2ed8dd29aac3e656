"""Floor 1: OTLP bytes ⇄ Arrow columns. Pure and synchronous.

``decode`` and ``encode`` run on the compiled kernel where there is one (``kernel_available``), else on
``otlp_arrow.codec.reference``. ``OTLP_KERNEL=reference`` in the environment asks for the latter.
Protobuf's own library takes 5 MB: what needs it (the reference, JSON) is imported when it is first used.
"""

from __future__ import annotations

import os

import pyarrow as pa

from otlp_arrow.codec.interface import BatchBuilder, ColumnMemory, Outcome
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Rejected, Signal

KERNEL_ERROR = ""
"""Why the compiled kernel is not used; empty while it is."""

try:
    from otlp_arrow.codec import kernel
except ImportError as error:
    KERNEL_ERROR = f"the compiled kernel cannot be imported: {error}"
else:
    if os.environ.get("OTLP_KERNEL") == "reference":
        KERNEL_ERROR = "the environment says OTLP_KERNEL=reference"

__all__ = [
    "KERNEL_ERROR",
    "SCHEMAS",
    "BatchBuilder",
    "ColumnMemory",
    "Outcome",
    "decode",
    "decode_json",
    "decode_with_outcome",
    "encode",
    "encode_json",
    "json_to_protobuf",
    "kernel_available",
    "new_builder",
]


def kernel_available() -> bool:
    """Whether the compiled kernel is in use; if not, ``KERNEL_ERROR`` says why."""
    return not KERNEL_ERROR


def new_builder(signal: Signal) -> BatchBuilder:
    """An empty builder: the kernel's if it is available, else the reference's."""
    if kernel_available():
        return kernel.KernelBuilder(signal)
    from otlp_arrow.codec import reference

    return reference.ReferenceBuilder(signal)


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
    if kernel_available():
        return kernel.decode_with_outcome(signal, payload)
    from otlp_arrow.codec import reference

    return reference.decode_with_outcome(signal, payload)


def encode(signal: Signal, batch: pa.RecordBatch) -> bytes:
    """An Export…ServiceRequest of the rows, regrouped by resource, scope and metric as first seen.

    ``batch`` has the columns of ``SCHEMAS[signal]``; plain strings do for dictionary-encoded ones.
    Raises ``Rejected`` if a row holds what no message can (batches of ``decode`` never do).
    """
    if kernel_available():
        return kernel.encode(signal, batch)
    from otlp_arrow.codec import reference

    return reference.encode(signal, batch)


def json_to_protobuf(signal: Signal, text: bytes | str) -> bytes:
    """The Export…ServiceRequest that an OTLP/JSON body describes. Raises ``Rejected`` naming the JSON path that is
    wrong."""
    from otlp_arrow.codec import otlp_json

    return otlp_json.json_to_protobuf(signal, text)


def decode_json(signal: Signal, text: bytes | str) -> pa.RecordBatch:
    """``decode`` for OTLP/JSON. Raises ``Rejected`` naming the JSON path that is wrong."""
    return decode(signal, json_to_protobuf(signal, text))


def encode_json(signal: Signal, batch: pa.RecordBatch) -> str:
    """``encode`` to OTLP/JSON: hex ids, 64-bit integers as strings, enums as numbers."""
    from otlp_arrow.codec import otlp_json

    return otlp_json.protobuf_to_json(signal, encode(signal, batch))
