"""Destinations' ways through the log: what is read, kept, stored, given up."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from otlp_arrow.model import Encoding, Parts, Signal
from otlp_arrow.storage.cursor import decode_cursor
from otlp_arrow.storage.frames import FRAMES_BEGIN, Frame
from otlp_arrow.storage.reader import Stretch, WalReader
from otlp_arrow.storage.store import StorageSettings, Store
from otlp_arrow.storage.tail import FreshTail
from otlp_arrow.storage.tally import NO_TALLIES, NOTHING, Tallies, Tally
from otlp_arrow.storage.wal import Entry
from otlp_arrow.testing.faulty_disk import FaultyDisk

BIG = 1 << 40


class Log:
    """A store with readers, and what was appended to it."""

    def __init__(
        self,
        directory: Path,
        *names: str,
        file_bytes: int = 1000,
        bound: int = BIG,
        disk: object = None,
        signals: Iterable[Signal] = (Signal.TRACES,),
    ) -> None:
        self.store = Store(StorageSettings(directory, wal_file_bytes=file_bytes), disk=disk)  # type: ignore[arg-type]
        self.backlogs = [self.store.register_reader(name, bound, signals) for name in names]
        self.store.open()
        self.readers = [backlog.readers[Signal.TRACES] for backlog in self.backlogs]

    def append(self, *payloads: bytes, signal: Signal = Signal.TRACES, rows: int = 1) -> int:
        wal = self.store.wal
        first = wal.append([Entry(signal, Encoding.OTLP, rows, 7, p) for p in payloads])
        wal.sync()
        wal.confirm()
        return first

    def close(self) -> None:
        self.store.close(self.store.wal.confirmed_sequence)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_on(reader: WalReader, max_bytes: int = BIG, *, from_files: bool = False) -> Iterator[Frame]:
    """Everything that there is to read now."""
    while reader.position < reader.newest:
        stretch = None if from_files else reader.fresh(max_bytes)
        if stretch is None:
            stretch = reader.read(reader.position, max_bytes)
        frames, _unreadable = reader.take(stretch)
        yield from frames


def payloads(n: int, size: int = 50) -> list[bytes]:
    return [b"%05d" % number + b"x" * size for number in range(n)]


# -- reading -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("from_files", [False, True], ids=["memory", "files"])
@pytest.mark.parametrize("max_bytes", [1, 130, BIG])
def test_every_frame_is_read_once_in_order(tmp_path: Path, from_files: bool, max_bytes: int):
    with Log(tmp_path, "a") as log:
        sent = payloads(100)
        for payload in sent:
            log.append(payload)
        frames = list(read_on(log.readers[0], max_bytes, from_files=from_files))
        assert [f.payload for f in frames] == sent
        assert [f.sequence for f in frames] == list(range(1, 101))
        assert frames[0] == Frame(1, Signal.TRACES, Encoding.OTLP, 1, 7, sent[0])


def test_frames_larger_than_one_read_are_read_whole(tmp_path: Path):
    with Log(tmp_path, "a", file_bytes=1 << 24) as log:
        sent = [b"a" * 3_000_000, b"b", b"c" * 1_500_000, b"d" * (1 << 20)]
        log.append(*sent)
        assert [f.payload for f in read_on(log.readers[0], 1, from_files=True)] == sent


def test_memory_and_files_may_alternate(tmp_path: Path):
    rng = random.Random(3)
    with Log(tmp_path, "a") as log:
        (reader,) = log.readers
        sent, seen = payloads(150), []
        for payload in sent:
            log.append(payload)
            if rng.random() < 0.3:
                stretch = reader.fresh(rng.choice([1, 200])) if rng.random() < 0.5 else None
                stretch = stretch or reader.read(reader.position, rng.choice([1, 200]))
                seen += [f.payload for f in reader.take(stretch)[0]]
        seen += [f.payload for f in read_on(reader)]
        assert seen == sent


def test_nothing_is_read_before_it_is_confirmed(tmp_path: Path):
    with Log(tmp_path, "a", file_bytes=1 << 20) as log:
        (reader,) = log.readers
        log.append(b"first")
        log.store.wal.append([Entry(Signal.TRACES, Encoding.OTLP, 1, 7, b"unconfirmed")])
        assert [f.payload for f in read_on(reader, from_files=True)] == [b"first"]
        log.store.wal.rollback()
        log.append(b"second")
        assert [f.payload for f in read_on(reader, from_files=True)] == [b"second"]


def test_a_file_that_was_given_up_on_after_a_failed_sync_is_read_up_to_there(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    with Log(tmp_path, "a", file_bytes=1 << 20, disk=disk) as log:
        log.append(b"first")
        disk.fail("sync", errno.EIO, "*.wal")
        log.append(b"second")
        log.append(b"third")
        assert [f.payload for f in read_on(log.readers[0], from_files=True)] == [b"first", b"second", b"third"]
        assert len(log.store.wal.files) == 2


def test_a_payload_in_parts_is_joined_only_for_who_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    joined = []
    join = Parts.joined
    monkeypatch.setattr(Parts, "joined", lambda self: joined.append(self) or join(self))
    with Log(tmp_path, "a") as log:
        (reader,) = log.readers
        log.append(Parts([b"in ", memoryview(b"parts")]), b"whole")  # type: ignore[arg-type]
        assert reader.unread_bytes == 13
        assert joined == []
        frames = list(read_on(reader))
        assert [f.payload for f in frames] == [b"in parts", b"whole"]
        assert len(joined) == 1


def test_damaged_frames_are_passed_over_and_told(tmp_path: Path):
    with Log(tmp_path, "a", file_bytes=400) as log:
        for payload in payloads(20):
            log.append(payload, rows=3)
        files = log.store.wal.files
        path = files[1].path
        content = bytearray(path.read_bytes())
        content[FRAMES_BEGIN + 68] ^= 0xFF
        path.write_bytes(content)
        (reader,) = log.readers
        seen, lost = [], 0
        while reader.position < reader.newest:
            frames, unreadable = reader.take(reader.read(reader.position, BIG))
            seen += frames
            lost += unreadable.rows
        assert len(seen) == 19
        assert lost == 3
        reader.confirm(reader.position)
        assert reader.lag() == NOTHING


def test_a_reader_is_woken_when_there_is_more(tmp_path: Path):
    with Log(tmp_path, "a") as log:
        (reader,) = log.readers
        woken = threading.Event()
        assert reader.wake_after_position(woken.set)
        assert not woken.is_set()
        log.append(b"x")
        assert woken.is_set()
        assert not reader.wake_after_position(woken.set), "there is something already"


# -- memory --------------------------------------------------------------------------------------------
def entries(*sizes: int) -> list[Entry]:
    return [Entry(Signal.LOGS, Encoding.OTLP, 1, 1, b"x" * size) for size in sizes]


def log_totals(rows: int, nbytes: int) -> Tallies:
    return Tallies(logs=Tally(rows, nbytes))


def test_who_asks_the_fresh_tail_for_no_bytes_hears_how_far_nothing_is_there():
    tail = FreshTail(0, NO_TALLIES)
    tail.note_position("there", Signal.LOGS, 0)
    tail.note_position("there", Signal.TRACES, 0)
    tail.append(1, [Entry(Signal.LOGS, Encoding.OTLP, 1, 7, b"x")], NO_TALLIES)
    assert tail.after(Signal.LOGS, 0, 0) == ([], 0)
    assert tail.after(Signal.TRACES, 0, 0) == ([], 1)


def test_memory_is_bounded_and_nothing_is_held_for_who_fell_out_until_it_has_come_near():
    tail = FreshTail(0, NO_TALLIES, max_bytes=100)
    tail.note_position("slow", Signal.LOGS, 0)
    tail.append(1, entries(40, 40), log_totals(2, 80))
    assert tail.held_bytes == 80
    tail.append(3, entries(40), log_totals(3, 120))
    assert tail.held_bytes == 0, "it has to read files anyway"
    assert tail.after(Signal.LOGS, 0, BIG) is None
    assert tail.after(Signal.LOGS, 2, BIG) is None
    tail.note_position("slow", Signal.LOGS, 1, behind_bytes=80)
    tail.append(4, entries(20), log_totals(4, 140))
    assert tail.held_bytes == 0, "it is far behind"
    tail.note_position("slow", Signal.LOGS, 3, behind_bytes=20)
    tail.append(5, entries(30), log_totals(5, 170))
    assert tail.after(Signal.LOGS, 3, BIG) is None
    frames, end = tail.after(Signal.LOGS, 4, BIG) or ([], 0)
    assert ([f.sequence for f in frames], end) == ([5], 5)


def test_who_fell_out_of_memory_takes_nothing_from_who_did_not():
    tail = FreshTail(0, NO_TALLIES, max_bytes=100)
    tail.note_position("slow", Signal.LOGS, 0)
    tail.note_position("quick", Signal.LOGS, 0)
    tail.append(1, entries(40, 40), log_totals(2, 80))
    tail.note_position("quick", Signal.LOGS, 1)
    tail.append(3, entries(40), log_totals(3, 120))
    frames, end = tail.after(Signal.LOGS, 1, BIG) or ([], 0)
    assert ([f.sequence for f in frames], end) == ([2, 3], 3)
    tail.append(4, entries(1000), log_totals(4, 1120))
    assert tail.held_bytes == 0
    assert tail.after(Signal.LOGS, 3, BIG) is None
    assert tail.after(Signal.LOGS, 4, BIG) == ([], 4)


def test_what_every_reader_has_is_not_held():
    tail = FreshTail(0, NO_TALLIES)
    tail.note_position("a", Signal.LOGS, 0)
    tail.note_position("b", Signal.LOGS, 0)
    tail.append(1, entries(10, 10), log_totals(2, 20))
    tail.note_position("a", Signal.LOGS, 2)
    assert tail.held_bytes == 20
    tail.note_position("b", Signal.LOGS, 1)
    assert tail.held_bytes == 10
    tail.note_position("b", Signal.LOGS, 2)
    assert tail.held_bytes == 0


def test_without_readers_nothing_is_held():
    tail = FreshTail(0, NO_TALLIES)
    tail.append(1, entries(10), log_totals(1, 10))
    assert (tail.held_bytes, tail.newest) == (0, 1)
    tail.note_position("of traces", Signal.TRACES, 1)
    tail.append(2, entries(10), log_totals(2, 20))
    assert tail.held_bytes == 0, "nobody reads logs"
    tail.note_position("of logs", Signal.LOGS, 2)
    assert tail.after(Signal.LOGS, 2, BIG) == ([], 2)
    assert tail.after(Signal.LOGS, 1, BIG) is None, "it may have been there"


def test_signals_are_read_past_each_other(tmp_path: Path):
    """What one signal's reader leaves holds up no other, in memory or in files."""
    rng = random.Random(11)
    with Log(tmp_path, "a", signals=Signal) as log:
        sent: dict[Signal, list[bytes]] = {signal: [] for signal in Signal}
        for payload in payloads(120):
            signal = rng.choice(list(Signal))
            sent[signal].append(payload)
            log.append(payload, signal=signal)
        readers = log.backlogs[0].readers
        for from_files, signal in ((False, Signal.LOGS), (True, Signal.METRICS)):
            frames = list(read_on(readers[signal], 150, from_files=from_files))
            assert [f.payload for f in frames] == sent[signal]
            assert readers[signal].behind
            readers[signal].confirm(readers[signal].position)
            assert not readers[signal].behind
            assert readers[signal].lag() == NOTHING
        assert readers[Signal.TRACES].position == 0
        assert readers[Signal.TRACES].lag() == Tally(len(sent[Signal.TRACES]), 55 * len(sent[Signal.TRACES]))
        assert log.backlogs[0].needs_above == 0, "traces keep the log"
        log.backlogs[0].store()
    with Log(tmp_path, "a", signals=Signal) as log:
        readers = log.backlogs[0].readers
        assert [f.payload for f in read_on(readers[Signal.TRACES])] == sent[Signal.TRACES]
        assert list(read_on(readers[Signal.LOGS])) == []


def test_a_signal_that_is_new_to_a_destination_begins_at_the_end(tmp_path: Path):
    def open_with(*signals: Signal) -> Store:
        store = Store(StorageSettings(tmp_path))
        backlog = store.register_reader("a", BIG, signals)
        store.open()
        store.wal.append([Entry(s, Encoding.OTLP, 1, 7, b"x") for s in (Signal.TRACES, Signal.LOGS)])
        store.wal.sync()
        store.wal.confirm()
        assert set(backlog.readers) == set(signals)
        return store

    open_with(Signal.TRACES).close(2)
    open_with(Signal.TRACES, Signal.LOGS).close(4)
    path = tmp_path / "state" / "forward_a.json"
    assert decode_cursor(path, path.read_bytes()) == {Signal.TRACES: 0, Signal.LOGS: 2}


# -- cursors -------------------------------------------------------------------------------------------
def test_a_cursor_goes_on_where_it_was_stored(tmp_path: Path):
    sent = payloads(10)
    with Log(tmp_path, "a") as log:
        (reader,) = log.readers
        log.append(*sent)
        list(read_on(reader))
        reader.confirm(4)
        log.backlogs[0].store()
        reader.confirm(6)
    with Log(tmp_path, "a") as log:
        assert [f.payload for f in read_on(log.readers[0])] == sent[4:]


def test_a_cursor_never_goes_back(tmp_path: Path):
    with Log(tmp_path, "a") as log:
        (reader,) = log.readers
        log.append(*payloads(5))
        list(read_on(reader))
        reader.confirm(4)
        reader.confirm(2)
        assert reader.confirmed == 4


def test_a_new_reader_begins_at_the_end_and_its_cursor_is_on_disk_at_once(tmp_path: Path):
    with Log(tmp_path) as log:
        log.append(b"before")
        log.store._lock.release()  # killed
    with Log(tmp_path, "new") as log:
        cursor = log.store.layout.forward_cursor("new")
        assert decode_cursor(cursor, cursor.read_bytes()) == {Signal.TRACES: 1}
        log.append(b"after")
        assert [f.payload for f in read_on(log.readers[0])] == [b"after"]


def test_a_damaged_cursor_is_set_aside_and_everything_kept_is_read_again(tmp_path: Path):
    with Log(tmp_path, "a") as log:
        log.append(b"first")
    path = log.store.layout.forward_cursor("a")
    path.write_bytes(b'{"version": 1, "sequences": {"traces": 77}, "crc32": "00000000"}')
    with Log(tmp_path, "a") as log:
        assert [f.payload for f in read_on(log.readers[0])] == [b"first"]
        assert any(p.name.startswith("forward_a") for p in log.store.layout.quarantine.iterdir())


def test_sequences_go_on_above_a_cursor_even_if_the_log_is_gone(tmp_path: Path):
    """Otherwise the next frames would get sequences that the destination has confirmed."""
    with Log(tmp_path, "a") as log:
        log.append(*payloads(10))
        list(read_on(log.readers[0]))
        log.readers[0].confirm(10)
        log.backlogs[0].store()
    for file in log.store.layout.wal.iterdir():
        file.unlink()
    log.store.layout.writer_cursor.unlink(missing_ok=True)
    with Log(tmp_path, "a") as log:
        assert log.append(b"next") == 11
        assert [f.payload for f in read_on(log.readers[0])] == [b"next"]


# -- keeping and giving up -----------------------------------------------------------------------------
def test_the_log_keeps_what_any_reader_has_not_stored(tmp_path: Path):
    with Log(tmp_path, "fast", "slow", file_bytes=90) as log:
        fast, slow = log.readers
        for payload in payloads(10):
            log.append(payload)
        for reader, upto in ((fast, 10), (slow, 3)):
            list(read_on(reader))
            reader.confirm(upto)
        log.store.release(10)
        assert log.store.wal.first_sequence == 1, "nothing is stored yet"
        log.backlogs[0].store()
        log.backlogs[1].store()
        log.store.release(10)
        assert log.store.wal.first_sequence == 4
        log.store.release(2)
        slow.confirm(10)
        log.backlogs[1].store()
        log.store.release(2)
        assert log.store.wal.first_sequence == 4, "the writer needs it"
        log.store.release(10)
        assert log.store.wal.first_sequence == 10, "the file being written stays"


def test_a_backlog_past_its_bound_gives_up_its_oldest_files(tmp_path: Path):
    with Log(tmp_path, "a", file_bytes=1000, bound=16_000) as log:
        (reader,) = log.readers
        for payload in payloads(100):
            log.append(payload, rows=2)
            log.store.release(log.store.wal.confirmed_sequence)
        kept = log.store.wal.files
        assert sum(f.size for f in kept) <= 16_000
        assert reader.floor == kept[0].first_sequence - 1
        skipped = reader.skip_given_up()
        assert skipped.rows == 2 * reader.floor
        assert skipped.nbytes == 55 * reader.floor
        assert [f.sequence for f in read_on(reader)] == list(range(reader.floor + 1, 101))
        assert reader.skip_given_up() == NOTHING


def test_giving_up_while_a_stretch_is_read_leaves_it_out(tmp_path: Path):
    with Log(tmp_path, "a", file_bytes=400) as log:
        (reader,) = log.readers
        for payload in payloads(20):
            log.append(payload)
        stretch = reader.read(reader.position, BIG)
        log.backlogs[0].give_up(log.store.wal.files[1])
        skipped = reader.skip_given_up()
        frames, unreadable = reader.take(stretch)
        assert (frames, unreadable) == ([], NOTHING)
        rest = list(read_on(reader))
        assert skipped.rows + len(rest) == 20
        assert rest[0].sequence == reader.floor + 1


def test_a_file_that_is_deleted_before_it_was_read_is_passed_over(tmp_path: Path):
    with Log(tmp_path, "a", file_bytes=400) as log:
        (reader,) = log.readers
        for payload in payloads(20):
            log.append(payload)
        first = log.store.wal.files[0]
        first.path.unlink()
        assert next(read_on(reader, from_files=True)).sequence == first.last_sequence + 1


def test_a_full_disk_takes_the_oldest_file_that_only_readers_need(tmp_path: Path):
    with Log(tmp_path, "a", "b", file_bytes=400) as log:
        for payload in payloads(20):
            log.append(payload)
        assert log.store.make_room() == 0, "the writer needs them all"
        log.store.release(10)
        first = log.store.wal.files[0]
        assert log.store.make_room() == first.size
        assert not first.path.exists()
        assert {reader.floor for reader in log.readers} == {first.last_sequence}
        while log.store.make_room():
            pass
        assert log.store.wal.first_sequence <= 11


def test_without_readers_there_is_no_room_to_make(tmp_path: Path):
    with Log(tmp_path) as log:
        log.append(b"x")
        assert log.store.make_room() == 0


def test_the_lag_is_what_is_not_confirmed(tmp_path: Path):
    with Log(tmp_path, "a") as log:
        (reader,) = log.readers
        log.append(b"12345", rows=3)
        log.append(b"1234567", rows=4)
        log.append(b"of another signal", rows=5, signal=Signal.LOGS)
        assert reader.lag() == Tally(7, 12)
        assert reader.unread_bytes == 12
        list(read_on(reader))
        assert reader.unread_bytes == 0
        reader.confirm(1)
        assert reader.lag() == Tally(4, 7)
        log.backlogs[0].store()
    with Log(tmp_path, "a") as log:
        assert log.readers[0].lag() == Tally(4, 7)


def test_a_stretch_of_nothing_changes_nothing(tmp_path: Path):
    with Log(tmp_path, "a") as log:
        (reader,) = log.readers
        assert reader.take(Stretch([], 0)) == ([], NOTHING)
        assert reader.read(0, BIG) == Stretch([], 0)
        assert "a, traces: 0" in repr(log.backlogs[0])
