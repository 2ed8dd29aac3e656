"""``pyarrow.compute`` when it is first needed: importing it takes 8 MB that an idle OTLP collector never uses."""

from __future__ import annotations

from typing import Any

from otlp_arrow.model.lazy import LazyModule

pc: Any = LazyModule("pyarrow.compute")
