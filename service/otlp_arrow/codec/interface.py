"""What a decoder is: the contract that the reference and the compiled kernel both keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import pyarrow as pa

from otlp_arrow.model import ArrowMessage
from otlp_arrow.model.value import value


@value
class Outcome:
    """What became of one payload.

    ``rows`` were appended; ``rejected`` records were left out, ``message`` naming the first of them
    by index and reason (empty when none). ``error`` is set, and nothing appended, when the payload
    as a whole is no valid request.
    """

    rows: int
    rejected: int = 0
    message: str = ""
    error: str | None = None


Memory: TypeAlias = tuple[int, int]
"""Address, bytes."""

Runs: TypeAlias = tuple[int, int, int]
"""What repeats itself, once: address of the kernel's runs, the bytes that they are written out, number of runs."""


@dataclass(frozen=True, slots=True)
class ColumnMemory:
    """The columns of a batch as plain memory, without an Arrow object for each.

    ``parts``: by path the rows of an array and its buffers, the first of them the validity (None: all valid). A path is
    a field's name; ``.key`` and ``.value`` of a map, ``[]`` the members of a list, ``{}`` a dictionary. All begin at 0.
    ``owner`` keeps the memory.
    """

    rows: int
    parts: Mapping[str, tuple[int, list[Memory | Runs | None]]]
    owner: object


class BatchBuilder(Protocol):
    """Gathers the rows of many payloads of one signal until a segment takes them.

    Not thread-safe: one caller at a time. Rows of one payload are appended whole or not at all.
    """

    @property
    def rows(self) -> int:
        """Rows gathered so far."""

    @property
    def nbytes(self) -> int:
        """Memory that those rows hold, near enough for bounds."""

    def append(self, payloads: Sequence[bytes]) -> list[Outcome]:
        """Decode Export…ServiceRequest bytes, one outcome for each, in order; never raises for bad
        input. The compiled kernel holds no GIL while it scans."""

    def gather(self, messages: Sequence[ArrowMessage]) -> list[Outcome | None]:
        """The rows of batches in the storage schema, taken as they are, an outcome for each; None, and nothing kept of
        it, where it is in any doubt that the decoder could have made it so. The kernel holds no GIL while it looks."""

    def truncate(self, rows: int) -> None:
        """Forget every row from index ``rows`` on."""

    def snapshot(self) -> pa.RecordBatch:
        """The rows so far as a batch of its own (copied); the builder goes on."""

    def finish(self) -> pa.RecordBatch:
        """The rows as a batch that may share the builder's memory: it is valid until ``clear``."""

    def memory(self, *, runs: bool = False) -> ColumnMemory | None:
        """As ``finish``, without Arrow's objects; None if the builder has nothing but those. With ``runs`` buffers that
        repeat themselves need not be written out: for who compresses them."""

    def clear(self) -> None:
        """Empty the builder for reuse; memory up to a bound is kept for the next rows."""
