"""otlp-arrow: a collector for OpenTelemetry that keeps what it acknowledges as Arrow files.

::

    from otlp_arrow import Collector, OtlpLibrary, Settings

Every name is imported when it is asked for: ``otlp-arrow healthcheck`` needs none of what they bring along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otlp_arrow.app.collector import Collector
    from otlp_arrow.app.library import OtlpLibrary
    from otlp_arrow.app.settings import Settings
    from otlp_arrow.model.batch import Receipt
    from otlp_arrow.model.errors import (
        Busy,
        Closed,
        DirectoryLocked,
        OtlpConfigError,
        OtlpError,
        OtlpExportError,
        OtlpIOError,
        OtlpServerError,
        Rejected,
        TooLarge,
    )

    __version__: str

__all__ = [
    "Busy",
    "Closed",
    "Collector",
    "DirectoryLocked",
    "OtlpConfigError",
    "OtlpError",
    "OtlpExportError",
    "OtlpIOError",
    "OtlpLibrary",
    "OtlpServerError",
    "Receipt",
    "Rejected",
    "Settings",
    "TooLarge",
    "__version__",
]

_MODULES = {
    "Collector": "otlp_arrow.app.collector",
    "OtlpLibrary": "otlp_arrow.app.library",
    "Settings": "otlp_arrow.app.settings",
    "Receipt": "otlp_arrow.model.batch",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES.get(name, "otlp_arrow.model.errors")), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    """Looked up when asked for: that takes longer than ``healthcheck`` as a whole."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("otlp-arrow")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
