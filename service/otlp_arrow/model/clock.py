"""Time as a seam: the real clock here, a manual one in ``otlp_arrow.testing``."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a part that decides by time takes it from."""

    def time_ns(self) -> int:
        """Nanoseconds since 1970 (UTC)."""

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""


class SystemClock:
    """The machine's clock."""

    time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
