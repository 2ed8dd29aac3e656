"""The output directory: opened and repaired, written, released, expired."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from pathlib import Path

import pytest

from directory import Directory, flip
from otlp_arrow.model import DirectoryLocked, OtlpIOError, Signal
from otlp_arrow.storage.segment import read_segment
from otlp_arrow.storage.store import StorageSettings, Store
from records import Ids, read, segments, stored

TRACES, METRICS, LOGS = Signal


def exactly(signal: Signal, *ids: int) -> Ids:
    return Counter((signal, number) for number in ids)


def open_store(root: Path) -> Store:
    store = Store(StorageSettings(root))
    store.open()
    return store


# -- writing ---------------------------------------------------------------------------------------


def test_a_flushed_unit_is_synced_catalogued_and_readable(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1, 2)
    here.accept(LOGS, 3)
    segment = here.flush(LOGS)
    assert (segment.rows, segment.units, segment.wal_first, segment.wal_last) == (3, 1, 1, 2)
    assert (segment.time_min, segment.time_max) == (1_700_000_000_000_000_001, 1_700_000_000_000_000_003)
    assert segment.size_bytes == segment.path.stat().st_size
    assert here.store.catalog.snapshot(LOGS) == (segment,)
    here.crash()
    assert stored(tmp_path) == exactly(LOGS, 1, 2, 3)


def test_units_of_one_signal_share_a_segment_until_it_is_full(tmp_path: Path):
    here = Directory(tmp_path, max_file_size=20_000)
    for number in range(1, 6):
        here.accept(LOGS, number)
        here.flush(LOGS)
    found = here.store.catalog.snapshot(LOGS)
    assert len(found) == 2
    assert [segment.closed for segment in found] == [True, False]
    assert [(segment.wal_first, segment.wal_last) for segment in found] == [(1, 3), (4, 5)]
    assert read_segment(found[0].path, found[0].path.read_bytes(), verify=True).closed
    assert stored(tmp_path) == exactly(LOGS, 1, 2, 3, 4, 5)
    assert f"'logs': {len(found)}" in repr(here.store)


def test_memory_for_the_next_unit_is_given_back_when_no_segment_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    arrow_writing = pytest.importorskip("otlp_arrow.codec.arrow_writing")
    relaxed = []
    monkeypatch.setattr(arrow_writing, "relax", lambda: relaxed.append(True))
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    here.flush(LOGS)
    here.store.close_segment(LOGS)
    here.store.relax()
    assert relaxed == [True]


def test_a_segment_is_closed_at_its_age(tmp_path: Path):
    here = Directory(tmp_path, max_file_age_secs=60)
    here.accept(LOGS, 1)
    segment = here.flush(LOGS)
    here.clock.advance(59)
    here.store.close_aged_segments()
    assert not here.store.catalog.snapshot(LOGS)[0].closed
    here.clock.advance(1)
    here.store.close_aged_segments()
    (closed,) = here.store.catalog.snapshot(LOGS)
    assert closed.closed
    assert closed.size_bytes == segment.path.stat().st_size


def test_names_are_unique_in_one_second_across_restarts(tmp_path: Path):
    here = Directory(tmp_path)
    for number in range(1, 4):
        here.accept(LOGS, number)
        here.flush(LOGS)
        here.stop()
        here.start()
    assert [path.name for path in segments(tmp_path, LOGS)] == [
        f"otlp_logs_20231114_221320_{number:04}.arrows" for number in range(3)
    ]


def test_a_name_that_is_taken_is_passed_over(tmp_path: Path):
    here = Directory(tmp_path)
    taken = here.store.layout.segment_path(LOGS, here.clock.time_ns(), 0)
    taken.write_bytes(b"")
    here.accept(LOGS, 1)
    assert here.flush(LOGS).path.name.endswith("_0001.arrows")


@pytest.mark.parametrize("operation", ["append", "sync"])
def test_a_unit_that_the_disk_refused_goes_to_a_new_segment(tmp_path: Path, operation: str):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    here.flush(LOGS)
    here.accept(LOGS, 2)
    here.disk.fail(operation, errno.EIO, "*.arrows", after_bytes=50)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="Input/output"):
        here.flush(LOGS)
    here.flush(LOGS)
    assert [segment.closed for segment in here.store.catalog.snapshot(LOGS)] == [True, False]
    here.crash()
    assert stored(tmp_path) == exactly(LOGS, 1, 2)
    assert here.start().lost == 0
    assert stored(tmp_path) == exactly(LOGS, 1, 2)


def test_a_first_unit_that_the_disk_refused_leaves_no_file(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    here.disk.fail("sync", errno.EIO, "*.arrows")
    with pytest.raises(OSError, match="Input/output"):
        here.flush(LOGS)
    assert segments(tmp_path, LOGS) == []
    here.disk.fail("sync", errno.EIO, "*.arrows")
    here.disk.fail("delete", errno.EIO, "*.arrows")
    with pytest.raises(OSError, match="Input/output"):
        here.flush(LOGS)
    here.flush(LOGS)
    here.restart()
    assert stored(tmp_path) == exactly(LOGS, 1)


def test_a_segment_that_cannot_be_closed_is_closed_by_the_next_start(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    here.flush(LOGS)
    here.disk.fail("append", errno.ENOSPC, "*.arrows")
    here.stop()
    assert stored(tmp_path) == exactly(LOGS, 1)
    here.start()
    (path,) = segments(tmp_path, LOGS)
    assert read_segment(path, path.read_bytes(), verify=True).closed


# -- letting go ------------------------------------------------------------------------------------


def test_the_log_is_released_after_the_cursor_is_durable(tmp_path: Path):
    here = Directory(tmp_path, wal_file_bytes=60)
    here.accept(LOGS, 1)
    here.accept(LOGS, 2)
    here.flush(LOGS)
    here.disk.fail("rename", errno.EIO, "writer.json")
    with pytest.raises(OSError, match="Input/output"):
        here.release()
    assert len(here.wal_files()) == 2
    assert here.release() > 0
    assert len(here.wal_files()) == 1


def test_a_stop_leaves_an_empty_log_and_the_next_start_nothing_to_do(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(TRACES, 1)
    here.flush(TRACES)
    here.stop()
    assert here.wal_files() == []
    recovery = here.start()
    assert (recovery.findings.wal.frames, recovery.replayed.frames, recovery.lost) == (0, 0, 0)
    assert here.store.wal.next_sequence == 2


def test_a_stop_on_a_disk_that_refuses_loses_nothing(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    for operation in ("append", "sync", "rename", "delete"):
        here.disk.fail(operation, errno.EIO, times=None)  # type: ignore[arg-type]
    here.stop()
    here.disk.heal()
    assert here.start().replayed.rows[LOGS] == 1
    assert stored(tmp_path) == exactly(LOGS, 1)


def test_retention_deletes_by_age_and_never_the_open_segment(tmp_path: Path):
    here = Directory(tmp_path, cleanup_interval_secs=dict.fromkeys(Signal, 60.0), max_file_size=1)
    for number in (1, 2):
        here.accept(LOGS, number)
        here.flush(LOGS)
        here.clock.advance(45)
    (expired,) = here.store.expire(here.stored_up_to())
    assert (expired.reason, expired.segment.rows) == ("age", 1)
    assert stored(tmp_path) == exactly(LOGS, 2)
    here.restart()
    assert stored(tmp_path) == exactly(LOGS, 2)


def test_a_segment_that_cannot_be_deleted_stays_in_the_catalogue_and_the_others_are_reported(tmp_path: Path):
    here = Directory(tmp_path, cleanup_interval_secs=dict.fromkeys(Signal, 60.0), max_file_size=1)
    for number in (1, 2, 3):
        here.accept(LOGS, number)
        here.flush(LOGS)
    here.clock.advance(100)
    here.disk.fail("delete", errno.EIO, "*_0001.arrows", times=2)
    assert [e.segment.wal_first for e in here.store.expire(3)] == [1]
    with pytest.raises(OSError, match="Input/output"):
        here.store.expire(3)
    assert [e.segment.wal_first for e in here.store.expire(3)] == [2, 3]
    assert stored(tmp_path) == Counter()


# -- opening ---------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_holds_the_directory(tmp_path: Path):
    store = open_store(tmp_path)
    with pytest.raises(DirectoryLocked, match="in use by process"):
        open_store(tmp_path)
    store.close(0)
    open_store(tmp_path).close(0)


def test_a_start_that_fails_lets_go_of_the_directory(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    here.kill()
    here.disk.fail("append", errno.EIO, "*.arrows")
    with pytest.raises(OSError, match="Input/output"):
        here.start()
    here.start()
    assert stored(tmp_path) == exactly(LOGS, 1)


def test_a_start_that_fails_in_the_log_lets_go_of_the_directory(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    here.accept(LOGS, 2)
    here.kill()
    flip(here.wal_files()[0], -8)
    here.disk.capacity = 0
    with pytest.raises(OtlpIOError, match="written aside"):
        here.start()
    here.disk.capacity = None
    here.start()
    assert stored(tmp_path) == exactly(LOGS, 1)


def test_other_files_beside_the_segments_are_left_alone(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    segment = here.flush(LOGS)
    here.stop()
    copy = segment.path.with_name("my copy.arrows")
    shutil.copy(segment.path, copy)
    note = segment.path.with_name("note.txt")
    note.write_text("mine")
    here.start()
    assert copy.exists()
    assert note.exists()
    assert len(here.store.catalog.snapshot(LOGS)) == 1
    assert here.quarantined() == []


def test_a_segment_in_the_folder_of_another_signal_is_set_aside(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    segment = here.flush(LOGS)
    here.stop()
    wrong = here.store.layout.segments(TRACES) / segment.path.name.replace("logs", "traces")
    segment.path.rename(wrong)
    here.disk = type(here.disk)(tmp_path)
    here.start()
    assert here.quarantined() == [wrong.name]
    assert stored(tmp_path) == Counter()


def test_a_segment_of_another_schema_version_is_kept_and_said(tmp_path: Path, monkeypatch, caplog):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    here.flush(LOGS)
    here.stop()
    monkeypatch.setattr("otlp_arrow.storage.store.SCHEMA_VERSION", 2)
    here.start()
    assert "schema version 1" in caplog.text
    assert here.store.catalog.snapshot(LOGS)[0].rows == 1


def test_reading_all_rows_back_gives_times_in_order(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(METRICS, 3, 1, 2)
    segment = here.flush(METRICS)
    assert (segment.time_max or 0) - (segment.time_min or 0) == 2
    assert read(segment.path).num_rows == 3
