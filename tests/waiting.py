"""Waiting for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

TIMEOUT_S = 30
_PAUSE_S = 0.05


def wait_until(condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    """Return as soon as ``condition`` holds; fail after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(_PAUSE_S)
