"""Certificates for the TLS tests, in files as a user has them."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import grpc
import trustme

from otlp_arrow.receivers import ServerTls


class Certificates:
    """An authority, a server certificate for localhost and a client certificate."""

    def __init__(self, directory: Path) -> None:
        self.cert = directory / "cert.pem"
        self.key = directory / "key.pem"
        self.ca = directory / "ca.pem"
        self._renewals = 0
        self.replace_authority()

    def replace_authority(self) -> None:
        """Everything anew, in place."""
        self.authority = trustme.CA()
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        self._write(self.cert, b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self._write(self.key, issued.private_key_pem.bytes())
        self._write(self.ca, self.authority.cert_pem.bytes())
        self._renewals += 1

    def _write(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        stat = path.stat()  # a new modification time even where clocks are coarse
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + self._renewals * 1_000_000_000))

    def server(self, mutual: bool = False) -> ServerTls:
        return ServerTls(self.cert, self.key, self.ca if mutual else None)

    def grpc_client(self, mutual: bool = False) -> grpc.ChannelCredentials:
        authority = self.authority.cert_pem.bytes()
        if not mutual:
            return grpc.ssl_channel_credentials(authority)
        issued = self.authority.issue_cert("client.example")
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return grpc.ssl_channel_credentials(authority, issued.private_key_pem.bytes(), chain)

    def https_client(self, mutual: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if mutual:
            self.authority.issue_cert("client.example").configure_cert(context)
        return context

    @staticmethod
    def other_authority_pem() -> bytes:
        return trustme.CA().cert_pem.bytes()
