"""The life of the process: open, wait for a signal, close.

The first SIGTERM or SIGINT stops gracefully: refuse at the doors, drain, close the segments. The second
ends the process at once and trusts the WAL, and so does a stop that outlives its timeout because the
disk hangs. A background task that dies stops the process in the same order, with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import structlog

from otlp_arrow.app import logging
from otlp_arrow.app.health import LIBRARY_COST, REFERENCE_COST
from otlp_arrow.app.settings import Settings
from otlp_arrow.app.wiring import Collector, open_collector, require_a_door
from otlp_arrow.codec import KERNEL_ERROR, kernel_available
from otlp_arrow.model.errors import OtlpError
from otlp_arrow.model.limits import EXIT_GRACE_S
from otlp_arrow.pipeline.memory import keep_freed_memory, release_unused_memory
from otlp_arrow.receivers import COMPILED_GRPC
from otlp_arrow.storage.disk import Disk

log = structlog.get_logger(__name__)

Ready = Callable[[Collector], object]


def run_until_stopped(settings: Settings, ready: Ready | None = None, disk: Disk | None = None) -> None:
    """``run`` on an event loop of its own (uvloop's where it exists), as the last act of the process: a few
    seconds later it is ended if it still exists."""

    def opened(collector: Collector) -> None:
        _settle()
        if ready is not None:
            ready(collector)

    keep_freed_memory()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            runner.run(run(settings, ready=opened, disk=disk))
        finally:
            _end_after(EXIT_GRACE_S)  # Python waits for its threads, one of which may hang in a sync


def _settle() -> None:
    """What starting left over goes back to the system. What it made lives as long as the process: the garbage collector
    need not walk its 70,000 objects each time (30 ms in which nobody is answered)."""
    gc.collect()
    gc.freeze()
    release_unused_memory()


async def run(settings: Settings, *, ready: Ready | None = None, disk: Disk | None = None) -> None:
    """Serves until a signal comes; ``ready`` is called once every door is open.

    Returns after a graceful stop. Raises ``OtlpConfigError``, ``OtlpServerError`` or ``OtlpIOError`` if
    it cannot start, ``OtlpError`` if a task died.
    """
    require_a_door(settings)
    logging.leave_to_host()
    if not kernel_available():
        log.warning("running on the reference decoder", reason=KERNEL_ERROR, cost=REFERENCE_COST)
    if not COMPILED_GRPC and settings.protocols.protobuf_enabled:
        log.warning("OTLP/gRPC is served by gRPC's own library: the compiled door was not built", cost=LIBRARY_COST)
    life = _Life(settings.shutdown_timeout_secs)
    serving = asyncio.create_task(_serve(settings, life, ready, disk), name="otlp-serve")
    with _signals(lambda number: life.signalled(number, serving)):
        try:
            await asyncio.wait([serving])
        except asyncio.CancelledError:  # whoever runs us wants to stop
            serving.cancel()
            await asyncio.wait([serving])
            raise
        finally:
            life.over()
        if not serving.cancelled():
            serving.result()


async def _serve(settings: Settings, life: _Life, ready: Ready | None, disk: Disk | None) -> None:
    async with open_collector(settings, disk=disk) as collector:
        life.open = True
        log.info("serving", output_dir=str(settings.output_dir), **collector.ports())
        if ready is not None:
            ready(collector)
        stopped = asyncio.create_task(life.stop.wait(), name="otlp-stop")
        ends: list[asyncio.Future[Any]] = [stopped, collector.failure]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            await asyncio.gather(stopped, return_exceptions=True)
        if collector.failure.done():
            life.limit_the_end()
            error = collector.failure.exception()
            log.error("a part of the collector died; stopping", exc_info=error)
            raise OtlpError(f"a part of the collector died: {error!r}; what was acknowledged is in the WAL") from error
    log.info("stopped", output_dir=str(settings.output_dir))


class _Life:
    """What the signals have asked for."""

    def __init__(self, shutdown_timeout_s: float) -> None:
        self.open = False
        self.stop = asyncio.Event()
        self._shutdown_timeout_s = shutdown_timeout_s
        self._asked = False
        self._guard: threading.Timer | None = None

    def signalled(self, number: int, serving: asyncio.Task[None]) -> None:
        """On the event loop, for each signal."""
        if self._asked:
            _end(128 + number, "second signal: ending at once; the WAL has what is not in a segment")
        self._asked = True
        self.limit_the_end()
        self.stop.set()
        if not self.open:  # recovery may take long; it will begin anew at the next start
            serving.cancel()
        # Last, because a log that nobody reads any more may raise, and nothing here may be missed then.
        log.info("stopping", signal=signal.Signals(number).name, timeout_secs=self._shutdown_timeout_s)

    def limit_the_end(self) -> None:
        """A stop has a limit even when a thread hangs in a sync, which nobody can cancel."""
        if self._guard is None:
            self._guard = _end_after(self._shutdown_timeout_s + EXIT_GRACE_S)

    def over(self) -> None:
        """Everything is closed."""
        if self._guard is not None:
            self._guard.cancel()


def _end_after(seconds: float) -> threading.Timer:
    guard = threading.Timer(seconds, _give_up)
    guard.daemon = True
    guard.start()
    return guard


def _give_up() -> None:
    _end(1, "the disk does not answer: ending without it; the WAL has what is not in a segment")


def _end(code: int, reason: str) -> None:
    """The process is gone when this would return."""
    try:
        log.error(reason)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


@contextlib.contextmanager
def _signals(handle: Callable[[int], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may listen to signals; whoever started the other one stops it
        return
    if sys.platform == "win32":
        before = {n: signal.signal(n, lambda s, _: loop.call_soon_threadsafe(handle, s)) for n in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return
    for number in numbers:
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
