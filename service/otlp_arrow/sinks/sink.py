"""The contract of every way out: ``send`` returns when the remote has the batch, or says what to do next."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from otlp_arrow.model import Batch, Encoding, OtlpExportError


class Fault(enum.Enum):
    """Why a remote did not take what may be taken later."""

    UNREACHABLE = "unreachable"  # no connection, no answer in time, a connection that broke
    BUSY = "busy"  # it said so
    CREDENTIALS = "credentials"  # it does not know us, or does not let us
    ADDRESS = "address"  # there is no such service at this address


class DeliveryError(OtlpExportError):
    """The remote did not confirm a batch. The text is one line, and holds no secret."""


class Transient(DeliveryError):
    """Send the same batch again: not before ``retry_after_s`` if the remote named a time.

    ``CREDENTIALS`` and ``ADDRESS`` need a person first. The OTLP specification calls them not retryable; data
    that was acknowledged is not thrown away for a mistyped password, so it waits within the backlog's bound.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None, fault: Fault = Fault.UNREACHABLE) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.fault = fault


class Permanent(DeliveryError):
    """The remote will never take this batch. ``too_large``: it may take it in smaller parts."""

    def __init__(self, reason: str, *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.too_large = too_large


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The remote has the batch, less ``rejected`` records that it refused for good; ``message`` is its own."""

    rejected: int = 0
    message: str = ""


class Sink(Protocol):
    """One remote. An async context manager; ``send`` may be called several times at once."""

    @property
    def takes_parts(self) -> bool:
        """Whether ``send`` takes batches in parts that are not joined: OTLP, or the messages of a ``DoPut``."""

    @property
    def encoding(self) -> Encoding:
        """What ``send`` takes: ``OTLP`` batches by their payload, ``ARROW`` batches by their columns."""

    async def send(self, batch: Batch) -> DeliveryResult:
        """Returns when the remote has confirmed the batch, within the sink's timeout.

        Raises ``Transient`` or ``Permanent``. After a cancellation the remote may or may not have the batch.
        """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...
