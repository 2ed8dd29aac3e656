"""Segment files: written unit by unit, and what can be read off them however they are damaged."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from otlp_arrow.codec import decode
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Signal
from otlp_arrow.storage import segment
from otlp_arrow.storage.disk import Buffer, SystemDisk, SystemFile
from otlp_arrow.storage.ipc import END_OF_STREAM
from otlp_arrow.storage.segment import Reading, SegmentFile, UnitRange, close_after, read_segment
from otlp_arrow.testing.faulty_disk import FaultyDisk
from records import ids_of, read, request

PATH = Path("a segment")


def rows(*ids: int) -> pa.RecordBatch:
    return decode(Signal.LOGS, request(Signal.LOGS, ids))


def write(path: Path, *groups: tuple[int, ...], closed: bool = True) -> bytes:
    file = SegmentFile(SystemDisk(), path, SCHEMAS[Signal.LOGS])
    for ids in groups:
        file.append(rows(*ids), UnitRange(ids[0], ids[-1], len(ids), ids[0], ids[-1]))
    if closed:
        file.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("segment") / "s.arrows", (1, 2), (5,), (7, 9))


@pytest.fixture(scope="module")
def growing(closed: bytes) -> bytes:
    return closed[: -len(END_OF_STREAM)]


def verified(data: bytes) -> Reading:
    return read_segment(PATH, data, verify=True)


def ranges(reading: Reading) -> list[tuple[int, int, int]]:
    return [(u.range.wal_first, u.range.wal_last, u.range.rows) for u in reading.units]


WHOLE = [(1, 2, 2), (5, 5, 1), (7, 9, 2)]


# -- writing and reading ---------------------------------------------------------------------------


@pytest.mark.parametrize("large", [True, False])
def test_large_units_go_past_the_page_cache_and_small_ones_stay_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    past_cache = []
    append = SystemFile.append

    def appending(self: SystemFile, buffers: Sequence[Buffer], **how: bool) -> int:
        past_cache.append(how.get("past_cache", False))
        return append(self, buffers, **how)

    monkeypatch.setattr(SystemFile, "append", appending)
    monkeypatch.setattr(segment, "PAST_CACHE_UNIT_BYTES", 1 if large else 1_000_000)
    data = write(tmp_path / "s.arrows", (1, 2), (5,), (7, 9))
    assert past_cache == [large, large, large, False], "the marker of the end is small"
    assert ranges(verified(data)) == WHOLE
    assert [ids_of(Signal.LOGS, batch) for batch in pa.ipc.open_stream(data)] == [[1, 2], [5], [7, 9]]


def test_units_are_read_off_a_closed_and_a_growing_segment(closed: bytes, growing: bytes):
    for data, ended in ((closed, True), (growing, False)):
        for verify in (True, False):
            reading = read_segment(PATH, data, verify=verify)
            assert ranges(reading) == WHOLE
            assert (reading.signal, reading.version) == (Signal.LOGS, "1")
            assert (reading.closed, reading.damage, reading.discarded) == (ended, "", [])
            assert reading.good_end == len(growing)
    assert (reading.wal_first, reading.wal_last) == (1, 9)


def test_rows_can_be_read_with_plain_arrow_while_the_segment_grows(tmp_path: Path):
    path = tmp_path / "s.arrows"
    write(path, (1, 2), (3,), closed=False)
    assert ids_of(Signal.LOGS, read(path)) == [1, 2, 3]


def test_a_unit_tells_its_times_and_a_unit_without_times_tells_none():
    assert UnitRange.of(UnitRange(1, 2, 3, 10, 20).metadata()) == UnitRange(1, 2, 3, 10, 20)
    assert UnitRange.of(UnitRange(1, 2, 3).metadata()) == UnitRange(1, 2, 3)


def test_the_digits_of_a_checksum_may_stand_in_another_value_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segment, "crc32", lambda data, start: 0x12345678)
    file = SegmentFile(SystemDisk(), tmp_path / "s.arrows", SCHEMAS[Signal.LOGS])
    unit = UnitRange(12345678, 12345678, 1, 12345678, 12345678)
    file.append(rows(1), unit)

    def strict(data: bytes, start: int) -> int:  # right only with the digits of the checksum itself blanked
        text = bytes(data)
        return 0x12345678 if text.count(b"00000000") == 1 and text.count(b"12345678") == 4 else 0

    monkeypatch.setattr(segment, "crc32", strict)
    assert verified((tmp_path / "s.arrows").read_bytes()).damage == ""


def test_a_segment_that_cannot_be_begun_leaves_nothing(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    disk.fail("sync_directory", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        SegmentFile(disk, tmp_path / "s.arrows", SCHEMAS[Signal.LOGS])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after_bytes", [0, 1, 4, 7])
def test_half_an_end_marker_is_cut_off_again_so_that_readers_do_not_stumble(tmp_path: Path, after_bytes: int):
    disk = FaultyDisk(tmp_path)
    file = SegmentFile(disk, tmp_path / "s.arrows", SCHEMAS[Signal.LOGS])
    file.append(rows(1), UnitRange(1, 1, 1))
    disk.fail("append", errno.ENOSPC, after_bytes=after_bytes)
    with pytest.raises(OSError, match="No space"):
        file.close()
    assert ids_of(Signal.LOGS, read(tmp_path / "s.arrows")) == [1]
    assert verified((tmp_path / "s.arrows").read_bytes()).damage == ""


@pytest.mark.parametrize("operation", ["append", "sync"])
def test_an_abandoned_segment_ends_where_it_was_good(tmp_path: Path, operation: str):
    disk = FaultyDisk(tmp_path)
    file = SegmentFile(disk, tmp_path / "s.arrows", SCHEMAS[Signal.LOGS])
    file.append(rows(1), UnitRange(1, 1, 1))
    good_size = file.size
    disk.fail(operation, errno.EIO, after_bytes=100)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="Input/output"):
        file.append(rows(2), UnitRange(2, 2, 1))
    file.abandon(good_size)
    disk.crash()
    reading = verified((tmp_path / "s.arrows").read_bytes())
    assert (ranges(reading), reading.closed) == ([(1, 1, 1)], True)


def test_a_segment_that_cannot_be_cut_is_left_to_recovery(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    file = SegmentFile(disk, tmp_path / "s.arrows", SCHEMAS[Signal.LOGS])
    file.append(rows(1), UnitRange(1, 1, 1))
    good_size = file.size
    disk.fail("append", errno.EIO, after_bytes=100)
    disk.fail("truncate", errno.EIO, times=None)
    with pytest.raises(OSError, match="Input/output"):
        file.append(rows(2), UnitRange(2, 2, 1))
    file.abandon(good_size)
    reading = verified((tmp_path / "s.arrows").read_bytes())
    assert (ranges(reading), reading.torn, reading.good_end) == ([(1, 1, 1)], True, good_size)


# -- damage ----------------------------------------------------------------------------------------


def test_a_segment_cut_anywhere_keeps_its_whole_units_and_is_torn(closed: bytes, growing: bytes):
    ends = [u.end for u in verified(closed).units]
    for size in sorted({*range(0, len(closed), 7), *(end + step for end in ends for step in (-1, 0, 1))}):
        reading = verified(closed[:size])
        assert ranges(reading) == WHOLE[: sum(end <= size for end in ends)], size
        assert not reading.closed
        assert reading.discarded == []
        assert reading.torn is (size not in ends), size


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("ended", [False, True], ids=["growing", "closed"])
def test_a_flipped_byte_anywhere_costs_its_unit_and_those_behind_it_and_is_not_taken_for_an_unfinished_write(
    growing: bytes, ended: bool, step: int
):
    units = verified(growing).units
    content = growing + END_OF_STREAM if ended else growing
    for position in range(0, len(growing), step):
        data = bytearray(content)
        data[position] ^= 0x41
        reading = verified(bytes(data))
        number = sum(unit.start <= position for unit in units) - 1
        assert ranges(reading) == WHOLE[:number], position
        assert reading.good_end == units[number].start, position
        assert reading.damage, position
        assert not reading.closed, position
        if ended or number < len(units) - 1:
            assert not reading.torn, position
        if number < len(units) - 1:  # what lies behind is named, so that it can be looked for in the log
            assert units[-1].range in reading.discarded, position


def test_a_damaged_end_marker_costs_no_row(closed: bytes):
    for position in range(len(closed) - len(END_OF_STREAM), len(closed)):
        data = bytearray(closed)
        data[position] ^= 0x41
        reading = verified(bytes(data))
        assert ranges(reading) == WHOLE
        assert reading.damage, position
        assert not reading.closed, position


def test_an_end_marker_in_the_middle_is_not_kept(closed: bytes, growing: bytes):
    first = verified(growing).units[0]
    data = growing[: first.end] + END_OF_STREAM + growing[first.end :]
    reading = verified(data)
    assert ranges(reading) == WHOLE[:1]
    assert (reading.good_end, reading.torn) == (first.end, False)
    assert [r.rows for r in reading.discarded] == [1, 2]


def test_units_whose_sequences_go_back_are_damage(tmp_path: Path):
    reading = read_segment(PATH, write(tmp_path / "s.arrows", (5, 6), (6, 7)), verify=False)
    assert ranges(reading) == [(5, 6, 2)]
    assert "do not rise" in reading.damage


@pytest.mark.parametrize("content", [b"", END_OF_STREAM, bytes(100)])
def test_a_file_without_a_unit_is_unfinished(content: bytes):
    reading = verified(content)
    assert (reading.units, reading.torn, reading.closed) == ([], True, False)


def test_an_arrow_stream_that_is_none_of_ours_is_damage():
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"a": [1]})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    reading = verified(sink.getvalue().to_pybytes())
    assert "schema" in reading.damage
    assert not reading.torn


def test_looking_for_units_behind_damage_costs_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch):
    hostile = (b"\xff\xff\xff\xff" + (4096).to_bytes(4, "little")) * 4_000
    examined = []
    original = segment.read_message

    def counting(data: bytes, offset: int) -> object:
        examined.append(offset)
        return original(data, offset)

    monkeypatch.setattr(segment, "read_message", counting)
    reading = read_segment(PATH, b"damage.." + hostile, verify=True)
    assert not reading.torn
    assert len(examined) * 4096 < 10 * len(hostile)


# -- closing ---------------------------------------------------------------------------------------


def test_a_cut_segment_reads_as_a_closed_one(tmp_path: Path):
    path = tmp_path / "s.arrows"
    data = write(path, (1, 2), (5,), closed=False)
    close_after(SystemDisk(), path, verified(data).units[0].end)
    assert ids_of(Signal.LOGS, read(path)) == [1, 2]
    assert verified(path.read_bytes()).closed
