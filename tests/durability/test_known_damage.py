"""Each fault that a disk may show, by name, and what becomes of the data (docs/formats.md has the table)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otlp_arrow.app.telemetry import PrometheusMeter
from otlp_arrow.model import Batch, Busy, Signal, meter
from otlp_arrow.pipeline import Pipeline, PipelineSettings
from otlp_arrow.storage.frames import FILE_HEADER, FRAME_HEADER
from otlp_arrow.storage.store import StorageSettings
from otlp_arrow.testing.faulty_disk import FaultyDisk, PowerCut

WAIT_S = 20
_numbers = itertools.count(1)


def log_of(number: int) -> bytes:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=1)
    record.body.int_value = number
    return request.SerializeToString()


class Bench:
    """A pipeline over a faulty disk, and what it acknowledged."""

    def __init__(self, directory: Path, *, direct: bool) -> None:
        self.directory = directory
        self.direct = direct
        self.disk = self.new_disk()
        self.meter = PrometheusMeter()
        self.acknowledged: list[int] = []
        self.refused: list[int] = []

    def new_disk(self) -> FaultyDisk:
        """The directory as it is now."""
        disk = FaultyDisk(self.directory)
        disk.takes_direct = self.direct
        return disk

    def pipeline(self, **settings: object) -> Pipeline:
        """A pipeline that never writes a segment unless told to, and asks a disk in trouble again at once."""
        intake_options = {"disk_retry_s": 0.02, "ack_timeout_s": 0.3}
        chosen = {
            "write_interval_secs": 3600.0,
            "shutdown_timeout_secs": 5.0,
            "intake_options": intake_options,
            **settings,
        }
        return Pipeline(PipelineSettings(StorageSettings(self.directory), **chosen), meter=self.meter, disk=self.disk)

    async def send(self, pipeline: Pipeline) -> int:
        """One record; its number. Raises what the sender would see."""
        number = next(_numbers)
        try:
            await pipeline.intake.accept(Batch(Signal.LOGS, log_of(number)))
        except Busy:
            self.refused.append(number)
            raise
        self.acknowledged.append(number)
        return number

    async def send_until_taken(self, pipeline: Pipeline) -> int:
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    return await self.send(pipeline)
                except Busy:
                    await asyncio.sleep(0.01)

    def stored(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for path in (self.directory / "otlp" / "logs").glob("*.arrows"):
            bodies = pa.ipc.open_stream(path.read_bytes()).read_all().column("body").to_pylist()
            found.update(body["int"] for body in bodies)
        return found

    def assert_kept_once(self, but: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        assert self.stored() == Counter(set(self.acknowledged) - but)

    def wal_files(self) -> list[Path]:
        return sorted((self.directory / "wal").glob("*.wal"))

    def segments(self) -> list[Path]:
        return sorted((self.directory / "otlp" / "logs").glob("*.arrows"))

    def quarantined(self) -> list[str]:
        return sorted(p.name for p in (self.directory / "quarantine").iterdir() if p.suffix != ".reason")

    async def restart(self) -> None:
        """What a new process finds: open, replay, close."""
        self.disk = self.new_disk()
        async with self.pipeline():
            pass


@pytest.fixture(params=[True, False], ids=["direct", "page cache"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    return Bench(tmp_path, direct=request.param)


async def crashed(bench: Bench, records: int = 3, *, flushed: int = 0) -> None:
    """Records acknowledged, the first ``flushed`` of them in a segment; then the power goes."""
    pipeline = bench.pipeline()
    await pipeline.__aenter__()
    for index in range(records):
        await bench.send(pipeline)
        if index + 1 == flushed:
            await pipeline.flush()
    await pull_the_plug(bench, pipeline)


async def pull_the_plug(bench: Bench, pipeline: Pipeline) -> None:
    bench.disk.cut_power_before(0)
    # What a dead process would not do any more may be tried, but reaches no disk.
    with contextlib.suppress(PowerCut):
        await pipeline.__aexit__(None, None, None)
    pipeline.store._lock.release()
    bench.disk.crash()


# -- the disk refuses --------------------------------------------------------------------------


async def test_a_full_disk_refuses_senders_says_why_and_takes_data_again_by_itself(bench: Bench) -> None:
    async with bench.pipeline() as pipeline:
        await bench.send(pipeline)
        bench.disk.capacity = bench.disk.used_bytes + 10
        with pytest.raises(Busy, match="disk is full"):
            await bench.send(pipeline)
        with pytest.raises(Busy, match="disk is full"):
            await bench.send(pipeline)
        assert [(p.name, p.state, p.reason) for p in pipeline.status() if p.state == "failed"] == [
            ("intake", "failed", "the disk is full")
        ]
        bench.disk.capacity = None
        await bench.send_until_taken(pipeline)
        assert all(part.state == "ok" for part in pipeline.status())
    bench.assert_kept_once()
    assert bench.meter.value(meter.DISK_ERRORS, "wal", "ENOSPC") >= 1


@pytest.mark.parametrize("after_bytes", [0, 1, 39, 40, 60])
async def test_a_short_write_leaves_nothing_of_the_refused_request(bench: Bench, after_bytes: int) -> None:
    async with bench.pipeline() as pipeline:
        await bench.send(pipeline)
        bench.disk.fail("append", errno.EIO, "*.wal", after_bytes=after_bytes)
        with pytest.raises(Busy):
            await bench.send(pipeline)
        await bench.send_until_taken(pipeline)
    await bench.restart()
    bench.assert_kept_once()


async def test_a_failed_write_that_cannot_be_cut_off_is_void_after_a_crash(bench: Bench) -> None:
    pipeline = bench.pipeline()
    await pipeline.__aenter__()
    await bench.send(pipeline)
    bench.disk.fail("append", errno.EIO, "*.wal", after_bytes=10_000)
    bench.disk.fail("truncate", errno.EIO, "*.wal")
    with pytest.raises(Busy):
        await bench.send(pipeline)
    await bench.send_until_taken(pipeline)
    assert len(bench.wal_files()) == 2
    await pull_the_plug(bench, pipeline)
    await bench.restart()
    bench.assert_kept_once()


async def test_a_failed_sync_goes_on_in_a_new_file_and_the_sender_hears_ok(bench: Bench) -> None:
    pipeline = bench.pipeline()
    await pipeline.__aenter__()
    await bench.send(pipeline)
    fault = bench.disk.fail("sync", errno.EIO, "*.wal")
    await bench.send(pipeline)
    await bench.send(pipeline)
    assert fault.hits == 1
    assert len(bench.wal_files()) == 2
    await pull_the_plug(bench, pipeline)
    await bench.restart()
    bench.assert_kept_once()


async def test_a_sync_that_fails_on_the_new_file_too_refuses_the_sender(bench: Bench) -> None:
    pipeline = bench.pipeline()
    await pipeline.__aenter__()
    await bench.send(pipeline)
    bench.disk.fail("sync", errno.EIO, "*.wal", times=2)
    with pytest.raises(Busy):
        await bench.send(pipeline)
    await bench.send_until_taken(pipeline)
    await pull_the_plug(bench, pipeline)
    await bench.restart()
    bench.assert_kept_once()


@pytest.mark.parametrize("operation", ["append", "sync", "create"])
async def test_a_segment_that_cannot_be_written_is_written_again_elsewhere(bench: Bench, operation: str) -> None:
    async with bench.pipeline() as pipeline:
        await bench.send(pipeline)
        await pipeline.flush()
        if operation == "create":
            pipeline.store.close_segment(Signal.LOGS)
        fault = bench.disk.fail(operation, errno.EIO, "*.arrows", after_bytes=100 if operation == "append" else 0)  # type: ignore[arg-type]
        await bench.send(pipeline)
        async with asyncio.timeout(WAIT_S):
            await pipeline.flush()
        assert fault.hits == 1
        await bench.send(pipeline)
    bench.assert_kept_once()
    await bench.restart()
    bench.assert_kept_once()


async def test_a_segment_whose_failed_unit_could_not_be_cut_is_not_counted_twice(bench: Bench) -> None:
    pipeline = bench.pipeline()
    await pipeline.__aenter__()
    await bench.send(pipeline)
    await pipeline.flush()
    bench.disk.fail("sync", errno.EIO, "*.arrows")
    bench.disk.fail("truncate", errno.EIO, "*.arrows")
    await bench.send(pipeline)
    async with asyncio.timeout(WAIT_S):
        await pipeline.flush()
    await pull_the_plug(bench, pipeline)
    await bench.restart()
    bench.assert_kept_once()


async def test_a_sync_that_hangs_refuses_senders_in_time_and_recovers(bench: Bench) -> None:
    async with bench.pipeline() as pipeline:
        await bench.send(pipeline)
        with bench.disk.hold("sync", "*.wal"):
            with pytest.raises(Busy):
                await bench.send(pipeline)
            with pytest.raises(Busy):
                await bench.send(pipeline)
            (intake,) = [p for p in pipeline.status() if p.name == "intake"]
            assert intake.state == "failed"
        await bench.send_until_taken(pipeline)
    stored = bench.stored()
    assert set(bench.acknowledged) <= stored.keys()
    assert max(stored.values()) == 1


# -- a crash -----------------------------------------------------------------------------------


async def test_what_was_acknowledged_and_not_written_is_replayed_once(bench: Bench) -> None:
    await crashed(bench, 5, flushed=2)
    await bench.restart()
    bench.assert_kept_once()
    assert bench.meter.value(meter.REPLAYED, "logs") == 3
    await bench.restart()
    bench.assert_kept_once()


async def test_a_tail_torn_at_any_byte_of_the_last_frame_costs_only_that_frame(bench: Bench) -> None:
    await crashed(bench, 3)
    (path,) = bench.wal_files()
    whole = path.read_bytes()
    start = whole.rindex(b"OTF2")
    end = start + FRAME_HEADER.size + len(log_of(bench.acknowledged[-1]))
    kept = set(bench.acknowledged[:-1])
    for size in range(start, end):
        path.write_bytes(whole[:size])
        findings_store = bench.pipeline().store
        findings = findings_store.open()
        frames = list(findings_store.unstored_frames())
        assert len(frames) == len(kept), size
        assert not findings.lost_rows
        assert findings.wal.torn_tails == (1 if size > start else 0), size
        findings_store.abandon()
        for left in bench.wal_files():
            left.unlink()
    path.write_bytes(whole[: end - 1])
    await bench.restart()
    assert set(bench.stored()) == kept


@pytest.mark.parametrize("region", ["magic", "checksum", "length", "sequence", "signal", "payload"])
async def test_a_flipped_byte_in_a_frame_costs_that_frame_says_so_and_nothing_else(bench: Bench, region: str) -> None:
    await crashed(bench, 3)
    (path,) = bench.wal_files()
    data = bytearray(path.read_bytes())
    second = data.index(b"OTF2", data.index(b"OTF2") + 1)
    offsets = {"magic": 0, "checksum": 4, "length": 8, "sequence": 16, "signal": 32, "payload": FRAME_HEADER.size + 3}
    data[second + offsets[region]] ^= 0x10
    path.write_bytes(data)
    await bench.restart()
    bench.assert_kept_once(but={bench.acknowledged[1]})
    assert len(bench.quarantined()) == 1
    assert bench.meter.value(meter.LOST) == (0 if region == "magic" else 1)  # without a header nobody knows how many


async def test_a_damaged_wal_header_loses_no_frame(bench: Bench) -> None:
    await crashed(bench, 3)
    (path,) = bench.wal_files()
    data = bytearray(path.read_bytes())
    data[FILE_HEADER.size - 1] ^= 1
    path.write_bytes(data)
    await bench.restart()
    bench.assert_kept_once()
    assert bench.quarantined() == [path.name]


async def test_a_missing_wal_file_is_counted(bench: Bench) -> None:
    pipeline = bench.pipeline(seal_bytes=2**40)
    pipeline.store.wal.file_bytes = 33
    await pipeline.__aenter__()
    for _ in range(3):
        await bench.send(pipeline)
    await pull_the_plug(bench, pipeline)
    bench.wal_files()[1].unlink()
    await bench.restart()
    bench.assert_kept_once(but={bench.acknowledged[1]})
    assert bench.meter.value(meter.MISSING_FRAMES) == 1


async def test_a_segment_torn_at_any_byte_is_mended_from_the_wal(bench: Bench) -> None:
    await crashed(bench, 4, flushed=2)
    (path,) = bench.segments()
    whole = path.read_bytes()
    wal = {p: p.read_bytes() for p in bench.wal_files()}
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:size])
        await bench.restart()
        bench.assert_kept_once()
        for left in [*bench.segments(), *bench.wal_files(), *(bench.directory / "state").iterdir()]:
            left.unlink()
        for name, data in wal.items():
            name.write_bytes(data)


async def test_a_flipped_byte_in_a_segment_that_was_open_is_found_and_mended_from_the_wal(bench: Bench) -> None:
    await crashed(bench, 4, flushed=2)
    (path,) = bench.segments()
    whole = path.read_bytes()
    wal = {p: p.read_bytes() for p in bench.wal_files()}
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        data = bytearray(whole)
        data[at] ^= 0x04
        path.write_bytes(data)
        await bench.restart()
        bench.assert_kept_once()
        state = (bench.directory / "state").iterdir()
        for left in [*bench.segments(), *bench.wal_files(), *state]:
            left.unlink()
        for name, content in wal.items():
            name.write_bytes(content)
    assert bench.quarantined()


async def test_a_lost_rename_of_the_cursor_neither_loses_nor_doubles(bench: Bench) -> None:
    bench.disk.forget_renames("writer.json")
    pipeline = bench.pipeline()
    await pipeline.__aenter__()
    for _ in range(3):
        await bench.send(pipeline)
        await pipeline.flush()
        pipeline.store._advance_cursor(pipeline._stored_up_to())
    await bench.send(pipeline)
    await pull_the_plug(bench, pipeline)
    await bench.restart()
    bench.assert_kept_once()


async def test_a_damaged_cursor_is_set_aside(bench: Bench) -> None:
    async with bench.pipeline() as pipeline:
        await bench.send(pipeline)
    cursor = bench.directory / "state" / "writer.json"
    cursor.write_bytes(cursor.read_bytes().replace(b"logs", b"lags"))
    await bench.restart()
    bench.assert_kept_once()
    assert bench.quarantined() == ["writer.json"]


async def test_a_segment_deleted_by_hand_comes_back_as_far_as_the_wal_has_it(bench: Bench) -> None:
    await crashed(bench, 4, flushed=4)
    (path,) = bench.segments()
    path.unlink()
    await bench.restart()
    bench.assert_kept_once()


@pytest.mark.parametrize(
    "make", [lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"\0" * 4096)], ids=["empty", "zeros"]
)
async def test_files_without_content_are_no_obstacle(bench: Bench, make: Callable[[Path], object]) -> None:
    await crashed(bench, 3, flushed=1)
    make(bench.directory / "otlp" / "logs" / "otlp_logs_20260101_000000_9999.arrows")
    make(bench.directory / "wal" / f"{10_000:020}.wal")
    await bench.restart()
    bench.assert_kept_once()


@pytest.mark.parametrize("torn_bytes", [0, 1, 50, 10_000])
async def test_a_power_cut_before_any_operation_of_a_flush_neither_loses_nor_doubles(
    tmp_path: Path, torn_bytes: int
) -> None:
    for cut in range(40):
        bench = Bench(tmp_path / str(cut), direct=cut % 2 == 0)
        bench.directory.mkdir()
        pipeline = bench.pipeline(shutdown_timeout_secs=0.2)
        await pipeline.__aenter__()
        await bench.send(pipeline)
        await bench.send(pipeline)
        bench.disk.cut_power_before(cut)
        with contextlib.suppress(PowerCut):
            await asyncio.wait_for(pipeline.__aexit__(None, None, None), WAIT_S)
        pipeline.store._lock.release()
        reached = bench.disk._dead
        bench.disk.crash(torn_bytes=torn_bytes)
        await bench.restart()
        bench.assert_kept_once()
        if not reached:
            return
    raise AssertionError("a flush and a stop take fewer operations than that")
