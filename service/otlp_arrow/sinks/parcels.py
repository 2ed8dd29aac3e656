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
    begun: float  # when, by the caller's clock
    closed: bool = False  # nothing more goes into it
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


class Packer:
    """A signal's frames into parcels of up to ``max_bytes`` (a larger frame goes alone), in order.

    A parcel stays open for the frames of the next stretch until it is full or closed.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._open: Parcel | None = None

    def add(self, frames: Iterable[Frame], now: float) -> list[Parcel]:
        """Take frames; the parcels that were begun for them, oldest first."""
        begun: list[Parcel] = []
        parcel = self._open
        for frame in frames:
            size = len(frame.payload)
            if parcel is None or parcel.closed or parcel.nbytes + size > self._max_bytes:
                if parcel is not None:
                    parcel.closed = True
                parcel = Parcel([], 0, now)
                begun.append(parcel)
            parcel.frames.append(frame)
            parcel.nbytes += size
        self._open = parcel
        return begun

    def close(self, begun_before: float) -> None:
        """Nothing more goes into the parcel if it was begun before that moment."""
        if self._open is not None and self._open.begun <= begun_before:
            self._open.closed = True
            self._open = None
