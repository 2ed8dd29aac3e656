"""The Arrow stream of one ``DoPut``, message by message: bounded, and made ready for the intake.

What came is kept as it came where it is in the storage schema already, or would be with its columns in another order
and nulls for those that are missing: the frame in the WAL is the client's own buffers, and the kernel checks a batch
while it copies its columns beside the rows of OTLP requests. A batch that is compressed, has columns of other types or
is in any doubt (it comes back as ``NotPlain``) is read by Arrow, validated in full, held against the data model and
cast; then it is written anew.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import pyarrow as pa

from otlp_arrow.codec import kernel_available
from otlp_arrow.codec.arrow_messages import (
    END_OF_STREAM,
    Buffer,
    Claim,
    Kind,
    dictionary_ids,
    encapsulated,
    harmless_schema,
    inspect,
    to_stream,
)
from otlp_arrow.codec.cast import Caster
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import ArrowMessage, Batch, Encoding, Parts, Rejected, Signal, TooLarge, limits

if TYPE_CHECKING:
    from otlp_arrow.codec.rearranging import Rearrangement

_kernel: ModuleType | None
rearranging: ModuleType | None
try:
    from otlp_arrow.codec import _kernel, rearranging
except ImportError:
    _kernel = rearranging = None

# The pool of Arrow's threads costs more CPU than it saves on batches of some hundred kilobytes.
_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)


class IncomingStream:
    """What was said so far in one stream: the schema and the newest dictionaries.

    ``max_bytes`` bounds a batch with its dictionaries, compressed and not. Raises ``Rejected``.
    """

    def __init__(self, signal: Signal, header: bytes, max_bytes: int) -> None:
        self._signal = signal
        self._max_bytes = max_bytes
        if len(header) > limits.MAX_ARROW_SCHEMA_BYTES:
            raise TooLarge(f"a schema of {len(header)} bytes; {limits.MAX_ARROW_SCHEMA_BYTES} are the limit")
        if inspect(header, b"", max_bytes).kind is not Kind.SCHEMA:
            raise Rejected("an Arrow stream begins with its schema")
        self._schema = b"".join(encapsulated(harmless_schema(header), b""))
        try:
            schema = pa.ipc.read_schema(pa.py_buffer(self._schema))
            self._caster = Caster(signal, schema)
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are no UTF-8
            raise Rejected(f"the schema is damaged: {error}") from error
        self._encoded = dictionary_ids(header)
        self._rearranged = None if self._caster.exact else _rearrangement(signal, schema, self._encoded)
        self._may_be_plain = kernel_available() and (self._caster.exact or self._rearranged is not None)
        self._doubts = 0
        self._dictionaries: dict[int, bytes] = {}
        self._plain: dict[int, object] = {}  # of the dictionaries: as the kernel reads them
        self._all_plain: tuple[object, ...] | None = None
        self._before = b""  # the messages that every batch of the stream needs before it,
        self._before_rearranged = b""  # and those that one needs once it is rearranged
        self._claims: dict[int, int] = {}  # of the dictionaries: decoded bytes
        self._claimed_bytes = 0  # all of them
        self.dictionary_bytes = 0  # memory that the stream's dictionaries hold

    def take(self, header: bytes, body: Buffer) -> Batch | None:
        """The batch of a message; None for other messages."""
        if self._may_be_plain and self._doubts < limits.MAX_FLIGHT_DOUBTS and _is_record_batch(header):
            plain = self._as_it_is(header, body)
            if plain is not None:
                return plain
        claim = inspect(header, body, self._max_bytes)
        if claim.kind is Kind.SCHEMA:
            raise Rejected("an Arrow stream has one schema")
        if claim.kind is Kind.DICTIONARY:
            self._keep_dictionary(claim, header, body)
            return None
        return self._cast(self._caster, claim, self._payload(self._client_before(), header, body), len(body))

    def _as_it_is(self, header: bytes, body: Buffer) -> Batch | None:
        """The batch without a look at it; None if only Arrow can say what it is."""
        dictionaries = self._plain_dictionaries()
        if dictionaries is None:
            return None
        if self._rearranged is None:
            before = self._client_before()
        else:
            found = self._rearranged.batch(header, body)
            before = self._stored_before(self._rearranged)
            if not before or found is None:
                return None
            header, body = found
        self._bound(len(body), len(body))
        return self._batch(self._payload(before, header, body), message=ArrowMessage(header, body, dictionaries))

    def cast_again(self, batch: Batch) -> Callable[[], Batch]:
        """For a batch that came back as ``NotPlain``: what makes it one that is, in a thread if it is large.

        Bounds are those of the dictionaries that it came with.
        """
        self._doubts += 1
        message = batch.message
        assert message is not None, "a batch that was cast is no longer in doubt"
        assert isinstance(batch.payload, Parts)
        payload, held = batch.payload, len(batch.payload) - len(message.body)
        caster = self._caster if self._rearranged is None else Caster(self._signal, SCHEMAS[self._signal])
        return lambda: self._cast(caster, inspect(message.header, message.body, self._max_bytes - held), payload, 0)

    def _cast(self, caster: Caster, claim: Claim, payload: Parts, body_bytes: int) -> Batch:
        self._bound(claim.decoded_bytes, body_bytes)
        whole = payload.joined()
        batch = _read(whole)
        columns = caster.cast(batch)
        return self._batch(whole if columns is batch else to_stream(columns), columns=columns)

    def _client_before(self) -> bytes:
        if not self._before:
            self._before = b"".join((self._schema, *self._dictionaries.values()))
        return self._before

    def _stored_before(self, rearranged: Rearrangement) -> bytes:
        """Empty if a dictionary is only for Arrow to read."""
        if not self._before_rearranged:
            messages = [b"".join(encapsulated(rearranged.schema, b""))]
            for number, given in zip(rearranged.numbers, rearranged.dictionaries, strict=True):
                sent, body = _apart(self._dictionaries[given])
                header = rearranged.dictionary(sent, body, number)
                if header is None:
                    return b""
                messages.append(b"".join(encapsulated(header, body)))
            self._before_rearranged = b"".join(messages)
        return self._before_rearranged

    def _payload(self, before: bytes, header: bytes, body: Buffer) -> Parts:
        worth_it = len(body) >= limits.IN_PLACE_BYTES and len(before) % 8 == 0
        if not worth_it or _kernel is None or _kernel.address_of(body) % limits.DIRECT_BLOCK_BYTES:
            return Parts((before, *encapsulated(header, body), END_OF_STREAM))
        # It goes from here to the disk if a block of the file begins where the body does.
        prefix, padded, body = encapsulated(
            header, body, limits.DIRECT_BLOCK_BYTES, len(before) + limits.FRAME_HEAD_BYTES
        )
        head = b"".join((before, prefix, padded))  # each part costs a microsecond in the log
        return Parts((head, body, END_OF_STREAM), len(head))

    def _batch(
        self, payload: bytes | Parts, *, columns: pa.RecordBatch | None = None, message: ArrowMessage | None = None
    ) -> Batch:
        return Batch(self._signal, payload, Encoding.ARROW, "flight", "grpc", columns, message)

    def _plain_dictionaries(self) -> tuple[object, ...] | None:
        """For each encoded field its dictionary; None if one is missing or not plain."""
        if self._all_plain is None:
            encoded = self._encoded if self._rearranged is None else self._rearranged.dictionaries
            found = [self._plain.get(number) for number in encoded]
            if None in found:
                return None
            self._all_plain = tuple(found)
        return self._all_plain

    def _keep_dictionary(self, claim: Claim, header: bytes, body: Buffer) -> None:
        message = b"".join(encapsulated(header, body))
        number, decoded_bytes = claim.dictionary_id, claim.decoded_bytes
        if number not in self._encoded:  # Arrow would not read a log that has it
            raise Rejected(f"a dictionary with the id {number}, which no field of the schema has")
        if claim.is_delta:
            message = self._dictionaries.get(number, b"") + message
            decoded_bytes += self._claims.get(number, 0)
        self._plain.pop(number, None)
        self._all_plain = None
        if self._may_be_plain and _kernel is not None:
            try:
                self._plain[number] = _kernel.ArrowDictionary(bytes(header), bytes(body))
            except ValueError:
                pass  # Arrow reads it, or has the words for what is wrong with it
        self.dictionary_bytes += len(message) - len(self._dictionaries.get(number, b""))
        self._dictionaries[number] = message
        self._before = self._before_rearranged = b""
        self._claims[number] = decoded_bytes
        self._claimed_bytes = sum(self._claims.values())
        self._bound(0, 0)

    def _bound(self, decoded_bytes: int, body_bytes: int) -> None:
        total = max(decoded_bytes + self._claimed_bytes, body_bytes + self.dictionary_bytes)
        if total > self._max_bytes:
            raise TooLarge(
                f"a batch and its dictionaries take {total} bytes, over the limit of {self._max_bytes}; send fewer rows"
            )


def _rearrangement(signal: Signal, schema: pa.Schema, numbers: list[int]) -> Rearrangement | None:
    if rearranging is None or not kernel_available():
        return None
    found: Rearrangement | None = rearranging.rearrangement(signal, schema, numbers)
    return found


def _apart(message: bytes) -> tuple[bytes, memoryview]:
    """Header and body of an encapsulated message."""
    body_at = 8 + int.from_bytes(message[4:8], "little")
    return message[8:body_at], memoryview(message)[body_at:]


def _is_record_batch(header: bytes) -> bool:
    return _kernel is not None and _kernel.is_record_batch(header)


def _read(stream: bytes) -> pa.RecordBatch:
    try:
        return pa.ipc.open_stream(pa.py_buffer(stream), options=_OPTIONS).read_next_batch()
    except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
        raise Rejected(f"the batch is damaged: {error}") from error
