"""What goes out together: frames of one signal, and how far the remote has decided on them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from otlp_arrow.model import Signal
from otlp_arrow.sinks.convert import Refusal
from otlp_arrow.storage.frames import Frame


@dataclass(slots=True)
class Progress:
    """How far a parcel has come: records counted as sent or failed, and the search for what is refused."""

    rows_done: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    refused_in_a_row: int = 0

    def refuse(self, refusals: Iterable[Refusal]) -> None:
        self.refusals += refusals
        self.refused_in_a_row += 1


@dataclass(eq=False, slots=True)
class Parcel:
    """Frames of one signal that go out together."""

    frames: list[Frame]
    nbytes: int
    task: asyncio.Task[None] | None = None
    given_up: bool = False
    progress: Progress = field(default_factory=Progress)

    @property
    def signal(self) -> Signal:
        return self.frames[0].signal

    @property
    def first(self) -> int:
        return self.frames[0].sequence

    @property
    def last(self) -> int:
        return self.frames[-1].sequence

    @property
    def rows_left(self) -> int:
        """Records that are neither sent nor failed yet."""
        return sum(f.rows for f in self.frames) - self.progress.rows_done


def pack(frames: Iterable[Frame], signals: frozenset[Signal], max_bytes: int) -> list[Parcel]:
    """Frames as parcels of up to ``max_bytes`` (a larger frame goes alone), in the order of their first frames."""
    parcels: list[Parcel] = []
    open_ones: dict[Signal, Parcel] = {}
    for frame in frames:
        if frame.signal not in signals:
            continue
        size = len(frame.payload)
        parcel = open_ones.get(frame.signal)
        if parcel is None or parcel.nbytes + size > max_bytes:
            parcel = open_ones[frame.signal] = Parcel([], 0)
            parcels.append(parcel)
        parcel.frames.append(frame)
        parcel.nbytes += size
    return parcels
