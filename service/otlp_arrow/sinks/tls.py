"""Certificates of the way out, for the three libraries that connect; loaded again when a file changes."""

from __future__ import annotations

import contextlib
import os
import ssl
from pathlib import Path

from otlp_arrow.model import OtlpConfigError
from otlp_arrow.sinks.destination import TlsFiles

Version = tuple[tuple[int, int, int], ...]


def version_of(files: TlsFiles) -> Version:
    """Changes when one of the files does. A file that is missing, as in the middle of a rotation, counts as zeros."""
    found = []
    for path in files.paths():
        try:
            status = os.stat(path)
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def ssl_context(files: TlsFiles, key: str = "forwarding.tls") -> ssl.SSLContext:
    """For aiohttp. Raises ``OtlpConfigError``; so does everything below."""
    try:
        context = ssl.create_default_context(cafile=str(files.ca_file) if files.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise OtlpConfigError(f"{key}.ca_file", str(files.ca_file), f"certificates in PEM: {error}") from None
    if files.cert_file is not None:
        try:
            context.load_cert_chain(files.cert_file, files.key_file)
        except (OSError, ssl.SSLError) as error:
            raise OtlpConfigError(
                f"{key}.cert_file", str(files.cert_file), f"a certificate and its key in PEM: {error}"
            ) from None
    return context


def root_certificates(files: TlsFiles, key: str = "forwarding.tls") -> bytes | None:
    """The authorities to trust, in PEM; the machine's own if no file names others. None if there are none:
    gRPC then takes those that it was built with."""
    if files.ca_file is not None:
        ssl_context(TlsFiles(files.ca_file), key)  # gRPC itself would only say that no handshake succeeds
        return _read(f"{key}.ca_file", files.ca_file)
    usual = ssl.get_default_verify_paths().cafile
    with contextlib.suppress(OSError):
        return Path(usual).read_bytes() if usual else None
    return None


def client_certificate(files: TlsFiles, key: str = "forwarding.tls") -> tuple[bytes, bytes] | None:
    """Certificate chain and private key in PEM, if the remote is to be shown one."""
    if files.cert_file is None or files.key_file is None:
        return None
    ssl_context(files, key)
    return _read(f"{key}.cert_file", files.cert_file), _read(f"{key}.key_file", files.key_file)


def _read(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OtlpConfigError(key, str(path), f"a readable file: {error.strerror}") from None
