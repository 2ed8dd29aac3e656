"""Modules that are imported when they are first used: an idle collector does not hold what nobody asks of it."""

from __future__ import annotations

import importlib
from typing import Any


class LazyModule:
    """Stands for the module ``name``; each member is looked up in it once."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, member: str) -> Any:
        found = getattr(importlib.import_module(self._name), member)
        setattr(self, member, found)
        return found
