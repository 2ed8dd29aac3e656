"""Questions while segments rotate, expire and are recovered: none fails, and none misses what was acknowledged."""

from __future__ import annotations

import itertools
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import asked
from otlp_arrow.app.library import OtlpLibrary
from otlp_arrow.app.settings import Settings
from otlp_arrow.model import Signal
from otlp_arrow.query import LogQuery, SpanStore
from otlp_arrow.query.source import DirectorySource
from served import Served
from waiting import wait_until

PORTS = {"protocols.protobuf_enabled": False, "protocols.http_enabled": False, "protocols.arrow_flight_enabled": False}
RECORDS = 20


def library_at(directory: Path, **flags: Any) -> OtlpLibrary:
    given = {"output_dir": directory, "admin_port": 0, "host": "127.0.0.1", **PORTS, **flags}
    return OtlpLibrary(Settings.load(flags=given, environ={}).settings, admin=True)


def by_rows(store: SpanStore) -> list[int]:
    return sorted(each.attributes["number"] for each in store.logs(LogQuery(max_logs=100_000)))


def by_sql(store: SpanStore) -> list[int]:
    found = store.sql("SELECT attributes['number']::INT AS n FROM logs ORDER BY n", max_rows=1_000_000)
    return [row[0] for row in found.rows]


class Asker:
    """Asks on a thread of its own until it is stopped; ``acknowledged()`` is looked at before each question."""

    def __init__(
        self, ask: Callable[[], list[int]], acknowledged: Callable[[], int], *, expiring: bool = False
    ) -> None:
        self.answers = 0
        self.problem = ""
        self._ask, self._acknowledged, self._expiring = ask, acknowledged, expiring
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert not self.problem
        assert self.answers

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                known = self._acknowledged()
                found = self._ask()
                self.answers += 1
                first = found[0] if self._expiring and found else 0
                if (found[:1] != [first] and known) or found != list(range(first, first + len(found))):
                    self.problem = f"not whole: {found}"
                elif first + len(found) < known:
                    self.problem = f"{known} were acknowledged, {first} to {first + len(found) - 1} found"
                if self.problem:
                    return
        except Exception as error:
            self.problem = repr(error)


@pytest.fixture(params=["directory", "process", "url", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., tuple[OtlpLibrary, SpanStore]]]:
    closing: list[Callable[[], Any]] = []

    def open_(**flags: Any) -> tuple[OtlpLibrary, SpanStore]:
        flags |= {"ack": "memory"} if request.param == "memory" else {}
        library = library_at(tmp_path, **flags)
        target: Any = library
        if request.param == "directory":
            target = tmp_path
        elif request.param == "url":
            target = f"http://127.0.0.1:{library.ports()['admin']}"
        store = SpanStore.open(target)
        closing.extend([library.shutdown, store.close])
        return library, store

    yield open_
    for close in reversed(closing):
        close()


def test_what_is_written_after_the_segments_were_looked_at_is_found_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    look = DirectorySource._look_at_segments
    with library_at(tmp_path) as library, SpanStore.open(tmp_path) as store:
        library.export_logs(asked.log_request(RECORDS, 0))
        library.flush()
        assert by_rows(store) == list(range(RECORDS))
        library.export_logs(asked.log_request(RECORDS, RECORDS))

        def and_then_it_is_written(source: DirectorySource, signal: Signal) -> Any:
            units = look(source, signal)
            monkeypatch.undo()
            library.flush()
            library.keep_newest(Signal.LOGS, max_rows=RECORDS, max_bytes=10**9)  # says in the cursor what is stored
            return units

        monkeypatch.setattr(DirectorySource, "_look_at_segments", and_then_it_is_written)
        assert by_rows(store)[-RECORDS:] == list(range(RECORDS, 2 * RECORDS))


@pytest.mark.parametrize("how", [by_rows, by_sql])
def test_while_rows_are_flushed_and_segments_rotate(opened: Any, how: Callable[[SpanStore], list[int]]):
    library, store = opened(max_file_size=65_536, write_interval_secs=1)
    sent = itertools.count(0, RECORDS)
    acknowledged = [0]
    asker = Asker(lambda: how(store), lambda: acknowledged[0])
    for step in range(60):
        first = next(sent)
        library.export_logs(asked.log_request(RECORDS, first))
        acknowledged[0] = first + RECORDS
        if step % 3 == 2:
            library.flush()
    wait_until(lambda: asker.answers >= 3 or asker.problem)
    asker.stop()
    assert how(store) == list(range(acknowledged[0]))


def test_while_the_oldest_segments_go(opened: Any):
    library, store = opened()
    acknowledged = [0]
    asker = Asker(lambda: by_rows(store), lambda: acknowledged[0], expiring=True)
    for step in range(60):
        library.export_logs(asked.log_request(RECORDS, step * RECORDS))
        acknowledged[0] = (step + 1) * RECORDS
        if step % 5 == 4:
            library.flush()
            library.keep_newest(Signal.LOGS, max_rows=8 * RECORDS, max_bytes=10**9)  # of five requests each
    wait_until(lambda: asker.answers >= 3 or asker.problem)
    asker.stop()
    assert by_rows(store)[-1] == acknowledged[0] - 1


def test_while_a_collector_dies_and_recovers(tmp_path: Path):
    acknowledged = [0]

    def serve_and_die() -> None:
        with Served(tmp_path, "--write-interval-secs", "3600") as served:
            for _ in range(5):
                send(served, asked.log_request(RECORDS, acknowledged[0]))
                acknowledged[0] += RECORDS
            served.process.kill()
            served.process.wait(30)

    serve_and_die()
    with SpanStore.open(tmp_path) as store:
        asker = Asker(lambda: by_rows(store), lambda: acknowledged[0])
        for _ in range(2):
            serve_and_die()
        answers = asker.answers
        wait_until(lambda: asker.answers > answers or asker.problem)
        asker.stop()
        with Served(tmp_path) as served, SpanStore.open(f"http://localhost:{served.admin_port}") as remote:
            assert by_rows(remote) == by_rows(store) == list(range(acknowledged[0]))


def send(served: Served, body: bytes) -> None:
    request = urllib.request.Request(
        f"http://localhost:{served.http_port}/v1/logs", body, {"Content-Type": "application/x-protobuf"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert reply.status == 200
