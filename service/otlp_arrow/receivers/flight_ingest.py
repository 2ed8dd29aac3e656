"""The Arrow stream of one ``DoPut``, message by message: bounded, checked, and made ready for the intake.

What came is kept as it came where it is in the storage schema already: the frame in the WAL is the client's own
messages, and the columns are views of it. Only batches that had to be cast are written anew.
"""

from __future__ import annotations

import pyarrow as pa

from otlp_arrow.codec.arrow_messages import (
    END_OF_STREAM,
    Buffer,
    Claim,
    Kind,
    encapsulated,
    harmless_schema,
    inspect,
    to_stream,
)
from otlp_arrow.codec.cast import Caster
from otlp_arrow.codec.quick_look import QuickLook
from otlp_arrow.model import Rejected, Signal, TooLarge, limits

# The pool of Arrow's threads costs more CPU than it saves on batches of some hundred kilobytes.
_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)

_QUICK_LOOKS = {signal: QuickLook(signal) for signal in Signal}


class IncomingStream:
    """What was said so far in one stream: the schema and the newest dictionaries.

    ``max_bytes`` bounds a batch with its dictionaries, compressed and not. Raises ``Rejected``.
    """

    def __init__(self, signal: Signal, header: bytes, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        if len(header) > limits.MAX_ARROW_SCHEMA_BYTES:
            raise TooLarge(f"a schema of {len(header)} bytes; {limits.MAX_ARROW_SCHEMA_BYTES} are the limit")
        if inspect(header, b"", max_bytes).kind is not Kind.SCHEMA:
            raise Rejected("an Arrow stream begins with its schema")
        self._schema = b"".join(encapsulated(harmless_schema(header), b""))
        try:
            self._caster = Caster(signal, pa.ipc.read_schema(pa.py_buffer(self._schema)))
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are no UTF-8
            raise Rejected(f"the schema is damaged: {error}") from error
        self._quick_look = _QUICK_LOOKS[signal] if self._caster.exact else None
        self._dictionaries: dict[int, bytes] = {}
        self._claims: dict[int, tuple[int, int]] = {}  # of the dictionaries: decoded bytes, nulls

    @property
    def dictionary_bytes(self) -> int:
        """Memory that the stream's dictionaries hold."""
        return sum(map(len, self._dictionaries.values()))

    def take(self, header: bytes, body: Buffer) -> tuple[bytes, pa.RecordBatch] | None:
        """The batch of a message in the storage schema, and it as an Arrow stream; None for other messages."""
        claim = inspect(header, body, self._max_bytes)
        if claim.kind is Kind.SCHEMA:
            raise Rejected("an Arrow stream has one schema")
        if claim.kind is Kind.DICTIONARY:
            self._keep_dictionary(claim, header, body)
            return None
        self._bound(claim.decoded_bytes, len(body))
        payload = b"".join((self._schema, *self._dictionaries.values(), *encapsulated(header, body), END_OF_STREAM))
        batch = _read(payload)
        columns = self._caster.cast(batch, looked_at=self._looks_fine(claim, body))
        return (payload, batch) if columns is batch else (to_stream(columns), columns)

    def _keep_dictionary(self, claim: Claim, header: bytes, body: Buffer) -> None:
        message = b"".join(encapsulated(header, body))
        number, decoded_bytes, nulls = claim.dictionary_id, claim.decoded_bytes, sum(claim.nodes[1::2])
        if claim.is_delta:
            message = self._dictionaries.get(number, b"") + message
            earlier_bytes, earlier_nulls = self._claims.get(number, (0, 0))
            decoded_bytes, nulls = decoded_bytes + earlier_bytes, nulls + earlier_nulls
        self._dictionaries[number] = message
        self._claims[number] = decoded_bytes, nulls
        self._bound(0, 0)

    def _looks_fine(self, claim: Claim, body: Buffer) -> bool:
        """Nothing breaks a rule, and no dictionary grows beyond the bound when it is repeated on every row."""
        if self._quick_look is None:
            return False
        longest = max(claim.nodes[::2], default=0)
        for decoded_bytes, nulls in self._claims.values():
            if nulls or decoded_bytes * longest > limits.MAX_REPEATED_BYTES:
                return False
        return self._quick_look.is_fine(claim, body)

    def _bound(self, decoded_bytes: int, body_bytes: int) -> None:
        decoded_bytes += sum(claimed for claimed, _ in self._claims.values())
        total = max(decoded_bytes, body_bytes + self.dictionary_bytes)
        if total > self._max_bytes:
            raise TooLarge(
                f"a batch and its dictionaries take {total} bytes, over the limit of {self._max_bytes}; send fewer rows"
            )


def _read(stream: bytes) -> pa.RecordBatch:
    try:
        return pa.ipc.open_stream(pa.py_buffer(stream), options=_OPTIONS).read_next_batch()
    except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
        raise Rejected(f"the batch is damaged: {error}") from error
