"""A circuit breaker as a table. It is told the time and never asks; it waits for nothing.

==========  =====================  ==========================================================
state       what happens           next
==========  =====================  ==========================================================
closed      a success              closed, failures forgotten
closed      a failure              closed; after ``failures`` in a row open
open        somebody asks early    refused, with the time that is left
open        somebody asks later    half-open, and is the probe
half-open   somebody else asks     refused until the probe is back
half-open   the probe succeeds     closed
half-open   the probe fails        open, for the whole time again
half-open   the probe is given up  open, and the next who asks is the probe
==========  =====================  ==========================================================

Each call carries the era in which it was let through. What a call of an earlier era brings back says nothing
about the present and changes nothing.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass


class State(enum.Enum):
    """The value is what the gauge shows."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Opens after ``failures`` in a row, for ``open_s`` seconds."""

    failures: int = 5
    open_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Permit:
    """A call was let through. Give it back exactly once: ``succeeded``, ``failed`` or ``abandoned``."""

    era: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Not now. ``wait_s``: ask again after so long, or earlier if the state changes; may be infinite."""

    wait_s: float


class Breaker:
    """One destination's breaker; see the table. Times are seconds of any clock that never goes back."""

    def __init__(self, settings: BreakerSettings | None = None) -> None:
        self.settings = settings or BreakerSettings()
        self.state = State.CLOSED
        self._failures = 0
        self._open_until = 0.0
        self._era = 0

    def __repr__(self) -> str:
        return f"Breaker({self.state.name}, failures={self._failures}, era={self._era})"

    def ask(self, now: float) -> Permit | Refused:
        """May a call go out?"""
        if wait_s := self.wait_s(now):
            return Refused(wait_s)
        if self.state is State.OPEN:
            self._enter(State.HALF_OPEN)
        return Permit(self._era)

    def wait_s(self, now: float) -> float:
        """For how long ``ask`` would refuse if nothing changes: 0 if it would not; may be infinite."""
        if self.state is State.CLOSED:
            return 0.0
        return max(0.0, self._open_until - now) if self.state is State.OPEN else math.inf

    def succeeded(self, permit: Permit) -> None:
        """The remote answered, even if it refused the data."""
        if permit.era != self._era:
            return
        self._failures = 0
        if self.state is State.HALF_OPEN:
            self._enter(State.CLOSED)

    def failed(self, permit: Permit, now: float) -> None:
        """The remote could not be had."""
        if permit.era != self._era:
            return
        self._failures += 1
        if self.state is State.HALF_OPEN or self._failures >= self.settings.failures:
            self._open_until = now + self.settings.open_s
            self._enter(State.OPEN)

    def abandoned(self, permit: Permit, now: float) -> None:
        """The call was cancelled: nothing was learnt."""
        if permit.era == self._era and self.state is State.HALF_OPEN:
            self._open_until = now
            self._enter(State.OPEN)

    def _enter(self, state: State) -> None:
        self.state = state
        self._era += 1
        if state is State.CLOSED:
            self._failures = 0
