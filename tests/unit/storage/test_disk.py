"""The file operations that storage relies on: one suite for the real disk and for the faulty one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from direct import takes_direct
from otlp_arrow.model.limits import DIRECT_BLOCK_BYTES
from otlp_arrow.storage import disk as disk_module
from otlp_arrow.storage.disk import Disk, SystemDisk
from otlp_arrow.testing.faulty_disk import FaultyDisk


@pytest.fixture(params=["system", "faulty"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return SystemDisk() if request.param == "system" else FaultyDisk(tmp_path)


def test_a_file_grows_by_appending_and_shrinks_by_truncating(disk: Disk, tmp_path: Path):
    file = disk.create(tmp_path / "f")
    assert file.append([b"abc", bytearray(b"def"), memoryview(b"ghi")]) == 9
    file.truncate(4)
    assert file.append([b"X"]) == 1
    assert file.size == 5
    file.sync()
    file.close()
    file.close()
    assert disk.read(tmp_path / "f") == b"abcdX"
    again = disk.open(tmp_path / "f")
    assert again.size == 5
    again.append([b"!"])
    again.close()
    assert bytes(disk.map(tmp_path / "f")) == b"abcdX!"
    assert disk.read_at(tmp_path / "f", 2, 3) == b"cdX"
    assert disk.read_at(tmp_path / "f", 4, 30) == b"X!"


def test_more_buffers_than_one_system_call_takes_are_written_in_order(disk: Disk, tmp_path: Path):
    file = disk.create(tmp_path / "f")
    buffers = [bytes([n % 251]) for n in range(3_000)]
    assert file.append(buffers) == 3_000
    file.close()
    assert disk.read(tmp_path / "f") == b"".join(buffers)


def test_a_name_is_created_once(disk: Disk, tmp_path: Path):
    disk.create(tmp_path / "f").close()
    with pytest.raises(FileExistsError):
        disk.create(tmp_path / "f")
    with pytest.raises(FileNotFoundError):
        disk.open(tmp_path / "g")
    with pytest.raises(FileNotFoundError):
        disk.read(tmp_path / "g")


def test_a_file_is_replaced_as_a_whole(disk: Disk, tmp_path: Path):
    for content in (b"old", b"new and longer", b""):
        disk.replace(tmp_path / "f", content)
        assert disk.read(tmp_path / "f") == content
    assert bytes(disk.map(tmp_path / "f")) == b""
    (tmp_path / "f.tmp").write_bytes(b"left by a crash")
    if isinstance(disk, FaultyDisk):
        disk = FaultyDisk(tmp_path)
    disk.replace(tmp_path / "f", b"newer")
    assert [path.name for path in disk.list(tmp_path)] == ["f"]


def test_files_are_listed_by_name_renamed_and_deleted(disk: Disk, tmp_path: Path):
    disk.make_directory(tmp_path / "d" / "e")
    disk.make_directory(tmp_path / "d" / "e")
    for name in ("b", "a", "c"):
        disk.create(tmp_path / "d" / name).close()
    assert [path.name for path in disk.list(tmp_path / "d")] == ["a", "b", "c"]
    disk.rename(tmp_path / "d" / "a", tmp_path / "z")
    disk.delete(tmp_path / "d" / "b")
    disk.delete(tmp_path / "d" / "b")
    disk.sync_directory(tmp_path / "d")
    assert [path.name for path in disk.list(tmp_path / "d")] == ["c"]
    assert disk.free_bytes(tmp_path) > 0


def test_a_file_written_directly_holds_the_same_and_says_what_it_takes(disk: Disk, tmp_path: Path):
    file = disk.create(tmp_path / "f", direct=True)
    assert file.block_bytes in (1, DIRECT_BLOCK_BYTES)
    blocks = [bytes([n]) * 1000 for n in range(125)]  # 125,000 bytes: 30 blocks and a half
    rest = bytes(-125_000 % DIRECT_BLOCK_BYTES)
    assert file.append([*blocks, rest]) == file.size == 31 * DIRECT_BLOCK_BYTES
    file.truncate(2 * DIRECT_BLOCK_BYTES)
    file.relax()
    file.append([memoryview(b"x" * DIRECT_BLOCK_BYTES)])
    file.sync()
    file.close()
    whole = b"".join(blocks)[: 2 * DIRECT_BLOCK_BYTES] + b"x" * DIRECT_BLOCK_BYTES
    assert disk.read(tmp_path / "f") == whole
    again = disk.open(tmp_path / "f")  # whatever way it was written
    assert again.block_bytes == 1
    again.truncate(5)
    again.append([b"!"])
    again.close()
    assert disk.read(tmp_path / "f") == whole[:5] + b"!"


def test_a_direct_write_that_is_not_of_whole_blocks_is_refused_by_the_disk_that_counts(tmp_path: Path):
    file = FaultyDisk(tmp_path).create(tmp_path / "f", direct=True)
    with pytest.raises(OSError, match="Invalid argument"):
        file.append([b"x" * 100])
    assert file.append([b"x" * DIRECT_BLOCK_BYTES]) == DIRECT_BLOCK_BYTES


@pytest.mark.parametrize("block", [512, DIRECT_BLOCK_BYTES])
def test_a_short_direct_write_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int):
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda descriptor, pieces: writev(descriptor, [memoryview(pieces[0])[:block]]))
    file = SystemDisk().create(tmp_path / "f", direct=True)
    data = bytes(range(256)) * (3 * DIRECT_BLOCK_BYTES // 256)
    assert file.append([data]) == len(data)
    assert (tmp_path / "f").read_bytes() == data


def test_a_system_that_refuses_direct_writes_when_asked_gets_ordinary_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fcntl = pytest.importorskip("fcntl")
    asked = fcntl.fcntl

    def refusing(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL:
            raise OSError(errno.EINVAL, "Invalid argument")
        return asked(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refusing)
    file = SystemDisk().create(tmp_path / "f", direct=True)
    assert file.block_bytes == 1
    assert file.append([b"abc"]) == 3
    assert (tmp_path / "f").read_bytes() == b"abc"


def test_a_system_that_has_no_direct_writes_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk_module, "_O_DIRECT", 0)
    file = SystemDisk().create(tmp_path / "f", direct=True)
    assert file.block_bytes == 1
    assert file.append([b"abc"]) == 3


# -- appends past the cache, in a file of others ----------------------------------------------------


class Writes:
    """What is written to a file, and whether directly."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refused_at: int = 0, full_at: int = 0) -> None:
        fcntl = pytest.importorskip("fcntl")
        writev = os.writev
        self.direct: list[int] = []
        self.cached: list[int] = []

        def writing(descriptor: int, buffers: list[bytes]) -> int:
            direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
            if direct and len(self.direct) + 1 == refused_at:
                raise OSError(errno.EINVAL, "Invalid argument")
            if direct and len(self.direct) + 1 == full_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = writev(descriptor, buffers)
            (self.direct if direct else self.cached).append(written)
            return written

        monkeypatch.setattr(os, "writev", writing)


def noise(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.mark.parametrize("before", [0, 1, 4095, 4096, 5000])
@pytest.mark.parametrize("size", [0, 3, 4096, 4097, 8192, 100_001, 3_000_000])
def test_whole_blocks_go_past_the_cache_and_the_rest_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, size: int
):
    if not takes_direct(tmp_path):
        pytest.skip("the file system of the test does not take O_DIRECT")
    writes = Writes(monkeypatch)
    file = SystemDisk().create(tmp_path / "f")
    data = noise(size)
    file.append([noise(before)])
    assert file.append([data[:1000], data[1000:90_000], memoryview(data)[90_000:]], past_cache=True) == size
    file.append([b"small"])
    file.append([data], past_cache=True)
    file.relax()
    file.append([data], past_cache=True)
    assert file.size == before + 3 * size + 5
    assert (tmp_path / "f").read_bytes() == noise(before) + data + b"small" + data * 2
    if size > 2 * DIRECT_BLOCK_BYTES:
        assert sum(writes.direct) > 3 * (size - 2 * DIRECT_BLOCK_BYTES)
    assert all(written % DIRECT_BLOCK_BYTES == 0 for written in writes.direct)


@pytest.mark.parametrize("refused_at", [1, 2, 3])
def test_a_file_system_that_refuses_to_go_past_the_cache_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused_at: int
):
    writes = Writes(monkeypatch, refused_at)
    file = SystemDisk().create(tmp_path / "f")
    data = noise(2_500_000)
    for _ in range(2):
        file.append([b"head", data], past_cache=True)
    assert (tmp_path / "f").read_bytes() == (b"head" + data) * 2
    assert len(writes.direct) < refused_at


def test_a_disk_that_fills_up_past_the_cache_can_be_cut_and_written_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if not takes_direct(tmp_path):
        pytest.skip("the file system of the test does not take O_DIRECT")
    file = SystemDisk().create(tmp_path / "f")
    file.append([b"good"])
    with monkeypatch.context() as patched:
        Writes(patched, full_at=2)
        with pytest.raises(OSError, match="No space"):
            file.append([noise(3_000_000)], past_cache=True)
    assert file.size == 4
    file.truncate(4)
    file.append([b", the end"])  # of no whole block: not directly
    file.sync()
    assert (tmp_path / "f").read_bytes() == b"good, the end"


@pytest.mark.parametrize("system", ["none", "refuses"])
def test_without_direct_writes_everything_goes_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
):
    if system == "none":
        monkeypatch.setattr(disk_module, "_O_DIRECT", 0)
        monkeypatch.delattr(os, "writev")
    else:
        monkeypatch.setattr(disk_module, "_set_direct", lambda _descriptor, _direct: False)
    file = SystemDisk().create(tmp_path / "f")
    file.append([b"a", noise(1_000_000)], past_cache=True)
    file.append([noise(1_000_000)], past_cache=True)
    assert (tmp_path / "f").read_bytes() == b"a" + noise(1_000_000) * 2


def test_a_short_write_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = os.writev

    def short(descriptor: int, buffers: list[bytes]) -> int:
        whole = b"".join(buffers)
        return original(descriptor, [whole[: max(1, len(whole) // 2)]])

    monkeypatch.setattr(os, "writev", short)
    file = SystemDisk().create(tmp_path / "f")
    assert file.append([b"abcdefg", b"", b"hij"]) == 10
    assert (tmp_path / "f").read_bytes() == b"abcdefghij"


def test_a_system_without_vectored_writes_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "writev")
    file = SystemDisk().create(tmp_path / "f")
    assert file.append([b"abc", b"def"]) == 6
    assert (tmp_path / "f").read_bytes() == b"abcdef"


def test_new_directories_are_synced_into_their_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[Path] = []
    disk = SystemDisk()
    monkeypatch.setattr(disk, "sync_directory", synced.append)
    disk.make_directory(tmp_path / "a" / "b")
    disk.make_directory(tmp_path / "a" / "b")
    assert sorted(synced) == [tmp_path, tmp_path / "a"]
