"""Who may send: bearer tokens, basic authentication and API keys, any one of which is enough.

Headers in, exception out; gRPC metadata, HTTP headers and Flight headers are all checked here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping

from otlp_arrow.model import OtlpConfigError, Unauthenticated

HeaderValue = str | bytes | Iterable[str | bytes]


class Authenticator:
    """Knows the credentials that are let in.

    Of a secret only a keyed digest is kept (the key is made anew in each process), so that neither
    ``repr`` nor a log nor a dump of the object shows one, and so that comparing takes the same time
    whatever was sent, length included.

    Raises ``OtlpConfigError`` for an empty secret, which would let everybody in, and for a user name
    with a colon, which basic authentication cannot carry.
    """

    def __init__(
        self,
        bearer_tokens: Iterable[str] = (),
        basic: Mapping[str, str] | None = None,
        api_keys: Iterable[str] = (),
        api_key_header: str = "x-api-key",
    ) -> None:
        self._key = secrets.token_bytes(32)
        self.api_key_header = api_key_header.lower()
        self._bearer = [self._digest(secret) for secret in _whole("auth.bearer_tokens", bearer_tokens)]
        self._api_keys = [self._digest(secret) for secret in _whole("auth.api_keys", api_keys)]
        self._basic = []
        for user, password in (basic or {}).items():
            if not user or ":" in user:
                raise OtlpConfigError("auth.basic", user, "user names that are not empty and hold no colon")
            _whole("auth.basic", [password])
            self._basic.append(self._digest(f"{user}:{password}"))
        self.challenge = self._challenge()
        """For ``WWW-Authenticate``: the kinds of credentials that this collector takes."""
        self._refusal = f"credentials are needed and none that were sent are valid; send {self._ways()}"

    def __repr__(self) -> str:
        counts = f"bearer_tokens={len(self._bearer)}, basic={len(self._basic)}, api_keys={len(self._api_keys)}"
        return f"Authenticator({counts})"

    def check(self, headers: Mapping[str, HeaderValue]) -> None:
        """Pass if any one credential in ``headers`` (names in any case) is valid; else ``Unauthenticated``."""
        for name, value in headers.items():
            lowered = name.lower()
            if lowered == "authorization":
                if any(self._authorizes(_bytes(v)) for v in _each(value)):
                    return
            elif lowered == self.api_key_header and any(self._known(self._api_keys, _bytes(v)) for v in _each(value)):
                return
        raise Unauthenticated(self._refusal)

    def _authorizes(self, value: bytes) -> bool:
        scheme, _, credentials = value.strip().partition(b" ")
        credentials = credentials.strip()
        match scheme.lower():
            case b"bearer":
                return self._known(self._bearer, credentials)
            case b"basic":
                try:
                    return self._known(self._basic, base64.b64decode(credentials, validate=True))
                except binascii.Error:
                    return False
        return False

    def _known(self, digests: list[bytes], secret: bytes) -> bool:
        """Compares with every candidate, so that the time tells nothing about which one was near."""
        presented = self._digest(secret)
        found = False
        for digest in digests:
            found |= hmac.compare_digest(digest, presented)
        return found

    def _digest(self, secret: str | bytes) -> bytes:
        return hashlib.blake2b(_bytes(secret), key=self._key, digest_size=32).digest()

    def _challenge(self) -> str:
        ways = []
        if self._bearer:
            ways.append('Bearer realm="otlp-arrow"')
        if self._basic:
            ways.append('Basic realm="otlp-arrow", charset="UTF-8"')
        if self._api_keys or not ways:
            ways.append(f'ApiKey realm="otlp-arrow", header="{self.api_key_header}"')
        return ", ".join(ways)

    def _ways(self) -> str:
        ways = []
        if self._bearer:
            ways.append("'authorization: Bearer <token>'")
        if self._basic:
            ways.append("'authorization: Basic <base64 of user:password>'")
        if self._api_keys or not ways:
            ways.append(f"'{self.api_key_header}: <key>'")
        return " or ".join(ways)


def _whole(key: str, values: Iterable[str]) -> list[str]:
    found = list(values)
    if not all(value.strip() for value in found):
        raise OtlpConfigError(key, "", "secrets that are not empty")
    return found


def _each(value: HeaderValue) -> Iterable[str | bytes]:
    return (value,) if isinstance(value, str | bytes) else value


def _bytes(value: str | bytes) -> bytes:
    # Servers hand over header bytes that are no UTF-8 as surrogates.
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
