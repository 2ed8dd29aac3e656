"""A collector inside a program: asynchronous, synchronous, from many threads, to the very end of the process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from arrow_forms import batch_of, foreign
from doors import REQUEST, span_request, until
from otlp_arrow import (
    Busy,
    Closed,
    Collector,
    DirectoryLocked,
    OtlpConfigError,
    OtlpError,
    OtlpExportError,
    OtlpIOError,
    OtlpLibrary,
    OtlpServerError,
    Receipt,
    Rejected,
    Settings,
    TooLarge,
)
from otlp_arrow.app.library import in_process_settings
from otlp_arrow.app.loop_thread import LoopThread
from otlp_arrow.codec import columns
from otlp_arrow.model import Signal
from sdk_telemetry import telemetry
from served import clean_environment
from strategies import rows

posix = pytest.mark.skipif(os.name != "posix", reason="forks and signals of POSIX")


def span_names(directory: Path) -> list[str]:
    """The names of the spans in the files of a directory."""
    names = []
    for path in sorted((directory / "otlp/traces").glob("*.arrows")):
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            names += [name for batch in reader for name in columns.read(batch.column("name"))]
    return names


@pytest.fixture
def library(tmp_path: Path) -> Iterator[OtlpLibrary]:
    with OtlpLibrary(in_process_settings(tmp_path)) as opened:
        yield opened


# -- Collector -----------------------------------------------------------------------------------


async def test_a_collector_keeps_what_it_is_given_in_every_form(tmp_path: Path):
    batch = batch_of(Signal.TRACES)
    async with Collector(in_process_settings(tmp_path)) as collector:
        assert collector.ports() == {}
        message = REQUEST[Signal.TRACES].FromString(span_request("message"))
        assert await collector.export_traces(message) == Receipt(1, sequence=1)
        assert await collector.export_traces(span_request("bytes")) == Receipt(1, sequence=2)
        assert await collector.export_traces(memoryview(span_request("view"))) == Receipt(1, sequence=3)  # type: ignore[arg-type]
        assert (await collector.export_traces(batch)).rows == batch.num_rows
        assert (await collector.export_traces(pa.Table.from_batches([foreign(batch)] * 2))).rows == 2 * batch.num_rows
        assert await collector.export_traces(batch.slice(0, 0)) == Receipt(0)
        assert await collector.export_traces(pa.Table.from_batches([], batch.schema)) == Receipt(0)
        assert (await collector.export_metrics(batch_of(Signal.METRICS))).rows > 0
        assert (await collector.export_logs(batch_of(Signal.LOGS))).rows > 0
        await collector.flush()
        assert len(span_names(tmp_path)) == 3 + 3 * batch.num_rows
        stats = collector.stats()
        assert stats["traces"]["accepted"] == stats["traces"]["stored"] == 3 + 3 * batch.num_rows
        assert stats["traces"]["segments"] == 1
        assert stats["wal_sequence"] == 7
        assert collector.health()["status"] == "ok"
    with pytest.raises(Closed, match="async with"):
        await collector.export_traces(span_request("late"))


async def test_rows_that_change_after_they_were_exported_are_kept_as_they_were(tmp_path: Path):
    import numpy as np

    kinds = np.ones(batch_of(Signal.TRACES).num_rows, np.int32)
    batch = batch_of(Signal.TRACES)
    batch = batch.set_column(batch.schema.get_field_index("kind"), batch.schema.field("kind"), pa.array(kinds))
    async with Collector(in_process_settings(tmp_path)) as collector:
        await collector.export_traces(batch)
        kinds[:] = 5
        await collector.flush()
        (path,) = (tmp_path / "otlp/traces").glob("*.arrows")
        stored = pa.ipc.open_stream(path).read_all()
    assert set(stored.column("kind").to_pylist()) == {1}


async def test_the_doors_are_those_that_the_settings_enable_and_the_admin_port_is_asked_for(tmp_path: Path):
    protocols = {"protobuf_enabled": False, "http_port": 0, "arrow_flight_port": 0}
    settings = Settings(output_dir=tmp_path, host="127.0.0.1", protocols=protocols, admin_port=0)
    async with Collector(settings) as collector:
        assert set(collector.ports()) == {"otlp_http", "flight"}
    async with Collector(settings, admin=True) as collector:
        ports = collector.ports()
        assert set(ports) == {"otlp_http", "flight", "admin"}
        url = f"http://127.0.0.1:{ports['admin']}/health"
        health = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read())
        assert json.loads(health)["status"] == "ok"


async def test_a_cancelled_export_leaves_the_collector_whole(tmp_path: Path):
    async with Collector(in_process_settings(tmp_path)) as collector:
        tasks = [asyncio.create_task(collector.export_traces(span_request(f"n{i}"))) for i in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, Receipt) for result in results[1::2])
        await collector.flush()
        found = Counter(span_names(tmp_path))
        assert all(found[f"n{i}"] == 1 for i in range(1, 50, 2))
        assert max(found.values()) == 1
        assert (await collector.export_traces(span_request("after"))).rows == 1


async def test_large_rows_are_prepared_beside_the_loop(tmp_path: Path):
    large = pa.Table.from_batches([batch_of(Signal.TRACES)] * 4)
    assert large.nbytes > 2**20
    async with Collector(in_process_settings(tmp_path)) as collector:
        assert (await collector.export_traces(large)).rows == large.num_rows


# -- errors --------------------------------------------------------------------------------------


def test_errors_have_types_and_say_what_to_do(tmp_path: Path):
    for kind in (OtlpConfigError, OtlpServerError, OtlpIOError, OtlpExportError):
        assert issubclass(kind, OtlpError)
    assert issubclass(OtlpIOError, OSError)
    with pytest.raises(OtlpConfigError, match=r"write_interval_secs.*1 to 3600"):
        in_process_settings(tmp_path, write_interval_secs=0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OtlpIOError, match="file"):
        OtlpLibrary(in_process_settings(tmp_path / "file"))
    with OtlpLibrary(in_process_settings(tmp_path / "a")):
        with pytest.raises(DirectoryLocked, match="choose another output_dir"):
            OtlpLibrary(in_process_settings(tmp_path / "a"))
        protocols = {"protobuf_enabled": False, "arrow_flight_enabled": False, "http_port": 0}
        settings = Settings(output_dir=tmp_path / "b", host="127.0.0.1", protocols=protocols)
        with OtlpLibrary(settings) as first:
            taken = {**protocols, "http_port": first.ports()["otlp_http"]}
            with pytest.raises(OtlpServerError, match=r"choose another port \(setting protocols.http_port"):
                OtlpLibrary(Settings(output_dir=tmp_path / "c", host="127.0.0.1", protocols=taken))
    with OtlpLibrary(in_process_settings(tmp_path / "c")):  # nothing of the failed one is left open
        pass


def test_what_cannot_be_exported_is_refused_in_words(library: OtlpLibrary):
    cases: list[tuple[Any, type[Exception], str]] = [
        (7, TypeError, "int cannot be exported as traces"),
        ([7], TypeError, "int is no span"),
        (None, TypeError, "NoneType"),
        (REQUEST[Signal.LOGS](), TypeError, "ExportTraceServiceRequest is expected"),
        (b"\xff", Rejected, "malformed"),
        (pa.table({"x": [1]}), Rejected, "'x'"),
    ]
    for exported, kind, words in cases:
        with pytest.raises(kind, match=words):
            library.export_traces(exported)
    with pytest.raises(TypeError, match="int is no MetricsData"):
        library.export_metrics([7])  # type: ignore[list-item]
    with pytest.raises(Rejected, match="cannot be encoded"):
        library.export_logs([7])  # type: ignore[list-item]
    partly = library.export_traces(span_request("bad", "good", trace_ids=[bytes(16), bytes([1] * 16)]))
    assert (partly.rows, partly.rejected) == (1, 1)
    assert "spans[0]: trace_id is all zero" in partly.message


def test_more_than_max_request_bytes_at_once_is_too_large(tmp_path: Path):
    with OtlpLibrary(in_process_settings(tmp_path, max_request_bytes=2000)) as library:
        for exported in (span_request("x" * 2000), batch_of(Signal.TRACES)):
            with pytest.raises(TooLarge, match="max_request_bytes is 2000"):
                library.export_traces(exported)
        library.export_traces(span_request("small"))


def test_a_full_buffer_says_when_to_come_back(library: OtlpLibrary):
    intake = library._collector._opened.pipeline.intake
    ticket = intake.admit(library.settings.max_buffer_bytes)
    with pytest.raises(Busy) as caught:
        library.export_traces(span_request("x"))
    assert caught.value.retry_after_s == 1.0
    ticket.release()
    library.export_traces(span_request("x"))


# -- OtlpLibrary ---------------------------------------------------------------------------------


def test_a_library_is_open_until_it_is_shut_down_once_or_more(tmp_path: Path):
    library = OtlpLibrary(in_process_settings(tmp_path))
    assert "open" in repr(library)
    library.export_traces(span_request("one"))
    assert library.shutdown() is True
    assert library.shutdown() is True
    assert "closed" in repr(library)
    assert span_names(tmp_path) == ["one"]
    for call in (lambda: library.export_traces(span_request("two")), library.flush, library.stats):
        with pytest.raises(Closed, match="open another"):
            call()
    with OtlpLibrary(in_process_settings(tmp_path)) as again:
        assert again.stats()["traces"]["segment_records"] == 1


def test_a_library_answers_what_a_collector_answers(library: OtlpLibrary):
    assert library.health()["ready"] is True
    assert library.ports() == {}
    library.export_logs(b"")
    assert library.stats()["logs"]["accepted"] == 0


async def test_the_async_variants_work_in_the_callers_own_loop(library: OtlpLibrary):
    made = telemetry()
    await asyncio.gather(*(library.export_trace_async(span) for span in made.spans))
    assert (await library.export_metrics_async([made.metrics, made.metrics])).rows > 0
    assert (await library.export_logs_async(record for record in made.logs)).rows == len(made.logs)
    await library.flush_async()
    assert sorted(span_names(library.settings.output_dir)) == sorted(span.name for span in made.spans)
    assert await library.shutdown_async()
    with pytest.raises(Closed):
        await library.export_trace_async(made.spans[0])


def test_a_hundred_threads_and_a_hundred_tasks_export_and_every_record_is_there_once(library: OtlpLibrary):
    """Each sends five requests of two spans, under names of its own."""
    start = threading.Barrier(101)

    def export(thread: int) -> None:
        start.wait()
        for number in range(5):
            assert library.export_traces(span_request(f"t{thread}.{number}a", f"t{thread}.{number}b")).rows == 2

    async def export_async(task: int) -> None:
        for number in range(5):
            receipt = await library.export_traces_async(span_request(f"c{task}.{number}a", f"c{task}.{number}b"))
            assert receipt.rows == 2

    async def export_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            for task in range(100):
                tasks.create_task(export_async(task))

    threads = [threading.Thread(target=export, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    start.wait()
    asyncio.run(export_all())
    for thread in threads:
        thread.join(30)
    library.flush()
    expected = {f"{kind}{i}.{n}{part}" for kind in "tc" for i in range(100) for n in range(5) for part in "ab"}
    found = span_names(library.settings.output_dir)
    assert len(found) == len(expected) == 2000
    assert set(found) == expected


def test_exports_under_way_while_it_shuts_down_are_kept_or_refused_and_nobody_hangs(tmp_path: Path):
    library = OtlpLibrary(in_process_settings(tmp_path))
    kept: list[str] = []
    started = threading.Barrier(11)

    def export(thread: int) -> None:
        started.wait()
        for number in range(10_000):
            try:
                library.export_traces(span_request(f"{thread}.{number}"))
            except Closed:
                return
            kept.append(f"{thread}.{number}")

    threads = [threading.Thread(target=export, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    started.wait()
    while len(kept) < 100:
        threads[0].join(0.01)
    assert library.shutdown()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    found = Counter(span_names(tmp_path))
    assert max(found.values()) == 1
    assert set(kept) <= set(found)


def test_waiting_in_the_librarys_own_loop_is_an_error_and_not_for_ever(library: OtlpLibrary):
    async def inside() -> str:
        with pytest.raises(OtlpExportError, match="its own event loop"):
            library.flush()
        return "done"

    assert library._thread.submit(inside).result(10) == "done"


def test_a_call_that_takes_too_long_is_told_so(library: OtlpLibrary, monkeypatch: pytest.MonkeyPatch):
    held = threading.Event()
    monkeypatch.setattr(type(library._collector._opened.pipeline), "flush", lambda _: asyncio.sleep(3600))
    with pytest.raises(Busy, match="no answer in 0 s"):
        library.flush(timeout_s=0.05)
    held.set()


def test_a_collector_that_cannot_be_opened_leaves_no_thread(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(OtlpIOError):
            OtlpLibrary(in_process_settings(tmp_path / "file"))
    assert sum(t.name == "otlp-arrow" for t in threading.enumerate()) == 0
    assert threading.active_count() <= before + 1


class Part:
    """A part that opens when told, and may fail to close."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.go = threading.Event()

    async def __aenter__(self) -> Part:
        while not self.go.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.001)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.error is not None:
            raise self.error


def test_a_part_that_does_not_open_in_time_is_given_up():
    thread = LoopThread("test", Part())
    with pytest.raises(TimeoutError):
        thread.start(0.02)
    thread._thread.join(10)
    assert not thread._thread.is_alive()
    with pytest.raises(Closed):
        thread.submit(lambda: asyncio.sleep(0))


def test_a_part_that_fails_to_close_says_so_once():
    part = Part(OSError("the disk is gone"))
    part.go.set()
    thread = LoopThread("test", part)
    assert thread.start() is part
    with pytest.raises(OSError, match="gone"):
        thread.stop()
    assert thread.stop() is True


def test_what_is_submitted_last_is_cancelled_and_nobody_waits_for_ever():
    part = Part()
    part.go.set()
    thread = LoopThread("test", part)
    thread.start()
    never = thread.submit(asyncio.Event().wait)
    assert thread.stop(10)
    assert never.cancelled()


# -- the process ---------------------------------------------------------------------------------


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    prelude = "import os, sys; from otlp_arrow import *; from otlp_arrow.app.library import in_process_settings\n"
    prelude += f"sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r}); from doors import span_request\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
        check=False,
    )


def test_a_program_that_forgets_to_shut_down_ends_and_its_files_are_closed(tmp_path: Path):
    done = run("OtlpLibrary(in_process_settings(sys.argv[1])).export_traces(span_request('kept'))", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert span_names(tmp_path) == ["kept"]
    with OtlpLibrary(in_process_settings(tmp_path)) as library:
        assert library.stats()["traces"]["replayed"] == 0


def test_what_was_exported_outlives_the_process_that_is_killed(tmp_path: Path):
    done = run(
        """
        library = OtlpLibrary(in_process_settings(sys.argv[1]))
        library.export_traces(span_request("kept"))
        os.kill(os.getpid(), 9)
        """,
        tmp_path,
    )
    assert done.returncode == -signal.SIGKILL
    with OtlpLibrary(in_process_settings(tmp_path)) as library:
        assert library.stats()["traces"]["replayed"] == 1
    assert span_names(tmp_path) == ["kept"]


@posix
def test_after_a_fork_the_child_is_told_and_the_parent_goes_on(tmp_path: Path):
    done = run(
        """
        import warnings; warnings.simplefilter("ignore")
        library = OtlpLibrary(in_process_settings(sys.argv[1] + "/parent"))
        library.export_traces(span_request("before"))
        child = os.fork()
        if not child:
            try:
                library.export_traces(span_request("never"))
            except OtlpExportError as error:
                print(error)
            print(repr(library), library.shutdown(), flush=True)
            with OtlpLibrary(in_process_settings(sys.argv[1] + "/child")) as own:
                own.export_traces(span_request("child"))
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        library.export_traces(span_request("after"))
        library.shutdown()
        with OtlpLibrary(in_process_settings(sys.argv[1] + "/parent")) as again:  # the lock was let go
            again.export_traces(span_request("again"))
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "after the fork, with an output_dir of its own" in done.stdout
    assert "of another process) True" in done.stdout
    assert span_names(tmp_path / "parent") == ["before", "after", "again"]
    assert span_names(tmp_path / "child") == ["child"]


async def test_a_library_that_was_shut_down_meanwhile_says_so_to_whoever_waits(tmp_path: Path):
    library = OtlpLibrary(in_process_settings(tmp_path))
    waiting = asyncio.create_task(library._await(library._thread.submit(asyncio.Event().wait)))
    await until(lambda: len(asyncio.all_tasks(library._thread._loop)) > 0)
    await library.shutdown_async()
    with pytest.raises(Closed, match="meanwhile"):
        await waiting


def test_the_rows_of_sdk_objects_are_those_of_their_request(library: OtlpLibrary):
    from otlp_arrow.codec import reference
    from otlp_arrow.receivers import sdk_objects

    made = telemetry()
    library.export_traces(made.spans)
    library.flush()
    (path,) = (library.settings.output_dir / "otlp/traces").glob("*.arrows")
    (batch,) = pa.ipc.open_stream(path).read_all().to_batches()
    request = sdk_objects.trace_request(made.spans).SerializeToString()
    assert rows(batch) == rows(reference.decode(Signal.TRACES, request))
