"""One destination's way through the log: where it reads, what it confirmed, what it gave up.

::

    stored ≤ confirmed ≤ position ≤ newest          sequences
       │         │           └ read, on its way to the remote
       │         └ everything up to here reached the remote, or was given up or refused for good
       └ the same, durably: the log keeps what lies above

``floor`` overtakes them all when the backlog outgrows its bound: what lies below may be deleted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """Part of the log: its frames in order, up to and including the sequence ``end``. ``total``, where it is
    known, counts everything up to ``end``, frames that could not be read too."""

    frames: list[Frame]
    end: int
    total: Tally | None = None


class WalReader:
    """A named position in the log. Made by ``Readers.register``; of use once the store is open.

    ``read`` (one at a time) and ``store`` block and are called on threads, ``give_up`` on any; the rest belongs to
    whoever delivers.
    """

    def __init__(self, name: str, max_backlog_bytes: int) -> None:
        self.name = name
        self.max_backlog_bytes = max_backlog_bytes
        self.position = self.confirmed = self.stored = 0
        self.floor = 0
        self._floor_total = self._read_total = self._confirmed_total = NOTHING
        self._unconfirmed: deque[tuple[int, Tally]] = deque()  # what was taken: sequence, total up to there
        self._store_lock = threading.Lock()
        self._file_first = 0  # the file that ``read`` stands in, and where
        self._offset = 0

    def __repr__(self) -> str:
        return f"WalReader({self.name}: {self.stored} ≤ {self.confirmed} ≤ {self.position}, floor={self.floor})"

    def attach(self, wal: Wal, disk: Disk, tail: FreshTail, stored: int, save: Callable[[str, int], None]) -> None:
        """Begin above ``stored``."""
        self._wal, self._disk, self._tail, self._save = wal, disk, tail, save
        self.position = self.confirmed = self.stored = stored
        self._read_total = self._confirmed_total = _tally_up_to(disk, wal.files, stored)
        tail.note_position(self.name, stored)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def newest(self) -> int:
        """The newest sequence that can be read."""
        return self._tail.newest

    @property
    def unread_bytes(self) -> int:
        """Payload bytes above ``position``."""
        return self._tail.total.nbytes - self._read_total.nbytes

    def wake_after_position(self, wake: Callable[[], object]) -> bool:
        """Call ``wake`` once, on the committing thread, when there is more to read; False if there is."""
        return self._tail.wake_after(self.name, self.position, wake)

    def fresh(self, max_bytes: int) -> Stretch | None:
        """What follows ``position``, about ``max_bytes`` of it, if it is in memory; None if ``read`` must get it."""
        frames = self._tail.after(self.position, max_bytes)
        return None if frames is None else Stretch(frames, frames[-1].sequence if frames else self.position)

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
        while size < max_bytes and position < limit:
            found = self._read_file(files[at], position, limit)
            if not found:
                position = limit
                break
            frames += found
            size += sum(len(f.payload) for f in found)
            position = found[-1].sequence
        ended = following is not None and position == limit
        return Stretch(frames, position, files[at].total if ended else None)

    def take(self, stretch: Stretch) -> tuple[list[Frame], Tally]:
        """Go to the end of a stretch: the frames to deal with, and what could not be read on the way."""
        frames = [f for f in stretch.frames if f.sequence > self.position]
        total = self._read_total
        for frame in frames:
            total = total.plus(frame.signal, frame.rows, len(frame.payload))
            self._unconfirmed.append((frame.sequence, total))
        unreadable = stretch.total.since(total) if stretch.total is not None else NOTHING
        if stretch.end > self.position:
            self.position, self._read_total = stretch.end, stretch.total or total
            self._unconfirmed.append((stretch.end, self._read_total))
            self._tail.note_position(self.name, self.position)
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

    def store(self) -> None:
        """Make what is confirmed durable. Raises ``OSError``."""
        with self._store_lock:
            confirmed = self.confirmed
            if confirmed != self.stored:
                self._save(self.name, confirmed)
                self.stored = confirmed

    def lag(self) -> Tally:
        """What the log holds and the remote has not confirmed yet."""
        return self._tail.total.since(self._confirmed_total)

    # -- giving up -------------------------------------------------------------------------------

    @property
    def needs_above(self) -> int:
        """The log may delete what lies up to this sequence, as far as this reader is concerned."""
        return max(self.stored, self.floor)

    def give_up(self, file: WalFile) -> None:
        """Nothing up to the end of ``file`` is needed any more. May be called on any thread."""
        if file.last_sequence > self.floor:
            self._floor_total = file.total
            self.floor = file.last_sequence

    def skip_given_up(self) -> Tally:
        """Pass over what was given up before it was read; what that was. What was read is the caller's to drop."""
        floor, total = self.floor, self._floor_total
        if floor <= self.position:
            return NOTHING
        skipped = total.since(self._read_total)
        self.position, self._read_total = floor, total
        self._unconfirmed.append((floor, total))
        self._tail.note_position(self.name, floor)
        return skipped


def plan_giving_up(files: Sequence[WalFile], reader: WalReader) -> WalFile | None:
    """The newest file that a reader must give up, with all before it, so that what is kept for it is within
    its bound; None if it is. The file being written is never given up."""
    kept = [f for f in files if f.last_sequence > max(reader.confirmed, reader.floor)]
    total = sum(f.size for f in kept)
    last = None
    for file in kept[:-1]:
        if total <= reader.max_backlog_bytes:
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


def _tally_up_to(disk: Disk, files: Sequence[WalFile], sequence: int) -> Tally:
    total = NOTHING
    for file in files:
        if file.last_sequence <= sequence:
            total = file.total
            continue
        if file.first_sequence <= sequence:
            for _offset, found in scan(disk.read(file.path), file.first_sequence - 1):
                if isinstance(found, Frame) and found.sequence <= sequence:
                    total = total.plus(found.signal, found.rows, len(found.payload))
        break
    return total
