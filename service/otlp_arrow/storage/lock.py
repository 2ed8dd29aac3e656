"""One process per output directory."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import TracebackType

from otlp_arrow.model import DirectoryLocked, OtlpIOError

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        """Closing is enough."""
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        """A child that was forked meanwhile has the descriptor too, and with it the lock until it ends."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class DirectoryLock:
    """Held while a collector writes. The operating system lets go of it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> None:
        """Raises ``DirectoryLocked`` if another process holds it, ``OtlpIOError`` if the directory is not writable."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o640)
        except OSError as error:
            raise OtlpIOError(f"cannot write to the output directory {self._path.parent}: {error.strerror}") from error
        try:
            _lock(descriptor)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() if hasattr(os, "pread") else ""
            os.close(descriptor)
            who = f"process {holder}" if holder else "another process"
            raise DirectoryLocked(
                f"{self._path.parent} is in use by {who}; stop it, or choose another output_dir"
            ) from error
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # the pid is for people; a full disk is no reason not to start
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let go; idempotent."""
        if self._descriptor >= 0:
            _unlock(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> DirectoryLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
