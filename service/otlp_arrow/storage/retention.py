"""What may go, and why. Plans only; the store does the deed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from otlp_arrow.model import Signal
from otlp_arrow.storage.catalog import Segment


@dataclass(frozen=True, slots=True)
class Expiry:
    """A segment to delete. ``reason``: ``age`` or ``size``."""

    segment: Segment
    reason: str


def plan_retention(
    segments: Iterable[Segment],
    *,
    now_ns: int,
    max_age_s: Mapping[Signal, float],
    max_bytes: int,
    other_bytes: int = 0,
) -> list[Expiry]:
    """Closed segments that are older than their signal's age (0: no age), then the oldest ones until the
    total, ``other_bytes`` included, is at most ``max_bytes``. An open segment is never planned."""
    everything = list(segments)
    plan = []
    for segment in everything:
        age = max_age_s.get(segment.signal, 0)
        if segment.closed and age > 0 and now_ns - segment.changed_ns > age * 1e9:
            plan.append(Expiry(segment, "age"))
    gone = {e.segment.path for e in plan}
    left = sorted((s for s in everything if s.path not in gone), key=lambda s: s.changed_ns)
    total = other_bytes + sum(s.size_bytes for s in left)
    for segment in left:
        if total <= max_bytes:
            break
        if segment.closed:
            plan.append(Expiry(segment, "size"))
            total -= segment.size_bytes
    return plan


def plan_newest(segments: Iterable[Segment], *, max_rows: int, max_bytes: int) -> list[Expiry]:
    """Of segments in the order of their sequences, the oldest closed ones, until what is left has at most so many rows
    and bytes."""
    everything = list(segments)
    rows, size = sum(s.rows for s in everything), sum(s.size_bytes for s in everything)
    plan = []
    for segment in everything:
        if rows <= max_rows and size <= max_bytes:
            break
        if segment.closed:
            plan.append(Expiry(segment, "size"))
            rows, size = rows - segment.rows, size - segment.size_bytes
    return plan
