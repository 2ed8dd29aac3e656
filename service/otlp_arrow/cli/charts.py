"""Small charts out of letters. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

_EIGHTHS = " ▁▂▃▄▅▆▇█"

Values = Sequence[float | None]


def resample(values: Values, columns: int) -> list[float | None]:
    """At most so many values: means of neighbours; None where there is none."""
    count = len(values)
    if count <= columns:
        return list(values)
    found: list[float | None] = []
    for column in range(columns):
        part = [v for v in values[column * count // columns : (column + 1) * count // columns] if _is_number(v)]
        # Divided first: the sum of two doubles may be more than a double holds.
        found.append(math.fsum(v / len(part) for v in part if v is not None) if part else None)
    return found


def sparkline(values: Values, columns: int) -> str:
    """One line; a gap where there is no value, the middle if all are alike."""
    shown = resample(values, columns)
    numbers = [v for v in shown if v is not None and _is_number(v)]
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    return "".join(_EIGHTHS[_level(v, low, high, 7) + 1] if _is_number(v) else " " for v in shown)


def column_chart(values: Values, columns: int, rows: int = 8) -> list[str]:
    """So many lines, highest first. The lowest value stands one eighth high."""
    shown = resample(values, columns)
    numbers = [v for v in shown if v is not None and _is_number(v)]
    if not numbers:
        return []
    low, high = min(numbers), max(numbers)
    heights = [_level(v, low, high, rows * 8 - 1) + 1 if _is_number(v) else 0 for v in shown]
    return ["".join(_EIGHTHS[min(8, max(0, height - row * 8))] for height in heights) for row in reversed(range(rows))]


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _level(value: float | None, low: float, high: float, levels: int) -> int:
    assert value is not None
    if high <= low:
        return levels // 2
    # Halved first: the difference of two doubles may be more than a double holds.
    return round((value / 2 - low / 2) / (high / 2 - low / 2) * levels)
