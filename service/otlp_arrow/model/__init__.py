"""Floor 0: the words that every other folder speaks."""

from otlp_arrow.model.batch import ArrowMessage, Batch, Encoding, Parts, Payload, Receipt
from otlp_arrow.model.errors import (
    Busy,
    Closed,
    Corrupt,
    DirectoryLocked,
    NotPlain,
    OtlpConfigError,
    OtlpError,
    OtlpExportError,
    OtlpIOError,
    OtlpServerError,
    Rejected,
    TooLarge,
    Unauthenticated,
)
from otlp_arrow.model.signal import Signal

__all__ = [
    "ArrowMessage",
    "Batch",
    "Busy",
    "Closed",
    "Corrupt",
    "DirectoryLocked",
    "Encoding",
    "NotPlain",
    "OtlpConfigError",
    "OtlpError",
    "OtlpExportError",
    "OtlpIOError",
    "OtlpServerError",
    "Parts",
    "Payload",
    "Receipt",
    "Rejected",
    "Signal",
    "TooLarge",
    "Unauthenticated",
]
