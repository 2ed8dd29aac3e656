"""Certificates: what is said about unusable ones, and what happens when they are renewed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from otlp_arrow.model import OtlpConfigError
from otlp_arrow.receivers.tls import ServerTls


class Files:
    """A certificate, its key and its authority in a directory."""

    def __init__(self, directory: Path) -> None:
        self.cert = directory / "cert.pem"
        self.key = directory / "key.pem"
        self.ca = directory / "ca.pem"
        self.authority = trustme.CA()
        self.renew()
        self.authority.cert_pem.write_to_path(self.ca)

    def renew(self) -> None:
        issued = self.authority.issue_cert("localhost")
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def expect_error(files: Files, key: str, path: Path, allowed: str, client_ca: bool = False) -> None:
    with pytest.raises(OtlpConfigError, match=allowed) as error:
        ServerTls(files.cert, files.key, files.ca if client_ca else None)
    assert error.value.key == key
    assert error.value.value == str(path)


def test_good_files_are_taken(files: Files) -> None:
    tls = ServerTls(files.cert, files.key, files.ca)
    assert tls.ssl_context() is not None
    assert tls.grpc_credentials() is not None


def test_a_missing_file_is_named(files: Files) -> None:
    files.cert.unlink()
    expect_error(files, "tls.cert_file", files.cert, "readable file .No such file")


def test_a_missing_authority_is_named(files: Files) -> None:
    files.ca.unlink()
    expect_error(files, "tls.client_ca_file", files.ca, "readable file", client_ca=True)


def test_a_key_of_another_certificate_is_told(files: Files) -> None:
    files.key.write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    expect_error(files, "tls.key_file", files.key, "the private key of the certificate in .*cert.pem")


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_certificate_that_is_none_is_told(files: Files, content: bytes) -> None:
    files.cert.write_bytes(content)
    expect_error(files, "tls.cert_file", files.cert, "a PEM file")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_key_that_is_none_is_told(files: Files, content: bytes) -> None:
    files.key.write_bytes(content)
    expect_error(files, "tls.key_file", files.key, "a PEM file")


def test_an_authority_that_is_none_is_told(files: Files) -> None:
    files.ca.write_bytes(b"nonsense")
    expect_error(files, "tls.client_ca_file", files.ca, "certificates of authorities", client_ca=True)


def test_a_key_with_a_passphrase_is_told_instead_of_asked_for_on_the_terminal(files: Files) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    expect_error(files, "tls.key_file", files.key, "without a passphrase")


def touch_later(path: Path) -> None:
    """A changed modification time even on file systems with coarse clocks."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))


def test_a_renewal_that_cannot_be_used_is_logged_once_and_the_old_one_stays(files: Files) -> None:
    tls = ServerTls(files.cert, files.key)
    before = tls._contexts["http/1.1"]
    files.key.write_bytes(b"half writ")
    touch_later(files.key)
    with capture_logs() as logs:
        tls._refresh()
        tls._refresh()
    assert tls._contexts["http/1.1"] is before
    assert [line["log_level"] for line in logs] == ["error"]
    assert "tls.key_file" in logs[0]["reason"]

    files.renew()
    touch_later(files.cert)
    with capture_logs() as logs:
        tls._refresh()
    assert tls._contexts["http/1.1"] is not before
    assert [line["event"] for line in logs] == ["certificate renewed"]
