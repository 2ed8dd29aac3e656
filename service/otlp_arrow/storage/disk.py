"""The few file operations that storage relies on; ``testing.faulty_disk`` is the other implementation.

Errors are the ``OSError`` of the system call. An append that fails may have written a part; the caller
cuts the file back to what it knows to be good.
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

Buffer = bytes | bytearray | memoryview

# What one writev takes (IOV_MAX on Linux and macOS).
_IOV_MAX = 1024
_fdatasync = getattr(os, "fdatasync", os.fsync)


class DiskFile(Protocol):
    """One file open for appending. ``size`` is what was appended successfully."""

    path: Path
    size: int

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write all buffers at the end, in order; the number of bytes written."""

    def sync(self) -> None:
        """Data and size are on stable storage when this returns."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""

    def close(self) -> None:
        """Release the descriptor; no sync."""


class Disk(Protocol):
    """A file system as far as storage needs one."""

    def create(self, path: Path) -> DiskFile:
        """A new empty file; ``FileExistsError`` if the name is taken."""

    def open(self, path: Path) -> DiskFile:
        """An existing file, for appending at its end and truncating."""

    def read(self, path: Path) -> bytes:
        """The whole file."""

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        """At most ``size`` bytes from ``offset`` on; fewer only at the end of the file."""

    def map(self, path: Path) -> memoryview:
        """The whole file without reading it all; only for files that nobody cuts meanwhile."""

    def replace(self, path: Path, data: bytes) -> None:
        """The file at ``path`` holds ``data``, durably and at once: either the old or the new content is seen."""

    def rename(self, source: Path, target: Path) -> None:
        """Move a file within the file system; durable after ``sync_directory`` of both parents."""

    def delete(self, path: Path) -> None:
        """Remove a file; one that is gone already is no error."""

    def list(self, directory: Path) -> list[Path]:
        """The files of a directory, sorted by name."""

    def make_directory(self, path: Path) -> None:
        """Create a directory and its parents where they are missing; durable when it returns."""

    def sync_directory(self, path: Path) -> None:
        """Names created, renamed or removed in this directory are durable when this returns."""

    def free_bytes(self, path: Path) -> int:
        """What an unprivileged process may still write."""


class SystemFile:
    """A file of the operating system."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self.size = size
        self._descriptor = descriptor

    def append(self, buffers: Sequence[Buffer]) -> int:
        written = _write_all(self._descriptor, buffers)
        self.size += written
        return written

    def sync(self) -> None:
        _fdatasync(self._descriptor)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)
        self.size = size

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class SystemDisk:
    """The operating system's file system."""

    def create(self, path: Path) -> DiskFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        return SystemFile(path, os.open(path, flags, 0o640), 0)

    def open(self, path: Path) -> DiskFile:
        flags = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(path, flags)
        return SystemFile(path, descriptor, os.lseek(descriptor, 0, os.SEEK_END))

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(size)
            while len(data) < size and (more := file.read(size - len(data))):
                data += more
            return data

    def map(self, path: Path) -> memoryview:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def replace(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(path.name + ".tmp")
        self.delete(temporary)
        file = self.create(temporary)
        try:
            file.append([data])
            file.sync()
        finally:
            file.close()
        self.rename(temporary, path)
        self.sync_directory(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def list(self, directory: Path) -> list[Path]:
        return sorted(entry for entry in directory.iterdir() if entry.is_file())

    def make_directory(self, path: Path) -> None:
        missing = [p for p in (path, *path.parents) if not p.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for made in missing:
            self.sync_directory(made.parent)

    def sync_directory(self, path: Path) -> None:
        if os.name == "nt":  # directories cannot be opened there; NTFS journals names by itself
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: Path) -> int:
        return shutil.disk_usage(path).free


def _write_all(descriptor: int, buffers: Sequence[Buffer]) -> int:
    total = 0
    for start in range(0, len(buffers), _IOV_MAX):
        total += _write_vector(descriptor, list(buffers[start : start + _IOV_MAX]))
    return total


def _write_vector(descriptor: int, buffers: list[Buffer]) -> int:
    wanted = sum(len(b) for b in buffers)
    if not hasattr(os, "writev"):
        data: Buffer = b"".join(buffers)
        done = 0
        while done < wanted:
            done += os.write(descriptor, memoryview(data)[done:])
        return wanted
    written = os.writev(descriptor, buffers)
    while written < wanted:  # a short write: go on where it stopped; the next call names the error
        rest = _skip(buffers, written)
        written += os.writev(descriptor, rest)
    return wanted


def _skip(buffers: list[Buffer], count: int) -> list[Buffer]:
    for index, buffer in enumerate(buffers):
        if count < len(buffer):
            return [memoryview(buffer)[count:], *buffers[index + 1 :]]
        count -= len(buffer)
    return []
