"""A pipeline over a faulty disk, for tests of the way in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from otlp_arrow.app.telemetry import PrometheusMeter
from otlp_arrow.model import Signal
from otlp_arrow.pipeline import Pipeline, PipelineSettings
from otlp_arrow.storage.store import StorageSettings
from otlp_arrow.testing.faulty_disk import FaultyDisk, PowerCut
from records import batch

WAIT_S = 20.0


class Piped:
    """One directory on one disk; each ``pipeline`` is a process of its own, with a meter of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.disk = FaultyDisk(root)
        self.meter = PrometheusMeter()

    def pipeline(self, *, storage: dict[str, Any] | None = None, **settings: Any) -> Pipeline:
        """Nothing is flushed by time, and a disk in trouble is asked again at once, unless said otherwise."""
        intake = {"disk_retry_s": 0.01, "ack_timeout_s": WAIT_S, **settings.pop("intake_options", {})}
        chosen = {"write_interval_secs": 3600.0, "shutdown_timeout_secs": 5.0, "intake_options": intake, **settings}
        self.meter = PrometheusMeter()
        return Pipeline(
            PipelineSettings(StorageSettings(self.root, **(storage or {})), **chosen), meter=self.meter, disk=self.disk
        )

    async def crash(self, pipeline: Pipeline, **survival: Any) -> None:
        """The power goes while a pipeline works; what a dead process would not do any more reaches no disk."""
        self.disk.cut_power_before(0)
        if pipeline.status()[0].reason != "stopped":
            with contextlib.suppress(PowerCut):
                await pipeline.__aexit__(None, None, None)
        pipeline.store._lock.release()
        self.disk.crash(**survival)


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as ``condition`` holds."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 (conditions of threads and files)
            await asyncio.sleep(0.001)


async def send(pipeline: Pipeline, *ids: int, signal: Signal = Signal.LOGS) -> int:
    """One request; the WAL sequence of its receipt."""
    receipt = await pipeline.intake.accept(batch(signal, ids))
    assert receipt.rows == len(ids)
    return receipt.sequence
