"""What the forwarder shows to a remote: headers made of credentials that may be rotated in their files.

====================  =======================================  ==========================================
``auth_type``         credentials                              header
====================  =======================================  ==========================================
``api_key``           ``key``, ``header_name`` (X-API-Key)     ``{header_name}: {key}``
``bearer_token``      ``token``                                ``Authorization: Bearer {token}``
``basic``             ``username``, ``password``               ``Authorization: Basic {base64}``
====================  =======================================  ==========================================

``key_file``, ``token_file``, ``username_file`` and ``password_file`` name files instead; they are looked at
before each request and read again when they changed.
"""

from __future__ import annotations

import base64
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from otlp_arrow.model import OtlpConfigError

log = logging.getLogger(__name__)

Headers = tuple[tuple[str, str], ...]

REQUIRED = {"api_key": ("key",), "bearer_token": ("token",), "basic": ("username", "password")}
"""What each kind of authentication needs, written out or with ``_file``."""

_OPTIONAL = {"api_key": ("header_name",), "bearer_token": (), "basic": ()}
_DEFAULT_HEADER = "X-API-Key"
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SECRET = "**********"


class Credentials:
    """Headers for one destination. Its ``repr`` shows no value."""

    def __init__(self, auth_type: str | None, values: Mapping[str, str], *, key: str = "forwarding") -> None:
        """``key`` names the settings for errors. Raises ``OtlpConfigError``."""
        self._type = auth_type
        self._key = f"{key}.authentication.credentials"
        self._fixed: dict[str, str] = {}
        self._files: dict[str, Path] = {}
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._complained: set[str] = set()
        if auth_type is None:
            if values:
                raise OtlpConfigError(f"{key}.authentication.auth_type", None, f"one of {', '.join(REQUIRED)}")
        else:
            self._take(auth_type, values)
        self._headers = self._build()

    def __repr__(self) -> str:
        return f"Credentials({self._type})"

    def _take(self, auth_type: str, values: Mapping[str, str]) -> None:
        left = dict(values)
        for name in REQUIRED[auth_type]:
            value, file = left.pop(name, None), left.pop(f"{name}_file", None)
            if (value is None) == (file is None):
                raise OtlpConfigError(self._key, _SECRET, f"either {name!r} or {name + '_file'!r} for {auth_type}")
            if file is not None:
                self._files[name] = Path(file).expanduser()
            else:
                self._fixed[name] = self._checked(value or "")
        for name in _OPTIONAL[auth_type]:
            if name in left:
                self._fixed[name] = self._checked(left.pop(name))
        if left:
            allowed = [*REQUIRED[auth_type], *_OPTIONAL[auth_type]]
            raise OtlpConfigError(self._key, sorted(left), f"only {', '.join(allowed)} for {auth_type}")
        if not _HEADER_NAME.fullmatch(self._fixed.get("header_name", _DEFAULT_HEADER)):
            raise OtlpConfigError(self._key, self._fixed["header_name"], "a header name")
        for name, path in self._files.items():
            try:
                self._seen[name] = _version(path)
                self._fixed[name] = self._checked(path.read_text(encoding="utf-8").strip())
            except (OSError, UnicodeDecodeError) as error:
                raise OtlpConfigError(self._key, str(path), f"a readable file: {error}") from None

    def headers(self) -> Headers:
        """The headers now. A file that cannot be read keeps its last value, with one line in the log."""
        if self._files and self._refresh():
            self._headers = self._build()
        return self._headers

    def _refresh(self) -> bool:
        changed = False
        for name, path in self._files.items():
            try:
                version = _version(path)
                if version == self._seen.get(name):
                    continue
                self._fixed[name] = self._checked(path.read_text(encoding="utf-8").strip())
                self._seen[name] = version
                self._complained.discard(name)
                changed = True
            except (OSError, UnicodeDecodeError, OtlpConfigError) as error:
                if name not in self._complained:
                    self._complained.add(name)
                    log.error("%s: %s cannot be used (%s); its last value is", self._key, path, error)
        return changed

    def _checked(self, value: str) -> str:
        if self._type == "basic" and value and value.isprintable():
            return value  # goes out in base64
        return _checked(self._key, value)

    def _build(self) -> Headers:
        values = self._fixed
        match self._type:
            case "api_key":
                return ((values.get("header_name", _DEFAULT_HEADER), values["key"]),)
            case "bearer_token":
                return (("Authorization", f"Bearer {values['token']}"),)
            case "basic":
                pair = f"{values['username']}:{values['password']}".encode()
                return (("Authorization", f"Basic {base64.b64encode(pair).decode()}"),)
        return ()


def check_headers(key: str, headers: Mapping[str, str]) -> Headers:
    """Fixed headers as pairs. Raises ``OtlpConfigError`` for a name or value that no header may have."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower().startswith("grpc-"):
            raise OtlpConfigError(key, name, "names of headers")
        _checked(key, value)
    return tuple(headers.items())


def _checked(key: str, value: str) -> str:
    """Only what may stand in a header: a line break would begin another one."""
    if not value or not value.isascii() or not value.isprintable():
        raise OtlpConfigError(key, _SECRET, "text of printable ASCII characters, not empty")
    return value


def _version(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino
