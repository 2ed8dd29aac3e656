"""One thread as an executor, that works until the very end of the process.

``ThreadPoolExecutor`` refuses work once the main thread is done, before ``atexit`` handlers run; but it is in one of
those that OpenTelemetry's SDK flushes its last spans. And Python waits for its threads, though one may hang in
a sync for ever. So the thread here is a daemon.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Worker(Executor):
    """Does one thing after the other in a thread called ``name``, which begins with the first of them."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
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

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See ``Executor.submit``. Raises ``RuntimeError`` after ``shutdown``."""
        future: Future[T] = Future()
        with self._lock:
            if self._ended:
                raise RuntimeError(f"the thread {self._thread.name} was ended")
            self._start()
            self._work.put((future, lambda: fn(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See ``Executor.shutdown``; idempotent."""
        with self._lock:
            self._ended = True
            if cancel_futures:
                self._cancel_waiting()
            self._work.put(None)
        if wait and self._thread.ident is not None:
            self._thread.join()

    def _cancel_waiting(self) -> None:
        try:
            while True:  # the thread may take the last one before we do
                item = self._work.get_nowait()
                if item is not None:
                    item[0].cancel()
        except queue.Empty:
            pass

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, work = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del item, future, work  # while it waits, it holds nothing
