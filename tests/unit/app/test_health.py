"""Ready or not, and why."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from otlp_arrow.app.health import Health, Phase, watch
from otlp_arrow.app.telemetry import PrometheusMeter
from otlp_arrow.model import meter
from otlp_arrow.model.status import PartStatus


def serving(*parts: PartStatus, compiled: bool = True) -> Health:
    health = Health(compiled_kernel=compiled, monotonic=iter(range(100)).__next__)
    health.include(lambda: parts)
    health.phase = Phase.SERVING
    return health


def test_it_is_ready_while_it_serves_and_no_part_has_failed():
    report = serving(PartStatus("writer"), PartStatus("wal", "degraded", "slow")).report()
    assert (report.ready, report.status, report.reasons) == (True, "degraded", ["wal: slow"])
    assert serving(PartStatus("writer")).report().status == "ok"


def test_a_failed_part_makes_it_not_ready_and_is_named():
    report = serving(PartStatus("writer"), PartStatus("wal", "failed", "disk full", {"free": 0})).report()
    assert (report.ready, report.status, report.reasons) == (False, "failed", ["wal: disk full"])
    assert report.as_json()["parts"][1] == {
        "name": "wal",
        "state": "failed",
        "reason": "disk full",
        "details": {"free": 0},
    }


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RECOVERING, Phase.STOPPING])
def test_it_is_not_ready_before_and_after_serving(phase: Phase):
    health = serving(PartStatus("writer"))
    health.phase = phase
    assert (health.report().ready, health.report().status) == (False, phase.value)


def test_a_part_that_cannot_answer_has_failed():
    def broken() -> list[PartStatus]:
        raise RuntimeError("out of order")

    health = serving(PartStatus("writer"))
    health.include(broken)
    assert not health.report().ready
    assert "out of order" in health.report().reasons[0]


def test_the_reference_decoder_is_shown_with_what_it_costs():
    assert "cost" in serving(compiled=False).report().as_json()["decoder"]
    assert serving(compiled=True).report().as_json()["decoder"] == {"kernel": "compiled"}


def test_uptime_counts_from_the_start():
    assert serving().report().uptime_s == 1


def test_readiness_is_a_metric():
    counter = PrometheusMeter()
    serving(PartStatus("wal", "failed")).measure(counter)
    assert (counter.value(meter.READY), counter.value(meter.KERNEL)) == (0, 1)
    serving().measure(counter)
    assert counter.value(meter.READY) == 1


async def test_a_change_of_readiness_is_told():
    parts = [PartStatus("wal")]
    health = Health(compiled_kernel=True)
    health.include(lambda: parts)
    health.phase = Phase.SERVING
    told: asyncio.Queue[bool] = asyncio.Queue()
    watcher = asyncio.create_task(watch(health, told.put, interval_s=0.001))

    async def until(expected: bool) -> None:
        while await told.get() is not expected:
            pass

    try:
        async with asyncio.timeout(5):
            await until(True)
            parts[0] = PartStatus("wal", "failed", "disk full")
            await until(False)
            parts[0] = PartStatus("wal", "degraded", "slow")
            await until(True)
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


async def test_at_rest_nobody_looks_until_something_comes():
    health = serving(parts := PartStatus("wal"))
    looks = 0

    def counted() -> list[PartStatus]:
        nonlocal looks
        looks += 1
        return [parts]

    health.include(counted)
    health.at_rest = lambda: True
    told: asyncio.Queue[bool] = asyncio.Queue()
    watcher = asyncio.create_task(watch(health, told.put, interval_s=0, at_rest_s=3600))
    try:
        async with asyncio.timeout(5):
            assert await told.get() is True
            for _ in range(100):
                await asyncio.sleep(0)
            assert looks == 1
            health.at_rest = lambda: False
            health.stirred.set()
            while looks < 10:
                await told.get()
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


async def test_at_rest_it_is_looked_at_now_and_then():
    health = serving(PartStatus("wal"))
    health.at_rest = lambda: True
    told: asyncio.Queue[bool] = asyncio.Queue()
    watcher = asyncio.create_task(watch(health, told.put, interval_s=0, at_rest_s=0))
    try:
        async with asyncio.timeout(5):
            for _ in range(10):
                await told.get()
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
