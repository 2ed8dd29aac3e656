"""Writing aside what cannot be read, with the reason beside it. Nothing here is ever deleted."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from otlp_arrow.storage.disk import Disk

log = logging.getLogger(__name__)


class Quarantine:
    """The ``quarantine/`` folder."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self.items = 0

    def keep(self, name: str, data: bytes, reason: str) -> Path | None:
        """Store a copy of ``data``; the path, or None if even that failed (then it is in the log only)."""
        path = self._free_name(name)
        try:
            file = self._disk.create(path)
            try:
                file.append([data])
                file.sync()
            finally:
                file.close()
        except OSError as error:
            log.error("could not write %s aside (%s): %s", name, reason, error)
            with contextlib.suppress(OSError):  # half a copy is none
                self._disk.delete(path)
            return None
        self._note(path, reason)
        return path

    def move(self, source: Path, reason: str) -> Path | None:
        """Move a whole file in; the new path, or None if the file could not be moved."""
        path = self._free_name(source.name)
        try:
            self._disk.rename(source, path)
            self._disk.sync_directory(source.parent)
        except OSError as error:
            log.error("could not move %s to quarantine (%s): %s", source, reason, error)
            return None
        self._note(path, reason)
        return path

    def _note(self, path: Path, reason: str) -> None:
        self.items += 1
        log.error("quarantined %s: %s", path.name, reason)
        with contextlib.suppress(OSError):  # the item itself is safe; the log line above has the reason too
            self._disk.replace(path.with_name(path.name + ".reason"), reason.encode() + b"\n")
            self._disk.sync_directory(self._directory)

    def _free_name(self, name: str) -> Path:
        path = self._directory / name
        number = 0
        while path.exists():
            number += 1
            path = self._directory / f"{name}.{number}"
        return path
