"""A collector at the end of a URL: what goes wrong there is said in our words."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from certificates import Certificates
from otlp_arrow.model import Signal
from otlp_arrow.query import BadQuery, QueryError, QueryTimeout, SpanQuery, SpanStore


@contextmanager
def answering(status: int, body: bytes, certificates: Certificates | None = None) -> Iterator[str]:
    """A server that says the same to everybody; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if body.startswith(b'{"'):
                self.send_header("Content-Type", "application/problem+json; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("localhost", 0), Handler)
    if certificates is not None:
        server.socket = certificates.server().ssl_context().wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http{'s' if certificates else ''}://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (400, b'{"detail": "limit is a number"}', BadQuery, "limit is a number"),
        (404, b'{"title": "Not there"}', BadQuery, "Not there"),
        (504, b'{"detail": "took too long"}', QueryTimeout, "took too long"),
        (503, b'{"detail": "too many"}', QueryError, "503: too many"),
        (503, b"<html>busy</html>", QueryError, r"http://localhost:\d+ answers 503 .* no collector's query API"),
        (404, b"404: Not Found", QueryError, r"http://localhost:\d+ answers 404 .* admin port"),
        (404, b"{}", QueryError, "answers 404"),
        (404, b'{"": []}', QueryError, "answers 404"),
        (400, b'{"broken', QueryError, "answers 400"),
        (504, b"<html>slow</html>", QueryTimeout, "Gateway Timeout"),
        (200, b"<html>hello</html>", QueryError, "no Arrow stream"),
    ],
)
def test_what_a_url_answers_becomes_the_error_that_a_directory_would_raise(
    status: int, body: bytes, kind: type[Exception], says: str
) -> None:
    with answering(status, body) as url, SpanStore.open(url) as store:
        with pytest.raises(kind, match=says) as raised:
            store.query_spans(SpanQuery())
        assert type(raised.value) is kind


def test_parameters_that_no_request_can_carry_are_refused() -> None:
    with SpanStore.open("http://localhost:9") as store, pytest.raises(BadQuery, match="cannot be sent"):
        store.sql("SELECT ?", [object()])


def test_a_server_that_does_not_answer_is_a_timeout() -> None:
    silent = http.server.HTTPServer(("localhost", 0), http.server.BaseHTTPRequestHandler)  # accepts, never serves
    try:
        url = f"http://localhost:{silent.server_address[1]}"
        with SpanStore.open(url, timeout_s=0.2) as store, pytest.raises(QueryTimeout):
            store.query_spans(SpanQuery())
    finally:
        silent.server_close()


def test_https_trusts_the_given_authority_and_no_other(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    with answering(400, b'{"detail": "heard"}', certificates) as url:
        with SpanStore.open(url, cafile=certificates.ca) as store, pytest.raises(BadQuery, match="heard"):
            store.query_spans(SpanQuery())
        with SpanStore.open(url) as store, pytest.raises(QueryError, match=r"(?i)certificate"):
            store.query_spans(SpanQuery())


def test_a_port_where_nobody_listens_is_not_reached() -> None:
    says = r"http://localhost:9 was not reached: \w"
    with SpanStore.open("http://localhost:9") as store, pytest.raises(QueryError, match=says):
        list(store.read(Signal.TRACES))
