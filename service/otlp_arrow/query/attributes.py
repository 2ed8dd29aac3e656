"""Attribute filters: what a value is compared with, and how.

Numbers compare exactly, whether they are stored as integers or doubles. ``Untyped`` stands for a value of which only
the text is known, as from a command line: it is equal to whatever is stored with that meaning.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from otlp_arrow.query.errors import BadQuery

Operator: TypeAlias = Literal[
    "EQUALS",
    "NOT_EQUALS",
    "CONTAINS",
    "STARTS_WITH",
    "GREATER_THAN",
    "GREATER_OR_EQUAL",
    "LESS_THAN",
    "LESS_OR_EQUAL",
    "EXISTS",
]
OPERATORS: tuple[str, ...] = (
    "EQUALS",
    "NOT_EQUALS",
    "CONTAINS",
    "STARTS_WITH",
    "GREATER_THAN",
    "GREATER_OR_EQUAL",
    "LESS_THAN",
    "LESS_OR_EQUAL",
    "EXISTS",
)
LEVELS = ("record", "span", "log", "metric", "resource", "scope", "event", "link")
"""``record`` is the span, log record or data point itself; ``span``, ``log`` and ``metric`` say the same."""

_SYMBOLS = {
    "!=": "NOT_EQUALS",
    "^=": "STARTS_WITH",
    ">=": "GREATER_OR_EQUAL",
    "<=": "LESS_OR_EQUAL",
    "=": "EQUALS",
    "~": "CONTAINS",
    ">": "GREATER_THAN",
    "<": "LESS_THAN",
}
_EXPRESSION = re.compile(r"(?P<key>[^=!~^<>]+?)\s*(?P<symbol>!=|\^=|>=|<=|=|~|>|<)\s*(?P<value>.*)", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d{1,19}")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?|nan", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Untyped:
    """A value as text: the string, and the number, boolean, list or map that it reads as."""

    text: str

    def number(self) -> int | float | None:
        """The number that the text is, None if it is none."""
        if _INTEGER.fullmatch(self.text):
            return int(self.text)
        return float(self.text) if _NUMBER.fullmatch(self.text) else None

    def boolean(self) -> bool | None:
        """The boolean that the text is."""
        return {"true": True, "false": False}.get(self.text.lower())

    def nested(self) -> list[Any] | dict[str, Any] | None:
        """The list or map that the text is as JSON, as answers write it."""
        if not self.text.startswith(("[", "{")):
            return None
        try:
            found = value_from_json(json.loads(self.text))
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, list | dict) else None


@dataclass(frozen=True, slots=True)
class AttributeFilter:
    """One condition on an attribute; see docs/query.md. Raises ``BadQuery`` if it cannot be meant."""

    key: str
    value: Any = None
    operator: Operator = "EQUALS"
    level: str | None = None

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise BadQuery(f"no operator {self.operator!r:.40}; there are {', '.join(OPERATORS)}")
        if self.level is not None and self.level not in LEVELS:
            raise BadQuery(f"no level {self.level!r:.40}; there are {', '.join(LEVELS)}")
        if not isinstance(self.key, str):
            raise BadQuery(f"an attribute's key is text, not {self.key!r:.40}")
        kinds = (str, bool, int, float, bytes, Untyped, list, tuple, Mapping)
        if self.operator == "EXISTS":
            if self.value is not None:
                raise BadQuery("EXISTS takes no value")
        elif self.value is not None and not isinstance(self.value, kinds):
            raise BadQuery(f"{self.value!r:.40} is no attribute value")
        elif self.operator in ("STARTS_WITH",) and not isinstance(self.value, str | Untyped):
            raise BadQuery(f"{self.operator} compares text")
        elif self.operator.startswith(("GREATER", "LESS")) and (
            self.value is None or isinstance(self.value, list | tuple | Mapping)
        ):
            raise BadQuery(f"{self.operator} compares numbers, text, booleans and bytes")
        elif self.operator == "CONTAINS" and self.value is None:
            raise BadQuery("CONTAINS needs a value")

    @classmethod
    def parse(cls, text: str, level: str | None = None) -> AttributeFilter:
        """A filter from text: ``key=value`` and so on, or a JSON object as ``to_json`` writes it.

        A value in double quotes is a string, any other is ``Untyped``. Raises ``BadQuery``.
        """
        if text.lstrip().startswith("{"):
            return cls.from_json(text)
        found = _EXPRESSION.fullmatch(text.strip())
        if found is None:
            if not text.strip():
                raise BadQuery("an attribute filter is key=value, or a key alone")
            return cls(text.strip(), None, "EXISTS", level)
        operator: Any = _SYMBOLS[found["symbol"]]
        return cls(found["key"].strip(), parse_value(found["value"].strip()), operator, level)

    def to_json(self) -> str:
        """As text that ``parse`` reads back, types and all."""
        found: dict[str, Any] = {"key": self.key, "operator": self.operator}
        if self.operator != "EXISTS":
            found["value"] = value_to_json(self.value)
        if self.level is not None:
            found["level"] = self.level
        return json.dumps(found, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> AttributeFilter:
        """The reverse of ``to_json``. Raises ``BadQuery``."""
        try:
            found = json.loads(text)
            if not isinstance(found, dict) or not set(found) <= {"key", "operator", "value", "level"}:
                raise ValueError("it has the keys key, operator, value, level")
            value = value_from_json(found["value"]) if "value" in found else None
            return cls(found["key"], value, found.get("operator", "EQUALS"), found.get("level"))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadQuery(f"not an attribute filter: {error}") from error


def parse_value(text: str) -> Any:
    """A value as a person types it: in double quotes a string, else ``Untyped``."""
    if len(text) >= 2 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            return text[1:-1]
    return Untyped(text)


def value_to_json(value: Any) -> Any:
    """A value as JSON that keeps its type; marks begin with ``$`` as in the stored text of lists."""
    match value:
        case Untyped():
            return {"$untyped": value.text}
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case float() if not math.isfinite(value):
            return {"$double": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
        case float() if value.is_integer():
            return {"$double": repr(value)}  # 1.0 comes back from JSON readers as 1 now and then
        case Mapping():
            return {_mark(str(k)): value_to_json(v) for k, v in value.items()}
        case list() | tuple():
            return [value_to_json(member) for member in value]
        case _:
            return value


def value_from_json(value: Any) -> Any:
    """The reverse of ``value_to_json``. Raises ``ValueError``."""
    match value:
        case {"$untyped": str(text), **rest} if not rest:
            return Untyped(text)
        case {"$bytes": str(text), **rest} if not rest:
            return base64.b64decode(text, validate=True)
        case {"$double": str(text), **rest} if not rest:
            return float(text)
        case dict():
            return {(k[1:] if k.startswith("$$") else k): value_from_json(v) for k, v in value.items()}
        case list():
            return [value_from_json(member) for member in value]
        case _:
            return value


def plain_equal(stored: Any, wanted: Any) -> bool:
    """Whether two values mean the same: numbers by number, everything else by type and content."""
    if isinstance(wanted, Untyped):
        if isinstance(stored, str):
            return stored == wanted.text
        if isinstance(stored, bool):
            return stored is wanted.boolean()
        if isinstance(stored, list | tuple | Mapping):
            nested = wanted.nested()
            return nested is not None and plain_equal(stored, nested)
        number = wanted.number()
        return isinstance(stored, int | float) and number is not None and stored == number
    if isinstance(stored, bool) or isinstance(wanted, bool):
        return stored is wanted
    if isinstance(stored, int | float) and isinstance(wanted, int | float):
        return stored == wanted
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        return stored.keys() == wanted.keys() and all(plain_equal(stored[k], wanted[k]) for k in stored)
    if isinstance(stored, list | tuple) and isinstance(wanted, list | tuple):
        return len(stored) == len(wanted) and all(map(plain_equal, stored, wanted))
    return type(stored) is type(wanted) and bool(stored == wanted)


def is_member(members: Sequence[Any], wanted: Any) -> bool:
    """Whether a list holds a value."""
    return any(plain_equal(member, wanted) for member in members)


def _mark(key: str) -> str:
    return "$" + key if key.startswith("$") else key
