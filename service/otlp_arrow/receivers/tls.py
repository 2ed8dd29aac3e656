"""Certificates for every door, read again when their files change."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from otlp_arrow.model import OtlpConfigError

if TYPE_CHECKING:
    import grpc

log = structlog.get_logger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


class ServerTls:
    """What this collector shows its clients, and whom it asks to show a certificate.

    With ``client_ca_file`` clients must have a certificate that it signs (mTLS). Renewed files are noticed at the
    next handshake, without a restart; while they cannot be used (half written, key and certificate
    of different age) the previous ones stay in force and the log says why.

    Raises ``OtlpConfigError`` naming the setting if the files are unusable to begin with.
    """

    def __init__(self, cert_file: Path | str, key_file: Path | str, client_ca_file: Path | str | None = None) -> None:
        self.cert_file = Path(cert_file)
        self.key_file = Path(key_file)
        self.client_ca_file = Path(client_ca_file) if client_ca_file else None
        self._lock = threading.Lock()  # gRPC asks on its own threads
        self._stamp = self._look()
        self._contexts = {"http/1.1": self._load("http/1.1")}  # by the protocol that they offer
        self._generation = 0

    def ssl_context(self, protocol: str = "http/1.1") -> ssl.SSLContext:
        """For asyncio servers of a protocol (its ALPN name, RFC 7301). Hand it over once; its connections see renewed
        files by themselves.
        """
        self._contexts[protocol] = self._load(protocol)
        front = self._load(protocol)

        # Called for every handshake, with or without a server name.
        def choose(connection: ssl.SSLObject, _name: str | None, _front: ssl.SSLContext) -> None:
            self._refresh()
            connection.context = self._contexts[protocol]

        front.sni_callback = choose
        return front

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For ``grpc.aio`` servers and other servers of gRPC's library."""
        import grpc  # 10 MB, which only servers of its library need

        shown = [self._generation]

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            """None means: as before. gRPC asks before each handshake."""
            self._refresh()
            if shown[0] == self._generation:
                return None
            try:
                configuration = self._grpc_configuration()
            except OSError:  # replaced again this very moment; the next handshake sees it
                return None
            shown[0] = self._generation
            return configuration

        return grpc.dynamic_ssl_server_credentials(
            self._grpc_configuration(), renewed, require_client_authentication=self.client_ca_file is not None
        )

    def _grpc_configuration(self) -> grpc.ServerCertificateConfiguration:
        import grpc

        pair = (self.key_file.read_bytes(), self.cert_file.read_bytes())
        authorities = self.client_ca_file.read_bytes() if self.client_ca_file else None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)

    def _refresh(self) -> None:
        """Load the files again if they are not those of the last look."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        with self._lock:
            if stamp == self._stamp:
                return
            self._stamp = stamp  # also when they cannot be used: the log says it once
            try:
                self._contexts = {protocol: self._load(protocol) for protocol in self._contexts}
            except OtlpConfigError as error:
                log.error("renewed certificate is not usable, the previous one stays in force", reason=str(error))
            else:
                self._generation += 1
                log.info("certificate renewed", file=str(self.cert_file))

    def _look(self) -> _Stamp:
        found = []
        for path in (self.cert_file, self.key_file, self.client_ca_file):
            try:
                stat = path.stat() if path else None
            except OSError:
                stat = None
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat else (0, 0, 0))
        return tuple(found)

    def _load(self, protocol: str) -> ssl.SSLContext:
        """The files as a context, which also proves them usable for gRPC (its own errors name no file)."""
        _read("tls.cert_file", self.cert_file)
        _read("tls.key_file", self.key_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([protocol])
        try:
            context.load_cert_chain(self.cert_file, self.key_file, password=_no_password)
        except _Encrypted as error:
            raise OtlpConfigError("tls.key_file", str(self.key_file), "a key without a passphrase") from error
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                expected = f"the private key of the certificate in {self.cert_file}"
                raise OtlpConfigError("tls.key_file", str(self.key_file), expected) from error
            key, path = self._culprit()
            raise OtlpConfigError(key, str(path), f"a PEM file ({error.reason or error})") from error
        if self.client_ca_file:
            _read("tls.client_ca_file", self.client_ca_file)
            try:
                context.load_verify_locations(self.client_ca_file)
            except ssl.SSLError as error:
                expected = f"a PEM file with certificates of authorities ({error.reason or error})"
                raise OtlpConfigError("tls.client_ca_file", str(self.client_ca_file), expected) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _culprit(self) -> tuple[str, Path]:
        """Which of the two files OpenSSL could not read; it does not say."""
        if "-----BEGIN CERTIFICATE-----" not in _read("tls.cert_file", self.cert_file):
            return "tls.cert_file", self.cert_file
        if "PRIVATE KEY-----" not in _read("tls.key_file", self.key_file):
            return "tls.key_file", self.key_file
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.cert_file)
        except ssl.SSLError:
            return "tls.cert_file", self.cert_file
        return "tls.key_file", self.key_file


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    """Called for an encrypted key; OpenSSL would otherwise ask on the terminal."""
    raise _Encrypted


def _read(key: str, path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise OtlpConfigError(key, str(path), f"the path of a readable file ({error.strerror})") from error
