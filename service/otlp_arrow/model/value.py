"""Values that are made for every request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """A dataclass that nobody changes: the type checker sees to it. One that is frozen at run time too takes 1.4 µs
    to make instead of 0.3, and each request makes five.
    """
    return dataclass(slots=True)(cls)
