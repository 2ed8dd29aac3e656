"""Ready or not, in one line and one exit code, quickly."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import threading

import pytest
import trustme

from otlp_arrow.app.admin import AdminServer
from otlp_arrow.app.health import Health, Phase
from otlp_arrow.app.telemetry import PrometheusMeter
from otlp_arrow.cli.healthcheck import check, get, healthcheck, url_of_settings
from otlp_arrow.model.status import PartStatus


@pytest.fixture
async def health() -> Health:
    health = Health(compiled_kernel=True)
    health.phase = Phase.SERVING
    return health


async def ask(server: AdminServer, scheme: str = "http") -> tuple[bool, str]:
    return await asyncio.to_thread(check, f"{scheme}://127.0.0.1:{server.bound_port}/health", None, 5)


async def test_a_ready_collector_is_ready(health: Health):
    async with AdminServer(health, PrometheusMeter(), host="127.0.0.1", port=0) as server:
        assert await ask(server) == (True, "ready: ok")


async def test_one_that_is_not_ready_says_why(health: Health):
    health.include(lambda: [PartStatus("wal", "failed", "disk full")])
    async with AdminServer(health, PrometheusMeter(), host="127.0.0.1", port=0) as server:
        assert await ask(server) == (False, "not ready: failed: wal: disk full")


async def test_it_asks_over_tls_whoever_signed_the_certificate(health: Health):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("collector.example.com").configure_cert(context)
    async with AdminServer(health, PrometheusMeter(), host="127.0.0.1", port=0, tls=context) as server:
        assert await ask(server, "https") == (True, "ready: ok")


def test_nobody_there_is_not_ready(capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert healthcheck(f"http://127.0.0.1:{port}") == 1
    assert "no answer" in capsys.readouterr().out


def test_somebody_who_never_answers_is_not_ready():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ready, line = check(f"http://127.0.0.1:{silent.getsockname()[1]}", None, 0.2)
    assert not ready
    assert "no answer" in line


@pytest.mark.parametrize("answer", [b"", b"220 mail ready\r\n\r\n", b"HTTP/1.1\r\n\r\n"])
def test_somebody_who_speaks_something_else_is_not_ready(answer: bytes):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(ValueError, match="not HTTP"):
                get(f"http://127.0.0.1:{server.getsockname()[1]}", 5)
        finally:
            thread.join()


@pytest.mark.parametrize("url", ["ftp://x", "localhost:13133", "http://"])
def test_what_is_no_url_is_not_ready(url: str):
    assert not check(url, None, 1)[0]


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://localhost:13133/health"),
        ({"OTLP_HOST": "0.0.0.0", "OTLP_ADMIN_PORT": "81"}, "http://127.0.0.1:81/health"),
        ({"OTLP_HOST": "::"}, "http://[::1]:13133/health"),
        ({"OTLP_HOST": "10.0.0.7"}, "http://10.0.0.7:13133/health"),
        ({"OTLP_ADMIN_PORT": "tcp://10.0.0.7:81"}, "http://localhost:13133/health"),
        ({"OTLP_TLS_CERT_FILE": "/x"}, "https://localhost:13133/health"),
    ],
)
def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], url: str):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert url_of_settings(None) == url


def test_the_address_comes_from_the_settings_file(monkeypatch: pytest.MonkeyPatch, tmp_path):
    (tmp_path / "config.yaml").write_text("admin_port: 81\nhost: 10.1.1.1\n")
    assert url_of_settings(tmp_path / "config.yaml") == "http://10.1.1.1:81/health"
    monkeypatch.setenv("OTLP_CONFIG", str(tmp_path / "config.yaml"))
    assert url_of_settings(None) == "http://10.1.1.1:81/health"


def test_settings_that_are_wrong_are_one_line_and_exit_code_1(tmp_path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "config.yaml").write_text("no_such_key: 1\n")
    assert healthcheck(None, tmp_path / "config.yaml") == 1
    assert "no_such_key" in capsys.readouterr().out


def test_asking_imports_nothing_heavy():
    """It runs every few seconds in a container; pydantic alone would triple what it costs."""
    code = (
        "import sys, otlp_arrow.cli.main, otlp_arrow.cli.healthcheck as h; h.check(h.url_of_settings(None), None, 0.1);"
        "print([m for m in ('pydantic', 'pyarrow', 'grpc', 'aiohttp', 'typer', 'rich', 'yaml', 'ssl', 'email')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
