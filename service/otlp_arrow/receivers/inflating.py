"""Undoing the compression of a body under its reservation: small ones in place, large ones in threads."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Any

from otlp_arrow.model import limits
from otlp_arrow.receivers import unpack
from otlp_arrow.receivers.intake import Intake, Ticket


class Reservation:
    """A ticket that covers the largest of several sizes rather than their sum.

    The intake reckons with several times the bytes of a ticket, for the columns to come; while a
    request is being unpacked they are not there yet, and its earlier forms live in their place.
    """

    __slots__ = ("nbytes", "ticket")

    def __init__(self, intake: Intake[Any], nbytes: int) -> None:
        self.ticket: Ticket = intake.admit(nbytes)
        self.nbytes = nbytes

    def cover(self, nbytes: int) -> None:
        """Raises ``Busy`` if there is no room for so many."""
        if nbytes > self.nbytes:
            self.ticket.grow(nbytes - self.nbytes)
            self.nbytes = nbytes


async def inflate(
    body: bytes, applied: tuple[unpack.Coding, ...], max_bytes: int, reservation: Reservation, workers: Executor
) -> bytes:
    """The body with its codings undone. Raises as ``unpack.inflate`` does, and ``Busy``."""
    pieces = unpack.inflate(body, applied, max_bytes)
    inflated: list[bytes] = []
    total = 0
    ended = False
    in_place = len(body) <= limits.INFLATE_INLINE_BYTES
    while not ended:
        if in_place:
            more, ended = unpack.take(pieces, limits.INFLATE_INLINE_BYTES)
            in_place = False
        else:
            loop = asyncio.get_running_loop()
            more, ended = await loop.run_in_executor(workers, unpack.take, pieces, limits.INFLATE_STEP_BYTES)
        inflated += more
        total += sum(map(len, more))
        reservation.cover(total)
    return inflated[0] if len(inflated) == 1 else b"".join(inflated)
