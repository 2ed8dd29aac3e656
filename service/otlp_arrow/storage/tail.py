"""The fresh tail of the log: frames just committed, kept in memory for those who read along.

The payloads are the request bytes that are in memory anyway; a reader that keeps up never touches a WAL
file. Who falls out of the bound reads the files from its position (``storage.reader``).
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from otlp_arrow.model import Signal
from otlp_arrow.model.batch import joined
from otlp_arrow.model.limits import FRESH_TAIL_BYTES
from otlp_arrow.storage.frames import Frame
from otlp_arrow.storage.tally import Tallies
from otlp_arrow.storage.wal import Entry


class FreshTail:
    """The newest confirmed frames of each signal. The commit thread appends; readers take on threads of their own."""

    def __init__(self, newest: int, total: Tallies, max_bytes: int = FRESH_TAIL_BYTES) -> None:
        self._lock = threading.Lock()
        self._max_bytes = max_bytes
        # By signal: its frames with their sequences. Payloads in parts are joined for a reader that wants them.
        self._entries: dict[Signal, deque[tuple[int, Entry]]] = {signal: deque() for signal in Signal}
        self._complete_above = dict.fromkeys(Signal, newest)  # every frame of the signal above this is held
        self._newest_of = dict.fromkeys(Signal, newest)  # at most: what lies there already is not looked at
        self._held_bytes = 0
        self._newest = newest
        self._total = total
        self._positions: dict[Signal, dict[str, int]] = {signal: {} for signal in Signal}
        self._waiting: dict[Signal, dict[str, Callable[[], object]]] = {signal: {} for signal in Signal}

    @property
    def newest(self) -> int:
        """The newest confirmed sequence. Never goes back, unlike the log's own count while a sync fails."""
        return self._newest

    @property
    def total(self) -> Tallies:
        """What the log held when it was opened, and everything since."""
        return self._total

    @property
    def held_bytes(self) -> int:
        """Payload bytes in memory."""
        return self._held_bytes

    def newest_of(self, signal: Signal) -> int:
        """The newest sequence of a signal, or one above it that is of another."""
        return self._newest_of[signal]

    def append(self, first: int, entries: Sequence[Entry], total: Tallies) -> None:
        """Entries that were confirmed just now; ``total`` counts them in."""
        woken: list[Callable[[], object]] = []
        with self._lock:
            touched: dict[Signal, int] = {}
            for sequence, entry in enumerate(entries, first):
                signal = entry.signal
                touched[signal] = sequence
                if self._positions[signal]:
                    self._entries[signal].append((sequence, entry))
                    self._held_bytes += len(entry.payload)
            self._newest = first + len(entries) - 1
            self._total = total
            for signal, sequence in touched.items():
                self._newest_of[signal] = sequence
                if not self._positions[signal]:
                    self._complete_above[signal] = sequence
                woken += self._waiting[signal].values()
                self._waiting[signal].clear()
            self._drop_oldest()
        for wake in woken:
            wake()

    def after(self, signal: Signal, position: int, max_bytes: int) -> tuple[list[Frame], int] | None:
        """Frames of a signal above ``position``, as many as ``max_bytes`` hold or one that is larger, and the sequence
        up to which these are all; None if they are not in memory any more. With 0 the frames are not wanted."""
        with self._lock:
            if position < self._complete_above[signal]:
                return None
            found: list[tuple[int, Entry]] = []
            size = 0
            entries = self._entries[signal]
            complete_to = max(position, self._newest)
            for sequence, entry in islice(entries, bisect_right(entries, position, key=_sequence), None):
                if size + len(entry.payload) > max_bytes and (found or not max_bytes):
                    complete_to = found[-1][0] if found else position
                    break
                found.append((sequence, entry))
                size += len(entry.payload)
        return [
            Frame(sequence, e.signal, e.encoding, e.rows, e.received_ns, joined(e.payload)) for sequence, e in found
        ], complete_to

    def note_position(self, name: str, signal: Signal, position: int, behind_bytes: int = 0) -> None:
        """A reader has every frame of a signal up to ``position``, and ``behind_bytes`` are before it; what all have
        is dropped. One that fell out of memory reads along again when it has come near."""
        with self._lock:
            positions = self._positions[signal]
            if name in positions or behind_bytes <= self._max_bytes // 2:
                positions[name] = position
            self._drop_passed(signal)

    def wake_after(self, name: str, signal: Signal, position: int, wake: Callable[[], object]) -> bool:
        """Call ``wake`` once when there are frames of a signal above ``position``; False if there may be some already.

        ``wake`` is called on the commit thread and must not block or raise.
        """
        with self._lock:
            if self._newest_of[signal] > position:
                return False
            self._waiting[signal][name] = wake
            return True

    def _drop_oldest(self) -> None:
        while self._held_bytes > self._max_bytes:
            signal = min((s for s in Signal if self._entries[s]), key=lambda s: self._entries[s][0][0])
            self._drop(signal)
            # Nothing is held for who has to read files anyway: memory that is not used again at once is cold, and
            # a remote that is gone for hours would make every request dearer.
            lost = self._complete_above[signal]
            self._positions[signal] = {name: at for name, at in self._positions[signal].items() if at >= lost}
            self._drop_passed(signal)

    def _drop_passed(self, signal: Signal) -> None:
        """Let go of what every reader has."""
        entries = self._entries[signal]
        passed = min(self._positions[signal].values(), default=self._newest)
        while entries and entries[0][0] <= passed:
            self._drop(signal)

    def _drop(self, signal: Signal) -> None:
        sequence, entry = self._entries[signal].popleft()
        self._complete_above[signal] = sequence
        self._held_bytes -= len(entry.payload)


def _sequence(item: tuple[int, Entry]) -> int:
    return item[0]
