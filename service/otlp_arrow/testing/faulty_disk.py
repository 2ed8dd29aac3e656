"""A disk that fails on request, and forgets in a power cut what was not synced.

The other ``storage.disk.Disk``: it works in a real directory, so that everything can be looked at, and keeps
beside it what stable storage would hold::

    now        names and bytes as every process sees them           the real directory
    durable    names of directories that were synced, bytes of      kept in memory, put in place by ``crash``
               files that were synced

Use it from a test like this::

    disk = FaultyDisk(directory)
    disk.fail("sync", errno.EIO, "*.wal")           # the next sync of a WAL file fails
    disk.capacity = disk.used_bytes + 4096          # then the disk is full
    with disk.hold("sync", "*.wal") as held: ...    # a sync that hangs until the block is left
    disk.cut_power_before(17)                       # the 17th operation from now on is never done
    disk.crash()                                    # only what is durable is left

Operations are counted where they change something: create, append, sync, truncate, rename, delete,
sync_directory. ``replace`` is made of them, as in the real disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from otlp_arrow.model.limits import DIRECT_BLOCK_BYTES
from otlp_arrow.storage.disk import Buffer, DiskFile, SystemDisk

Operation = Literal["create", "append", "sync", "truncate", "rename", "delete", "sync_directory"]

_HOLD_TIMEOUT_S = 30.0


class PowerCut(Exception):
    """The power went before this operation, or earlier. Not an ``OSError``: nobody can handle it."""


@dataclass(slots=True)
class Fault:
    """Operations of one kind on files whose name matches fail: after ``skip`` of them, ``times`` of them (None: all).

    An append first writes ``after_bytes``: a short write. ``hits`` counts.
    """

    operation: Operation
    error: int
    pattern: str = "*"
    skip: int = 0
    times: int | None = 1
    after_bytes: int = 0
    hits: int = 0

    def strikes(self, operation: Operation, path: Path) -> bool:
        if operation != self.operation or not fnmatch(path.name, self.pattern):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        self.hits += 1
        return True


class Hold:
    """Operations that hang. ``reached`` is set once one does; ``release`` lets them all go on."""

    def __init__(self, operation: Operation, pattern: str) -> None:
        self.operation = operation
        self.pattern = pattern
        self.reached = threading.Event()
        self._released = threading.Event()

    def release(self) -> None:
        """Let go on what hangs, and whatever comes later."""
        self._released.set()

    def wait(self) -> None:
        self.reached.set()
        assert self._released.wait(_HOLD_TIMEOUT_S), f"nobody released the held {self.operation}"


@dataclass(slots=True)
class _Inode:
    """What a file is apart from its names. ``durable`` are its bytes on stable storage."""

    durable: bytes = b""
    files: list[FaultyFile] = field(default_factory=list)


class FaultyDisk(SystemDisk):
    """A disk below ``root``; what lies there already is durable. Usable from several threads."""

    def __init__(self, root: Path) -> None:
        self._lock = threading.RLock()
        self._names: dict[Path, _Inode] = {}
        self._durable_names: dict[Path, _Inode] = {}
        self._faults: list[Fault] = []
        self._holds: list[Hold] = []
        self._slow: list[tuple[Operation, str, float]] = []
        self._forgotten: list[str] = []
        self._cut_at: int | None = None
        self._dead = False
        self.takes_direct = True
        """Whether files may be written past the page cache; an append to one that is not of whole blocks is EINVAL."""
        self.capacity: int | None = None
        """Bytes that all files together may have; an append beyond it is short and raises ENOSPC. May be changed."""
        self.operations: list[tuple[Operation, Path]] = []
        """What was done, oldest first; an operation that failed counts."""
        for path in sorted(root.rglob("*")):
            if path.is_file():
                self._names[path] = self._durable_names[path] = _Inode(path.read_bytes())

    def __repr__(self) -> str:
        return f"FaultyDisk({len(self._names)} files, {len(self.operations)} operations, dead={self._dead})"

    # -- plans -----------------------------------------------------------------------------------

    def fail(
        self,
        operation: Operation,
        error: int = errno.EIO,
        pattern: str = "*",
        *,
        skip: int = 0,
        times: int | None = 1,
        after_bytes: int = 0,
    ) -> Fault:
        """Plan a ``Fault``."""
        fault = Fault(operation, error, pattern, skip, times, after_bytes)
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget all planned faults."""
        self._faults.clear()
        self._slow.clear()

    @contextlib.contextmanager
    def hold(self, operation: Operation, pattern: str = "*") -> Iterator[Hold]:
        """Let operations hang until the block is left, or ``release`` is called."""
        hold = Hold(operation, pattern)
        self._holds.append(hold)
        try:
            yield hold
        finally:
            self._holds.remove(hold)
            hold.release()

    def slow(self, operation: Operation, seconds: float, pattern: str = "*") -> None:
        """Let operations take this much longer."""
        self._slow.append((operation, pattern, seconds))

    def forget_renames(self, pattern: str) -> None:
        """Renames to matching names are undone by a crash although the directory was synced: a disk that lies."""
        self._forgotten.append(pattern)

    def cut_power_before(self, operations: int) -> None:
        """Of the operations from now on, the one with this number (from 0) and all after it raise ``PowerCut``."""
        self._cut_at = len(self.operations) + operations

    # -- the power cut ---------------------------------------------------------------------------

    def crash(self, *, torn_bytes: int = 0, zeros: bool = False, names: bool = False) -> None:
        """The power goes and comes back: what is not durable is lost, except as said here.

        Of the bytes that were not synced, the first ``torn_bytes`` of each file survive; with ``zeros`` the
        size of a file survives and the rest of its bytes are zero (metadata was written before data). With
        ``names``, entries of directories survive that were not synced. All open files are dead; the disk
        works again.
        """
        with self._lock:
            now = {path: (inode, path.read_bytes()) for path, inode in self._names.items()}
            for path, (inode, _) in now.items():
                for file in inode.files:
                    file.kill()
                inode.files.clear()
                path.unlink()
            left: dict[Path, _Inode] = {}
            for path, inode in (self._names if names else self._durable_names).items():
                current = next((data for other, data in now.values() if other is inode), inode.durable)
                data = _survivor(inode.durable, current, torn_bytes, zeros=zeros)
                path.write_bytes(data)
                left[path] = _Inode(data)
            self._names = left
            self._durable_names = dict(left)
            self._dead = False
            self._cut_at = None

    # -- the disk --------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """Bytes of all files."""
        with self._lock:
            return sum(path.stat().st_size for path in self._names)

    def create(self, path: Path, *, direct: bool = False) -> DiskFile:
        with self._doing("create", path):
            file = super().create(path)
            self._names[path] = _Inode()
            return self._wrapped(file, direct=direct and self.takes_direct)

    def open(self, path: Path) -> DiskFile:
        with self._lock:
            self._check_alive()
            return self._wrapped(super().open(path))

    def _wrapped(self, file: DiskFile, *, direct: bool = False) -> FaultyFile:
        inode = self._names[file.path]
        faulty = FaultyFile(self, inode, file, DIRECT_BLOCK_BYTES if direct else 1)
        inode.files.append(faulty)
        return faulty

    def rename(self, source: Path, target: Path) -> None:
        with self._doing("rename", target):
            super().rename(source, target)
            self._names[target] = self._names.pop(source)

    def delete(self, path: Path) -> None:
        with self._doing("delete", path):
            super().delete(path)
            self._names.pop(path, None)

    def sync_directory(self, path: Path) -> None:
        with self._doing("sync_directory", path):
            kept = {n: i for n, i in self._durable_names.items() if n.parent != path or self._is_forgotten(n)}
            synced = {n: i for n, i in self._names.items() if n.parent == path and not self._is_forgotten(n)}
            self._durable_names = kept | synced

    def free_bytes(self, path: Path) -> int:
        if self.capacity is None:
            return super().free_bytes(path)
        return max(0, self.capacity - self.used_bytes)

    def _is_forgotten(self, path: Path) -> bool:
        return any(fnmatch(path.name, pattern) for pattern in self._forgotten)

    # -- what every operation goes through -------------------------------------------------------

    def _check_alive(self) -> None:
        if self._dead:
            raise PowerCut

    def _enter(self, operation: Operation, path: Path) -> Fault | None:
        """Count an operation, wait as planned; the fault that strikes it."""
        with self._lock:
            self._check_alive()
            if self._cut_at is not None and len(self.operations) >= self._cut_at:
                self._dead = True
                raise PowerCut
            self.operations.append((operation, path))
            holds = [h for h in self._holds if h.operation == operation and fnmatch(path.name, h.pattern)]
            wait_s = sum(s for o, pattern, s in self._slow if o == operation and fnmatch(path.name, pattern))
        for hold in holds:
            hold.wait()
        if wait_s:
            time.sleep(wait_s)
        with self._lock:
            self._check_alive()
            return next((f for f in self._faults if f.strikes(operation, path)), None)

    @contextlib.contextmanager
    def _doing(self, operation: Operation, path: Path) -> Iterator[None]:
        fault = self._enter(operation, path)
        if fault is not None:
            raise _error(fault.error, path)
        with self._lock:
            yield

    def _append(self, file: FaultyFile, real: DiskFile, buffers: Sequence[Buffer]) -> int:
        fault = self._enter("append", file.path)
        with self._lock:
            data = b"".join(buffers)
            if file.size % file.block_bytes or len(data) % file.block_bytes:
                raise _error(errno.EINVAL, file.path)
            if fault is not None:
                real.append([data[: fault.after_bytes]])
                raise _error(fault.error, file.path)
            if self.capacity is not None and len(data) > (room := max(0, self.capacity - self.used_bytes)):
                real.append([data[: room - room % file.block_bytes]])
                raise _error(errno.ENOSPC, file.path)
            return real.append([data])


class FaultyFile:
    """A file of a ``FaultyDisk``. After a crash only ``close`` works."""

    def __init__(self, disk: FaultyDisk, inode: _Inode, real: DiskFile, block_bytes: int) -> None:
        self.path = real.path
        self.block_bytes = block_bytes
        self.size = real.size
        self._disk = disk
        self._inode = inode
        self._real: DiskFile | None = real

    def append(self, buffers: Sequence[Buffer], *, past_cache: bool = False) -> int:
        """Write all buffers, or as many bytes as the fault or the capacity allows."""
        written = self._disk._append(self, self._alive(), buffers)
        self.size += written
        return written

    def sync(self) -> None:
        """What the file holds is durable."""
        with self._disk._doing("sync", self.path):
            self._alive()  # no real sync: stable storage is modelled here, and waiting for it proves nothing
            if self._disk._names.get(self.path) is self._inode:  # else it was deleted meanwhile
                self._inode.durable = self.path.read_bytes()

    def truncate(self, size: int) -> None:
        """Cut the file."""
        with self._disk._doing("truncate", self.path):
            self._alive().truncate(size)
            self.size = size

    def relax(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Release the descriptor."""
        if self._real is not None:
            self._real.close()

    def kill(self) -> None:
        """The power went."""
        self.close()
        self._real = None

    def _alive(self) -> DiskFile:
        if self._real is None:
            raise PowerCut
        return self._real


def _survivor(durable: bytes, current: bytes, torn_bytes: int, *, zeros: bool) -> bytes:
    """A file's bytes after a power cut."""
    if not torn_bytes and not zeros:
        return durable
    same = next((i for i, (a, b) in enumerate(zip(durable, current, strict=False)) if a != b), None)
    kept = current[: (min(len(durable), len(current)) if same is None else same) + torn_bytes]
    return kept + bytes(len(current) - len(kept)) if zeros else kept


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
