"""The fresh tail of the log: frames just committed, kept in memory for those who read along.

The payloads are the request bytes that are in memory anyway; a reader that keeps up never touches a WAL
file. Who falls out of the bound reads the files from its position (``storage.reader``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from otlp_arrow.model.batch import joined
from otlp_arrow.model.limits import FRESH_TAIL_BYTES
from otlp_arrow.storage.frames import Frame
from otlp_arrow.storage.tally import Tally
from otlp_arrow.storage.wal import Entry


class FreshTail:
    """The newest confirmed frames. The commit thread appends; each reader takes on a thread of its own."""

    def __init__(self, newest: int, total: Tally, max_bytes: int = FRESH_TAIL_BYTES) -> None:
        self._lock = threading.Lock()
        self._max_bytes = max_bytes
        self._entries: dict[int, Entry] = {}  # by sequence, without gaps
        self._oldest = newest + 1  # the sequence of the oldest frame held, or of the next one
        self._held_bytes = 0
        self._newest = newest
        self._total = total
        self._positions: dict[str, int] = {}
        self._waiting: dict[str, Callable[[], object]] = {}

    @property
    def newest(self) -> int:
        """The newest confirmed sequence. Never goes back, unlike the log's own count while a sync fails."""
        return self._newest

    @property
    def total(self) -> Tally:
        """What the log held when it was opened, and everything since."""
        return self._total

    @property
    def held_bytes(self) -> int:
        """Payload bytes in memory."""
        return self._held_bytes

    def append(self, first: int, entries: Sequence[Entry], total: Tally) -> None:
        """Entries that were confirmed just now; ``total`` counts them in."""
        with self._lock:
            if self._positions:
                for sequence, entry in enumerate(entries, first):
                    self._entries[sequence] = entry
                    self._held_bytes += len(entry.payload)
            self._newest = first + len(entries) - 1
            self._total = total
            self._drop()
            woken = list(self._waiting.values())
            self._waiting.clear()
        for wake in woken:
            wake()

    def after(self, position: int, max_bytes: int) -> list[Frame] | None:
        """Frames above ``position``, about ``max_bytes`` of them; None if they are not in memory any more."""
        with self._lock:
            if position + 1 < self._oldest:
                return None
            found: list[tuple[int, Entry]] = []
            size = 0
            while size < max_bytes and (entry := self._entries.get(position + 1)) is not None:
                position += 1
                found.append((position, entry))
                size += len(entry.payload)
        # Payloads in parts are joined here, for a reader that wants them; most never are.
        return [
            Frame(sequence, e.signal, e.encoding, e.rows, e.received_ns, joined(e.payload)) for sequence, e in found
        ]

    def note_position(self, name: str, position: int) -> None:
        """A reader has everything up to ``position``; what all have is dropped."""
        with self._lock:
            self._positions[name] = position
            self._drop()

    def wake_after(self, name: str, position: int, wake: Callable[[], object]) -> bool:
        """Call ``wake`` once when there are frames above ``position``; False if there are some already.

        ``wake`` is called on the commit thread and must not block or raise.
        """
        with self._lock:
            if self._newest > position:
                return False
            self._waiting[name] = wake
            return True

    def _drop(self) -> None:
        """Let go of what everybody has, and of the oldest above the bound."""
        passed = min(self._positions.values(), default=self._newest)
        while self._oldest <= self._newest and (self._oldest <= passed or self._held_bytes > self._max_bytes):
            entry = self._entries.pop(self._oldest, None)
            if entry is not None:
                self._held_bytes -= len(entry.payload)
            self._oldest += 1
