"""Floor 0: the words that every other folder speaks."""

from otlp_arrow.model.batch import Batch, Encoding, Parts, Payload, Receipt
from otlp_arrow.model.errors import (
    Busy,
    Closed,
    Corrupt,
    DirectoryLocked,
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
    "Batch",
    "Busy",
    "Closed",
    "Corrupt",
    "DirectoryLocked",
    "Encoding",
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
