"""How a part says whether it does its work: what health is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "degraded", "failed"]


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part of the collector, as health shows it.

    ``ok``: doing its work. ``degraded``: doing it worse than it should, data is still taken.
    ``failed``: data is refused or in danger, so that the collector is not ready. ``reason`` is a
    sentence for the person who looks; ``details`` are JSON values (numbers, names, paths).
    """

    name: str
    state: State = "ok"
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
