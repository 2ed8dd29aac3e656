"""Why a remote cannot be had, in words for whoever has to mend it: three libraries say it in three ways.

============================================  ==============================================================
what a library says                           what is said here
============================================  ==============================================================
connection refused, no such name, no route    where it could not connect to, and why
a certificate that is not accepted            what is wrong with it: expired, of another host, of an unknown
                                              authority
no TLS in the answer to a TLS greeting        it does not speak TLS at this port: http instead of https?
HTTP/1 where HTTP/2 is due, and vice versa    which it speaks, and the ``protocol`` for that
the connection was closed without a word      looked at once more, see ``Causes``
============================================  ==============================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Iterator

from otlp_arrow.model import OtlpConfigError
from otlp_arrow.model.limits import LOOK_INTERVAL_S, LOOK_TIMEOUT_S
from otlp_arrow.sinks import tls
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.sink import Fault, Transient

_CLOSED = re.compile(
    r"Socket closed|Server disconnected|does not speak HTTP/2|[Cc]onnection (reset|aborted|lost)|Broken pipe"
)

_OF_GRPC = re.compile(r"\bipv[46]:|errors resolving|Deadline Exceeded$")
"""What gRPC itself says of a connection; a proxy's word on what is behind it looks much the same."""

_PHRASES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"certificate has expired", "its certificate has expired"),
        (r"certificate is not yet valid", "its certificate is not valid yet (or a clock is wrong)"),
        (
            r"Hostname mismatch|IP address mismatch|Hostname Verification Check failed|is not in peer certificate",
            "its certificate is for another host than {host}",
        ),
        (
            r"unable to get local issuer|self.signed certificate|unable to get issuer|unable to verify the first",
            "its certificate is of an authority that is not trusted here (tls.ca_file)",
        ),
        (
            r"(?i)alert.(certificate|bad.certificate|unknown.ca|handshake.failure)",
            "it asks for a certificate of ours, or does not accept the one it was shown (tls.cert_file, tls.key_file)",
        ),
        (
            r"(?i)wrong.version.number|record.layer.failure|packet.length.too.long|http.request\b",
            "it does not speak TLS at port {port}: http instead of https?",
        ),
        (r"(?i)connection refused", "cannot connect to {host}:{port}: connection refused, nobody listens there"),
        (
            r"(?i)domain name not found|name or service not known|nodename nor servname|no address associated"
            r"|getaddrinfo failed|temporary failure in name resolution|could not contact dns|name does not resolve"
            r"|dns server returned",
            "cannot connect to {host}:{port}: no address is known for {host}",
        ),
        (r"Deadline Exceeded$", "no answer within {timeout:g} s"),
        (r"(?i)no route to host", "cannot connect to {host}:{port}: no route to host"),
        (r"(?i)network is unreachable", "cannot connect to {host}:{port}: the network is unreachable"),
        (r"Trying to connect an http1", "it speaks HTTP/1 at port {port}, and gRPC needs HTTP/2: protocol http?"),
        (r"Bad status line", "it does not speak HTTP/1 at port {port}: protocol grpc, or arrow_flight?"),
    )
)


def in_plain_words(text: str, destination: Destination) -> str:
    """What a library says of a connection that failed, for a person; as it is if it is none of the known."""
    host, port = destination.host_and_port()
    for pattern, words in _PHRASES:
        if pattern.search(text):
            return words.format(host=host, port=port, timeout=destination.timeout_s)
    return text


class Causes:
    """One sink's way to say why its remote cannot be had.

    A connection that is closed without a word may be a server that dies, or TLS that one side does not speak: it
    is the first thing to find out at a first start, and nobody says it. Until a request has succeeded, such a
    remote is greeted once more, with TLS, to see.
    """

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._worked = False
        self._looked_at = float("-inf")
        self._seen = ""

    def worked(self) -> None:
        """A request succeeded: the settings are right."""
        self._worked = True

    async def explain(self, error: Transient) -> Transient:
        """The same error with its cause in plain words. Takes up to ``LOOK_TIMEOUT_S``, now and then."""
        if error.fault is not Fault.UNREACHABLE:
            return error
        text = str(error)
        own = self._destination.transport == "http" or _OF_GRPC.search(text)
        words = in_plain_words(text, self._destination) if own else text
        if words == text and not self._worked and _CLOSED.search(text):
            words = await self._look() or words
        return error if words == text else Transient(words, error.retry_after_s, error.fault)

    async def _look(self) -> str:
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= LOOK_INTERVAL_S:
            self._looked_at = now
            # On a thread: asyncio's streams end silently where the socket itself would tell of an alert.
            greet = _greet_tls_port if self._destination.secure else _greet_plain_port
            self._seen = await asyncio.to_thread(greet, self._destination)
        return self._seen


def _greet_plain_port(destination: Destination) -> str:
    """Whether a port that was taken for a plain one speaks TLS."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent, whoever it is
    try:
        with _shake_hands(destination, context):
            pass
    except ssl.SSLError as error:
        if "alert" not in str(error).lower():  # who sends an alert speaks TLS
            return ""
    except OSError:
        return ""
    return f"it speaks TLS at port {destination.host_and_port()[1]}: https instead of http?"


def _greet_tls_port(destination: Destination) -> str:
    """What a TLS server has against us: in TLS 1.3 it says so after the handshake, when no client listens any more."""
    try:
        context = tls.ssl_context(destination.tls)
        if destination.transport != "http":
            context.set_alpn_protocols(["h2"])
        with _shake_hands(destination, context) as connection:
            # Without a word of ours: a server that closes on unread bytes resets the connection, and its alert is lost.
            if connection.recv(1) == b"" and destination.tls.cert_file is None:
                return (
                    "it closes the connection after the TLS handshake: does it ask for a certificate (tls.cert_file)?"
                )
    except (ssl.SSLError, OtlpConfigError) as error:
        words = in_plain_words(str(error), destination)
        return words if words != str(error) else ""
    except OSError:
        pass
    return ""


@contextlib.contextmanager
def _shake_hands(destination: Destination, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """Blocks, up to ``LOOK_TIMEOUT_S`` at each step. Raises ``OSError``, of which ``ssl.SSLError`` is one."""
    host, port = destination.host_and_port()
    with (
        socket.create_connection((host, port), LOOK_TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        yield connection
