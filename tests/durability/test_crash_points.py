"""The power goes before every single operation on the disk, in work and in recovery: what was acknowledged is kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from otlp_arrow.model import Busy, Signal
from otlp_arrow.pipeline import Ack, Pipeline, PipelineSettings
from otlp_arrow.storage.store import StorageSettings
from otlp_arrow.testing.faulty_disk import FaultyDisk, PowerCut
from records import Ids, batch, stored

TRACES, METRICS, LOGS = Signal

# What may be left of bytes and names that were not synced: nothing, something, the sizes only, everything.
SURVIVALS: list[dict[str, Any]] = [
    {},
    {"torn_bytes": 37},
    {"torn_bytes": 4096 + 512},
    {"torn_bytes": 5, "zeros": True, "names": True},
    {"torn_bytes": 1 << 20, "names": True},
]


@dataclass
class Story:
    """A directory's life: processes that follow one another on one disk, and what they promised."""

    root: Path
    disk: FaultyDisk
    sent: set[tuple[Signal, int]] = field(default_factory=set)
    acknowledged: set[tuple[Signal, int]] = field(default_factory=set)
    may_expire: set[tuple[Signal, int]] = field(default_factory=set)
    numbers: Iterable[int] = field(default_factory=lambda: itertools.count(1))
    went: bool = False  # the power, before the story was told

    @contextlib.asynccontextmanager
    async def process(self, **storage: Any) -> AsyncIterator[Pipeline]:
        """One process; when the power goes it is gone, and nothing it still tries reaches the disk."""
        chosen: dict[str, Any] = {
            "wal_file_bytes": 12_000 if self.disk.takes_direct else 500,
            "max_file_size": 16_000,
            **storage,
        }
        settings = PipelineSettings(
            StorageSettings(self.root, **chosen),
            write_interval_secs=3600,
            max_batch_rows=4,
            shutdown_timeout_secs=10,
            ack=Ack.FSYNC,
        )
        pipeline = Pipeline(settings, disk=self.disk)
        try:
            async with pipeline:
                yield pipeline
        finally:
            pipeline.store._lock.release()

    async def send(self, pipeline: Pipeline, signal: Signal, count: int = 1) -> None:
        """A request of some records; what is acknowledged is noted."""
        records = {(signal, next(self.numbers)) for _ in range(count)}  # type: ignore[call-overload]
        self.sent |= records
        with contextlib.suppress(Busy):  # the dead process answers nothing; ours says that it stops
            await pipeline.intake.accept(batch(signal, sorted(number for _, number in records)))
            self.acknowledged |= records

    async def written(self, pipeline: Pipeline) -> None:
        """No chunk waits for the writer any more, or the power is gone."""
        async with asyncio.timeout(20):
            while pipeline.status()[1].details["chunks_waiting"] and not self.disk._dead:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def work(self) -> None:
        """Requests of three signals, flushes, rotation of both kinds of files, a stop and a start."""
        async with self.process() as pipeline:
            await self.send(pipeline, LOGS, 2)
            await self.send(pipeline, TRACES)
            await asyncio.gather(*(self.send(pipeline, signal) for signal in Signal))
            await pipeline.flush()
            await self.send(pipeline, LOGS)
            await self.send(pipeline, METRICS, 5)  # a full batch: written while others are still gathered
            await self.send(pipeline, TRACES)
            await self.written(pipeline)
            await pipeline.keep_house()
            await pipeline.flush()
            await self.send(pipeline, LOGS, 3)
            await pipeline.keep_house()
        async with self.process() as pipeline:
            await self.send(pipeline, TRACES, 2)
            await self.send(pipeline, LOGS)
            await pipeline.flush()
            await self.send(pipeline, TRACES)

    async def work_and_expire(self) -> None:
        """Every closed segment goes as soon as possible; at the end the log holds frames above all of them."""
        async with self.process(max_file_size=1, max_disk_bytes=1) as pipeline:
            for _ in range(2):
                await self.send(pipeline, LOGS, 2)
                await self.send(pipeline, TRACES)
                await pipeline.flush()
                self.may_expire |= self.sent
                await pipeline.keep_house()
            await self.send(pipeline, LOGS)

    async def live_until_the_power_goes(self, story: str) -> bool:
        """Whether it went."""
        try:
            await getattr(self, story)()
        except PowerCut:
            return True
        # The last operations of a stop may fail without anybody left to tell.
        return self.disk._dead

    def check(self, at: object) -> None:
        """Acknowledged once, refused or unknown at most once, nothing else, and everything readable."""
        found: Ids = stored(self.root)
        doubled = [record for record, times in found.items() if times > 1]
        assert not doubled, (at, "doubled", doubled)
        missing = self.acknowledged - self.may_expire - found.keys()
        assert not missing, (at, "missing", missing)
        spurious = found.keys() - self.sent
        assert not spurious, (at, "spurious", spurious)


def new_story(root: Path, *, direct: bool) -> Story:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    told = Story(root, FaultyDisk(root))
    told.disk.takes_direct = direct
    return told


async def operations_of(story: str, root: Path, *, direct: bool) -> int:
    undisturbed = new_story(root, direct=direct)
    assert not await undisturbed.live_until_the_power_goes(story)
    undisturbed.check("no cut")
    assert undisturbed.acknowledged == undisturbed.sent
    return len(undisturbed.disk.operations)


async def crash_before(operation: int, story: str, root: Path, survival: dict[str, Any], *, direct: bool) -> Story:
    """The story up to there, and what the power cut left. How many operations a story takes varies by a few with its
    threads: one that ended before is cut at its end."""
    told = new_story(root, direct=direct)
    told.disk.cut_power_before(operation)
    told.went = await told.live_until_the_power_goes(story)
    told.disk.crash(**survival)
    return told


@pytest.mark.parametrize("every", [26, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("story", ["work", "work_and_expire"])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "page cache"])
async def test_a_power_cut_before_any_operation_loses_nothing_acknowledged_and_doubles_nothing(
    tmp_path: Path, story: str, every: int, direct: bool
):
    count = await operations_of(story, tmp_path / "d", direct=direct)
    assert count > 50
    went = []
    for operation, (number, survival) in itertools.product(range(count), enumerate(SURVIVALS)):
        if (operation + number) % every == 0:
            told = await crash_before(operation, story, tmp_path / "d", survival, direct=direct)
            went.append(told.went)
            async with told.process() as pipeline:
                await told.send(pipeline, LOGS)
            told.check((operation, survival))
    assert sum(went) > 0.8 * len(went)


@pytest.mark.parametrize("every", [819, pytest.param(11, marks=pytest.mark.soak)])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "page cache"])
async def test_a_power_cut_in_the_recovery_from_a_power_cut_loses_nothing_either(
    tmp_path: Path, every: int, direct: bool
):
    count = await operations_of("work", tmp_path / "d", direct=direct)
    points = itertools.product(range(count), range(40), SURVIVALS)  # a recovery takes about 35 operations
    for operation, again, survival in itertools.islice(points, 0, None, every):
        told = await crash_before(operation, "work", tmp_path / "d", survival, direct=direct)
        told.disk.cut_power_before(again)
        with contextlib.suppress(PowerCut):
            async with told.process():
                pass
        told.disk.crash(**survival)
        async with told.process() as pipeline:
            await told.send(pipeline, LOGS)
        told.check((operation, again, survival))
