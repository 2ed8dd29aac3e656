"""The error tree, named by what the receiver of the error does next.

====================  ===================================================================
``OtlpConfigError``   correct the setting that is named, start again
``OtlpServerError``   free the port, or choose another
``OtlpIOError``       look at the disk; ``DirectoryLocked``: stop the other process;
                      ``Corrupt``: what could not be read lies in ``quarantine/``
``OtlpExportError``   ``Rejected``: change the data; ``Busy``: send again after ``retry_after_s``;
                      ``Unauthenticated``: send credentials; ``Closed``: the collector is stopping
====================  ===================================================================
"""

from __future__ import annotations

from pathlib import Path


class OtlpError(Exception):
    """Anything that otlp-arrow raises on purpose."""


class OtlpConfigError(OtlpError):
    """A setting is wrong. ``key``, ``value`` and ``allowed`` say which and what would do."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"setting {key!r}: {value!r} is not allowed; expected {allowed}")
        self.key = key
        self.value = value
        self.allowed = allowed


class OtlpServerError(OtlpError):
    """A door could not be opened."""


class OtlpIOError(OtlpError, OSError):
    """The disk did not do what it was asked."""


class DirectoryLocked(OtlpIOError):
    """Another process writes to this output directory."""


class Corrupt(OtlpIOError):
    """Bytes on disk are not what was written there."""

    def __init__(self, path: Path | str, offset: int, reason: str) -> None:
        super().__init__(f"{path}: at byte {offset}: {reason}")
        self.path = Path(path)
        self.offset = offset
        self.reason = reason


class OtlpExportError(OtlpError):
    """Telemetry was not taken; nothing of it was kept."""


class Rejected(OtlpExportError):
    """The sender must change the data; sending it again cannot help."""


class NotPlain(Rejected):
    """An Arrow message that the kernel does not take as it is: the door casts it, and says what is wrong with it if
    anything is."""


class TooLarge(Rejected):
    """The request is over a bound in bytes."""


class Busy(OtlpExportError):
    """The sender may try again after ``retry_after_s`` seconds.

    The default stays near one second: Python's exporters drop a batch at once when the suggested
    delay is longer than what is left of their ten seconds.
    """

    def __init__(self, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Unauthenticated(OtlpExportError):
    """No credentials, or wrong ones."""


class Closed(Busy):
    """The collector is stopping; another one, or a later try, may take the data."""
