"""Counts of what a stretch of the log holds."""

from __future__ import annotations

from typing import NamedTuple

from otlp_arrow.model import Signal


class Tally(NamedTuple):
    """Records of each signal and bytes of payload, counted from some point of the log on."""

    traces: int = 0
    metrics: int = 0
    logs: int = 0
    nbytes: int = 0

    def plus(self, signal: Signal, rows: int, nbytes: int) -> Tally:
        """The same and one more frame."""
        traces, metrics, logs, total = self
        if signal is Signal.TRACES:
            traces += rows
        elif signal is Signal.METRICS:
            metrics += rows
        else:
            logs += rows
        return Tally(traces, metrics, logs, total + nbytes)

    def since(self, earlier: Tally) -> Tally:
        """What lies between an earlier count and this one; never below zero."""
        return Tally(*(max(0, now - then) for now, then in zip(self, earlier, strict=True)))

    def rows(self, signal: Signal) -> int:
        """The records of one signal."""
        return self[signal.code - 1]


NOTHING = Tally()
