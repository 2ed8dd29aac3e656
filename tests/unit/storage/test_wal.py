"""The write-ahead log on a disk that can fail."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from otlp_arrow.model import Encoding, OtlpIOError, Signal
from otlp_arrow.storage.frames import FRAMES_BEGIN
from otlp_arrow.storage.layout import Layout
from otlp_arrow.storage.quarantine import Quarantine
from otlp_arrow.storage.wal import Entry, Wal, WalFindings
from otlp_arrow.testing.faulty_disk import FaultyDisk


@pytest.fixture
def disk(tmp_path: Path) -> FaultyDisk:
    disk = FaultyDisk(tmp_path)
    for directory in Layout(tmp_path).directories():
        disk.make_directory(directory)
    return disk


def new_wal(disk: FaultyDisk, root: Path, file_bytes: int = 160) -> Wal:
    layout = Layout(root)
    return Wal(disk, layout, Quarantine(disk, layout.quarantine), file_bytes=file_bytes)


def opened(disk: FaultyDisk, root: Path, at_least: int = 1) -> tuple[Wal, WalFindings]:
    wal = new_wal(disk, root)
    return wal, wal.recover(at_least)


def entries(*payloads: bytes) -> list[Entry]:
    return [Entry(Signal.LOGS, Encoding.OTLP, 1, 5, payload) for payload in payloads]


def keep(wal: Wal, *payloads: bytes) -> int:
    first = wal.append(entries(*payloads))
    wal.sync()
    wal.confirm()
    return first


def held(wal: Wal, after: int = 0) -> list[tuple[int, bytes]]:
    return [(frame.sequence, frame.payload) for frame in wal.read(after)]


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "wal").iterdir())


def number(sequence: int) -> str:
    return f"{sequence:020}.wal"


# -- ordinary days ---------------------------------------------------------------------------------


def test_what_was_confirmed_is_read_back_by_the_next_process(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    assert keep(wal, b"a", b"b") == 1
    assert keep(wal, b"c") == 3
    disk.crash()
    again, findings = opened(disk, tmp_path)
    assert held(again) == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert (findings.frames, findings.torn_tails, findings.damaged, findings.missing_frames) == (3, 0, [], 0)
    assert keep(again, b"d") == 4


def test_a_full_file_is_followed_by_one_named_by_its_first_sequence(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    for payload in (b"x" * 150, b"y" * 150, b"z"):
        keep(wal, payload)
    assert names(tmp_path) == [number(1), number(2), number(3)]
    assert held(wal, after=1) == [(2, b"y" * 150), (3, b"z")]


def test_files_go_once_everybody_has_passed_them_and_the_one_being_written_stays(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    for _ in range(3):
        keep(wal, b"x" * 150)
    assert not wal.would_release(0)
    assert wal.release(0) == 0
    before = wal.size_bytes
    assert wal.would_release(1)
    freed = wal.release(2)
    assert freed == before - wal.size_bytes > 0
    assert names(tmp_path) == [number(3)]
    assert wal.release(3) == 0
    assert names(tmp_path) == [number(3)]
    assert wal.first_sequence == 3
    keep(wal, b"y")
    assert held(wal) == [(3, b"x" * 150), (4, b"y")]


def test_sequences_go_on_when_everything_was_released(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    keep(wal, b"a", b"b")
    wal.close()
    wal.release(2)
    assert names(tmp_path) == []
    again, findings = opened(disk, tmp_path, at_least=3)
    assert again.first_sequence == 3
    assert keep(again, b"c") == 3
    assert findings.missing_frames == 0


def test_a_rollback_gives_the_sequences_again(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    keep(wal, b"a")
    wal.append(entries(b"b", b"c"))
    assert wal.confirmed_sequence == 1
    assert held(wal) == [(1, b"a")]
    wal.rollback()
    assert keep(wal, b"d") == 2
    disk.crash()
    assert held(opened(disk, tmp_path)[0]) == [(1, b"a"), (2, b"d")]


def test_a_log_that_was_closed_takes_nothing_more(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    keep(wal, b"a")
    wal.close()
    with pytest.raises(OtlpIOError, match="closed"):
        wal.append(entries(b"b"))


def test_a_log_tells_its_files_in_its_repr(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    keep(wal, b"a")
    assert "1..1" in repr(wal)


# -- a disk that refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize("after_bytes", [0, 1, 39, 40, 57])
def test_a_short_write_keeps_nothing_and_the_file_goes_on(disk: FaultyDisk, tmp_path: Path, after_bytes: int):
    wal, _ = opened(disk, tmp_path)
    keep(wal, b"a")
    disk.fail("append", errno.EIO, "*.wal", after_bytes=after_bytes)
    with pytest.raises(OSError, match="Input/output"):
        wal.append(entries(b"lost " * 5))
    assert keep(wal, b"b") == 2
    assert held(wal) == [(1, b"a"), (2, b"b")]
    assert names(tmp_path) == [number(1)]


def test_a_short_write_that_cannot_be_cut_back_is_void_because_a_new_file_begins(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    keep(wal, b"a")
    disk.fail("append", errno.EIO, "*.wal", after_bytes=10_000)  # every byte got there all the same
    disk.fail("truncate", errno.EIO, "*.wal", times=None)
    with pytest.raises(OSError, match="Input/output"):
        wal.append(entries(b"refused"))
    assert keep(wal, b"b") == 2
    assert names(tmp_path) == [number(1), number(2)]
    disk.heal()
    disk.crash(torn_bytes=10_000)
    again, findings = opened(disk, tmp_path)
    assert held(again) == [(1, b"a"), (2, b"b")]
    assert (findings.damaged, findings.torn_tails, findings.missing_frames) == ([], 0, 0)


def test_half_a_frame_before_a_new_file_is_no_damage(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    keep(wal, b"a")
    disk.fail("append", errno.EIO, "*.wal", after_bytes=50)
    disk.fail("truncate", errno.EIO, "*.wal", times=None)
    with pytest.raises(OSError, match="Input/output"):
        wal.append(entries(b"refused, and only half of it written"))
    keep(wal, b"b")
    _, findings = opened(disk, tmp_path)
    assert (findings.damaged, findings.torn_tails, findings.missing_frames) == ([], 0, 0)
    assert not list((tmp_path / "quarantine").iterdir())


def test_after_a_failed_sync_the_entries_go_to_a_new_file(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    keep(wal, b"a")
    disk.fail("sync", errno.EIO, "*.wal")
    assert keep(wal, b"b", b"c") == 2
    assert names(tmp_path) == [number(1), number(2)]
    disk.crash()
    assert held(opened(disk, tmp_path)[0]) == [(1, b"a"), (2, b"b"), (3, b"c")]


def test_a_failed_sync_of_a_file_without_confirmed_frames_uses_its_name_again(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    disk.fail("sync", errno.EIO, "*.wal")
    keep(wal, b"a")
    assert names(tmp_path) == [number(1)]
    disk.crash()
    assert held(opened(disk, tmp_path)[0]) == [(1, b"a")]


def test_when_both_syncs_fail_nothing_is_kept_and_the_next_try_works(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    keep(wal, b"a")
    for _ in range(3):
        disk.fail("sync", errno.EIO, "*.wal", times=2)
        wal.append(entries(b"refused"))
        with pytest.raises(OSError, match="Input/output"):
            wal.sync()
        disk.heal()
    assert keep(wal, b"b") == 2
    disk.crash()
    assert held(opened(disk, tmp_path)[0]) == [(1, b"a"), (2, b"b")]
    assert not list((tmp_path / "quarantine").iterdir()), "refused frames pile up nowhere"


def test_a_failed_file_that_cannot_be_deleted_does_not_block_its_name_for_ever(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    disk.fail("sync_directory", errno.EIO, "wal")
    disk.fail("delete", errno.EIO, "*.wal")
    with pytest.raises(OSError, match="Input/output"):
        wal.append(entries(b"refused"))
    assert names(tmp_path) == [number(1)]
    assert keep(wal, b"a") == 1
    disk.crash()
    assert held(opened(disk, tmp_path)[0]) == [(1, b"a")]


@pytest.mark.parametrize("operation", ["create", "append", "sync_directory"])
def test_a_file_that_cannot_be_begun_costs_nothing(disk: FaultyDisk, tmp_path: Path, operation: str):
    wal, _ = opened(disk, tmp_path)
    disk.fail(operation, errno.ENOSPC)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="No space"):
        wal.append(entries(b"refused"))
    assert names(tmp_path) == []
    assert keep(wal, b"a") == 1


def test_a_full_disk_refuses_and_takes_again(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    keep(wal, b"a")
    disk.capacity = disk.used_bytes + 20
    with pytest.raises(OSError, match="No space"):
        wal.append(entries(b"b" * 100))
    disk.capacity += 500
    assert keep(wal, b"c") == 2
    disk.crash()
    assert held(opened(disk, tmp_path)[0]) == [(1, b"a"), (2, b"c")]


def test_a_file_that_is_just_being_begun_is_never_released(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    keep(wal, b"x" * 200)
    with disk.hold("sync_directory", "wal") as hold:
        writing = threading.Thread(target=keep, args=(wal, b"the next file"))
        writing.start()
        assert hold.reached.wait(10)
        releasing = threading.Thread(target=wal.release, args=(1,))
        releasing.start()
    writing.join(10)
    releasing.join(10)
    disk.crash()
    assert (2, b"the next file") in held(opened(disk, tmp_path)[0])


def test_a_file_that_is_given_up_while_others_are_released_is_booked_right(disk: FaultyDisk, tmp_path: Path):
    wal, _ = opened(disk, tmp_path)
    keep(wal, b"x")
    disk.fail("sync", errno.EIO, "*.wal")
    with disk.hold("truncate", "*.wal") as hold:
        writing = threading.Thread(target=keep, args=(wal, b"y"))
        writing.start()
        assert hold.reached.wait(10)
        assert wal.release(1) == 0, "the file that is given up is still being written"
    writing.join(10)
    wal.release(1)
    assert held(wal) == [(2, b"y")]
    assert names(tmp_path) == [number(2)]


# -- what a crash or a hand may leave --------------------------------------------------------------


def damaged_wal(root: Path, sequence: int, position: int, flip: int = 1) -> None:
    path = root / "wal" / number(sequence)
    data = bytearray(path.read_bytes())
    data[position] ^= flip
    path.write_bytes(data)


def filled(disk: FaultyDisk, root: Path, groups: Sequence[Sequence[bytes]]) -> None:
    wal, _ = opened(disk, root)
    for group in groups:
        keep(wal, *group)
    wal.close()


def test_a_torn_tail_is_cut_and_counted(disk: FaultyDisk, tmp_path: Path):
    filled(disk, tmp_path, [[b"a", b"torn"]])
    path = tmp_path / "wal" / number(1)
    disk.open(path).truncate(FRAMES_BEGIN + 48 + 20)
    again, findings = opened(disk, tmp_path)
    assert held(again) == [(1, b"a")]
    assert findings.torn_tails == 1
    assert path.stat().st_size == FRAMES_BEGIN + 48
    assert keep(again, b"b") == 2
    assert opened(disk, tmp_path)[1].torn_tails == 0


def test_a_damaged_frame_is_written_aside_and_the_others_are_used(disk: FaultyDisk, tmp_path: Path):
    filled(disk, tmp_path, [[b"a", b"rotten", b"c"]])
    damaged_wal(tmp_path, 1, FRAMES_BEGIN + 48 + 41)
    again, findings = opened(disk, tmp_path)
    assert held(again) == [(1, b"a"), (3, b"c")]
    (damage,) = findings.damaged
    assert (damage.after_sequence, damage.rows, damage.signal) == (1, 1, Signal.LOGS)
    assert findings.missing_frames == 0
    (kept,) = [p for p in (tmp_path / "quarantine").iterdir() if p.suffix != ".reason"]
    assert b"rntten" in kept.read_bytes()
    assert "checksum" in kept.with_name(kept.name + ".reason").read_text()


def test_nothing_is_cut_before_a_copy_is_written_aside(disk: FaultyDisk, tmp_path: Path):
    filled(disk, tmp_path, [[b"a", b"rotten"]])
    damaged_wal(tmp_path, 1, FRAMES_BEGIN + 48 + 41)
    disk.capacity = disk.used_bytes
    with pytest.raises(OtlpIOError, match="written aside"):
        opened(disk, tmp_path)
    assert (tmp_path / "wal" / number(1)).stat().st_size == FRAMES_BEGIN + 48 + 48
    disk.capacity = None
    assert held(opened(disk, tmp_path)[0]) == [(1, b"a")]


def test_a_damaged_header_costs_a_copy_and_no_frame(disk: FaultyDisk, tmp_path: Path):
    filled(disk, tmp_path, [[b"a", b"b"]])
    damaged_wal(tmp_path, 1, 9)
    again, findings = opened(disk, tmp_path)
    assert held(again) == [(1, b"a"), (2, b"b")]
    assert len(findings.damaged) == 1
    assert (tmp_path / "quarantine" / number(1)).exists()


def test_a_file_under_a_wrong_name_is_noticed(disk: FaultyDisk, tmp_path: Path):
    filled(disk, tmp_path, [[b"a", b"b"]])
    disk.rename(tmp_path / "wal" / number(1), tmp_path / "wal" / number(2))
    again, findings = opened(disk, tmp_path)
    assert len(findings.damaged) == 1
    assert again.next_sequence == 3


@pytest.mark.parametrize("content", [b"", bytes(32), bytes(4096), b"OTLPWAL2\x01\x00"])
def test_a_file_that_was_just_begun_is_no_damage(disk: FaultyDisk, tmp_path: Path, content: bytes):
    filled(disk, tmp_path, [[b"a"]])
    begun = disk.create(tmp_path / "wal" / number(2))
    begun.append([content])
    again, findings = opened(disk, tmp_path)
    assert held(again) == [(1, b"a")]
    assert findings.damaged == []
    assert findings.torn_tails == (1 if content.startswith(b"OTLP") else 0)
    assert names(tmp_path) == [number(1)]


def test_a_missing_file_is_counted_in_frames(disk: FaultyDisk, tmp_path: Path):
    filled(disk, tmp_path, [[b"a" * 200], [b"b" * 100, b"c" * 100], [b"d"]])
    disk.delete(tmp_path / "wal" / number(2))
    again, findings = opened(disk, tmp_path)
    assert [sequence for sequence, _ in held(again)] == [1, 4]
    assert findings.missing_frames == 2


def test_a_missing_first_file_is_counted_if_nothing_says_that_its_frames_were_stored(disk: FaultyDisk, tmp_path: Path):
    filled(disk, tmp_path, [[b"a" * 200, b"b" * 200], [b"c"]])
    disk.delete(tmp_path / "wal" / number(1))
    assert opened(disk, tmp_path)[1].missing_frames == 2
    assert opened(disk, tmp_path, at_least=2)[1].missing_frames == 1
    assert opened(disk, tmp_path, at_least=3)[1].missing_frames == 0


def test_a_file_cut_in_the_middle_of_the_log_is_damage_and_no_torn_tail(disk: FaultyDisk, tmp_path: Path):
    filled(disk, tmp_path, [[b"a" * 100, b"b" * 100], [b"c"]])
    disk.open(tmp_path / "wal" / number(1)).truncate(FRAMES_BEGIN + 144 + 60)
    again, findings = opened(disk, tmp_path)
    assert [sequence for sequence, _ in held(again)] == [1, 3]
    assert (findings.torn_tails, len(findings.damaged)) == (0, 1)


def test_a_file_that_is_none_of_ours_is_moved_aside(disk: FaultyDisk, tmp_path: Path):
    disk.create(tmp_path / "wal" / "notes.txt").append([b"do not delete"])
    opened(disk, tmp_path)
    assert (tmp_path / "quarantine" / "notes.txt").read_bytes() == b"do not delete"


def test_a_frame_is_read_once_even_if_two_files_hold_its_sequence(disk: FaultyDisk, tmp_path: Path):
    filled(disk, tmp_path, [[b"a", b"b"]])
    data = (tmp_path / "wal" / number(1)).read_bytes()
    disk.create(tmp_path / "wal" / number(3)).append([data])
    again, _ = opened(disk, tmp_path)
    assert held(again) == [(1, b"a"), (2, b"b")]
