"""``pyarrow.compute`` when it is first needed: importing it takes 8 MB that an idle OTLP collector never uses."""

from __future__ import annotations

import importlib
from typing import Any


class _Compute:
    """Stands for the module; each function is looked up in it once."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(importlib.import_module("pyarrow.compute"), name)
        setattr(self, name, function)
        return function


pc = _Compute()
