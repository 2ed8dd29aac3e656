"""Counts of what a stretch of the log holds."""

from __future__ import annotations

from typing import NamedTuple

from otlp_arrow.model import Signal


class Tally(NamedTuple):
    """Records and bytes of payload, counted from some point of the log on."""

    rows: int = 0
    nbytes: int = 0

    def plus(self, rows: int, nbytes: int) -> Tally:
        """The same and what was added."""
        return Tally(self.rows + rows, self.nbytes + nbytes)

    def since(self, earlier: Tally) -> Tally:
        """What lies between an earlier count and this one; never below zero."""
        return Tally(max(0, self.rows - earlier.rows), max(0, self.nbytes - earlier.nbytes))


NOTHING = Tally()


class Tallies(NamedTuple):
    """One for each signal."""

    traces: Tally = NOTHING
    metrics: Tally = NOTHING
    logs: Tally = NOTHING

    def plus(self, signal: Signal, rows: int, nbytes: int) -> Tallies:
        """The same and what was added."""
        traces, metrics, logs = self
        if signal is Signal.TRACES:
            traces = traces.plus(rows, nbytes)
        elif signal is Signal.METRICS:
            metrics = metrics.plus(rows, nbytes)
        else:
            logs = logs.plus(rows, nbytes)
        return Tallies(traces, metrics, logs)

    def of(self, signal: Signal) -> Tally:
        """The count of one signal."""
        return self[signal.code - 1]


NO_TALLIES = Tallies()
