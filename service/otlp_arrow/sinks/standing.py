"""What is said of a destination: in the log once, and in health while it lasts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from otlp_arrow.model import Signal
from otlp_arrow.model.limits import HINT_INTERVAL_S
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.sink import Fault, Transient

log = logging.getLogger(__name__)

_FAILURES_THAT_ARE_NEWS = 3

_WORDS = {
    Fault.UNREACHABLE: "cannot be reached",
    Fault.BUSY: "is busy",
    Fault.CREDENTIALS: "does not accept the credentials",
    Fault.ADDRESS: "has no such service there",
}


@dataclass(slots=True)
class _Trouble:
    """Failures of a signal in a row; they are news once ``error`` is there."""

    failures: int
    since: float
    error: Transient | None = None


class Standing:
    """One destination's. ``who`` begins each line of the log."""

    def __init__(self, destination: Destination, monotonic: Callable[[], float]) -> None:
        self.who = f"forwarding to {destination.name} ({destination.url})"
        self.died = ""
        self._monotonic = monotonic
        self._troubles: dict[Signal, _Trouble] = {}
        self._delivered: set[Signal] = set()
        self._not_taken: dict[Signal, str] = {}
        self._said: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def in_trouble(self, signal: Signal) -> bool:
        """Whether the remote is not to be had for a signal, or a person has to correct a setting first. One that is
        busy and says so is there."""
        trouble = self._troubles.get(signal)
        return trouble is not None and trouble.error is not None and trouble.error.fault is not Fault.BUSY

    def reason(self) -> str:
        """A sentence, empty if all is well."""
        if self.died:
            return self.died
        for signal, trouble in self._news():
            return self._text(signal, trouble)
        for signal, why in self._not_taken.items():
            return f"does not take {signal.value} ({why}); name the others in the setting signals"
        return ""

    def trouble_s(self) -> float:
        """How long it has been so."""
        return max((self._monotonic() - trouble.since for _, trouble in self._news()), default=0.0)

    def takes_others(self, signal: Signal) -> bool:
        """The address is right, then: it is this signal that has no service there."""
        return bool(self._delivered) and signal not in self._delivered

    def succeeded(self, signal: Signal) -> None:
        self._delivered.add(signal)
        self._not_taken.pop(signal, None)
        trouble = self._troubles.pop(signal, None)
        if trouble is not None and trouble.error is not None and not any(self._news()):
            self._say("works", "%s: works again after %.0f s", 0, self.who, self._monotonic() - trouble.since)

    def failed(self, signal: Signal, error: Transient) -> None:
        """One failure that the next try mends is no news; three in a row, or a wrong setting, are."""
        trouble = self._troubles.setdefault(signal, _Trouble(0, self._monotonic()))
        trouble.failures += 1
        needs_a_person = error.fault in (Fault.CREDENTIALS, Fault.ADDRESS)
        if trouble.error is None and trouble.failures < _FAILURES_THAT_ARE_NEWS and not needs_a_person:
            return
        trouble.error = error
        text = "%s: %s; what is accepted is stored and waits in the WAL"
        self._say(error.fault.value, text, 0, self.who, self._text(signal, trouble))

    def _news(self) -> Iterator[tuple[Signal, _Trouble]]:
        return ((signal, trouble) for signal, trouble in self._troubles.items() if trouble.error is not None)

    def _text(self, signal: Signal, trouble: _Trouble) -> str:
        assert trouble.error is not None
        text = f"{_WORDS[trouble.error.fault]}: {trouble.error}"
        # Where others get through it is no outage.
        return f"{signal.value}: {text}" if self._delivered - self._troubles.keys() else text

    def not_taken(self, signal: Signal, why: str) -> None:
        self._troubles.pop(signal, None)  # it is decided on
        if signal not in self._not_taken:
            self._not_taken[signal] = why
            log.error("%s: it takes no %s (%s): they are stored and not forwarded", self.who, signal.value, why)

    def refused(self, rows: int, signal: Signal, why: str) -> None:
        self._say("refused", "%s: refused %d %s for good: %s", rows, self.who, rows, signal.records, why)

    def partly(self, signal: Signal, rejected: int, message: str) -> None:
        text = message or "no reason given"
        self._say("partly", "%s: rejected %d %s: %s", rejected, self.who, rejected, signal.records, text)

    def gave_up(self, rows: int, nbytes: int) -> None:
        text = "%s: gave up the oldest %d records (%d bytes): the backlog outgrew its bound, or the disk"
        self._say("gave_up", text, rows, self.who, rows, nbytes)

    def cannot_read(self, error: OSError) -> None:
        self._say("read", "%s: cannot read the WAL: %s", 0, self.who, error)

    def cannot_store(self, error: OSError) -> None:
        self._say("store", "%s: cannot store the cursor (%s): a kill would make it send more twice", 0, self.who, error)

    def _say(self, about: str, text: str, records: int, *values: object) -> None:
        """A line now, then at most one a minute with the records that went unsaid."""
        now = self._monotonic()
        if now - self._said.get(about, float("-inf")) < HINT_INTERVAL_S:
            self._unsaid[about] = self._unsaid.get(about, 0) + records
            return
        self._said[about] = now
        more = self._unsaid.pop(about, 0)
        log.error(text + (" (and %d records since the last line)" if more else ""), *values, *([more] if more else []))
