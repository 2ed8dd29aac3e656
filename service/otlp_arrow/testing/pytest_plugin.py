"""The fixture ``mock_collector``; pytest finds it by the entry point ``pytest11``.

Loaded by every pytest in the environment, so that nothing is imported before the fixture is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from otlp_arrow.testing.mock_collector import MockCollector


@pytest.fixture
def mock_collector() -> Iterator[MockCollector]:
    """A collector on free ports that keeps in memory what this test sends it."""
    from otlp_arrow.testing.mock_collector import MockCollector

    with MockCollector() as collector:
        yield collector
