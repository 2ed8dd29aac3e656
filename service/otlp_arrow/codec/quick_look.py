"""Whether a batch in the storage schema keeps the rules of the data model, seen from its bytes alone.

``cast`` asks Arrow column by column, which takes 250 µs for 512 spans: half of what receiving them takes. Nearly every
batch can be seen to be fine from the null counts in its header and a few slices of its body, in 25 µs.

The look is worth something only together with ``validate(full=True)``, which holds the null counts against the bitmaps.
It may miss that a batch is fine, and never says so of one that is not, but for this: where as many slots are null
as are zero, a time or an optional id of zero is taken for one under a null.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum
from operator import itemgetter

import pyarrow as pa

from otlp_arrow.codec.arrow_messages import Buffer, Claim
from otlp_arrow.codec.cast import FLAT_VALUE_TYPES, OPTIONAL_FIELDS, PLAUSIBLE_HIGH_BYTES
from otlp_arrow.codec.schema import SCHEMAS, TIME, VALUE
from otlp_arrow.model import Signal

_HIGH_BYTE = 7 if sys.byteorder == "little" else 0


class _Rule(Enum):
    TIME = "time"
    ID = "id"
    VALUE_TYPE = "type of a value"


@dataclass(frozen=True, slots=True)
class _Check:
    """An array with a rule: its place among the nodes and buffers of the header, and bytes a slot."""

    rule: _Rule
    node: int
    buffer: int
    width: int


class QuickLook:
    """Knows where in a batch of ``SCHEMAS[signal]`` to look."""

    def __init__(self, signal: Signal) -> None:
        self._nodes = self._buffers = 0
        self._checks: list[_Check] = []
        without_nulls: list[int] = []
        for field in SCHEMAS[signal]:
            self._visit(field.type, not field.nullable, without_nulls)
        self._null_counts = itemgetter(*without_nulls)

    def _visit(self, type_: pa.DataType, required: bool, without_nulls: list[int], rule: _Rule | None = None) -> None:
        """Arrays in the order of the header: depth first; their buffers likewise, the bitmap first."""
        node, buffer = self._nodes, self._buffers
        self._nodes += 1
        if required:
            without_nulls.append(node)
        if pa.types.is_struct(type_):
            self._buffers += 1
            for field in type_:
                inner = _Rule.VALUE_TYPE if type_ == VALUE and field.name == "type" else None
                self._visit(field.type, field.name not in OPTIONAL_FIELDS, without_nulls, inner)
        elif pa.types.is_map(type_):
            self._buffers += 2
            entries = pa.struct([type_.key_field, type_.item_field])
            self._visit(entries, True, without_nulls)
        elif pa.types.is_list(type_):
            self._buffers += 2
            self._visit(type_.value_type, True, without_nulls)
        else:
            self._buffers += 3 if pa.types.is_string(type_) or pa.types.is_binary(type_) else 2
            if type_ == TIME:
                rule = _Rule.TIME
            elif pa.types.is_fixed_size_binary(type_):
                rule = _Rule.ID
            if rule is not None:
                self._checks.append(_Check(rule, node, buffer + 1, type_.byte_width))

    def is_fine(self, claim: Claim, body: Buffer) -> bool:
        """Whether nothing in the batch of this message breaks a rule; False also means "not sure"."""
        nodes, buffers = claim.nodes, claim.buffers
        if claim.compressed or len(nodes) != 2 * self._nodes or len(buffers) != 2 * self._buffers:
            return False
        null_counts = nodes[1::2]
        if any(self._null_counts(null_counts)):
            return False
        for check in self._checks:
            slots = nodes[2 * check.node]
            at = buffers[2 * check.buffer]
            data = bytes(body[at : at + slots * check.width])
            if len(data) != slots * check.width or not _keeps(check, data, null_counts[check.node]):
                return False
        return True


def _keeps(check: _Check, data: bytes, nulls: int) -> bool:
    if check.rule is _Rule.VALUE_TYPE:
        return not data.translate(None, FLAT_VALUE_TYPES)
    if check.rule is _Rule.TIME:
        odd = data[_HIGH_BYTE::8].translate(None, PLAUSIBLE_HIGH_BYTES)
        return not odd or (len(odd) == nulls and not any(odd))
    if bytes(check.width) not in data:
        return True
    words = memoryview(data).cast("Q").tolist()[:: check.width // 8]
    return words.count(0) == nulls
