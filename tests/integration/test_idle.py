"""A collector that nobody talks to sleeps."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import aiohttp

from otlp_arrow.app.settings import ProtocolSettings, Settings
from otlp_arrow.app.wiring import open_collector

LONG_S = 5.0  # whatever wakes more often than this would be a poll


def next_timer_s() -> float:
    """Until the first timer of this loop but the caller's own."""
    loop = asyncio.get_running_loop()
    timers = loop._scheduled  # type: ignore[attr-defined]
    return min((timer.when() - loop.time() for timer in timers if not timer.cancelled()), default=math.inf)


async def until_it_sleeps() -> None:
    async with asyncio.timeout(30):
        while next_timer_s() < LONG_S:  # noqa: ASYNC110 - timers announce nothing
            await asyncio.sleep(0.02)


async def test_an_idle_collector_does_not_poll(tmp_path: Path):
    doors = ProtocolSettings(protobuf_port=0, http_port=0, arrow_flight_port=0)
    settings = Settings(output_dir=tmp_path, protocols=doors, admin_port=0, write_interval_secs=1)
    async with open_collector(settings) as collector:
        await until_it_sleeps()
        async with aiohttp.ClientSession() as session:
            url = f"http://localhost:{collector.ports()['otlp_http']}/v1/logs"
            async with session.post(url, json={"resourceLogs": [{"scopeLogs": [{"logRecords": [{}]}]}]}) as response:
                assert response.status == 200
        assert next_timer_s() < LONG_S  # rows are gathered for a second, health is watched
        await until_it_sleeps()
