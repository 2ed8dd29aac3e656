"""Requests that are being served, so that a closing door can wait for the last one."""

from __future__ import annotations

import asyncio


class InFlight:
    """``with`` around each request. A server's own stop cancels what outlives its grace without waiting for it."""

    __slots__ = ("_idle", "count")

    def __init__(self) -> None:
        self.count = 0
        self._idle: asyncio.Event | None = None  # there is one while somebody waits

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if self._idle is not None and not self.count:
            self._idle.set()

    async def none_left(self, timeout_s: float) -> None:
        """Returns when no request is left. Raises ``TimeoutError`` if one ignores its cancellation."""
        if self.count:
            self._idle = asyncio.Event()
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
