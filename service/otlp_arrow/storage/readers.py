"""The readers of one log beside the writer: their cursors on disk, their bounds, what they keep from deletion."""

from __future__ import annotations

import json
import logging
import zlib
from pathlib import Path

from otlp_arrow.model import Corrupt
from otlp_arrow.storage.disk import Disk
from otlp_arrow.storage.layout import FORWARD_PREFIX, Layout
from otlp_arrow.storage.quarantine import Quarantine
from otlp_arrow.storage.reader import WalReader, plan_giving_up
from otlp_arrow.storage.tail import FreshTail
from otlp_arrow.storage.wal import Wal

log = logging.getLogger(__name__)


class Readers:
    """Registered before the store is opened; a cursor whose reader is not among them is deleted at opening."""

    def __init__(self, disk: Disk, layout: Layout, quarantine: Quarantine) -> None:
        self._disk = disk
        self._layout = layout
        self._quarantine = quarantine
        self._readers: dict[str, WalReader] = {}
        self._loaded: dict[str, int | None] = {}
        self.damaged_cursors = 0

    def register(self, name: str, max_backlog_bytes: int) -> WalReader:
        """A reader of this name; what it confirmed before is in ``state/``."""
        assert name not in self._readers, f"two readers are called {name}"
        reader = self._readers[name] = WalReader(name, max_backlog_bytes)
        return reader

    # -- opening ---------------------------------------------------------------------------------

    def load(self) -> int:
        """Read the cursors of the registered readers, delete those of others; the highest sequence named."""
        for path in self._disk.list(self._layout.state):
            if path.name.startswith(FORWARD_PREFIX) and path.suffix == ".json":
                name = path.stem.removeprefix(FORWARD_PREFIX)
                if name in self._readers:
                    self._loaded[name] = self._load_one(path)
                else:
                    log.warning("%s is no destination any more: what it had not received is not kept for it", name)
                    self._disk.delete(path)
        return max((sequence or 0 for sequence in self._loaded.values()), default=0)

    def _load_one(self, path: Path) -> int | None:
        try:
            return decode_position(path, self._disk.read(path))
        except Corrupt as error:
            self.damaged_cursors += 1
            self._quarantine.move(path, error.reason)
            return None

    def attach(self, wal: Wal) -> None:
        """Begin where the cursors say: a new reader at the end of the log, one whose cursor was damaged at its
        beginning. Every cursor is on disk when this returns: from now on nothing acknowledged is passed over.
        """
        self._wal = wal
        if not self._readers:
            return
        tail = FreshTail(wal.confirmed_sequence, wal.total)
        wal.on_confirmed = tail.append
        for name, reader in self._readers.items():
            known = name in self._loaded
            start = self._loaded.get(name)
            if start is None:
                start = wal.first_sequence - 1 if known else wal.confirmed_sequence
                self._save(name, start)
            reader.attach(wal, self._disk, tail, start, self._save)
            if not known:
                log.info("%s is a new destination: it gets what is accepted from now on", name)

    def _save(self, name: str, sequence: int) -> None:
        self._disk.replace(self._layout.forward_cursor(name), encode_position(sequence))

    # -- letting go ------------------------------------------------------------------------------

    def needed_above(self, up_to: int) -> int:
        """What the log may delete up to, if the writer needs nothing up to ``up_to``."""
        return min([up_to, *(reader.needs_above for reader in self._readers.values())])

    def keep_bounds(self) -> None:
        """Give up the oldest files of each reader whose backlog outgrew its bound."""
        if not self._readers:
            return
        files = self._wal.files
        for reader in self._readers.values():
            file = plan_giving_up(files, reader)
            if file is not None:
                reader.give_up(file)

    def give_way(self, writer_sequence: int) -> int:
        """Give up and delete the oldest file if nobody but readers needs it; bytes freed. Raises ``OSError``."""
        files = self._wal.files[:-1] if self._readers else []
        if not files or files[0].last_sequence > writer_sequence:
            return 0
        for reader in self._readers.values():
            if reader.needs_above < files[0].last_sequence:
                reader.give_up(files[0])
        return self._wal.release(files[0].last_sequence)


def encode_position(sequence: int) -> bytes:
    """The content of a destination's cursor file (docs/formats.md)."""
    return json.dumps({"version": 1, "sequence": sequence, "crc32": _checksum(sequence)}, indent=1).encode() + b"\n"


def decode_position(path: Path, data: bytes) -> int:
    """The sequence that a destination's cursor file names. Raises ``Corrupt``."""
    try:
        content = json.loads(data)
        sequence = content["sequence"]
        if content["version"] != 1 or type(sequence) is not int or content["crc32"] != _checksum(sequence):
            raise Corrupt(path, 0, "checksum or version of the cursor is wrong")
        return sequence
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(path, 0, f"not a cursor: {error!r}") from error


def _checksum(sequence: int) -> str:
    return f"{zlib.crc32(str(sequence).encode()):08x}"
