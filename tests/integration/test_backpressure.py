"""Senders faster than the disk: they wait, are refused, and memory stays within ``max_buffer_bytes``."""

from __future__ import annotations

import asyncio
from pathlib import Path

from otlp_arrow.model import Batch, Busy, Signal
from otlp_arrow.model.limits import MIB
from otlp_arrow.pipeline import Pipeline, PipelineSettings
from otlp_arrow.storage.store import StorageSettings
from otlp_arrow.testing.faulty_disk import FaultyDisk
from samples import samples

MAX_BUFFER_BYTES = 16 * MIB


async def test_a_flood_is_refused_within_the_bound_and_the_service_recovers(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    (payload,) = (s.payload for s in samples() if s.name.endswith("python-flask-grpc/traces_000.pb"))
    settings = PipelineSettings(
        StorageSettings(tmp_path), max_buffer_bytes=MAX_BUFFER_BYTES, write_interval_secs=3600, max_batch_rows=1000
    )
    accepted = refused = most_held = 0
    async with Pipeline(settings, disk=disk) as pipeline:

        async def flood() -> None:
            nonlocal accepted, refused, most_held
            for _ in range(6):
                try:
                    receipt = await pipeline.intake.accept(Batch(Signal.TRACES, payload))
                    accepted += receipt.rows
                except Busy as busy:
                    assert 0 < busy.retry_after_s <= 2
                    refused += 1
                    await asyncio.sleep(0)
                most_held = max(most_held, pipeline.intake.held_bytes)

        with disk.hold("sync", "*.arrows"):
            await asyncio.gather(*(flood() for _ in range(20)))
            assert refused > 0
            assert 0 < most_held <= MAX_BUFFER_BYTES
        await pipeline.flush()
        assert pipeline.intake.held_bytes == 0
        receipt = await pipeline.intake.accept(Batch(Signal.TRACES, payload))
        accepted += receipt.rows
        await pipeline.flush()
        assert sum(s.rows for s in pipeline.store.catalog.snapshot(Signal.TRACES)) == accepted
