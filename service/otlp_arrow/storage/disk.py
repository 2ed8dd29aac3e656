"""The few file operations that storage relies on; ``testing.faulty_disk`` is the other implementation.

Errors are the ``OSError`` of the system call. An append that fails may have written a part; the caller
cuts the file back to what it knows to be good.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from otlp_arrow.model.limits import DIRECT_BLOCK_BYTES, DIRECT_WRITE_BYTES, IN_PLACE_BYTES

copy_out: Callable[[Any, int, Any], None]
address_of: Callable[[Any], int]

try:
    from otlp_arrow.codec._kernel import address_of, copy_out  # large copies without the GIL
except ImportError:  # pragma: no cover - only where no kernel was built

    def copy_out(target: Any, at: int, source: Any) -> None:
        target[at : at + len(source)] = source

    def address_of(_data: Any) -> int:
        return 1  # nowhere that anything could be written from


log = logging.getLogger(__name__)

Buffer = bytes | bytearray | memoryview

# What one writev takes (IOV_MAX on Linux and macOS).
_IOV_MAX = 1024
_O_DIRECT = getattr(os, "O_DIRECT", 0)
_fdatasync = getattr(os, "fdatasync", os.fsync)


class DiskFile(Protocol):
    """One file open for appending. ``size`` is what was appended successfully; ``block_bytes`` of what every append,
    and every place that the file is cut at, must be a multiple."""

    path: Path
    size: int
    block_bytes: int

    def append(self, buffers: Sequence[Buffer], *, past_cache: bool = False) -> int:
        """Write all buffers at the end, in order; the number of bytes written. ``past_cache``: without leaving them in
        the page cache, if that can be done; all but the first and the last block, which may be shared."""

    def sync(self) -> None:
        """Data and size are on stable storage when this returns."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""

    def relax(self) -> None:
        """Give back memory that is kept for the next append. On any thread."""

    def close(self) -> None:
        """Release the descriptor; no sync."""


class Disk(Protocol):
    """A file system as far as storage needs one."""

    def create(self, path: Path, *, direct: bool = False) -> DiskFile:
        """A new empty file; ``FileExistsError`` if the name is taken. ``direct``: written past the page cache, if that
        can be done; ``block_bytes`` tells."""

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
    """A file of the operating system.

    Written directly, its appends go through an aligned buffer of its own, but for large ones that lie at a page and go
    to a whole block: those are written from where they are. Otherwise only the whole blocks of some appends go past
    the page cache. A system that refuses to write so, be it in the middle of an append, is asked to write the same
    through the page cache. Who reads cannot tell the difference.
    """

    def __init__(self, path: Path, descriptor: int, size: int, *, direct: bool = False) -> None:
        self.path = path
        self.size = size
        self._descriptor = descriptor
        self._is_direct = direct and _set_direct(descriptor, True)
        self._refuses_direct = False
        self.block_bytes = DIRECT_BLOCK_BYTES if self._is_direct else 1
        self._aligned: mmap.mmap | None = None
        self._aligned_lock = threading.Lock()  # ``relax`` comes from another thread

    def append(self, buffers: Sequence[Buffer], *, past_cache: bool = False) -> int:
        if self.block_bytes > 1:
            written = self._append_directly(buffers)
        elif past_cache and not self._refuses_direct:
            written = self._append_past_cache(buffers)
        else:
            written = _write_all(self._descriptor, buffers)
        self.size += written
        return written

    def _append_past_cache(self, buffers: Sequence[Buffer]) -> int:
        """The whole blocks directly; what comes before and after them shares its block with other appends."""
        total = sum(map(len, buffers))
        head = min(-self.size % DIRECT_BLOCK_BYTES, total)
        blocks = (total - head) // DIRECT_BLOCK_BYTES * DIRECT_BLOCK_BYTES
        _write_all(self._descriptor, _first(buffers, head))
        rest = _skip(buffers, head)
        self._is_direct = _set_direct(self._descriptor, True)
        self._refuses_direct = not self._is_direct
        if self._is_direct:
            try:
                self._append_directly(_first(rest, blocks))
            finally:  # unless it was refused in between
                if self._is_direct:
                    self._is_direct = False
                    _set_direct(self._descriptor, False)
            rest = _skip(rest, blocks)
        _write_all(self._descriptor, rest)
        return total

    def _append_directly(self, buffers: Sequence[Buffer]) -> int:
        written = 0
        with self._aligned_lock:
            if self._aligned is None:  # pages come as they are used: a lone small request takes one
                self._aligned = mmap.mmap(-1, DIRECT_WRITE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for run in _runs(self._aligned, buffers):
                written += self._write_aligned(run)
        return written

    def _write_aligned(self, run: list[Buffer]) -> int:
        wanted = sum(map(len, run))
        done = 0
        while done < wanted:
            try:
                done += os.writev(self._descriptor, _skip(run, done))
            except OSError as error:
                if error.errno != errno.EINVAL or not self._is_direct:
                    raise
                log.info("%s is written through the page cache: %s", self.path.name, error)
                _set_direct(self._descriptor, False)
                self._is_direct, self._refuses_direct = False, True
                self.block_bytes = 1
        return wanted

    def relax(self) -> None:
        with self._aligned_lock:
            self._aligned = None

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
        self.relax()


class SystemDisk:
    """The operating system's file system."""

    def create(self, path: Path, *, direct: bool = False) -> DiskFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        return SystemFile(path, os.open(path, flags, 0o640), 0, direct=direct)

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


def _set_direct(descriptor: int, direct: bool) -> bool:
    """Let a file be written past the page cache, or not any more; whether the system does that.

    Asked of the open file: some systems that refuse ``O_DIRECT`` to ``open`` have created the file by then.
    """
    if not _O_DIRECT:
        return False
    import fcntl

    try:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | _O_DIRECT if direct else flags & ~_O_DIRECT)
    except OSError:
        return False
    return True


def _runs(aligned: mmap.mmap, buffers: Sequence[Buffer]) -> Iterator[list[Buffer]]:
    """What to write in one call after the other: pieces of ``aligned``, filled with the bytes of the buffers, and parts
    of those that need not be copied. All are whole blocks if the buffers are, together."""
    run: list[Buffer] = []
    begun = at = 0  # what is filled, and not in the run yet
    view = memoryview(aligned)
    for buffer in buffers:
        size = len(buffer)
        if size >= IN_PLACE_BYTES and at % DIRECT_BLOCK_BYTES == 0 and address_of(buffer) % DIRECT_BLOCK_BYTES == 0:
            whole = memoryview(buffer)
            in_place = size - size % DIRECT_BLOCK_BYTES
            if at > begun:
                run.append(view[begun:at])
                begun = at
            run.append(whole[:in_place])
            buffer = whole[in_place:]
            size -= in_place
            if len(run) > _IOV_MAX - 2:
                yield run
                run = []
        if at + size > DIRECT_WRITE_BYTES:
            rest = memoryview(buffer)
            while at + size > DIRECT_WRITE_BYTES:
                room = DIRECT_WRITE_BYTES - at
                copy_out(aligned, at, rest[:room])
                run.append(view[begun:])
                yield run
                run = []
                rest = rest[room:]
                size -= room
                begun = at = 0
            buffer = rest
        copy_out(aligned, at, buffer)
        at += size
    if at > begun:
        run.append(view[begun:at])
    if run:
        yield run


def _write_all(descriptor: int, buffers: Sequence[Buffer]) -> int:
    total = 0
    for start in range(0, len(buffers), _IOV_MAX):
        total += _write_vector(descriptor, list(buffers[start : start + _IOV_MAX]))
    return total


def _write_vector(descriptor: int, buffers: list[Buffer]) -> int:
    wanted = sum(map(len, buffers))
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


def _first(buffers: Sequence[Buffer], count: int) -> list[Buffer]:
    first: list[Buffer] = []
    for buffer in buffers:
        if count <= len(buffer):
            return [*first, memoryview(buffer)[:count]] if count else first
        first.append(buffer)
        count -= len(buffer)
    return first


def _skip(buffers: Sequence[Buffer], count: int) -> list[Buffer]:
    for index, buffer in enumerate(buffers):
        if count < len(buffer):
            return [memoryview(buffer)[count:], *buffers[index + 1 :]]
        count -= len(buffer)
    return []
