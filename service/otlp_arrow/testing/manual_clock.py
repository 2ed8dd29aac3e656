"""A clock that goes when it is told to."""

from __future__ import annotations

# A Saturday in 2023, for tests that look at dates.
_START_NS = 1_700_000_000 * 10**9


class ManualClock:
    """Wall and monotonic time that move by ``advance`` only."""

    def __init__(self, time_ns: int = _START_NS) -> None:
        self._time_ns = time_ns
        self._monotonic = 0.0

    def time_ns(self) -> int:
        """Nanoseconds since 1970 (UTC)."""
        return self._time_ns

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds >= 0, "monotonic time does not go back; see set_back"
        self._time_ns += round(seconds * 1e9)
        self._monotonic += seconds

    def set_back(self, seconds: float) -> None:
        """Somebody corrects the wall clock; monotonic time does not notice."""
        self._time_ns -= round(seconds * 1e9)
