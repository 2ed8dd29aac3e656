"""One thread that the event loop hands blocking work to, and that works until the very end of the process.

``ThreadPoolExecutor`` refuses work once the main thread is done, before ``atexit`` handlers run; but it is in one of
those that OpenTelemetry's SDK flushes its last spans. And Python waits for its threads, though one may hang in
a sync for ever. So the thread here is a daemon. Each piece of work has the one future that the loop awaits; by way of
``run_in_executor`` it would have two and what connects them: 50 µs of the 400 that a lone small request costs.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

name_thread: Callable[[str], None]

try:
    from otlp_arrow.codec._kernel import name_thread  # who looks for what takes the CPU sees which thread it is
except ImportError:  # pragma: no cover - only where no kernel was built

    def name_thread(_name: str) -> None:
        """Nobody tells the system."""


P = ParamSpec("P")
T = TypeVar("T")


class _Piece(Generic[T]):
    """Work, and the future that a loop awaits."""

    __slots__ = ("future", "loop", "work")

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[], T]) -> None:
        self.loop = loop
        self.work = work
        self.future: asyncio.Future[T] = loop.create_future()

    def do(self) -> None:
        """In the thread. Nothing is done for who has given up waiting before it began."""
        if self.future.cancelled():
            return
        try:
            result = self.work()
        except BaseException as error:
            self.tell(self._failed, error)
        else:
            self.tell(self._done, result)

    def tell(self, callback: Callable[..., object], *args: object) -> None:
        """Have the loop do it, if there still is one."""
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def _done(self, result: T) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _failed(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Worker:
    """Does one thing after the other in a thread called ``name``, which begins with the first of them."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[_Piece[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin at once: at the end of the process no thread can be started any more."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Hand work over. Who cancels the future no longer waits; work that has begun goes on all the same.

        Call it on a running loop. Raises ``RuntimeError`` after ``end``.
        """
        piece = _Piece(asyncio.get_running_loop(), lambda: work(*args, **kwargs))
        with self._lock:
            if self._ended:
                raise RuntimeError(f"the thread {self._thread.name} was ended")
            self._start()
            self._work.put(piece)
        return piece.future

    def end(self) -> None:
        """Take no more work, let go of what has not begun, whose futures are cancelled; idempotent. Does not wait."""
        with self._lock:
            self._ended = True
            try:
                while True:
                    piece = self._work.get_nowait()
                    if piece is not None:
                        piece.tell(piece.future.cancel)
            except queue.Empty:
                pass
            self._work.put(None)

    def _run(self) -> None:
        name_thread(self._thread.name)
        while (piece := self._work.get()) is not None:
            piece.do()
            del piece  # while it waits, it holds nothing
