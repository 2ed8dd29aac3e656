"""The three signals, and the few facts that differ between them."""

from __future__ import annotations

import enum


class Signal(enum.Enum):
    """A kind of telemetry. The value is the word used in paths, URLs and file names."""

    TRACES = "traces"
    METRICS = "metrics"
    LOGS = "logs"

    # An Enum hashes its name through a Python call; signals key dictionaries on the hot path.
    __hash__ = object.__hash__

    @property
    def singular(self) -> str:
        """The prefix of per-signal settings (``trace_cleanup_interval_secs``)."""
        return self.value[:-1]

    @property
    def records(self) -> str:
        """What one row is called, as in ``otelcol_receiver_accepted_{records}``."""
        return _RECORDS[self]

    @property
    def code(self) -> int:
        """The number in a WAL frame (docs/formats.md); never reused."""
        return _CODES[self]

    @classmethod
    def from_code(cls, code: int) -> Signal:
        """The signal of a WAL frame. Raises ``KeyError`` for a number that no signal has."""
        return _BY_CODE[code]


_RECORDS = {Signal.TRACES: "spans", Signal.METRICS: "metric_points", Signal.LOGS: "log_records"}
_CODES = {Signal.TRACES: 1, Signal.METRICS: 2, Signal.LOGS: 3}
_BY_CODE = {code: signal for signal, code in _CODES.items()}
