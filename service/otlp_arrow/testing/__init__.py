"""Floor 6: what tests stand on, ours and yours: a collector in memory, a disk that fails, a clock set by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otlp_arrow.testing.mock_collector import MockCollector

__all__ = ["MockCollector"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: pytest loads this package in every run, for its fixture."""
    if name != "MockCollector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from otlp_arrow.testing.mock_collector import MockCollector

    return MockCollector
