"""The disk that fails on request: what the other tests believe of it."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from otlp_arrow.testing.faulty_disk import FaultyDisk, PowerCut
from otlp_arrow.testing.manual_clock import ManualClock


def written(disk: FaultyDisk, path: Path, content: bytes, *, synced: bool = True) -> None:
    file = disk.create(path)
    file.append([content])
    if synced:
        file.sync()
        disk.sync_directory(path.parent)


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_a_crash_keeps_what_was_synced_and_nothing_else(tmp_path: Path):
    (tmp_path / "old").write_bytes(b"was there before")
    disk = FaultyDisk(tmp_path)
    written(disk, tmp_path / "kept", b"kept")
    written(disk, tmp_path / "unsynced", b"gone", synced=False)
    file = disk.open(tmp_path / "kept")
    file.append([b" and not yet synced"])
    disk.delete(tmp_path / "old")
    disk.crash()
    assert contents(tmp_path) == {"old": b"was there before", "kept": b"kept"}
    with pytest.raises(PowerCut):
        file.append([b"a process that is dead"])
    file.close()


def test_a_synced_name_without_synced_content_is_an_empty_file(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    written(disk, tmp_path / "f", b"content", synced=False)
    disk.sync_directory(tmp_path)
    disk.crash()
    assert contents(tmp_path) == {"f": b""}


@pytest.mark.parametrize(
    ("survival", "content"),
    [
        ({"torn_bytes": 3}, b"synced, b"),
        ({"torn_bytes": 99}, b"synced, but not this"),
        ({"zeros": True}, b"synced" + bytes(14)),
        ({"zeros": True, "torn_bytes": 2}, b"synced, " + bytes(12)),
    ],
)
def test_a_crash_may_tear_what_was_not_synced(tmp_path: Path, survival: dict[str, int], content: bytes):
    disk = FaultyDisk(tmp_path)
    written(disk, tmp_path / "f", b"synced")
    disk.open(tmp_path / "f").append([b", but not this"])
    disk.crash(**survival)  # type: ignore[arg-type]
    assert contents(tmp_path) == {"f": content}


def test_a_cut_that_was_not_synced_is_undone(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    written(disk, tmp_path / "f", b"long content")
    disk.open(tmp_path / "f").truncate(4)
    disk.crash()
    assert contents(tmp_path) == {"f": b"long content"}


def test_names_may_survive_without_a_sync_of_the_directory(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    written(disk, tmp_path / "f", b"content", synced=False)
    disk.rename(tmp_path / "f", tmp_path / "g")
    disk.crash(names=True, torn_bytes=99)
    assert contents(tmp_path) == {"g": b"content"}


def test_a_forgotten_rename_is_undone_although_the_directory_was_synced(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    disk.replace(tmp_path / "cursor", b"old")
    disk.forget_renames("cursor")
    disk.replace(tmp_path / "cursor", b"new")
    disk.replace(tmp_path / "other", b"new")
    assert disk.read(tmp_path / "cursor") == b"new"
    disk.crash()
    assert contents(tmp_path) == {"cursor": b"old", "other": b"new"}


def test_the_power_goes_before_the_chosen_operation_and_stays_away(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    disk.cut_power_before(1)
    file = disk.create(tmp_path / "f")
    for _ in range(2):
        with pytest.raises(PowerCut):
            file.append([b"x"])
    with pytest.raises(PowerCut):
        disk.open(tmp_path / "f")
    assert [operation for operation, _ in disk.operations] == ["create"]
    assert "dead=True" in repr(disk)
    disk.crash()
    disk.create(tmp_path / "f").close()


def test_a_full_disk_takes_what_fits_and_space_can_return(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    file = disk.create(tmp_path / "f")
    disk.capacity = 10
    file.append([b"12345"])
    assert disk.free_bytes(tmp_path) == 5
    with pytest.raises(OSError, match="No space") as full:
        file.append([b"6789", b"abc"])
    assert full.value.errno == errno.ENOSPC
    assert contents(tmp_path) == {"f": b"123456789a"}
    file.truncate(5)
    disk.capacity = 100
    file.append([b"6789abc"])
    assert disk.used_bytes == 12


def test_faults_strike_as_planned(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    fault = disk.fail("append", errno.EIO, "*.wal", skip=1, times=2, after_bytes=2)
    other, file = disk.create(tmp_path / "x.arrows"), disk.create(tmp_path / "x.wal")
    other.append([b"fine"])
    file.append([b"fine"])
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            file.append([b"short"])
    file.truncate(4)
    file.append([b"fine"])
    assert fault.hits == 2
    disk.fail("sync", times=None)
    for _ in range(5):
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
    disk.heal()
    file.sync()


def test_an_operation_hangs_until_it_is_released(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    file = disk.create(tmp_path / "f")
    with disk.hold("sync", "f") as hold:
        thread = threading.Thread(target=file.sync)
        thread.start()
        assert hold.reached.wait(10)
        assert thread.is_alive()
        disk.create(tmp_path / "others go on").close()
    thread.join(10)
    assert not thread.is_alive()


def test_an_operation_can_be_slow(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    disk.slow("sync", 0.001)
    disk.create(tmp_path / "f").sync()
    assert [operation for operation, _ in disk.operations] == ["create", "sync"]


def test_a_manual_clock_goes_when_it_is_told_to():
    clock = ManualClock(5)
    clock.advance(1.5)
    assert (clock.time_ns(), clock.monotonic()) == (1_500_000_005, 1.5)
    clock.set_back(1)
    assert (clock.time_ns(), clock.monotonic()) == (500_000_005, 1.5)
