"""Live and ready, from what each part says of itself.

Ready follows the data path: while the WAL cannot be written, the disk is full or a sync is stuck, the
part concerned says ``failed`` and the collector is not ready. ``degraded`` is shown and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from otlp_arrow import __version__
from otlp_arrow.model import meter
from otlp_arrow.model.meter import Meter
from otlp_arrow.model.status import PartStatus

log = structlog.get_logger(__name__)

WATCH_INTERVAL_S = 1.0
"""A change of health reaches the log and the gRPC health service within this time; orchestrators ask every
five to ten seconds."""

WATCH_AT_REST_S = 30.0
"""The same while all is well and nothing waits to be stored: then no more can fail than what keeps house,
which happens as rarely. Waking each second would be most of what an idle collector does."""

LIBRARY_COST = "a call costs five to ten times the CPU; install with a C compiler at hand to have the compiled door"
REFERENCE_COST = "decoding costs about thirty times the CPU; install with a C compiler at hand to have the kernel"


class Phase(enum.Enum):
    """Where the collector is in its life; only ``SERVING`` can be ready."""

    STARTING = "starting"
    RECOVERING = "recovering"
    SERVING = "serving"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Report:
    """Health at one moment."""

    ready: bool
    status: str
    parts: tuple[PartStatus, ...]
    uptime_s: float
    compiled_kernel: bool

    @property
    def reasons(self) -> list[str]:
        """Why it is not ready, or not at its best: a sentence for each part concerned."""
        return [f"{part.name}: {part.reason or part.state}" for part in self.parts if part.state != "ok"]

    def as_json(self) -> dict[str, Any]:
        """What ``/health`` answers."""
        decoder: dict[str, Any] = {"kernel": "compiled" if self.compiled_kernel else "reference"}
        if not self.compiled_kernel:
            decoder["cost"] = REFERENCE_COST
        return {
            "status": self.status,
            "ready": self.ready,
            "reasons": self.reasons,
            "version": __version__,
            "uptime_secs": round(self.uptime_s, 3),
            "decoder": decoder,
            "parts": [
                {"name": p.name, "state": p.state, "reason": p.reason, "details": dict(p.details)} for p in self.parts
            ],
        }


class Health:
    """Asks the parts. The phase is set by whoever opens and closes them, and so is ``at_rest``: whether nothing waits
    to be stored; ``stirred`` is set when that ends."""

    def __init__(self, *, compiled_kernel: bool, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.phase = Phase.STARTING
        self._compiled_kernel = compiled_kernel
        self._monotonic = monotonic
        self._started = monotonic()
        self._sources: list[Callable[[], Iterable[PartStatus]]] = []
        self.at_rest: Callable[[], bool] = lambda: False
        self.stirred = asyncio.Event()

    def include(self, source: Callable[[], Iterable[PartStatus]]) -> None:
        """Ask ``source`` too, each time."""
        self._sources.append(source)

    def report(self) -> Report:
        """Health now. A part that cannot even answer has failed."""
        parts: list[PartStatus] = []
        for source in self._sources:
            try:
                parts.extend(source())
            except Exception as error:
                parts.append(PartStatus("health", "failed", f"a part could not say how it is: {error!r}"))
        failed = any(part.state == "failed" for part in parts)
        degraded = any(part.state == "degraded" for part in parts)
        if self.phase is not Phase.SERVING:
            status = self.phase.value
        else:
            status = "failed" if failed else "degraded" if degraded else "ok"
        return Report(
            ready=self.phase is Phase.SERVING and not failed,
            status=status,
            parts=tuple(parts),
            uptime_s=self._monotonic() - self._started,
            compiled_kernel=self._compiled_kernel,
        )

    def measure(self, to: Meter) -> None:
        """The two gauges that come from here."""
        to.set(meter.READY, 1 if self.report().ready else 0)
        to.set(meter.KERNEL, 1 if self._compiled_kernel else 0)


async def watch(
    health: Health,
    tell: Callable[[bool], Awaitable[None]],
    interval_s: float = WATCH_INTERVAL_S,
    at_rest_s: float = WATCH_AT_REST_S,
) -> None:
    """For ever: logs each change of health, and tells readiness to ``tell`` (the gRPC health service)."""
    levels = {"failed": log.error, "degraded": log.warning}
    said: tuple[str, list[str]] | None = None
    while True:
        health.stirred.clear()
        at_rest = health.at_rest()
        report = health.report()
        await tell(report.ready)
        if said != (report.status, report.reasons):
            said = (report.status, report.reasons)
            levels.get(report.status, log.info)("health", status=report.status, reasons=report.reasons)
        if at_rest and report.status == "ok":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(at_rest_s):
                    await health.stirred.wait()
        await asyncio.sleep(interval_s)
