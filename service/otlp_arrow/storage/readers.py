"""The readers of one log beside the writer: their cursors on disk, their bounds, what they keep from deletion."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from otlp_arrow.model import Corrupt, Signal
from otlp_arrow.storage.cursor import Sequences, decode_cursor, store_cursor
from otlp_arrow.storage.disk import Disk
from otlp_arrow.storage.frames import FRAMES_BEGIN
from otlp_arrow.storage.layout import FORWARD_PREFIX, Layout
from otlp_arrow.storage.quarantine import Quarantine
from otlp_arrow.storage.reader import Backlog, plan_giving_up
from otlp_arrow.storage.tail import FreshTail
from otlp_arrow.storage.wal import Wal

log = logging.getLogger(__name__)


class Readers:
    """Registered before the store is opened; a cursor whose reader is not among them is deleted at opening."""

    def __init__(self, disk: Disk, layout: Layout, quarantine: Quarantine) -> None:
        self._disk = disk
        self._layout = layout
        self._quarantine = quarantine
        self._backlogs: dict[str, Backlog] = {}
        self._loaded: dict[str, Sequences | None] = {}
        self.damaged_cursors = 0

    def register(self, name: str, max_bytes: int, signals: Iterable[Signal] = Signal) -> Backlog:
        """What is kept for a destination of this name; what it confirmed before is in ``state/``."""
        assert name not in self._backlogs, f"two readers are called {name}"
        backlog = self._backlogs[name] = Backlog(name, max_bytes, signals)
        return backlog

    # -- opening ---------------------------------------------------------------------------------

    def load(self) -> int:
        """Read the cursors of the registered destinations, delete those of others; the highest sequence named."""
        for path in self._disk.list(self._layout.state):
            if path.name.startswith(FORWARD_PREFIX) and path.suffix == ".json":
                name = path.stem.removeprefix(FORWARD_PREFIX)
                if name in self._backlogs:
                    self._loaded[name] = self._load_one(path)
                else:
                    log.warning("%s is no destination any more: what it had not received is not kept for it", name)
                    self._disk.delete(path)
        return max((sequence for found in self._loaded.values() for sequence in (found or {}).values()), default=0)

    def _load_one(self, path: Path) -> Sequences | None:
        try:
            return decode_cursor(path, self._disk.read(path))
        except Corrupt as error:
            self.damaged_cursors += 1
            self._quarantine.move(path, error.reason)
            return None

    def attach(self, wal: Wal) -> None:
        """Begin where the cursors say: a new destination, or a new signal of one, at the end of the log, one whose
        cursor was damaged at its beginning. Every cursor is on disk when this returns: from now on nothing
        acknowledged is passed over.
        """
        self._wal = wal
        if not self._backlogs:
            return
        tail = FreshTail(wal.confirmed_sequence, wal.total)
        wal.on_confirmed = tail.append
        for name, backlog in self._backlogs.items():
            new = name not in self._loaded
            known = self._loaded.get(name)
            missing = wal.confirmed_sequence if new or known is not None else wal.first_sequence - 1
            start = {signal: (known or {}).get(signal, missing) for signal in backlog.readers}
            if start != known:
                self._save(name, start)
            backlog.attach(wal, self._disk, tail, start, self._save)
            if new:
                log.info("%s is a new destination: it gets what is accepted from now on", name)

    def _save(self, name: str, sequences: Mapping[Signal, int]) -> None:
        store_cursor(self._disk, self._layout.forward_cursor(name), sequences)

    # -- letting go ------------------------------------------------------------------------------

    def needed_above(self, up_to: int) -> int:
        """What the log may delete up to, if the writer needs nothing up to ``up_to``."""
        return min([up_to, *(backlog.needs_above for backlog in self._backlogs.values())])

    def keep_bounds(self) -> None:
        """Give up the oldest files of each destination whose backlog outgrew its bound."""
        if not self._backlogs:
            return
        files = self._wal.files
        for backlog in self._backlogs.values():
            file = plan_giving_up(files, backlog, FRAMES_BEGIN + self._wal.file_bytes)
            if file is not None:
                backlog.give_up(file)

    def give_way(self, writer_sequence: int) -> int:
        """Give up and delete the oldest file if nobody but readers needs it; bytes freed. Raises ``OSError``."""
        files = self._wal.files[:-1] if self._backlogs else []
        if not files or files[0].last_sequence > writer_sequence:
            return 0
        for backlog in self._backlogs.values():
            if backlog.needs_above < files[0].last_sequence:
                backlog.give_up(files[0])
        return self._wal.release(files[0].last_sequence)
