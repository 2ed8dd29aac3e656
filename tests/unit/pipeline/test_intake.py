"""The intake: what its acknowledgement promises, whom it refuses, and that nobody is left waiting."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from pathlib import Path

import pytest

from otlp_arrow.model import Batch, Busy, Closed, Receipt, Rejected, Signal, TooLarge
from otlp_arrow.model import meter as m
from otlp_arrow.pipeline import Ack, Pipeline
from otlp_arrow.storage.layout import Layout
from piped import Piped, send, until
from records import Ids, arrow_batch, batch, request, stored

TRACES, METRICS, LOGS = Signal


@pytest.fixture
def piped(tmp_path: Path) -> Piped:
    return Piped(tmp_path)


def logs(*ids: int) -> Ids:
    return Counter((LOGS, number) for number in ids)


def rows_in_segments(pipeline: Pipeline) -> int:
    return sum(segment.rows for segment in pipeline.store.catalog.everything())


# -- the acknowledgement ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ack", "survival"),
    [(Ack.FSYNC, {}), (Ack.WRITE, {"names": True, "torn_bytes": 1 << 20})],
    ids=["fsync outlives a power cut", "write outlives the process"],
)
async def test_what_was_acknowledged_outlives_what_the_setting_says(piped: Piped, ack: Ack, survival: dict[str, int]):
    pipeline = await piped.pipeline(ack=ack).__aenter__()
    for number in range(1, 4):
        await send(pipeline, number)
    await piped.crash(pipeline, **survival)
    async with piped.pipeline():
        pass
    assert stored(piped.root) == logs(1, 2, 3)


async def test_memory_acknowledges_before_the_disk_has_anything(piped: Piped):
    async with piped.pipeline(ack=Ack.MEMORY) as pipeline:
        with piped.disk.hold("append", "*.wal"):
            assert await asyncio.wait_for(send(pipeline, 1), 10) == 1
        await send(pipeline, 2)
    assert stored(piped.root) == logs(1, 2)


async def test_a_request_that_memory_acknowledged_and_the_log_refused_keeps_its_sequence(piped: Piped):
    async with piped.pipeline(ack=Ack.MEMORY) as pipeline:
        piped.disk.fail("append", errno.EIO, "*.wal", after_bytes=10)
        assert await send(pipeline, 1) == 1
        await until(lambda: pipeline.intake.status().state == "failed")
        with pytest.raises(Busy):
            await send(pipeline, 2)
        await until(lambda: pipeline.intake.status().state == "ok")
        assert await send(pipeline, 3) == 2
        await until(lambda: pipeline.store.wal.confirmed_sequence == 2)
        assert [frame.sequence for frame in pipeline.store.wal.read(0)] == [1, 2]
        await pipeline.flush()
    assert stored(piped.root) == logs(1, 3)


async def test_requests_that_arrive_during_a_sync_share_the_next_one(piped: Piped):
    async with piped.pipeline() as pipeline:
        with piped.disk.hold("sync", "*.wal") as hold:
            first = asyncio.create_task(send(pipeline, 1))
            await until(hold.reached.is_set)
            others = [asyncio.create_task(send(pipeline, number)) for number in range(2, 30)]
            await asyncio.sleep(0)
        assert await asyncio.gather(first, *others) == list(range(1, 30))
        assert sum(operation == "sync" and path.suffix == ".wal" for operation, path in piped.disk.operations) == 2
    assert stored(piped.root) == logs(*range(1, 30))


async def test_a_door_may_wait_with_what_it_has_until_the_next_commit_can_take_it(piped: Piped):
    async with piped.pipeline() as pipeline:
        called: list[str] = []
        pipeline.intake.when_ready(lambda: called.append("at once"))
        assert called == ["at once"]
        with piped.disk.hold("sync", "*.wal") as hold:
            first = asyncio.create_task(send(pipeline, 1))
            await until(hold.reached.is_set)
            others: list[asyncio.Future[Receipt]] = []
            pipeline.intake.when_ready(lambda: others.extend(pipeline.intake.submit(batch(LOGS, [n])) for n in (2, 3)))
            await asyncio.sleep(0)
            assert not others
        assert await first == 1
        await until(lambda: len(others) == 2)
        assert [(await each).sequence for each in others] == [2, 3]
        assert sum(operation == "sync" and path.suffix == ".wal" for operation, path in piped.disk.operations) == 2
    assert stored(piped.root) == logs(1, 2, 3)


async def test_a_door_that_fails_when_its_turn_comes_costs_no_other(piped: Piped, caplog: pytest.LogCaptureFixture):
    async with piped.pipeline() as pipeline:
        others: list[asyncio.Future[Receipt]] = []
        with piped.disk.hold("sync", "*.wal") as hold:
            first = asyncio.create_task(send(pipeline, 1))
            await until(hold.reached.is_set)
            pipeline.intake.when_ready(lambda: [][0])
            pipeline.intake.when_ready(lambda: others.append(pipeline.intake.submit(batch(LOGS, [2]))))
        assert await first == 1
        await until(lambda: len(others) == 1)
        assert (await others[0]).sequence == 2
        assert "a door failed to go on" in caplog.text
    assert stored(piped.root) == logs(1, 2)


async def test_a_door_that_waits_for_its_turn_hears_of_a_stuck_disk_in_time(piped: Piped):
    async with piped.pipeline(intake_options={"ack_timeout_s": 0.05}) as pipeline:
        refused: list[Exception] = []

        def submit() -> None:
            try:
                pipeline.intake.submit(batch(LOGS, [2]), pipeline_ticket)
            except Busy as error:
                refused.append(error)

        with piped.disk.hold("sync", "*.wal") as hold:
            pipeline_ticket = pipeline.intake.admit(10)
            first = asyncio.create_task(send(pipeline, 1))
            await until(hold.reached.is_set)
            pipeline.intake.when_ready(submit)
            with pytest.raises(Busy):
                await first
            await until(lambda: len(refused) == 1)
        await until(lambda: pipeline.intake.status().state == "ok")
        await send(pipeline, 3)
    assert stored(piped.root) == logs(3)


async def test_three_signals_and_both_encodings_are_kept_in_one_group(piped: Piped):
    batches = [
        arrow_batch(LOGS, [1]),
        batch(LOGS, [2]),
        batch(TRACES, [3]),
        arrow_batch(METRICS, [4]),
        batch(LOGS, [5]),
    ]
    pipeline = await piped.pipeline().__aenter__()
    receipts = await asyncio.gather(*(pipeline.intake.accept(b) for b in batches))
    assert [receipt.sequence for receipt in receipts] == [1, 2, 3, 4, 5]
    await pipeline.flush()
    await send(pipeline, 6)
    expected = logs(1, 2, 5, 6) + Counter({(TRACES, 3): 1, (METRICS, 4): 1})
    await piped.crash(pipeline)
    async with piped.pipeline():
        pass
    assert stored(piped.root) == expected


# -- what is wrong with a request ------------------------------------------------------------------


async def test_a_malformed_request_is_refused_alone_and_leaves_no_frame(piped: Piped):
    async with piped.pipeline() as pipeline:
        good, bad, also_good = await asyncio.gather(
            send(pipeline, 1),
            pipeline.intake.accept(Batch(LOGS, b"\x0a\xffnonsense")),
            send(pipeline, 2),
            return_exceptions=True,
        )
        assert isinstance(bad, Rejected)
        assert (good, also_good) == (1, 2)
        assert pipeline.store.wal.confirmed_sequence == 2
    assert stored(piped.root) == logs(1, 2)


async def test_a_request_without_records_is_acknowledged_and_leaves_no_frame(piped: Piped):
    async with piped.pipeline() as pipeline:
        receipt = await pipeline.intake.accept(Batch(LOGS, b""))
        assert (receipt.rows, receipt.rejected, receipt.sequence) == (0, 0, 0)
        assert pipeline.store.wal.files == []


async def test_records_that_are_refused_are_counted_and_the_frame_replays_without_them(piped: Piped):
    pipeline = await piped.pipeline().__aenter__()
    payload = request(TRACES, [1]) + request(TRACES, [2]).replace((2 + 2**100).to_bytes(16, "big"), bytes(16))
    receipt = await pipeline.intake.accept(Batch(TRACES, payload))
    assert (receipt.rows, receipt.rejected) == (1, 1)
    assert "trace_id" in receipt.message
    assert piped.meter.value(m.REFUSED[TRACES], "otlp", "grpc") == 1
    await piped.crash(pipeline)
    async with piped.pipeline():
        pass
    assert stored(piped.root) == Counter({(TRACES, 1): 1})


async def test_a_request_that_would_repeat_too_much_is_too_large(piped: Piped, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("otlp_arrow.model.limits.MAX_REPEATED_BYTES", 10)
    async with piped.pipeline() as pipeline:
        with pytest.raises(TooLarge, match="repeat"):
            await pipeline.intake.accept(batch(LOGS, [1, 2, 3]))


# -- admission -------------------------------------------------------------------------------------


async def test_room_is_reserved_before_and_given_back_after(piped: Piped):
    async with piped.pipeline(max_buffer_bytes=100_000) as pipeline:
        intake = pipeline.intake
        ticket = intake.admit(1_000)
        reserved = intake.held_bytes
        assert reserved >= 1_000
        ticket.grow(500)
        assert intake.held_bytes == reserved * 3 // 2
        ticket.release()
        ticket.release()
        assert intake.held_bytes == 0
        await intake.accept(batch(LOGS, [1]), intake.admit(100))
        assert 0 < intake.held_bytes < reserved
        await pipeline.flush()
        assert intake.held_bytes == 0


async def test_a_full_buffer_refuses_and_a_single_request_is_always_admitted(piped: Piped):
    async with piped.pipeline(max_buffer_bytes=1_000) as pipeline:
        ticket = pipeline.intake.admit(50_000)
        with pytest.raises(Busy, match="buffer of 1000 bytes is full") as busy:
            pipeline.intake.admit(1)
        assert 0 < busy.value.retry_after_s <= 2
        with pytest.raises(Busy):
            ticket.grow(1)
        assert pipeline.intake.status().state == "degraded"
        ticket.release()
        await send(pipeline, 1)


async def test_every_outcome_gives_the_ticket_back(piped: Piped):
    async with piped.pipeline() as pipeline:
        intake = pipeline.intake
        with pytest.raises(Rejected):
            await intake.accept(Batch(LOGS, b"\xff"), intake.admit(10))
        assert intake.held_bytes == 0
        piped.disk.fail("sync", errno.EIO, "*.wal", times=2)
        ticket = intake.admit(10)
        with pytest.raises(Busy):
            await intake.accept(batch(LOGS, [1]), intake.admit(10))
        with pytest.raises(Busy):
            await intake.accept(batch(LOGS, [2]), ticket)
        assert intake.held_bytes == 0
        await until(lambda: intake.status().state == "ok")
        await intake.accept(Batch(LOGS, b""), intake.admit(10))
        assert intake.held_bytes == 0
    with pytest.raises(Closed):
        intake.admit(1)
    assert stored(piped.root) == Counter()


# -- callers that go away --------------------------------------------------------------------------


async def test_a_caller_that_leaves_before_its_group_begins_leaves_nothing(piped: Piped):
    async with piped.pipeline() as pipeline:
        with piped.disk.hold("sync", "*.wal") as hold:
            first = asyncio.create_task(send(pipeline, 1))
            await until(hold.reached.is_set)
            second = asyncio.create_task(send(pipeline, 2))
            third = asyncio.create_task(send(pipeline, 3))
            await asyncio.sleep(0)
            second.cancel()
        await asyncio.gather(first, third)
        with pytest.raises(asyncio.CancelledError):
            await second
        await pipeline.flush()
        assert pipeline.intake.held_bytes == 0
    assert stored(piped.root) == logs(1, 3)


async def test_a_caller_that_leaves_during_its_commit_harms_nobody(piped: Piped):
    async with piped.pipeline() as pipeline:
        with piped.disk.hold("sync", "*.wal") as hold:
            tasks = [asyncio.create_task(send(pipeline, number)) for number in (1, 2)]
            await until(hold.reached.is_set)
            tasks[0].cancel()
            await asyncio.sleep(0)
        assert await tasks[1] == 2
        await pipeline.flush()
        assert piped.meter.value(m.ACCEPTED[LOGS], "otlp", "grpc") == 2
        assert pipeline.intake.held_bytes == 0
    assert stored(piped.root) == logs(1, 2)


# -- a disk in trouble -----------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["append", "sync", "create", "sync_directory"])
async def test_a_refused_group_leaves_no_row_and_service_resumes_by_itself(piped: Piped, operation: str):
    async with piped.pipeline() as pipeline:
        times = 2 if operation == "sync" else 1
        piped.disk.fail(operation, errno.ENOSPC, "*wal", times=times, after_bytes=20)  # type: ignore[arg-type]
        refused = await asyncio.gather(*(send(pipeline, n) for n in (1, 2)), return_exceptions=True)
        assert [type(error) for error in refused] == [Busy, Busy]
        assert "the disk is full" in str(refused[0])
        assert pipeline.intake.gathered_rows(LOGS) == 0
        await until(lambda: pipeline.intake.status().state == "ok")
        assert await send(pipeline, 3) == 1
        assert piped.meter.value(m.DISK_ERRORS, "wal", "ENOSPC") == 1
    assert stored(piped.root) == logs(3)
    assert not (Layout(piped.root).state / "probe").exists()


async def test_a_disk_that_still_refuses_is_asked_again_until_it_does_not(piped: Piped):
    async with piped.pipeline() as pipeline:
        await send(pipeline, 1)
        piped.disk.capacity = piped.disk.used_bytes
        with pytest.raises(Busy, match="full"):
            await send(pipeline, 2)
        probes = len(piped.disk.operations)
        await until(lambda: len(piped.disk.operations) > probes + 10)
        assert pipeline.intake.status() == pipeline.intake.status()
        assert pipeline.intake.status().reason == "the disk is full"
        with pytest.raises(Busy, match="full"):
            pipeline.intake.admit(1)
        piped.disk.capacity = None
        await until(lambda: pipeline.intake.status().state == "ok")
        await send(pipeline, 3)
    assert stored(piped.root) == logs(1, 3)


async def test_a_stuck_disk_refuses_in_time_and_keeps_nothing_of_what_it_refused(piped: Piped):
    async with piped.pipeline(intake_options={"ack_timeout_s": 0.1}) as pipeline:
        await send(pipeline, 1)
        with piped.disk.hold("sync", "*.wal") as hold:
            committing = asyncio.create_task(send(pipeline, 2))
            await until(hold.reached.is_set)
            waiting = asyncio.create_task(send(pipeline, 3))
            for task in (committing, waiting):
                with pytest.raises(Busy):
                    await asyncio.wait_for(task, 5)
            with pytest.raises(Busy, match="does not answer"):
                await send(pipeline, 4)
            status = pipeline.intake.status()
            assert (status.state, "not confirmed a write" in status.reason) == ("failed", True)
        await until(lambda: pipeline.intake.status().state == "ok")
        assert await send(pipeline, 2) == 2, "a sender may repeat what was refused"
        assert piped.meter.value(m.ACCEPTED[LOGS], "otlp", "grpc") == 2
        await pipeline.flush()
        assert pipeline.intake.held_bytes == 0
    assert stored(piped.root) == logs(1, 2)


async def test_a_stuck_disk_that_fails_in_the_end_is_a_refusal_like_any_other(piped: Piped):
    async with piped.pipeline(intake_options={"ack_timeout_s": 0.05}) as pipeline:
        piped.disk.fail("sync", errno.EIO, "*.wal", times=2)
        with piped.disk.hold("sync", "*.wal"), pytest.raises(Busy):
            await send(pipeline, 1)
        await until(lambda: pipeline.intake.status().state == "ok")
        assert await send(pipeline, 2) == 1
    assert stored(piped.root) == logs(2)


async def test_the_rows_of_a_stuck_group_are_not_there_after_a_crash_that_follows_the_recovery(piped: Piped):
    pipeline = await piped.pipeline(intake_options={"ack_timeout_s": 0.05}).__aenter__()
    with piped.disk.hold("sync", "*.wal"), pytest.raises(Busy):
        await send(pipeline, 1)
    await until(lambda: pipeline.intake.status().state == "ok")
    await send(pipeline, 2)
    await piped.crash(pipeline)
    async with piped.pipeline():
        pass
    assert stored(piped.root) == logs(2)


# -- sealing ---------------------------------------------------------------------------------------


async def test_rows_are_sealed_when_there_are_enough_of_them(piped: Piped):
    async with piped.pipeline(max_batch_rows=3) as pipeline:
        for number in range(1, 8):
            await send(pipeline, number)
        await until(lambda: rows_in_segments(pipeline) == 6)
        assert pipeline.intake.gathered_rows(LOGS) == 1
        assert pipeline.intake.oldest_gathered() == 7


async def test_rows_are_sealed_when_they_are_large_enough(piped: Piped):
    async with piped.pipeline(seal_bytes=1) as pipeline:
        await send(pipeline, 1)
        await until(lambda: rows_in_segments(pipeline) == 1)


async def test_rows_are_sealed_after_the_write_interval(piped: Piped):
    async with piped.pipeline(write_interval_secs=0.02) as pipeline:
        await send(pipeline, 1)
        await send(pipeline, 2, signal=TRACES)
        await until(lambda: rows_in_segments(pipeline) == 2)
        await send(pipeline, 3)
        await until(lambda: rows_in_segments(pipeline) == 3)


async def test_rows_of_a_commit_that_is_under_way_are_not_torn_from_it_by_a_seal(piped: Piped):
    async with piped.pipeline() as pipeline:
        await send(pipeline, 1)
        with piped.disk.hold("sync", "*.wal") as hold:
            second = asyncio.create_task(send(pipeline, 2))
            await until(hold.reached.is_set)
            pipeline.intake.seal_all()
            await asyncio.sleep(0.01)
            assert pipeline.intake.gathered_rows(LOGS) == 2
        await second
        await until(lambda: rows_in_segments(pipeline) == 2)
        assert [s.units for s in pipeline.store.catalog.snapshot(LOGS)] == [1]


# -- ending ----------------------------------------------------------------------------------------


async def test_what_was_accepted_before_the_end_is_settled_and_the_rest_refused(piped: Piped):
    pipeline = await piped.pipeline().__aenter__()
    with piped.disk.hold("sync", "*.wal") as hold:
        tasks = [asyncio.create_task(send(pipeline, 1))]
        await until(hold.reached.is_set)
        tasks.append(asyncio.create_task(send(pipeline, 2)))
        await asyncio.sleep(0)
        leaving = asyncio.create_task(pipeline.__aexit__(None, None, None))
        await asyncio.sleep(0)
        with pytest.raises(Closed):
            await send(pipeline, 3)
        assert pipeline.intake.status().reason == "stopping"
    assert await asyncio.gather(*tasks) == [1, 2]
    await leaving
    assert stored(piped.root) == logs(1, 2)


async def test_when_the_commit_task_dies_nobody_is_left_waiting(piped: Piped, monkeypatch: pytest.MonkeyPatch):
    pipeline = await piped.pipeline().__aenter__()
    with piped.disk.hold("sync", "*.wal") as hold:
        first = asyncio.create_task(send(pipeline, 1))
        await until(hold.reached.is_set)
        others = [asyncio.create_task(send(pipeline, number)) for number in (2, 3)]
        await asyncio.sleep(0)

        def broken(*_: object) -> int:
            raise RuntimeError("a mistake of ours")

        monkeypatch.setattr(pipeline.store.wal, "append", broken)
    assert await first == 1
    for task in others:
        with pytest.raises(Closed):
            await asyncio.wait_for(task, 5)
    assert pipeline.failure is not None
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        await asyncio.wait_for(asyncio.shield(pipeline.failure), 5)
    with pytest.raises(Closed):
        await send(pipeline, 4)
    assert [part.state for part in pipeline.status()[:2]] == ["failed", "failed"]
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        await pipeline.__aexit__(None, None, None)
    async with piped.pipeline():
        pass
    assert stored(piped.root) == logs(1)


async def test_a_stop_that_cannot_wait_refuses_who_is_still_waiting(piped: Piped):
    pipeline = await piped.pipeline(shutdown_timeout_secs=0.1).__aenter__()
    with piped.disk.hold("sync", "*.wal") as hold:
        tasks = [asyncio.create_task(send(pipeline, 1))]
        await until(hold.reached.is_set)
        tasks.append(asyncio.create_task(send(pipeline, 2)))
        await asyncio.sleep(0)
        await asyncio.wait_for(pipeline.__aexit__(None, None, None), 10)
        for task in tasks:
            with pytest.raises(Closed):
                await task
        await piped.crash(pipeline, names=True, torn_bytes=1 << 20)
    async with piped.pipeline():
        pass
    assert stored(piped.root) in (logs(), logs(1)), "the process was ended in the middle of it"
