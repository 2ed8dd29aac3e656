"""The log past the page cache: whole blocks, on the real disk and on one that counts them, and every way back."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from direct import takes_direct
from otlp_arrow.model import Encoding, Parts, Signal
from otlp_arrow.model.limits import DIRECT_WRITE_BYTES, FRAME_HEAD_BYTES, IN_PLACE_BYTES
from otlp_arrow.query.wal_tail import WalTail
from otlp_arrow.storage import disk as disk_module
from otlp_arrow.storage.disk import Disk, SystemDisk
from otlp_arrow.storage.frames import FRAMES_BEGIN, Frame, scan
from otlp_arrow.storage.layout import Layout
from otlp_arrow.storage.quarantine import Quarantine
from otlp_arrow.storage.store import StorageSettings, Store
from otlp_arrow.storage.wal import Entry, Wal
from otlp_arrow.testing.faulty_disk import FaultyDisk
from records import request

BLOCK = 4096


@pytest.fixture(params=["system", "faulty"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    for directory in Layout(tmp_path).directories():
        directory.mkdir(parents=True, exist_ok=True)
    if request.param == "system":
        if not takes_direct(tmp_path):
            pytest.skip("the file system of the test does not take O_DIRECT")
        return SystemDisk()
    return FaultyDisk(tmp_path)


def opened(disk: Disk, root: Path, *, file_bytes: int = 1 << 20) -> Wal:
    layout = Layout(root)
    wal = Wal(disk, layout, Quarantine(disk, layout.quarantine), file_bytes=file_bytes, direct=True)
    findings = wal.recover()
    assert (findings.torn_tails, findings.damaged, findings.missing_frames) == (0, [], 0)
    return wal


def append(wal: Wal, *payloads: bytes | Parts) -> None:
    wal.append([Entry(Signal.LOGS, Encoding.OTLP, 1, 5, payload) for payload in payloads])


def keep(wal: Wal, *payloads: bytes | Parts) -> None:
    append(wal, *payloads)
    wal.sync()
    wal.confirm()


def held(wal: Wal) -> list[bytes]:
    return [frame.payload for frame in wal.read(0)]


def file_of(root: Path, sequence: int = 1) -> Path:
    return root / "wal" / f"{sequence:020}.wal"


SIZES = [0, 1, 7, 8, 450, BLOCK - 40, BLOCK - 39, BLOCK, 70_000, DIRECT_WRITE_BYTES - 40, DIRECT_WRITE_BYTES, 2_500_001]


def noise(size: int, seed: int) -> bytes:
    return bytes((seed + i) % 251 + 1 for i in range(min(size, 997))) * (size // 997 + 1) if size else b""


PAYLOADS = [noise(size, seed)[:size] for seed, size in enumerate(SIZES)]


# -- the bytes -------------------------------------------------------------------------------------


def test_each_append_ends_with_a_block_and_everything_is_read_back(disk: Disk, tmp_path: Path):
    wal = opened(disk, tmp_path, file_bytes=1 << 30)
    for payload in PAYLOADS:
        keep(wal, payload)
        assert file_of(tmp_path).stat().st_size % BLOCK == 0
    keep(wal, *PAYLOADS)
    assert file_of(tmp_path).stat().st_size == wal.size_bytes
    assert wal.size_bytes % BLOCK == 0
    assert held(wal) == PAYLOADS * 2
    wal.close()
    assert held(opened(disk, tmp_path)) == PAYLOADS * 2


def test_only_the_last_frame_of_an_append_fills_its_block(disk: Disk, tmp_path: Path):
    wal = opened(disk, tmp_path)
    keep(wal, *[b"twelve bytes"] * 10)
    frames = [found for _, found in scan(disk.read(file_of(tmp_path)))]
    assert [f.size for f in frames if isinstance(f, Frame)] == [56] * 9 + [BLOCK - 9 * 56]


def test_nothing_of_an_earlier_request_lies_in_the_padding_of_a_later_one(disk: Disk, tmp_path: Path):
    wal = opened(disk, tmp_path)
    keep(wal, b"secret" * 50_000)
    keep(wal, b"small")
    data = disk.read(file_of(tmp_path))
    assert not data[-BLOCK + 40 + len(b"small") :].strip(b"\0")


def test_parts_are_written_as_one_payload(disk: Disk, tmp_path: Path):
    wal = opened(disk, tmp_path)
    whole = b"schema" + b"header" + b"body" * 300_000
    keep(wal, Parts([b"schema", memoryview(b"header"), b"", memoryview(bytearray(b"body" * 300_000))]), b"next")
    assert held(wal) == [whole, b"next"]


def test_an_append_that_is_taken_back_leaves_room_for_another(disk: Disk, tmp_path: Path):
    wal = opened(disk, tmp_path)
    keep(wal, b"a")
    append(wal, b"b" * 10_000)
    wal.rollback()
    keep(wal, b"c" * 5)
    assert held(wal) == [b"a", b"c" * 5]
    assert file_of(tmp_path).stat().st_size == FRAMES_BEGIN + 2 * BLOCK


def test_memory_is_given_back_and_taken_again(disk: Disk, tmp_path: Path):
    wal = opened(disk, tmp_path)
    wal.relax()
    keep(wal, b"a")
    wal.relax()
    if isinstance(disk, SystemDisk) and not isinstance(disk, FaultyDisk):
        assert wal._current._aligned is None  # type: ignore[union-attr]
    keep(wal, b"b")
    assert held(wal) == [b"a", b"b"]


def test_memory_that_is_given_back_meanwhile_is_not_written(disk: Disk, tmp_path: Path):
    wal = opened(disk, tmp_path, file_bytes=1 << 30)
    stop = threading.Event()

    def relax() -> None:
        while not stop.is_set():
            wal.relax()

    relaxing = threading.Thread(target=relax)
    relaxing.start()
    try:
        for number in range(100):
            keep(wal, noise(20_000, number))
    finally:
        stop.set()
        relaxing.join(10)
    assert held(wal) == [noise(20_000, number) for number in range(100)]


# -- readers through the page cache ----------------------------------------------------------------


def test_who_reads_along_sees_what_was_written_directly(disk: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = Store(StorageSettings(tmp_path, wal_file_bytes=100_000, wal_direct=True), disk=disk)
    reader = store.register_reader("along", 1 << 40, [Signal.LOGS]).readers[Signal.LOGS]
    store.open()
    tail = WalTail(Layout(tmp_path))
    sent = []
    for number in range(1, 60):
        if number % 3 == 0:  # seen by nobody, though its pages were read
            store.wal.append([Entry(Signal.LOGS, Encoding.OTLP, 1, 0, request(Signal.LOGS, [1_000 + number] * 9))])
            disk.read(sorted((tmp_path / "wal").iterdir())[-1])
            store.wal.rollback()
        sent.append(request(Signal.LOGS, range(number * 100, number * 101)))
        store.wal.append([Entry(Signal.LOGS, Encoding.OTLP, number, 0, sent[-1])])
        store.wal.sync()
        store.wal.confirm()
        frames, _ = reader.take(reader.read(reader.position, 1))
        assert [f.payload for f in frames] == sent[-1:]
        tail.read(dict.fromkeys(Signal, 0))
        assert sum(unit.rows for unit in tail.units(Signal.LOGS, 0)) == sum(range(1, number + 1))
    assert len(store.wal.files) > 1
    assert not caplog.records, "nobody had to look for the next frame"
    store.abandon()


# -- a disk that refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize("after_bytes", [0, 1, 512, BLOCK, 2 * BLOCK])
def test_a_short_write_is_cut_back_to_a_block(tmp_path: Path, after_bytes: int):
    disk = FaultyDisk(tmp_path)
    Layout(tmp_path).wal.mkdir()
    wal = opened(disk, tmp_path)
    keep(wal, b"a")
    disk.fail("append", errno.EIO, "*.wal", after_bytes=after_bytes)
    with pytest.raises(OSError, match="Input/output"):
        append(wal, b"lost" * 3_000)
    keep(wal, b"b")
    assert held(wal) == [b"a", b"b"]
    assert file_of(tmp_path).stat().st_size == FRAMES_BEGIN + 2 * BLOCK


@pytest.mark.parametrize("large", ["copied", "in place"])
def test_a_disk_that_fills_up_between_the_parts_of_an_append_keeps_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: str
):
    disk = SystemDisk()
    Layout(tmp_path).wal.mkdir()
    wal = opened(disk, tmp_path)
    keep(wal, b"a")
    writev, room = os.writev, [2 * DIRECT_WRITE_BYTES + BLOCK]

    def full(descriptor: int, buffers: list[memoryview]) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = writev(descriptor, [memoryview(buffers[0])[: room[0]]])
        room[0] -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr(os, "writev", full)
        with pytest.raises(OSError, match="No space"):
            append(wal, b"x" * 5_000_000 if large == "copied" else in_place(5_000_000))
    assert room == [0]
    keep(wal, b"b")
    assert held(wal) == [b"a", b"b"]
    assert file_of(tmp_path).stat().st_size == wal.size_bytes <= FRAMES_BEGIN + 2 * BLOCK


def test_after_a_failed_sync_the_entries_go_to_a_new_file_of_whole_blocks(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    Layout(tmp_path).wal.mkdir()
    disk.sync_directory(tmp_path)
    wal = opened(disk, tmp_path)
    keep(wal, b"a")
    disk.fail("sync", errno.EIO, "*.wal")
    keep(wal, b"b", b"c")
    assert file_of(tmp_path, 2).stat().st_size == FRAMES_BEGIN + BLOCK
    disk.crash()
    assert held(opened(disk, tmp_path)) == [b"a", b"b", b"c"]


def paged(size: int, seed: int = 1) -> memoryview:
    """Bytes that begin where a page of memory does."""
    memory = mmap.mmap(-1, max(size, 1))
    memory[:size] = noise(size, seed)[:size]
    return memoryview(memory)[:size].toreadonly()


def in_place(size: int) -> Parts:
    """A payload that is not copied but for its ends, in a frame at a block."""
    return Parts((bytes(BLOCK - FRAME_HEAD_BYTES), paged(size), b"the end."), BLOCK - FRAME_HEAD_BYTES)


def copied_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    copied: list[int] = []
    copy_out = disk_module.copy_out

    def counting(target: object, at: int, source: bytes | memoryview) -> None:
        copied.append(len(source))
        copy_out(target, at, source)

    monkeypatch.setattr(disk_module, "copy_out", counting)
    return copied


@pytest.mark.parametrize("size", [IN_PLACE_BYTES, IN_PLACE_BYTES + 1, 531_296, DIRECT_WRITE_BYTES + 5, 3_000_000])
def test_a_large_part_that_lies_at_a_page_is_written_from_where_it_lies(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
):
    pytest.importorskip("otlp_arrow.codec._kernel")
    before = bytes(BLOCK - FRAME_HEAD_BYTES) + b"b" * BLOCK
    payload = Parts((before, paged(size), b"the end."), len(before))
    wal = opened(disk, tmp_path)
    keep(wal, b"first")
    copied = copied_bytes(monkeypatch)
    keep(wal, b"small", payload, b"small", payload, payload)
    if isinstance(disk, SystemDisk) and type(disk) is SystemDisk:
        assert sum(copied) < 3 * (len(before) + 4 * BLOCK)
    whole = payload.joined()
    assert held(wal) == [b"first", b"small", whole, b"small", whole, whole]
    wal.close()
    assert held(opened(disk, tmp_path)) == [b"first", b"small", whole, b"small", whole, whole]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_appended_is_read_back_wherever_it_lies_in_memory(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    directory = tmp_path_factory.mktemp("wal")
    Layout(directory).wal.mkdir()
    wal = opened(SystemDisk(), directory)
    sizes = st.sampled_from([0, 1, 8, 450, BLOCK - 40, BLOCK, IN_PLACE_BYTES, IN_PLACE_BYTES + 9, 400_000, 1_100_000])
    expected = []
    for _ in range(data.draw(st.integers(1, 3))):
        payloads: list[bytes | Parts] = []
        for _ in range(data.draw(st.integers(1, 5))):
            size, lead = data.draw(sizes), data.draw(st.sampled_from([0, 8, BLOCK - 40, 2 * BLOCK - 40]))
            body = paged(size) if data.draw(st.booleans()) else noise(size, 3)
            page_at = lead if data.draw(st.booleans()) else None
            payloads.append(Parts((bytes(lead), body, b"tail"), page_at) if data.draw(st.booleans()) else bytes(body))
        keep(wal, *payloads)
        expected += [p if isinstance(p, bytes) else p.joined() for p in payloads]
    assert held(wal) == expected
    assert wal._current is not None
    assert wal._current.block_bytes == (BLOCK if takes_direct(directory) else 1), "the system refused a write"
    wal.close()


def test_more_parts_than_one_write_takes_are_written_in_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk_module, "_IOV_MAX", 4)
    Layout(tmp_path).wal.mkdir()
    wal = opened(SystemDisk(), tmp_path, file_bytes=1 << 30)
    part = paged(IN_PLACE_BYTES)
    payload = Parts((bytes(BLOCK - FRAME_HEAD_BYTES), part, b"tail"), BLOCK - FRAME_HEAD_BYTES)
    keep(wal, *[payload] * 9)
    assert held(wal) == [payload.joined()] * 9


def test_a_disk_that_takes_nothing_directly_gets_the_same_log_without_whole_blocks(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    disk.takes_direct = False
    Layout(tmp_path).wal.mkdir()
    wal = opened(disk, tmp_path)
    keep(wal, b"a")
    keep(wal, b"b" * 9)
    assert file_of(tmp_path).stat().st_size == FRAMES_BEGIN + 48 + 56
    assert held(wal) == [b"a", b"b" * 9]


@pytest.mark.parametrize("refused_at", [1, 2, 3, 5, 6])
def test_a_file_system_that_opens_and_then_refuses_a_write_gets_it_through_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused_at: int
):
    """At the header, at an append of one part, at the first and at a later part of a large one, at one in place."""
    if not takes_direct(tmp_path):
        pytest.skip("the file system of the test does not take O_DIRECT")
    import fcntl

    writev, writes = os.writev, [0]

    def refusing(descriptor: int, buffers: list[memoryview]) -> int:
        writes[0] += 1
        if writes[0] >= refused_at and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return writev(descriptor, buffers)

    Layout(tmp_path).wal.mkdir()
    wal = opened(SystemDisk(), tmp_path, file_bytes=1 << 30)
    with monkeypatch.context() as patched:
        patched.setattr(os, "writev", refusing)
        keep(wal, b"small")
        keep(wal, b"large" * 600_000, b"and more")
        keep(wal, in_place(400_000), b"last")
    assert wal._current is not None
    assert wal._current.block_bytes == 1
    expected = [b"small", b"large" * 600_000, b"and more", in_place(400_000).joined(), b"last"]
    assert held(wal) == expected
    wal.close()
    assert held(opened(SystemDisk(), tmp_path)) == expected
