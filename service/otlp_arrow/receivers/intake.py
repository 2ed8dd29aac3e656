"""The one seam below the doors: where a request goes, and what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from otlp_arrow.model import Batch, Receipt


class Ticket(Protocol):
    """Bytes reserved for one request, from before it is read until ``accept`` takes the ticket over."""

    def grow(self, nbytes: int) -> None:
        """Reserve more for the same request. Raises ``Busy``."""

    def release(self) -> None:
        """Give the reservation back: the request ends without ``accept``. May be called again."""


T = TypeVar("T", bound=Ticket)


class Intake(Protocol[T]):
    """What a door needs of the pipeline."""

    def admit(self, nbytes: int) -> T:
        """Reserve memory before anything is read or decoded. Raises ``Busy``, ``Closed``."""

    def submit(self, batch: Batch, ticket: T | None = None) -> asyncio.Future[Receipt]:
        """``accept`` for callers without a task of their own: what it raises, this may raise or the future may hold."""

    def when_ready(self, submit_more: Callable[[], None]) -> None:
        """Call ``submit_more`` once, when what is submitted then can be committed next: now, or when the commit that
        is under way has ended. To make batches ready all at once, and not each as it comes, takes a quarter less of the
        loop's own time: half a megabyte is copied between two messages, and then no cache holds what Python needs."""

    async def accept(self, batch: Batch, ticket: T | None = None) -> Receipt:
        """Returns when the batch is durable.

        Raises ``Rejected`` or ``TooLarge`` (the payload as a whole is no valid request), ``Busy`` or
        ``Closed``; then nothing was kept. The ticket is taken over in every case; without one the
        payload is admitted here. A cancelled ``accept`` may have kept the data.
        """
