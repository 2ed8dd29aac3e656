"""How long a question may take, and whether anybody still waits for its answer."""

from __future__ import annotations

import threading
import time

from otlp_arrow.query.errors import QueryCancelled, QueryTimeout


class Budget:
    """Time and patience of one question. ``check`` is called between steps of some milliseconds."""

    def __init__(self, timeout_s: float, cancelled: threading.Event | None = None) -> None:
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.cancelled = cancelled or threading.Event()

    @property
    def left_s(self) -> float:
        """Seconds left, not below 0."""
        return max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        """Raises ``QueryCancelled`` or ``QueryTimeout``."""
        if self.cancelled.is_set():
            raise QueryCancelled("nobody waits for the answer any more")
        if time.monotonic() > self.deadline:
            raise QueryTimeout(f"not answered in {self.timeout_s:g} s; ask for a shorter time range or less")
