"""The one thing that travels from a door into the pipeline, and what comes back."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otlp_arrow.model.signal import Signal

if TYPE_CHECKING:  # `otlp-arrow config` speaks these words too, and needs no Arrow
    import pyarrow as pa


class Encoding(enum.Enum):
    """How the bytes of a batch, and of its WAL frame, are to be read. Numbers are never reused."""

    OTLP = 1  # an Export…ServiceRequest in protobuf
    ARROW = 2  # an Arrow IPC stream holding record batches in the storage schema

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Batch:
    """Telemetry of one signal as it was received.

    ``payload`` is what the WAL keeps. ``columns`` is the same data as Arrow where a door already
    has it (Flight, in-process), so that nobody reads the payload again. ``parts``, where they are set, join to the
    payload, which is empty then: on the way out, to a sink that needs no single piece of memory.
    """

    signal: Signal
    payload: bytes
    encoding: Encoding = Encoding.OTLP
    receiver: str = "otlp"
    transport: str = "grpc"
    columns: pa.RecordBatch | None = None
    parts: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What ``accept`` kept. ``sequence`` is the WAL sequence of its frame, 0 if nothing was kept."""

    rows: int
    rejected: int = 0
    message: str = ""
    sequence: int = 0
