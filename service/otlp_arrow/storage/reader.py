"""One destination's way through the log, signal by signal: where it reads, what it confirmed, what it gave up.

::

    stored ≤ confirmed ≤ position ≤ newest          sequences
       │         │           └ read, on its way to the remote
       │         └ everything up to here reached the remote, or was given up or refused for good
       └ the same, durably: the log keeps what lies above

``floor`` overtakes them all when the backlog outgrows its bound: what lies below may be deleted.

Each signal has a way of its own, so that a remote which is slow on one of them does not hold up the others; their
cursors are stored together.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from otlp_arrow.model import Signal
from otlp_arrow.model.limits import MAX_FRAME_BYTES, WAL_READ_BYTES
from otlp_arrow.storage.disk import Disk
from otlp_arrow.storage.frames import FRAME_HEADER, FRAME_MAGIC, FRAMES_BEGIN, Frame, frame_size, scan
from otlp_arrow.storage.frames import _frame_at as frame_at
from otlp_arrow.storage.tail import FreshTail
from otlp_arrow.storage.tally import NOTHING, Tally
from otlp_arrow.storage.wal import Wal, WalFile

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of the log: a signal's frames in order, up to and including the sequence ``end``. ``total``, where it is
    known, counts everything of the signal up to ``end``, frames that could not be read too."""

    frames: list[Frame]
    end: int
    total: Tally | None = None


class WalReader:
    """A destination's position in the log for one signal; see ``Backlog``. Of use once the store is open.

    ``read`` (one at a time) blocks and is called on a thread, ``give_up`` on any; the rest belongs to whoever delivers.
    """

    def __init__(self, name: str, signal: Signal) -> None:
        self.name = name
        self.signal = signal
        self.position = self.confirmed = self.stored = 0
        self.floor = 0
        self._floor_total = self._read_total = self._confirmed_total = NOTHING
        self._unconfirmed: deque[tuple[int, Tally]] = deque()  # what was taken: sequence, total up to there
        self._file_first = 0  # the file that ``read`` stands in, and where
        self._offset = 0

    def __repr__(self) -> str:
        return (
            f"WalReader({self.name}, {self.signal.value}: "
            f"{self.stored} ≤ {self.confirmed} ≤ {self.position}, floor={self.floor})"
        )

    def attach(self, wal: Wal, disk: Disk, tail: FreshTail, stored: int) -> None:
        """Begin above ``stored``."""
        self._wal, self._disk, self._tail = wal, disk, tail
        self.position = self.confirmed = self.stored = stored
        self._read_total = self._confirmed_total = _tally_up_to(disk, wal.files, self.signal, stored)
        tail.note_position(self.name, self.signal, stored, self.unread_bytes)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def newest(self) -> int:
        """The newest sequence that can be read."""
        return self._tail.newest

    @property
    def behind(self) -> bool:
        """Whether the log holds frames of the signal that are not confirmed. May be true a little too long."""
        return self._tail.newest_of(self.signal) > self.confirmed

    @property
    def unread_bytes(self) -> int:
        """Payload bytes above ``position``."""
        return self._tail.total.of(self.signal).nbytes - self._read_total.nbytes

    def wake_after_position(self, wake: Callable[[], object]) -> bool:
        """Call ``wake`` once, on the committing thread, when there is more to read; False if there is."""
        return self._tail.wake_after(self.name, self.signal, self.position, wake)

    def fresh(self, max_bytes: int) -> Stretch | None:
        """What follows ``position``, at most ``max_bytes`` of it but for one large frame, if it is in memory; None if
        ``read`` must get it."""
        found = self._tail.after(self.signal, self.position, max_bytes)
        return None if found is None else Stretch(*found)

    def read(self, position: int, max_bytes: int) -> Stretch:
        """What follows ``position`` in one file; damaged frames are passed over. Blocks; raises ``OSError``."""
        frames: list[Frame] = []
        size = 0
        newest = self._tail.newest
        files = self._wal.files
        at = next((i for i, f in enumerate(files) if f.last_sequence > position), None)
        if at is None:
            return Stretch(frames, newest)
        following = files[at + 1] if at + 1 < len(files) else None
        limit = min(newest, following.first_sequence - 1) if following else newest
        if following is not None and files[at].total.of(self.signal) == self._read_total:
            return Stretch([], limit)  # it holds nothing else of the signal
        while size < max_bytes and position < limit:
            found = self._read_file(files[at], position, limit)
            if not found:
                position = limit
                break
            wanted = [f for f in found if f.signal is self.signal]
            frames += wanted
            size += sum(len(f.payload) for f in wanted)
            position = found[-1].sequence
        ended = following is not None and position == limit
        return Stretch(frames, position, files[at].total.of(self.signal) if ended else None)

    def take(self, stretch: Stretch) -> tuple[list[Frame], Tally]:
        """Go to the end of a stretch: the frames to deal with, and what could not be read on the way."""
        frames = [f for f in stretch.frames if f.sequence > self.position]
        total = self._read_total
        for frame in frames:
            total = total.plus(frame.rows, len(frame.payload))
            self._unconfirmed.append((frame.sequence, total))
        unreadable = stretch.total.since(total) if stretch.total is not None else NOTHING
        if stretch.end > self.position:
            self.position, self._read_total = stretch.end, stretch.total or total
            self._unconfirmed.append((stretch.end, self._read_total))
            self._tail.note_position(self.name, self.signal, self.position, self.unread_bytes)
        return frames, unreadable

    def _read_file(self, file: WalFile, position: int, limit: int) -> list[Frame]:
        """The next frames of one file up to the sequence ``limit``; none if it holds no more."""
        if self._file_first != file.first_sequence:
            self._file_first, self._offset = file.first_sequence, FRAMES_BEGIN
        size = WAL_READ_BYTES
        while True:
            try:
                block = self._disk.read_at(file.path, self._offset, size)
            except FileNotFoundError:  # given up and deleted since the list was made
                return []
            frames, used, last = _parse(block, position, limit)
            self._offset += used
            if frames or last >= limit:
                return frames
            if used:
                continue
            if not block:
                return []
            wanted = _wanted_bytes(block)
            if wanted > len(block) == size:  # a frame larger than one read
                size = wanted
            elif not self._skip_damage(file, position, limit):
                return []

    def _skip_damage(self, file: WalFile, position: int, limit: int) -> bool:
        """Go to the next whole frame of the file, if there is one."""
        log.error("%s: frames that cannot be read at byte %d are not forwarded", file.path.name, self._offset)
        for offset, found in scan(self._disk.read(file.path), file.first_sequence - 1):
            if offset > self._offset and isinstance(found, Frame) and position < found.sequence <= limit:
                self._offset = offset
                return True
        return False

    # -- confirming ------------------------------------------------------------------------------

    def confirm(self, sequence: int) -> None:
        """Everything up to ``sequence`` is done with. Never goes back."""
        while self._unconfirmed and self._unconfirmed[0][0] <= sequence:
            _, self._confirmed_total = self._unconfirmed.popleft()
        self.confirmed = max(self.confirmed, sequence)

    def lag(self) -> Tally:
        """What the log holds and the remote has not confirmed yet."""
        return self._tail.total.of(self.signal).since(self._confirmed_total)

    # -- giving up -------------------------------------------------------------------------------

    def give_up(self, file: WalFile) -> None:
        """Nothing up to the end of ``file`` is needed any more. May be called on any thread."""
        if file.last_sequence > self.floor:
            self._floor_total = file.total.of(self.signal)
            self.floor = file.last_sequence

    def skip_given_up(self) -> Tally:
        """Pass over what was given up before it was read; what that was. What was read is the caller's to drop."""
        floor, total = self.floor, self._floor_total
        if floor <= self.position:
            return NOTHING
        skipped = total.since(self._read_total)
        self.position, self._read_total = floor, total
        self._unconfirmed.append((floor, total))
        self._tail.note_position(self.name, self.signal, floor, self.unread_bytes)
        return skipped


class Backlog:
    """What the log keeps for one destination: a reader for each signal, a cursor file, a bound. Made by
    ``Readers.register``; of use once the store is open.

    ``store`` blocks and is called on threads, ``give_up`` on any.
    """

    def __init__(self, name: str, max_bytes: int, signals: Iterable[Signal]) -> None:
        self.name = name
        self.max_bytes = max_bytes
        self.readers: Mapping[Signal, WalReader] = {s: WalReader(name, s) for s in Signal if s in set(signals)}
        self._save: Callable[[str, Mapping[Signal, int]], None]
        self._store_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Backlog({', '.join(map(repr, self.readers.values()))})"

    def attach(
        self,
        wal: Wal,
        disk: Disk,
        tail: FreshTail,
        stored: Mapping[Signal, int],
        save: Callable[[str, Mapping[Signal, int]], None],
    ) -> None:
        """Begin above ``stored``."""
        self._save = save
        for signal, reader in self.readers.items():
            reader.attach(wal, disk, tail, stored[signal])

    def store(self) -> None:
        """Make what is confirmed durable, of all signals together. Raises ``OSError``."""
        with self._store_lock:
            confirmed = {signal: reader.confirmed for signal, reader in self.readers.items()}
            if any(reader.stored != confirmed[signal] for signal, reader in self.readers.items()):
                self._save(self.name, confirmed)
                for signal, reader in self.readers.items():
                    reader.stored = confirmed[signal]

    @property
    def confirmed(self) -> int:
        """Everything up to here is done with, whatever the signal."""
        return min(max(reader.confirmed, reader.floor) for reader in self.readers.values())

    @property
    def needs_above(self) -> int:
        """The log may delete what lies up to this sequence, as far as this destination is concerned."""
        return min(max(reader.stored, reader.floor) for reader in self.readers.values())

    def give_up(self, file: WalFile) -> None:
        """Nothing up to the end of ``file`` is needed any more. May be called on any thread."""
        for reader in self.readers.values():
            reader.give_up(file)


def plan_giving_up(files: Sequence[WalFile], backlog: Backlog, file_bytes: int) -> WalFile | None:
    """The newest file that a destination must give up, with all before it, so that what is kept for it stays within
    its bound; None if it does. The file being written is never given up, and counts as full: so does the next one,
    since nobody looks again before it may have been begun."""
    kept = [f for f in files if f.last_sequence > backlog.confirmed]
    if not kept:
        return None
    total = sum(f.size for f in kept[:-1]) + max(kept[-1].size, file_bytes) + file_bytes
    last = None
    for file in kept[:-1]:
        if total <= backlog.max_bytes:
            break
        total -= file.size
        last = file
    return last


def _parse(block: bytes, position: int, limit: int) -> tuple[list[Frame], int, int]:
    """Frames above ``position`` and up to ``limit``; bytes used; the last sequence seen. Looks at nothing
    behind ``limit``: what follows may just be being written."""
    frames: list[Frame] = []
    at, last = 0, position
    while last < limit and at + FRAME_HEADER.size <= len(block):
        found = frame_at(block, at)
        if not isinstance(found, Frame):
            break
        last = found.sequence
        if last > limit:
            break
        at += found.size
        if last > position:
            frames.append(found)
    return frames, at, last


def _wanted_bytes(block: bytes) -> int:
    """The size of the frame that begins here, as far as its header may be believed; a header's if it is cut."""
    if len(block) < FRAME_HEADER.size:
        return FRAME_HEADER.size
    magic, _checksum, length, *_, padding = FRAME_HEADER.unpack_from(block)
    return frame_size(length, padding) if magic == FRAME_MAGIC and length <= MAX_FRAME_BYTES else 0


def _tally_up_to(disk: Disk, files: Sequence[WalFile], signal: Signal, sequence: int) -> Tally:
    total = NOTHING
    for file in files:
        if file.last_sequence <= sequence:
            total = file.total.of(signal)
            continue
        if file.first_sequence <= sequence:
            for _offset, found in scan(disk.read(file.path), file.first_sequence - 1):
                if isinstance(found, Frame) and found.signal is signal and found.sequence <= sequence:
                    total = total.plus(found.rows, len(found.payload))
        break
    return total
