"""Directories that a crash, a bad disk or a hand has damaged, worked and opened step by step.

``test_known_damage`` shows each fault through a running pipeline; here are the damages that take more than
one fault, and the promise that none of them is silent: what cannot be read is in quarantine and counted.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from directory import Directory, flip
from otlp_arrow.model import OtlpIOError, Signal
from otlp_arrow.storage.ipc import END_OF_STREAM, RECORD_BATCH, Message, walk
from otlp_arrow.storage.segment import read_segment
from otlp_arrow.testing.faulty_disk import FaultyDisk
from records import Ids, segments, stored

TRACES, METRICS, LOGS = Signal


def logs(*ids: int) -> Ids:
    return Counter((LOGS, number) for number in ids)


def opened_again(directory: Directory) -> Directory:
    """The next process on what lies there now."""
    directory.kill()
    return Directory(directory.root, FaultyDisk(directory.root))


def three_units(root: Path, *, released: bool) -> Directory:
    """Records 1 to 6 in three units of an open segment; their frames in the log, or gone from it."""
    here = Directory(root, wal_file_bytes=100)
    for first in (1, 3, 5):
        here.accept(LOGS, first, first + 1)
        here.flush(LOGS)
    if released:
        here.accept(TRACES, 100)  # begins another file of the log
        here.flush(TRACES)
        here.release()
    return here


def copy_of(template: Path, root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)
    return root


# -- a flipped byte in a segment -------------------------------------------------------------------

EVERY = pytest.mark.parametrize("step", [211, pytest.param(1, marks=pytest.mark.soak)])


@EVERY
def test_a_flipped_byte_anywhere_in_an_open_segment_is_mended_from_the_log(tmp_path: Path, step: int):
    three_units(tmp_path / "t", released=False).kill()
    (path,) = segments(tmp_path / "t", LOGS)
    for position in range(0, path.stat().st_size, step):
        root = copy_of(tmp_path / "t", tmp_path / "d")
        flip(segments(root, LOGS)[0], position)
        here = Directory(root)
        assert stored(root) == logs(1, 2, 3, 4, 5, 6), position
        assert here.recovery.lost == 0, position
        here.stop()


@EVERY
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_a_flipped_byte_anywhere_in_a_segment_that_the_log_does_not_hold_any_more_is_never_silent(
    tmp_path: Path, closed: bool, step: int
):
    here = three_units(tmp_path / "t", released=True)
    if closed:
        here.store.close_segment(LOGS)
    here.kill()
    (path,) = segments(tmp_path / "t", LOGS)
    messages = [m for m in walk(path.read_bytes()) if isinstance(m, Message)]
    metadata = [range(m.start, m.body) for m in messages if m.kind == RECORD_BATCH]
    for position in range(0, path.stat().st_size - (8 if closed else 0), step):
        root = copy_of(tmp_path / "t", tmp_path / "d")
        flip(segments(root, LOGS)[0], position)
        here = Directory(root)
        found = stored(root)
        kept = sum(times for (signal, _), times in found.items() if signal is LOGS)
        assert found - Counter({(TRACES, 100): 1}) == logs(*range(1, kept + 1)), position
        assert kept < 6, position
        assert here.quarantined() == [path.name], position
        assert here.recovery.findings.quarantined_segments == 1, position
        assert here.recovery.lost <= 6 - kept, position
        if kept + here.recovery.lost < 6:  # then it was hit where a unit says what it holds
            assert any(position in says for says in metadata), position
        here.accept(LOGS, 7)
        assert opened_again(here).recovery.replayed.rows[LOGS] == 1, position
        here.kill()


def test_a_flipped_byte_in_an_old_closed_segment_is_left_to_those_who_read_it(tmp_path: Path):
    here = Directory(tmp_path, max_file_size=1)
    for number in (1, 2, 3):
        here.accept(LOGS, number)
        here.flush(LOGS)
    oldest = segments(tmp_path, LOGS)[0]
    here.stop()
    flip(oldest, -100)  # its bytes would have to be read to notice
    again = opened_again(here)
    assert len(again.store.catalog.snapshot(LOGS)) == 3
    assert again.quarantined() == []
    assert read_segment(oldest, oldest.read_bytes(), verify=True).damage


def test_a_flipped_digit_in_the_newest_closed_segment_does_not_make_acknowledged_frames_look_stored(tmp_path: Path):
    here = Directory(tmp_path, max_file_size=1)
    for number in range(1, 9):
        here.accept(LOGS, number)
        if number % 4 == 0:
            here.flush(LOGS)
    for number in range(9, 12):
        here.accept(LOGS, number)
    newest = segments(tmp_path, LOGS)[-1]
    data = newest.read_bytes()
    assert data.count(b"5-8") == 1
    newest.write_bytes(data.replace(b"5-8", b"5-9"))
    again = opened_again(here)
    assert stored(tmp_path) == logs(*range(1, 12))
    assert again.recovery.lost == 0


def test_a_flipped_digit_in_an_older_closed_segment_does_not_cut_it(tmp_path: Path):
    here = Directory(tmp_path, max_file_size=1)
    for number in range(1, 13):
        here.accept(LOGS, number)
        if number % 4 == 0:
            here.flush(LOGS)
    older = segments(tmp_path, LOGS)[0]
    here.stop()
    older.write_bytes(older.read_bytes().replace(b"1-4", b"1-7"))
    again = opened_again(here)
    assert again.quarantined() == [older.name], "not cut without a trace"
    assert again.recovery.lost == 4
    assert stored(tmp_path) == logs(*range(5, 13))


def test_a_torn_segment_whose_frames_are_gone_from_the_log_is_damage_and_set_aside(tmp_path: Path):
    here = three_units(tmp_path, released=True)
    (path,) = segments(tmp_path, LOGS)
    content = path.read_bytes()
    here.kill()
    path.write_bytes(content[:-10])
    again = opened_again(here)
    assert stored(tmp_path) - Counter({(TRACES, 100): 1}) == logs(1, 2, 3, 4)
    assert again.recovery.findings.torn_segments == 0
    assert again.quarantined() == [path.name]
    assert (again.store.layout.quarantine / path.name).read_bytes() == content[:-10]


def test_a_damaged_segment_is_not_cut_before_its_copy_is_written_aside(tmp_path: Path):
    here = three_units(tmp_path, released=True)
    (path,) = segments(tmp_path, LOGS)
    here.kill()
    flip(path, -100)
    content = path.read_bytes()
    disk = FaultyDisk(tmp_path)
    disk.capacity = 0
    with pytest.raises(OtlpIOError, match="written aside"):
        Directory(tmp_path, disk)
    assert path.read_bytes() == content
    disk.capacity = None
    assert Directory(tmp_path, disk).quarantined() == [path.name]


def test_an_open_segment_is_usable_on_a_full_disk_and_closed_later(tmp_path: Path):
    here = three_units(tmp_path, released=False)
    (path,) = segments(tmp_path, LOGS)
    here.kill()
    disk = FaultyDisk(tmp_path)
    disk.fail("append", errno.ENOSPC, "*.arrows", after_bytes=3)
    again = Directory(tmp_path, disk)
    assert sum(s.rows for s in again.store.catalog.snapshot(LOGS)) == 6
    again.restart()
    assert path.read_bytes().endswith(END_OF_STREAM)
    assert stored(tmp_path) == logs(1, 2, 3, 4, 5, 6)


# -- the same rows in two places -------------------------------------------------------------------


def stuck_unit(here: Directory) -> None:
    """A unit whose sync failed and that could not be cut; its rows go to a newer segment."""
    here.disk.fail("sync", errno.EIO, "*.arrows")
    here.disk.fail("truncate", errno.EIO, "*.arrows", times=None)
    with pytest.raises(OSError, match="Input/output"):
        here.flush(LOGS)
    here.disk.heal()
    here.flush(LOGS)


def test_of_two_segments_that_hold_the_same_rows_the_older_is_cut(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    here.flush(LOGS)
    here.accept(LOGS, 2, 3)
    stuck_unit(here)
    assert stored(tmp_path) == logs(1, 2, 2, 3, 3)
    again = opened_again(here)
    assert stored(tmp_path) == logs(1, 2, 3)
    assert [s.rows for s in again.store.catalog.snapshot(LOGS)] == [1, 2]
    assert (again.recovery.lost, again.quarantined()) == (0, [])


def test_a_segment_that_holds_nothing_but_rows_of_another_one_is_moved_aside(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    here.disk.fail("delete", errno.EIO, "*.arrows")
    stuck_unit(here)
    assert stored(tmp_path) == logs(1, 1)
    again = opened_again(here)
    assert stored(tmp_path) == logs(1)
    assert len(again.quarantined()) == 1
    assert again.recovery.lost == 0


def test_a_damaged_unit_whose_rows_another_segment_holds_is_not_counted_as_lost(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    here.flush(LOGS)
    here.accept(LOGS, 2, 3)
    stuck_unit(here)
    flip(segments(tmp_path, LOGS)[0], -30)  # pages of a failed sync hold anything
    again = opened_again(here)
    assert stored(tmp_path) == logs(1, 2, 3)
    assert again.recovery.lost == 0


# -- files that are gone ---------------------------------------------------------------------------


def test_a_missing_newest_segment_comes_back_from_the_log_as_far_as_that_holds_it(tmp_path: Path):
    here = Directory(tmp_path, max_file_size=1, wal_file_bytes=100)
    here.accept(LOGS, 1, 2)
    here.flush(LOGS)
    here.release()
    here.accept(LOGS, 3)
    here.flush(LOGS)
    segments(tmp_path, LOGS)[-1].unlink()
    again = opened_again(here)
    assert stored(tmp_path) == logs(1, 2, 3)
    assert again.recovery.findings.wal.missing_frames == 0


def test_a_log_deleted_by_hand_costs_what_was_not_flushed_and_sequences_go_on(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    here.flush(LOGS)
    here.accept(LOGS, 2)
    for path in here.wal_files():
        path.unlink()
    again = opened_again(here)
    assert again.accept(LOGS, 3) == 2
    last = opened_again(again)
    assert stored(tmp_path) == logs(1, 3)
    assert last.recovery.findings.wal.missing_frames == 0


def test_damage_in_every_signal_does_not_make_new_frames_look_stored(tmp_path: Path):
    here = Directory(tmp_path, wal_file_bytes=100)
    for signal in Signal:
        here.accept(signal, 1)
        here.accept(signal, 2)
        here.flush(signal)
    here.stop()
    for signal in Signal:
        (path,) = segments(tmp_path, signal)
        flip(path, 4_000)
    again = opened_again(here)
    assert again.recovery.lost == 6
    assert again.accept(LOGS, 3) == 7, "above the cursor, which counts the damaged units"
    opened_again(again)
    assert stored(tmp_path) == logs(3)


# -- everything expired ----------------------------------------------------------------------------


def expired(root: Path) -> Directory:
    """Everything of two signals expired; the log still holds their frames, for a request that is not flushed."""
    here = Directory(root, max_file_size=1, max_disk_bytes=1)
    waiting = here.accept(METRICS, 50)
    here.accept(LOGS, 1, 2)
    here.accept(TRACES, 3)
    here.flush(LOGS)
    here.flush(TRACES)
    assert len(here.store.expire(waiting - 1)) == 2
    return here


@pytest.mark.parametrize("survival", [{}, {"names": True, "torn_bytes": 1 << 20}])
def test_what_expired_does_not_come_back_from_the_log(tmp_path: Path, survival: dict[str, int]):
    here = expired(tmp_path)
    here.disk.sync_directory(here.store.layout.segments(LOGS))
    here.disk.sync_directory(here.store.layout.segments(TRACES))
    here.crash(**survival)
    here.start()
    assert stored(tmp_path) == Counter({(METRICS, 50): 1})
    assert here.accept(LOGS, 4) == 4


def test_sequences_go_on_after_everything_expired_and_the_log_is_empty(tmp_path: Path):
    here = Directory(tmp_path, max_file_size=1, max_disk_bytes=1)
    here.accept(LOGS, 1)
    here.flush(LOGS)
    here.store.expire(here.stored_up_to())
    here.stop()
    assert (segments(tmp_path, LOGS), here.wal_files()) == ([], [])
    again = opened_again(here)
    assert again.accept(LOGS, 2) == 2
    opened_again(again)
    assert stored(tmp_path) == logs(2)


def test_a_damaged_cursor_after_everything_expired_resurrects_at_most_what_the_log_has(tmp_path: Path):
    here = expired(tmp_path)
    here.kill()
    flip(here.store.layout.writer_cursor, 40)
    again = opened_again(here)
    assert again.quarantined() == ["writer.json"]
    assert again.recovery.findings.damaged_cursors == 1
    assert stored(tmp_path) == logs(1, 2) + Counter({(TRACES, 3): 1, (METRICS, 50): 1})


def test_a_lost_rename_of_the_cursor_after_everything_expired_resurrects_at_most_what_the_log_has(tmp_path: Path):
    here = Directory(tmp_path, max_file_size=1, max_disk_bytes=1)
    here.disk.forget_renames("writer.json")
    here.accept(LOGS, 1)
    here.flush(LOGS)
    here.store.expire(here.stored_up_to())
    here.accept(LOGS, 2)
    here.crash(names=False)
    here.start()
    assert stored(tmp_path) == logs(1, 2)


# -- the cursor ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text(json.dumps({"version": 1, "sequences": {}, "crc32": "0"})),
        lambda path: path.unlink(),
        lambda path: flip(path, 30),
    ],
    ids=["empty", "forged", "missing", "flipped"],
)
def test_without_its_cursor_a_directory_is_read_off_its_segments(tmp_path: Path, damage: Callable[[Path], object]):
    here = three_units(tmp_path, released=True)
    here.accept(LOGS, 7)
    here.kill()
    damage(here.store.layout.writer_cursor)
    again = opened_again(here)
    assert stored(tmp_path) - Counter({(TRACES, 100): 1}) == logs(1, 2, 3, 4, 5, 6, 7)
    assert again.recovery.findings.wal.missing_frames == 0
    assert again.recovery.lost == 0


# -- what a start leaves behind --------------------------------------------------------------------


def test_opening_a_directory_again_and_again_changes_nothing_more(tmp_path: Path):
    here = three_units(tmp_path, released=True)
    here.accept(LOGS, 7)
    here.kill()
    flip(segments(tmp_path, LOGS)[0], -500)
    flip(here.wal_files()[-1], 8)
    again = opened_again(here)
    found = stored(tmp_path)
    quarantined = again.quarantined()
    assert len(quarantined) == 2
    for _ in range(3):
        again = opened_again(again)
        assert stored(tmp_path) == found
        assert again.quarantined() == quarantined
        assert again.recovery.lost == 0
        assert again.recovery.findings.torn_segments == 0


def test_opening_and_closing_leaks_no_descriptor(tmp_path: Path):
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("the system does not tell")
    three_units(tmp_path, released=False).kill()

    def target(descriptor: Path) -> str:
        with contextlib.suppress(OSError):  # the listing's own is gone again
            return os.readlink(descriptor)
        return ""

    def cycle() -> int:
        here = Directory(tmp_path)
        here.accept(LOGS, 9)
        here.disk.fail("sync", errno.EIO, "*.wal")
        here.accept(LOGS, 10)
        here.disk.fail("sync", errno.EIO, "*.arrows")
        with pytest.raises(OSError, match="Input/output"):
            here.flush(LOGS)
        here.flush(LOGS)
        here.stop()
        gc.collect()
        return sum(str(tmp_path) in target(descriptor) for descriptor in descriptors.iterdir())

    assert cycle() == cycle() == cycle()
