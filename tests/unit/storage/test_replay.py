"""From the log into segments at start."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from pathlib import Path

import pytest

from directory import Directory
from otlp_arrow.model import Encoding, Signal
from otlp_arrow.storage.gathering import BuilderPool
from otlp_arrow.storage.replay import Replayed, replay
from otlp_arrow.storage.store import Store
from otlp_arrow.storage.wal import Entry
from records import arrow_batch, request, segments, stored

TRACES, METRICS, LOGS = Signal


def run(store: Store, *, max_batch_rows: int = 65_536, stop: threading.Event | None = None, **more: object) -> Replayed:
    pools = {signal: BuilderPool(signal) for signal in Signal}
    return replay(store, pools, max_batch_rows=max_batch_rows, stop=stop or threading.Event(), **more)  # type: ignore[arg-type]


def reopened(here: Directory) -> Store:
    here.kill()
    store = Store(here.settings, disk=here.disk, time_ns=here.clock.time_ns)
    store.open()
    return store


def test_frames_of_all_signals_and_encodings_are_stored_in_order(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1, 2)
    here.accept(TRACES, 3)
    for signal, ids in ((LOGS, (4,)), (METRICS, (5, 6))):
        batch = arrow_batch(signal, ids)
        here.store.wal.append([Entry(signal, Encoding.ARROW, len(ids), 0, batch.payload)])
        here.store.wal.sync()
        here.store.wal.confirm()
    store = reopened(here)
    done = run(store)
    assert done.frames == 4
    assert done.rows == {LOGS: 3, TRACES: 1, METRICS: 2}
    assert stored(tmp_path) == Counter(
        (s, n) for s, n in [(LOGS, 1), (LOGS, 2), (TRACES, 3), (LOGS, 4), (METRICS, 5), (METRICS, 6)]
    )
    assert [(s.wal_first, s.wal_last) for s in store.catalog.snapshot(LOGS)] == [(1, 3)]
    assert run(store).frames == 0


def test_full_batches_are_written_on_the_way(tmp_path: Path):
    here = Directory(tmp_path)
    for number in range(1, 8):
        here.accept(LOGS, number)
    store = reopened(here)
    run(store, max_batch_rows=3)
    (segment,) = store.catalog.snapshot(LOGS)
    assert (segment.units, segment.rows) == (3, 7)


def test_a_replay_that_was_interrupted_goes_on_where_it_stopped(tmp_path: Path):
    here = Directory(tmp_path)
    for number in range(1, 8):
        here.accept(LOGS, number)
    for failing in range(3):
        store = reopened(here)
        here.disk.fail("sync", errno.EIO, "*.arrows", skip=1)
        with pytest.raises(OSError, match="Input/output"):
            run(store, max_batch_rows=2)
        here.disk.heal()
        store.abandon()
        assert sum(stored(tmp_path).values()) == 2 * (failing + 1)
    run(reopened(here), max_batch_rows=2)
    assert stored(tmp_path) == Counter((LOGS, n) for n in range(1, 8))


def test_a_replay_that_failed_can_be_tried_again_in_the_same_process(tmp_path: Path):
    here = Directory(tmp_path)
    for number in range(1, 6):
        here.accept(LOGS, number)
    store = reopened(here)
    here.disk.fail("append", errno.ENOSPC, "*.arrows", skip=1)
    with pytest.raises(OSError, match="No space"):
        run(store, max_batch_rows=2)
    run(store, max_batch_rows=2)
    assert stored(tmp_path) == Counter((LOGS, n) for n in range(1, 6))


def test_a_replay_that_is_stopped_writes_nothing_more(tmp_path: Path):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    store = reopened(here)
    stop = threading.Event()
    stop.set()
    assert run(store, stop=stop).frames == 0
    assert segments(tmp_path, LOGS) == []


def test_progress_is_told_every_thousand_frames(tmp_path: Path):
    here = Directory(tmp_path)
    payload = request(LOGS, [1])
    here.store.wal.append([Entry(LOGS, Encoding.OTLP, 1, 0, payload)] * 2_001)
    here.store.wal.sync()
    here.store.wal.confirm()
    told: list[int] = []
    run(reopened(here), progress=told.append)
    assert told == [1000, 2000]


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_frame_that_cannot_be_decoded_is_set_aside_and_counted(tmp_path: Path, encoding: Encoding):
    here = Directory(tmp_path)
    here.accept(LOGS, 1)
    here.store.wal.append([Entry(LOGS, encoding, 5, 0, b"\x0a\xffno request")])
    here.store.wal.sync()
    here.store.wal.confirm()
    here.accept(LOGS, 2)
    recovery = here.restart()
    assert recovery.replayed.undecodable_rows[LOGS] == recovery.lost == 5
    assert recovery.replayed.undecodable_frames == 1
    (name,) = here.quarantined()
    assert name == f"logs_{2:020}.{'pb' if encoding is Encoding.OTLP else 'arrows'}"
    assert (here.store.layout.quarantine / name).read_bytes() == b"\x0a\xffno request"
    assert stored(tmp_path) == Counter({(LOGS, 1): 1, (LOGS, 2): 1})
    assert here.restart().lost == 0
