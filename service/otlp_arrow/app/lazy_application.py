"""A part of the HTTP interface that is imported by its first request: who never asks does not pay for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web


class LazyApplication:
    """``application`` is to be mounted at ``prefix``; ``build`` is called on a thread with the first request.

    The query engine takes 10 MB and a third of a second to import.
    """

    def __init__(self, prefix: str, build: Callable[[], web.Application]) -> None:
        self._prefix = prefix
        self._build = build
        self._runner: web.AppRunner | None = None
        self._building = asyncio.Lock()
        self.application = web.Application()
        self.application.router.add_route("*", r"/{path:[\s\S]*}", self._serve)
        self.application.on_shutdown.append(self._shut_down)
        self.application.on_cleanup.append(self._clean_up)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        async with self._building:
            if self._runner is None:
                root = web.Application()
                root.add_subapp(self._prefix, await asyncio.to_thread(self._build))
                runner = web.AppRunner(root, handler_cancellation=True)
                await runner.setup()
                self._runner = runner
        assert self._runner.server is not None
        response: web.StreamResponse = await self._runner.server.request_handler(request)
        return response

    async def _shut_down(self, _: web.Application) -> None:
        if self._runner is not None:
            await self._runner.shutdown()

    async def _clean_up(self, _: web.Application) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
