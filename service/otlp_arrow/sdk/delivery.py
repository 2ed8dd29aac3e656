"""What the three exporters share: the library they write into, trying again, and what is said when it fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from otlp_arrow.app.library import OtlpLibrary, in_process_settings
from otlp_arrow.model import Busy, Closed, OtlpConfigError, Receipt
from otlp_arrow.model.limits import HINT_INTERVAL_S

log = structlog.get_logger(__name__)

DEFAULT_TIMEOUT_S = 10.0
"""Time for one export, retries included: what the SDK's own exporters take."""


class SharedLibraries:
    """The libraries that exporters opened, one for each directory, however many exporters write there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Path, tuple[OtlpLibrary, int]] = {}

    def acquire(self, output_dir: Path | str) -> OtlpLibrary:
        """Raises what ``OtlpLibrary`` raises."""
        path = Path(output_dir).resolve()
        with self._lock:
            library, users = self._open.get(path, (None, 0))
            if library is None:
                library = OtlpLibrary(in_process_settings(path))
                # The SDK shuts its exporters down at the end of the process, when they have flushed.
                library._ends_with_process = False
            self._open[path] = library, users + 1
            return library

    def release(self, output_dir: Path | str, timeout_s: float | None = None) -> bool:
        """Shut down when its last exporter is; whether that was done in time."""
        path = Path(output_dir).resolve()
        with self._lock:
            library, users = self._open[path]
            if users > 1:
                self._open[path] = library, users - 1
                return True
            del self._open[path]
        return library.shutdown(timeout_s)

    def forget(self) -> None:
        """In the child of a fork: what is open here is the parent's."""
        self._lock = threading.Lock()
        self._open = {}


_SHARED = SharedLibraries()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SHARED.forget)


class Delivery:
    """Hands over to a library, the caller's or one of its own in ``output_dir``; never raises into the program."""

    def __init__(self, library: OtlpLibrary | None, output_dir: Path | str | None, timeout_s: float) -> None:
        if (library is None) == (output_dir is None):
            raise OtlpConfigError("library, output_dir", (library, output_dir), "exactly one of the two")
        self._output_dir = output_dir
        self.library = library if library is not None else _SHARED.acquire(output_dir or "")
        self._timeout_s = timeout_s
        self._shut_down = threading.Event()
        self._process = os.getpid()
        self._last_said_s: dict[str, float] = {}

    def deliver(self, export: Callable[[OtlpLibrary], Receipt], timeout_s: float | None = None) -> bool:
        """Whether it is durable now. Tries again while the library is busy and there is time."""
        if self._shut_down.is_set():
            self.say("the exporter was shut down; what comes now is dropped")
            return False
        deadline_s = time.monotonic() + (self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s))
        while True:
            try:
                receipt = export(self.library)
            except Closed as error:
                self.say("telemetry is dropped", reason=str(error))
                return False
            except Busy as error:
                if time.monotonic() + error.retry_after_s >= deadline_s or self._shut_down.wait(error.retry_after_s):
                    self.say("telemetry is dropped", reason=str(error))
                    return False
            except Exception as error:
                self.say("telemetry is dropped", reason=str(error) or repr(error))
                return False
            else:
                if receipt.rejected:
                    self.say("records were refused", rejected=receipt.rejected, reason=receipt.message)
                return True

    def flush(self, timeout_millis: float) -> bool:
        """Whether everything delivered so far is in a segment."""
        if self._shut_down.is_set() or os.getpid() != self._process:
            return True  # nothing is held here
        try:
            self.library.flush(timeout_millis / 1000)
        except Exception as error:
            self.say("could not flush", reason=str(error))
            return False
        return True

    def shutdown(self, timeout_millis: float | None = None) -> None:
        """Let go of the library; idempotent."""
        if self._shut_down.is_set():
            return
        self._shut_down.set()
        if self._output_dir is None or os.getpid() != self._process:
            return
        try:
            in_time = _SHARED.release(self._output_dir, None if timeout_millis is None else timeout_millis / 1000)
        except Exception as error:
            self.say("could not be closed cleanly; the next start mends it", reason=str(error))
        else:
            if not in_time:
                self.say("could not be closed in time; the next start mends it")

    def say(self, event: str, **facts: object) -> None:
        """One line a minute for each kind of trouble."""
        now_s = time.monotonic()
        if now_s >= self._last_said_s.get(event, now_s):
            self._last_said_s[event] = now_s + HINT_INTERVAL_S
            log.error(event, library=repr(self.library), **facts)
