"""An event loop in a thread of its own, for programs that have none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from otlp_arrow.model import Closed
from otlp_arrow.model.limits import CLOSE_TIMEOUT_S

log = logging.getLogger(__name__)

P = TypeVar("P")
T = TypeVar("T")


class LoopThread(Generic[P]):
    """Holds one part open in its loop, and runs calls to it there.

    The thread is a daemon, so that a process that forgets to ``stop`` it ends all the same.
    """

    def __init__(self, name: str, part: AbstractAsyncContextManager[P]) -> None:
        self._part = part
        self._opened: concurrent.futures.Future[P] = concurrent.futures.Future()
        self._lock = threading.Lock()  # between the last ``submit`` and the end of the loop
        self._ended = False
        self._error: BaseException | None = None
        self._loop = _new_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, timeout_s: float | None = None) -> P:
        """Open the part; it. Raises what opening raises, ``TimeoutError`` if it takes longer."""
        self._thread.start()
        try:
            return self._opened.result(timeout_s)
        except BaseException:
            self.stop(CLOSE_TIMEOUT_S)
            raise

    def submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
        """Run ``work()`` in the loop. Raises ``Closed`` once it has ended; what is under way then is cancelled."""
        with self._lock:
            if self._ended:
                raise Closed("it was shut down")
            return asyncio.run_coroutine_threadsafe(work(), self._loop)

    @property
    def is_current(self) -> bool:
        """Whether the caller is in the loop's own thread, where waiting for it would be for ever."""
        return threading.get_ident() == self._thread.ident

    def stop(self, timeout_s: float | None = None) -> bool:
        """Close the part and end the thread; whether it did in time. Idempotent. Raises what closing raised."""
        with self._lock:
            if not self._ended:
                self._loop.call_soon_threadsafe(self._ask_to_stop)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        error, self._error = self._error, None
        if error is not None:
            raise error
        return not self._thread.is_alive()

    def _ask_to_stop(self) -> None:
        if self._opened.done():
            self._stop.set()
        else:
            self._life.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._life = self._loop.create_task(self._live())
        try:
            self._loop.run_until_complete(asyncio.wait([self._life]))
        finally:
            with self._lock:
                self._ended = True
            self._loop.run_until_complete(_cancel_everything())
            asyncio.set_event_loop(None)
            self._loop.close()

    async def _live(self) -> None:
        try:
            async with self._part as opened:
                self._opened.set_result(opened)
                await self._stop.wait()
        except asyncio.CancelledError:
            self._opened.cancel()
        except BaseException as error:
            if self._opened.done():
                self._error = error
            else:
                self._opened.set_exception(error)


async def _cancel_everything() -> None:
    await asyncio.sleep(0)  # what was submitted last becomes tasks here
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
