"""All destinations together: begun after storage and before the doors, drained after the doors are closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from otlp_arrow.model.meter import Meter
from otlp_arrow.model.status import PartStatus
from otlp_arrow.sinks.destination import Destination, build_sink
from otlp_arrow.sinks.forwarder import Forwarder
from otlp_arrow.sinks.refused import RefusedItems
from otlp_arrow.sinks.sink import Sink
from otlp_arrow.storage.store import Store

log = logging.getLogger(__name__)


class Forwarding:
    """The forwarders of one store. Make it before the store is opened: the log then keeps what they need."""

    def __init__(
        self,
        destinations: Sequence[Destination],
        store: Store,
        meter: Meter,
        *,
        drain_timeout_s: float,
        sink_of: Callable[[Destination], Sink] = build_sink,
    ) -> None:
        """Raises ``OtlpConfigError`` for certificates that cannot be used."""
        self._drain_timeout_s = drain_timeout_s
        self._stack = AsyncExitStack()
        self._open = False
        refused = RefusedItems(store.quarantine, store.layout.quarantine)
        self._forwarders = [
            Forwarder(
                destination,
                store.register_reader(destination.name, destination.max_backlog_bytes, destination.signals),
                sink_of(destination),
                refused,
                meter,
            )
            for destination in destinations
        ]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for forwarder in self._forwarders:
                await stack.enter_async_context(forwarder)
                log.info("forwarding to %s (%s)", forwarder.destination.name, forwarder.destination.url)
            self._stack = stack.pop_all()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            if error is None:  # after a crash the WAL is trusted
                await asyncio.gather(*(f.drain(self._drain_timeout_s) for f in self._forwarders))
        finally:
            self._open = False
            await self._stack.aclose()

    def status(self) -> list[PartStatus]:
        """Each destination, for health."""
        return [f.status() for f in self._forwarders] if self._open else []

    def report(self) -> None:
        """Set the gauges; call before a scrape."""
        if self._open:
            for forwarder in self._forwarders:
                forwarder.report()
