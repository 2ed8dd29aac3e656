"""What the value of a setting may look like: sizes, lists, users, paths; from YAML, variables and flags alike."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr

from otlp_arrow.model.errors import OtlpConfigError

_BYTE_UNITS = {
    "": 1,
    "b": 1,
    **{unit + "b": 1000**n for n, unit in enumerate("kmgt", 1)},
    **{unit + "ib": 1024**n for n, unit in enumerate("kmgt", 1)},
}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def refuse_bool(value: object) -> object:
    """YAML's ``yes`` and ``true`` would otherwise count as 1."""
    if isinstance(value, bool):
        raise ValueError("not a number")
    return value


def parse_bytes(value: object) -> object:
    """``100MiB``, ``64 MB`` or a plain number, in bytes."""
    if not isinstance(value, str):
        return refuse_bool(value)
    found = _BYTES.fullmatch(value.strip().lower())
    if found is None or found[2] not in _BYTE_UNITS:
        raise ValueError("not a size in bytes")
    return int(float(found[1]) * _BYTE_UNITS[found[2]])


def parse_list(value: object) -> object:
    """A list, a JSON list, or words between commas."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [word.strip() for word in value.split(",")]
    return value


def parse_users(value: object) -> object:
    """A mapping, a JSON object, or ``user:password`` pairs between commas (or in a list)."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return json.loads(value)
    pairs = parse_list(value)
    if not isinstance(pairs, list | tuple):
        return value
    users: dict[str, str] = {}
    for pair in pairs:
        user, colon, password = str(pair).partition(":")
        if not (user and colon):
            raise ValueError("not user:password")
        users[user] = password
    return users


def parse_path(value: object) -> object:
    if isinstance(value, str | Path):
        text = str(value)
        if not text or "\0" in text or len(text) > 4096:
            raise ValueError("not a path")
        return Path(text).expanduser()
    return value


def parse_mapping(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def parse_headers(value: object) -> object:
    """A mapping, a JSON object, or ``name=value`` pairs between commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    headers: dict[str, str] = {}
    for pair in value.split(","):
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError("not name=value")
        headers[name.strip()] = text.strip()
    return headers


def lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


Integer = Annotated[int, BeforeValidator(refuse_bool)]
Seconds = Annotated[float, BeforeValidator(refuse_bool)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
# An empty word, from a comma too many or from ["${env:UNSET}"], would let in whoever shows nothing.
Word = Annotated[str, Field(min_length=1)]
Secret = Annotated[SecretStr, Field(min_length=1)]
Words = Annotated[tuple[Word, ...], BeforeValidator(parse_list)]
Secrets = Annotated[tuple[Secret, ...], BeforeValidator(parse_list)]
Users = Annotated[dict[Word, Secret], BeforeValidator(parse_users)]
Credentials = Annotated[dict[str, SecretStr], BeforeValidator(parse_mapping)]
Headers = Annotated[dict[str, SecretStr], BeforeValidator(parse_headers)]
PathSetting = Annotated[Path, BeforeValidator(parse_path)]
Port = Annotated[Integer, Field(ge=0, le=65535)]


def require_readable(key: str, path: Path | None) -> None:
    """Raises ``OtlpConfigError`` for a file that is named and cannot be opened."""
    if path is None:
        return
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise OtlpConfigError(key, str(path), f"the path of a readable file: {error.strerror}") from None


def read_secrets(key: str, path: Path) -> list[str]:
    """One secret a line; empty lines and those that begin with ``#`` are none."""
    require_readable(key, path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise OtlpConfigError(key, str(path), "a file of UTF-8 text") from None
    secrets = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not secrets:  # a mount that is still empty must not open the doors to everybody
        raise OtlpConfigError(key, str(path), "a file with at least one line")
    return secrets
