"""What is said of a destination: in the log once, and in health while it lasts."""

from __future__ import annotations

import logging
from collections.abc import Callable

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


class Standing:
    """One destination's. ``who`` begins each line of the log."""

    def __init__(self, destination: Destination, monotonic: Callable[[], float]) -> None:
        self.who = f"forwarding to {destination.name} ({destination.url})"
        self.died = ""
        self._monotonic = monotonic
        self._trouble: Transient | None = None
        self._since = 0.0
        self._failures = 0
        self._delivered: set[Signal] = set()
        self._not_taken: dict[Signal, str] = {}
        self._said: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    @property
    def needs_a_person(self) -> bool:
        """Whether trying again helps nobody before a setting is corrected."""
        return self._trouble is not None and self._trouble.fault in (Fault.CREDENTIALS, Fault.ADDRESS)

    def reason(self) -> str:
        """A sentence, empty if all is well."""
        if self.died:
            return self.died
        if self._trouble is not None:
            return f"{_WORDS[self._trouble.fault]}: {self._trouble}"
        for signal, why in self._not_taken.items():
            return f"does not take {signal.value} ({why}); name the others in the setting signals"
        return ""

    def trouble_s(self) -> float:
        """How long it has been so."""
        return 0.0 if self._trouble is None else self._monotonic() - self._since

    def takes_others(self, signal: Signal) -> bool:
        """The address is right, then: it is this signal that has no service there."""
        return bool(self._delivered) and signal not in self._delivered

    def succeeded(self, signal: Signal) -> None:
        self._delivered.add(signal)
        self._not_taken.pop(signal, None)
        self._failures = 0
        if self._trouble is not None:
            self._trouble = None
            self._say("works", "%s: works again after %.0f s", 0, self.who, self._monotonic() - self._since)

    def failed(self, error: Transient) -> None:
        """One failure that the next try mends is no news; three in a row, or a wrong setting, are."""
        self._failures += 1
        if self._failures == 1:
            self._first_failure = self._monotonic()
        needs_a_person = error.fault in (Fault.CREDENTIALS, Fault.ADDRESS)
        if self._trouble is None:
            if self._failures < _FAILURES_THAT_ARE_NEWS and not needs_a_person:
                return
            self._since = self._first_failure
        self._trouble = error
        text = "%s: %s: %s; what is accepted is stored and waits in the WAL"
        self._say(error.fault.value, text, 0, self.who, _WORDS[error.fault], error)

    def not_taken(self, signal: Signal, why: str) -> None:
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
