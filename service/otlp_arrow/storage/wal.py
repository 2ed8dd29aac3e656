"""The write-ahead log: what was acknowledged, until every reader has passed it.

One thread appends and syncs; ``release`` and ``read`` may be called from others. Blocking throughout.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from otlp_arrow.model import Encoding, OtlpIOError, Parts, Payload, Signal
from otlp_arrow.model.limits import WAL_FILE_BYTES
from otlp_arrow.model.value import value
from otlp_arrow.storage.disk import Disk, DiskFile
from otlp_arrow.storage.frames import (
    FILE_HEADER,
    FRAME_HEADER,
    FRAMES_BEGIN,
    Damage,
    Frame,
    Unsummed,
    file_header,
    frame_buffers,
    read_file_header,
    scan,
    unsummed_frame,
)
from otlp_arrow.storage.layout import WAL_SUFFIX, Layout
from otlp_arrow.storage.quarantine import Quarantine
from otlp_arrow.storage.tally import NO_TALLIES, Tallies

log = logging.getLogger(__name__)


@value
class Entry:
    """A frame to be: everything but its sequence."""

    signal: Signal
    encoding: Encoding
    rows: int
    received_ns: int
    payload: Payload


@dataclass(slots=True)
class WalFile:
    """One file of the log. ``last_sequence`` is ``first_sequence - 1`` while it holds no frame; ``total``
    counts the confirmed frames up to its end, from the oldest one that was there at opening."""

    path: Path
    first_sequence: int
    last_sequence: int
    size: int
    total: Tallies = NO_TALLIES


@dataclass(frozen=True, slots=True)
class DamagedFrames:
    """A place where frames cannot be read. ``rows`` and ``signal`` are what the damaged header says, 0 and
    None if that is unknown."""

    path: Path
    after_sequence: int
    rows: int = 0
    signal: Signal | None = None


@dataclass(slots=True)
class WalFindings:
    """What opening the log found out."""

    frames: int = 0
    torn_tails: int = 0
    damaged: list[DamagedFrames] = field(default_factory=list)
    missing_frames: int = 0


class Wal:
    """The log of one output directory.

    ``append`` gives sequences to entries and writes them, ``sync`` makes them durable, ``confirm`` lets them
    stand or ``rollback`` takes them back. Only one thread may do these.
    """

    def __init__(
        self,
        disk: Disk,
        layout: Layout,
        quarantine: Quarantine,
        *,
        file_bytes: int = WAL_FILE_BYTES,
        direct: bool = False,
    ) -> None:
        self.file_bytes = file_bytes
        self._disk = disk
        self._layout = layout
        self._quarantine = quarantine
        self._direct = direct  # past the page cache, where the disk can do that
        self._files: list[WalFile] = []
        self._current: DiskFile | None = None
        # Guards _files and _current: append, release and read come from different threads, and a file that is
        # written to must never be released.
        self._lock = threading.Lock()
        self._closed = False
        self._next = 1
        self._unconfirmed: Sequence[Entry] = ()  # the last append, for the case that its sync fails
        self._confirmed_size = 0
        self._total = NO_TALLIES
        self._damaged_since_seen = 0  # while recovering: damage that may account for sequences that are missing
        self.on_confirmed: Callable[[int, Sequence[Entry], Tallies], None] | None = None
        """Told, on the committing thread, which entries stand from which sequence on, and the new total."""

    def __repr__(self) -> str:
        files = ", ".join(f"{f.first_sequence}..{f.last_sequence}" for f in self._files)
        return f"Wal(next={self._next}, unconfirmed={len(self._unconfirmed)}, files=[{files}])"

    @property
    def next_sequence(self) -> int:
        """The sequence that the next entry gets."""
        return self._next

    @property
    def confirmed_sequence(self) -> int:
        """The sequence of the newest frame that stands."""
        return self._next - 1 - len(self._unconfirmed)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        with self._lock:
            return sum(f.size for f in self._files)

    @property
    def files(self) -> list[WalFile]:
        """A copy of the list of files, oldest first."""
        with self._lock:
            return [WalFile(f.path, f.first_sequence, f.last_sequence, f.size, f.total) for f in self._files]

    @property
    def total(self) -> Tallies:
        """What the log held when it was opened, and everything confirmed since."""
        return self._total

    # -- opening ---------------------------------------------------------------------------------

    def recover(self, at_least: int = 1) -> WalFindings:
        """Look at every file, cut or write aside what is damaged, and know the next sequence.

        ``at_least`` is the lowest sequence that may be given next: above all that segments and cursors
        name; what is above them should be here. Call once, before anything else. Raises ``OSError`` if the
        folder cannot be read or repaired.
        """
        findings = WalFindings()
        paths = []
        for path in self._disk.list(self._layout.wal):
            if path.suffix == WAL_SUFFIX and path.stem.isdigit():
                paths.append(path)
            else:
                self._quarantine.move(path, "not a WAL file: its name is not a sequence")
        self._damaged_since_seen = 0
        seen = min([at_least - 1, *(int(path.stem) - 1 for path in paths[:1])])
        for index, path in enumerate(paths):
            void_from = int(paths[index + 1].stem) if index + 1 < len(paths) else None
            seen = self._recover_file(path, void_from, findings, seen)
        self._next = max(at_least, seen + 1)
        return findings

    def _recover_file(self, path: Path, void_from: int | None, findings: WalFindings, seen: int) -> int:
        """``seen``: the newest sequence so far; the same after this file is returned."""
        data = self._disk.read(path)
        first = int(path.stem)
        self._check_header(path, data, findings)
        last = first - 1
        good_end = FRAMES_BEGIN
        explained = False  # a gap in the sequences after damage is no second finding
        for offset, found in scan(data, first - 1):
            if isinstance(found, Damage):
                if void_from is None or last < void_from - 1:
                    explained = True
                    self._damaged_since_seen += 1
                    self._set_aside(path, data, found, findings, last, torn=found.torn and void_from is None)
                continue  # else it is the tail of a file that was given up: the next one has what it had
            if void_from is not None and found.sequence >= void_from:
                continue
            if found.sequence > seen + 1 and not explained:
                findings.missing_frames += max(0, found.sequence - seen - 1 - self._damaged_since_seen)
            explained = False
            self._damaged_since_seen = 0
            findings.frames += 1
            last = max(found.sequence, last)
            seen = max(found.sequence, seen)
            good_end = offset + found.size
            self._total = self._total.plus(found.signal, found.rows, len(found.payload))
        if last < first:  # created and never used, or all void
            self._disk.delete(path)
            self._disk.sync_directory(path.parent)
            return seen
        if good_end < len(data) and void_from is None:
            self._cut(path, good_end)
            data = data[:good_end]
        self._files.append(WalFile(path, first, last, len(data), self._total))
        return seen

    def _check_header(self, path: Path, data: bytes, findings: WalFindings) -> None:
        first = int(path.stem)
        if read_file_header(data) == first or not data.strip(b"\0"):
            return
        if len(data) < FILE_HEADER.size:
            findings.torn_tails += 1
            log.warning("%s ends inside its header: it never held a frame", path.name)
            return
        findings.damaged.append(DamagedFrames(path, first - 1))
        self._keep(path.name, data, f"{path.name}: the header of the WAL file is damaged")

    def _set_aside(
        self, path: Path, data: bytes, damage: Damage, findings: WalFindings, after: int, *, torn: bool
    ) -> None:
        if torn:
            findings.torn_tails += 1
            log.warning("%s: cut an unfinished frame at byte %d (%s)", path.name, damage.start, damage.reason)
            return
        findings.damaged.append(DamagedFrames(path, after, damage.rows, damage.signal))
        reason = f"{path.name}, bytes {damage.start} to {damage.end}: {damage.reason}"
        self._keep(f"{path.name}.{damage.start}", data[damage.start : damage.end], reason)

    def _keep(self, name: str, data: bytes, reason: str) -> None:
        if self._quarantine.keep(name, data, reason) is None:
            raise OtlpIOError(f"damaged bytes cannot be written aside, and are not deleted before: {reason}")

    def _cut(self, path: Path, size: int) -> None:
        file = self._disk.open(path)
        try:
            file.truncate(size)
            file.sync()
        finally:
            file.close()

    # -- writing ---------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> int:
        """Write entries after one another; returns the sequence of the first.

        Follow it with ``sync`` if it shall be durable, then ``confirm`` or ``rollback``. Raises ``OSError``,
        keeping none of the entries, if the disk refuses.
        """
        assert not self._unconfirmed, "the last append was neither confirmed nor rolled back"
        current = self._writable_file()
        frames: list[Unsummed] = []
        first = sequence = self._next
        last = first + len(entries) - 1
        end, whole_block = current.size, max(8, current.block_bytes)
        for index, entry in enumerate(entries, 1):
            payload = entry.payload
            end += FRAME_HEADER.size + len(payload)
            padding = -end % (whole_block if sequence == last or _wants_block(entries[index]) else 8)
            end += padding
            # ``value`` of an enum takes as long as a checksum.
            code, encoding = entry.signal.code, entry.encoding._value_
            frames.append(unsummed_frame(sequence, code, encoding, entry.rows, entry.received_ns, payload, padding))
            sequence += 1
        buffers = frame_buffers(frames)
        try:
            current.append(buffers)
        except OSError:
            self._cut_back(current)
            raise
        self._unconfirmed = entries
        self._next = sequence
        self._note_end(current)
        return first

    def sync(self) -> float:
        """Make the last append durable; the seconds that took. It still has to be confirmed.

        If the sync fails, the file is given up and the entries are written and synced once more, to a
        new file. Raises ``OSError`` if that fails too; nothing of the append is kept then.
        """
        began = time.monotonic()
        try:
            self._sync_current()
        except OSError as error:
            log.error("sync of the log failed (%s); going on in a new file", error)
            entries = self._unconfirmed
            self._give_up_file()
            self.append(entries)
            try:
                self._sync_current()
            except OSError:
                self._give_up_file()
                raise
        return time.monotonic() - began

    def _sync_current(self) -> None:
        current = self._current
        assert current is not None
        current.sync()

    def confirm(self) -> None:
        """The last append stands as it is, synced or not."""
        assert self._current is not None
        entries, self._unconfirmed = self._unconfirmed, ()
        self._confirmed_size = self._current.size
        added: dict[Signal, tuple[int, int]] = {}
        for entry in entries:
            rows, nbytes = added.get(entry.signal, (0, 0))
            added[entry.signal] = rows + entry.rows, nbytes + len(entry.payload)
        total = self._total
        for signal, (rows, nbytes) in added.items():
            total = total.plus(signal, rows, nbytes)
        self._total = self._files[-1].total = total
        if self.on_confirmed is not None and entries:
            self.on_confirmed(self._next - len(entries), entries, total)

    def rollback(self) -> None:
        """Take the last append back; its sequences will be given again."""
        self._next -= len(self._unconfirmed)
        self._unconfirmed = ()
        if self._current is not None:
            self._cut_back(self._current)

    def _writable_file(self) -> DiskFile:
        if self._closed:
            raise OtlpIOError("the log is closed")
        current = self._current
        if current is not None:
            if current.size - FRAMES_BEGIN < self.file_bytes:
                return current
            self._let_go()
        path = self._layout.wal_path(self._next)
        file = self._create(path)
        try:
            file.append([file_header(self._next, time.time_ns())])
            self._disk.sync_directory(path.parent)
        except OSError:
            file.close()
            self._delete_unused(path)
            raise
        with self._lock:
            self._files.append(WalFile(path, self._next, self._next - 1, file.size, self._total))
            self._current = file
        self._confirmed_size = file.size
        return file

    def _create(self, path: Path) -> DiskFile:
        try:
            return self._disk.create(path, direct=self._direct)
        except FileExistsError:
            # A file that failed and could not be deleted then. Nothing in it stands: its first sequence is
            # the next one to be given.
            self._disk.delete(path)
            return self._disk.create(path, direct=self._direct)

    def _let_go(self) -> None:
        """Stop writing to the current file."""
        with self._lock:
            current, self._current = self._current, None
        if current is not None:
            current.close()

    def _note_end(self, current: DiskFile) -> None:
        with self._lock:
            file = self._files[-1]
            file.last_sequence = self._next - 1
            file.size = current.size

    def _cut_back(self, current: DiskFile) -> None:
        """Cut the file to what is confirmed; if even that fails, give it up."""
        try:
            current.truncate(self._confirmed_size)
            self._note_end(current)
        except OSError as error:
            log.error("could not cut %s back to %d bytes: %s", current.path.name, self._confirmed_size, error)
            self._give_up_file()

    def _give_up_file(self) -> None:
        """Stop using the current file; its confirmed frames stay, the others become void because the next
        file begins with the first of their sequences."""
        self._next -= len(self._unconfirmed)
        self._unconfirmed = ()
        current = self._current
        if current is None:
            return
        try:
            current.truncate(self._confirmed_size)
        except OSError:
            pass  # they are void all the same
        unused = None
        with self._lock:  # until here the file cannot be released
            file = self._files[-1]
            file.last_sequence = self._next - 1
            file.size = self._confirmed_size
            if file.last_sequence < file.first_sequence:  # the next file gets this name
                unused = self._files.pop()
        self._let_go()
        if unused is not None:
            self._delete_unused(unused.path)

    def _delete_unused(self, path: Path) -> None:
        """Remove a file without a confirmed frame; its senders were refused."""
        try:
            self._disk.delete(path)
        except OSError as error:
            log.error("could not delete the failed file %s: %s", path.name, error)

    # -- reading and releasing -------------------------------------------------------------------

    def read(self, after: int) -> Iterator[Frame]:
        """Confirmed frames with a sequence above ``after``, in order; damaged ones are passed over."""
        files = self.files
        confirmed = self.confirmed_sequence
        for index, file in enumerate(files):
            limit = files[index + 1].first_sequence if index + 1 < len(files) else confirmed + 1
            if file.last_sequence <= after:
                continue
            for _offset, found in scan(self._disk.read(file.path), file.first_sequence - 1):
                if isinstance(found, Frame) and after < found.sequence < limit:
                    after = found.sequence
                    yield found

    @property
    def first_sequence(self) -> int:
        """The lowest sequence that can still be read; the next one if there is none."""
        with self._lock:
            return self._files[0].first_sequence if self._files else self._next

    def would_release(self, up_to: int) -> bool:
        """Whether ``release`` would delete a file."""
        with self._lock:
            closed = self._files[:-1] if self._current is not None else self._files
            return bool(closed) and closed[0].last_sequence <= up_to

    def release(self, up_to: int) -> int:
        """Delete the files that every reader has passed; the number of bytes freed.

        ``up_to``: no reader needs a sequence up to this one any more.
        """
        freed = 0
        with self._lock:
            active = self._files[-1].path if self._current is not None and self._files else None
            gone = [f for f in self._files if f.last_sequence <= up_to and f.path != active]
            for file in gone:
                self._disk.delete(file.path)
                self._files.remove(file)
                freed += file.size
        if gone:
            self._disk.sync_directory(self._layout.wal)
        return freed

    def relax(self) -> None:
        """Give back memory that is kept for the next append."""
        with self._lock:
            current = self._current
        if current is not None:
            current.relax()

    def close(self) -> None:
        """Sync the current file and close it; nothing can be appended afterwards."""
        self._closed = True
        with self._lock:
            current, self._current = self._current, None
        if current is not None:
            try:
                current.sync()
            finally:
                current.close()


def _wants_block(entry: Entry) -> bool:
    """Whether a frame had best begin with a block of the file: a part of it can be written from where it lies then."""
    return type(entry.payload) is Parts and entry.payload.page_at is not None
