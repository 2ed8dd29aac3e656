"""Opening a port so that a failure says what to do."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass

from otlp_arrow.model import OtlpServerError

_TRIES_FOR_A_FREE_PORT = 5
_BACKLOG = 1024  # connections that wait to be taken; the kernel's usual ceiling is 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Where a door listens, and the setting that a user would change. ``port`` 0 takes a free one."""

    door: str
    host: str
    port: int
    setting: str

    def cannot(self, reason: str) -> OtlpServerError:
        """The error for a door that stays closed."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return OtlpServerError(f"{self.door} cannot listen on {host}:{self.port}: {reason}")

    def taken(self) -> OtlpServerError:
        variable = "OTLP_" + self.setting.rpartition(".")[2].upper()
        return self.cannot(
            f"another program listens there; stop it, or choose another port (setting {self.setting}, "
            f"environment {variable})"
        )


def bind(place: Place, *, listen: bool = True) -> list[socket.socket]:
    """Sockets on every address of the host (``localhost`` has two), all with one port.

    Raises ``OtlpServerError``. Addresses of a family that this machine does not have are left out.
    """
    addresses = _resolve(place)
    tries = 1 if place.port else _TRIES_FOR_A_FREE_PORT
    for remaining in reversed(range(tries)):
        try:
            return _bind_all(addresses, place.port, listen)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                if not remaining:
                    raise place.taken() from error
            elif error.errno in (errno.EACCES, errno.EPERM):
                raise place.cannot("the system does not allow it; ports below 1024 need a privilege") from error
            elif error.errno == errno.EADDRNOTAVAIL:
                raise place.cannot("the host is no address of this machine (setting host, OTLP_HOST)") from error
            else:
                raise place.cannot(os.strerror(error.errno) if error.errno else str(error)) from error
    raise AssertionError("unreachable: the last try raises")


def free_addresses(place: Place) -> tuple[list[str], int]:
    """As ``bind``, for a server that must open its sockets itself: the addresses (IPv6 in brackets) and the port.

    The sockets are closed again. gRPC takes ``localhost`` as opened when one of its two addresses
    is, though the other may belong to another program that then gets half of the senders.
    """
    sockets = bind(place, listen=False)
    names = [s.getsockname() for s in sockets]
    for s in sockets:
        s.close()
    return [f"[{name[0]}]" if ":" in name[0] else name[0] for name in names], names[0][1]


def _resolve(place: Place) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise place.cannot("the host name cannot be resolved (setting host, OTLP_HOST)") from error
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def _bind_all(addresses: list[tuple[socket.AddressFamily, str]], port: int, listen: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in addresses:
            try:
                opened = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # a kernel without IPv6
                missing = error
                continue
            sockets.append(opened)
            if os.name == "posix":  # elsewhere the option would let two programs share the port
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # "::" is meant as "every address", as it is to gRPC; "::1" is itself only.
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address != "::"))
            try:
                opened.bind((address, port))
            except OSError as error:
                # A host name may have an address that no interface carries (IPv6 switched off).
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                sockets.pop().close()
                missing = error
                continue
            if listen:
                opened.listen(_BACKLOG)
            opened.setblocking(False)
            port = opened.getsockname()[1]
        if not sockets:
            raise missing or OSError(errno.EADDRNOTAVAIL, "no address")
    except BaseException:
        for s in sockets:
            s.close()
        raise
    return sockets
