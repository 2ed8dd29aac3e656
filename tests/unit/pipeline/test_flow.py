"""From the intake to synced segments: beginning, ending, writing under trouble, housekeeping, books."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from directory import flip
from otlp_arrow.model import Batch, DirectoryLocked, Parts, Signal
from otlp_arrow.model import meter as m
from otlp_arrow.model.batch import joined
from otlp_arrow.pipeline import Ack, flow
from otlp_arrow.storage.frames import FRAME_HEADER, FRAMES_BEGIN
from piped import Piped, send, until
from records import Ids, arrow_batch, segments, stored

TRACES, METRICS, LOGS = Signal


@pytest.fixture
def piped(tmp_path: Path) -> Piped:
    return Piped(tmp_path)


@pytest.fixture(autouse=True)
def short_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otlp_arrow.pipeline.flow.CLOSE_TIMEOUT_S", 0.1)


def logs(*ids: int) -> Ids:
    return Counter((LOGS, number) for number in ids)


async def crashed(piped: Piped, *ids: int) -> None:
    """Acknowledged, in the log, in no segment."""
    pipeline = await piped.pipeline().__aenter__()
    for number in ids:
        await send(pipeline, number)
    await piped.crash(pipeline)
    assert stored(piped.root) == Counter()


# -- beginning -------------------------------------------------------------------------------------


async def test_a_second_pipeline_on_the_directory_is_refused_and_the_first_goes_on(piped: Piped):
    async with piped.pipeline() as pipeline:
        with pytest.raises(DirectoryLocked):
            await piped.pipeline().__aenter__()
        await send(pipeline, 1)
    assert stored(piped.root) == logs(1)


async def test_a_beginning_that_is_cancelled_while_it_opens_lets_go_of_the_directory(piped: Piped):
    await crashed(piped, 1)
    (torn,) = (piped.root / "wal").iterdir()
    torn.write_bytes(torn.read_bytes() + b"OTF2 half a frame")
    with piped.disk.hold("truncate", "*.wal") as hold:
        pipeline = piped.pipeline()
        assert pipeline.status()[0].reason == "not started"
        beginning = asyncio.create_task(pipeline.__aenter__())
        await until(hold.reached.is_set)
        assert pipeline.status()[0].reason == "recovering"
        beginning.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await beginning
    async with piped.pipeline():
        pass
    assert stored(piped.root) == logs(1)


async def test_a_beginning_that_is_cancelled_while_it_replays_goes_on_next_time(piped: Piped):
    await crashed(piped, 1, 2)
    with piped.disk.hold("sync", "*.arrows") as hold:
        beginning = asyncio.create_task(piped.pipeline().__aenter__())
        await until(hold.reached.is_set)
        beginning.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await beginning
    async with piped.pipeline():
        pass
    assert stored(piped.root) == logs(1, 2)


async def test_a_beginning_on_a_full_disk_fails_and_loses_nothing(piped: Piped):
    await crashed(piped, 1, 2)
    piped.disk.capacity = piped.disk.used_bytes
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            await piped.pipeline().__aenter__()
    piped.disk.capacity = None
    async with piped.pipeline():
        pass
    assert stored(piped.root) == logs(1, 2)


async def test_what_a_beginning_found_is_in_the_books(piped: Piped):
    pipeline = await piped.pipeline(storage={"wal_file_bytes": 100}).__aenter__()
    for number in range(1, 6):
        await send(pipeline, number)
    await piped.crash(pipeline)
    first, second, third, fourth, _ = sorted((piped.root / "wal").iterdir())
    flip(first, FRAMES_BEGIN + FRAME_HEADER.size)  # frame 1: damaged
    second.unlink()  # frame 2: missing
    with third.open("ab") as file:
        file.write(b"after the last frame of a file that is not the last")
    assert fourth.exists()
    (piped.root / "state" / "writer.json").write_bytes(b"?")
    (piped.root / "otlp" / "logs" / "otlp_logs_20230101_000000_0007.arrows").write_bytes(b"not a segment")
    piped.disk = type(piped.disk)(piped.root)
    async with piped.pipeline():
        books = piped.meter
        assert books.value(m.REPLAYED, "logs") == books.value(m.STORED, "logs") == 3
        assert books.value(m.LOST, "logs", "corrupt_frame") == 1
        assert books.value(m.MISSING_FRAMES) == 1
        assert books.value(m.QUARANTINED, "wal_frame") == 1
        assert books.value(m.QUARANTINED, "segment") == 1
        assert books.value(m.QUARANTINED, "cursor") == 1
    assert stored(piped.root) == logs(3, 4, 5)


async def test_a_payload_in_parts_is_stored_and_replayed_as_a_whole_one(piped: Piped):
    def in_parts(number: int) -> Batch:
        batch = arrow_batch(Signal.LOGS, [number])
        whole = joined(batch.payload)
        return replace(batch, payload=Parts([whole[:100], memoryview(whole)[100:-8], whole[-8:]]))

    pipeline = await piped.pipeline().__aenter__()
    await pipeline.intake.accept(in_parts(1))
    await pipeline.flush()
    await pipeline.intake.accept(in_parts(2))
    await piped.crash(pipeline)
    async with piped.pipeline():
        assert piped.meter.value(m.REPLAYED, "logs") == 1
    assert stored(piped.root) == logs(1, 2)


async def test_memory_of_the_log_goes_back_when_all_is_quiet(piped: Piped, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flow, "QUIET_S", 0.0)
    relaxed = []
    async with piped.pipeline() as pipeline:
        monkeypatch.setattr(pipeline.store.wal, "relax", lambda: relaxed.append(True))
        await send(pipeline, 1)
        await pipeline.flush()
        await until(lambda: relaxed)


@pytest.mark.parametrize("ack", [Ack.WRITE, Ack.MEMORY])
async def test_a_log_that_nobody_waits_for_goes_through_the_page_cache(piped: Piped, ack: Ack):
    for chosen, block in ((ack, 8), (Ack.FSYNC, 4096)):
        async with piped.pipeline(ack=chosen) as pipeline:
            await send(pipeline, 1)
            await until(lambda: pipeline.store.wal.size_bytes > FRAMES_BEGIN)
            size = pipeline.store.wal.size_bytes
            assert (size % 4096 == 0) == (block == 4096)


# -- writing ---------------------------------------------------------------------------------------


async def test_the_log_is_released_behind_the_segments(piped: Piped):
    async with piped.pipeline(storage={"wal_file_bytes": 100}) as pipeline:
        for number in range(1, 5):
            await send(pipeline, number)
        assert len(pipeline.store.wal.files) == 4
        await pipeline.flush()
        await until(lambda: len(pipeline.store.wal.files) == 1)
    assert list((piped.root / "wal").iterdir()) == []


async def test_the_log_keeps_what_is_gathered_while_other_signals_are_written(piped: Piped):
    pipeline = await piped.pipeline(storage={"wal_file_bytes": 100}, max_batch_rows=2).__aenter__()
    await send(pipeline, 1)
    for number in (2, 4, 6):
        await send(pipeline, number, number + 1, signal=TRACES)
    await until(lambda: pipeline.status()[1].details["chunks_waiting"] == 0)
    await pipeline.keep_house()
    assert pipeline.store.wal.first_sequence == 1
    await piped.crash(pipeline)
    async with piped.pipeline():
        pass
    assert stored(piped.root) == logs(1) + Counter((TRACES, n) for n in range(2, 8))


async def test_a_segment_that_fails_is_tried_again_while_data_is_still_taken(piped: Piped):
    async with piped.pipeline() as pipeline:
        piped.disk.fail("sync", errno.EIO, "*.arrows")
        await send(pipeline, 1)
        pipeline.intake.seal_all()
        await until(lambda: pipeline.status()[1].state == "failed")
        assert "the data is in the WAL" in pipeline.status()[1].reason
        await send(pipeline, 2)
        await pipeline.flush()
        assert pipeline.status()[1].state == "ok"
        assert piped.meter.value(m.DISK_ERRORS, "segment", "EIO") == 1
        assert piped.meter.value(m.STORED, "logs") == 2
    assert stored(piped.root) == logs(1, 2)


async def test_a_cursor_that_cannot_be_stored_is_a_trouble_that_passes_without_new_data(piped: Piped):
    async with piped.pipeline(storage={"wal_file_bytes": 50}) as pipeline:
        for number in (1, 2):
            await send(pipeline, number)
        piped.disk.fail("rename", errno.EIO, "writer.json")
        await pipeline.flush()
        await until(lambda: pipeline.status()[1].state == "degraded")
        assert "cursor" in pipeline.status()[1].reason
        await pipeline.keep_house()
        assert pipeline.status()[1].state == "ok"
        assert len(pipeline.store.wal.files) == 1


async def test_flushing_ends_when_the_writer_is_dead(piped: Piped, monkeypatch: pytest.MonkeyPatch):
    pipeline = await piped.pipeline().__aenter__()

    def broken(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    await send(pipeline, 1)
    with monkeypatch.context() as patched:
        patched.setattr(pipeline.store, "write", broken)
        with pytest.raises(RuntimeError, match="a mistake"):
            await asyncio.wait_for(pipeline.flush(), 10)
    assert pipeline.status()[1].state == "failed"
    with pytest.raises(RuntimeError, match="a mistake"):
        await pipeline.__aexit__(None, None, None)
    async with piped.pipeline():
        pass
    assert stored(piped.root) == logs(1)


# -- housekeeping ----------------------------------------------------------------------------------


async def test_what_retention_deletes_is_counted(piped: Piped):
    async with piped.pipeline(storage={"max_file_size": 1, "max_disk_bytes": 1}) as pipeline:
        await send(pipeline, 1, 2)
        await pipeline.flush()
        await pipeline.keep_house()
        assert piped.meter.value(m.EXPIRED, "logs", "size") == 2
        assert pipeline.store.catalog.everything() == ()
    assert segments(piped.root, LOGS) == []


async def test_a_segment_that_cannot_be_deleted_is_a_trouble_that_passes(piped: Piped):
    async with piped.pipeline(storage={"max_file_size": 1, "max_disk_bytes": 1}) as pipeline:
        await send(pipeline, 1)
        await pipeline.flush()
        piped.disk.fail("delete", errno.EIO, "*.arrows")
        await pipeline.keep_house()
        assert pipeline.status()[1].state == "degraded"
        assert piped.meter.value(m.EXPIRED, "logs", "size") == 0
        await pipeline.keep_house()
        assert pipeline.status()[1].state == "ok"
        assert piped.meter.value(m.EXPIRED, "logs", "size") == 1


async def test_house_is_kept_by_itself(piped: Piped):
    settings = {"max_file_size": 1, "max_disk_bytes": 1}
    async with piped.pipeline(storage=settings, housekeeping_interval_secs=0.01) as pipeline:
        await send(pipeline, 1)
        await pipeline.flush()
        await until(lambda: not segments(piped.root, LOGS))


# -- ending ----------------------------------------------------------------------------------------


async def test_a_stop_writes_everything_and_leaves_nothing_to_replay(piped: Piped):
    async with piped.pipeline() as pipeline:
        await send(pipeline, 1)
        await send(pipeline, 2, signal=METRICS)
    assert pipeline.status()[0].reason == "stopped"
    assert stored(piped.root) == logs(1) + Counter({(METRICS, 2): 1})
    async with piped.pipeline() as pipeline:
        assert pipeline.replayed.frames == 0


async def test_a_stop_on_a_full_disk_ends_in_time_and_the_log_has_everything(piped: Piped):
    pipeline = await piped.pipeline(shutdown_timeout_secs=0.2).__aenter__()
    await send(pipeline, 1)
    piped.disk.capacity = piped.disk.used_bytes
    await asyncio.wait_for(pipeline.__aexit__(None, None, None), 10)
    assert stored(piped.root) == Counter()
    piped.disk.capacity = None
    async with piped.pipeline():
        pass
    assert stored(piped.root) == logs(1)


@pytest.mark.parametrize("pattern", ["*.wal", "*.arrows"])
async def test_a_stop_with_a_sync_that_hangs_ends_in_time_and_loses_nothing_acknowledged(piped: Piped, pattern: str):
    pipeline = await piped.pipeline(shutdown_timeout_secs=0.1).__aenter__()
    await send(pipeline, 1)
    with piped.disk.hold("sync", pattern) as hold:
        if pattern == "*.wal":
            second = asyncio.create_task(send(pipeline, 2))
        else:
            pipeline.intake.seal_all()
        await until(hold.reached.is_set)
        await asyncio.wait_for(pipeline.__aexit__(None, None, None), 10)
        if pattern == "*.wal":
            assert (await asyncio.gather(second, return_exceptions=True))[0].args
        with pytest.raises(DirectoryLocked):  # the thread may still write: nobody else may yet
            await piped.pipeline().__aenter__()
        await piped.crash(pipeline)
    async with piped.pipeline():
        pass
    assert stored(piped.root) == logs(1)


async def test_a_stop_that_is_cancelled_closes_what_it_can(piped: Piped):
    pipeline = await piped.pipeline().__aenter__()
    await send(pipeline, 1)
    with piped.disk.hold("sync", "*.arrows") as hold:
        leaving = asyncio.create_task(pipeline.__aexit__(None, None, None))
        await until(hold.reached.is_set)
        leaving.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await leaving
    async with piped.pipeline():
        pass
    assert stored(piped.root) == logs(1)


# -- gauges ----------------------------------------------------------------------------------------


async def test_gauges_tell_what_waits_and_what_is_stored(piped: Piped):
    pipeline = piped.pipeline()
    pipeline.report()
    assert piped.meter.value(m.WAL_SEQUENCE) == 0
    async with pipeline:
        await send(pipeline, 1, 2)
        pipeline.report()
        assert piped.meter.value(m.BUFFERED_RECORDS, "logs") == 2
        assert piped.meter.value(m.BUFFER_BYTES) > 0
        assert piped.meter.value(m.WAL_SEQUENCE) == 1
        await pipeline.flush()
        pipeline.report()
        assert piped.meter.value(m.BUFFERED_RECORDS, "logs") == 0
        assert piped.meter.value(m.BUFFER_BYTES) == 0
        assert piped.meter.value(m.SEGMENT_RECORDS, "logs") == 2
        assert piped.meter.value(m.SEGMENT_FILES, "logs") == 1
        assert piped.meter.value(m.SEGMENT_BYTES, "logs") == segments(piped.root, LOGS)[0].stat().st_size
        assert pipeline.status()[2].details["segments"] == 1
