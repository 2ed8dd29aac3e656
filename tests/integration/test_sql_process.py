"""User's SQL runs in processes that cannot harm the one that collects: bounded, ended, replaced; real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

import asked
import shop
from otlp_arrow.app.settings import Settings
from otlp_arrow.app.wiring import open_collector
from otlp_arrow.model import Batch, Signal
from otlp_arrow.query import BadQuery, QueryCancelled, QueryError, QueryTimeout, SpanStore, sql_process
from otlp_arrow.query.budget import Budget
from otlp_arrow.query.sql_bounds import GROWTH_BYTES
from waiting import wait_until

SLOW = "SELECT count(*) FROM range(100000000000) a, range(1000) b"
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux bounds what a process allocates")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.fill(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def store(directory: Path) -> Iterator[SpanStore]:
    with SpanStore.open(directory) as opened:
        yield opened


@pytest.fixture(autouse=True)
def own_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[sql_process.Pool]:
    """Workers of this test alone."""
    fresh = sql_process.Pool()
    monkeypatch.setattr(sql_process, "workers", fresh)
    yield fresh
    fresh.close()
    assert not fresh.processes


HUGE = {
    "a string of ten billion": "SELECT length(repeat('x', 10000000000))",
    "a string of four billion": "SELECT length(repeat('x', 4000000000))",
    "a list of three billion": "SELECT len(range(3000000000))",
    "text that grows by replacing": (
        "SELECT length(replace(replace(repeat('x', 30000000), 'x', repeat('x', 25)), 'x', 'xxxxxxxxxxxx'))"
    ),
    "text of a hundred million rows": "SELECT length(string_agg('xxxxxxxxxxxxxxxxxxxx', '')) FROM range(100000000)",
    "a list of a billion rows": "SELECT len(list(range)) FROM range(1000000000)",
    "text that doubles": (
        "WITH RECURSIVE t AS (SELECT 'x' AS s UNION ALL SELECT s || s FROM t) SELECT max(length(s)) FROM t"
    ),
    "an answer that is too large": "SELECT repeat('x', 10000) FROM range(100000)",
    "a group for each of a hundred million": "SELECT range, count(*) FROM range(100000000) GROUP BY 1 ORDER BY 2",
    "padding": "SELECT length(lpad('x', 1500000000, 'y'))",
}


@LINUX
@pytest.mark.parametrize("statement", HUGE.values(), ids=HUGE)
def test_a_statement_that_makes_huge_values_is_refused_within_its_bound(
    store: SpanStore, own_workers: sql_process.Pool, statement: str
):
    store.sql("SELECT 1")
    (worker,) = own_workers.processes
    before = memory(worker, "VmData")
    peak = Peak(worker)
    with peak, pytest.raises((BadQuery, QueryTimeout)):
        store.sql(statement)
    assert peak.bytes <= before + GROWTH_BYTES
    assert store.sql("SELECT 1").rows == [(1,)]


def memory(process: int, name: str) -> int:
    with open(f"/proc/{process}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


class Peak:
    """The most private memory of a process while this is entered."""

    def __init__(self, process: int) -> None:
        self.bytes = 0
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.002):
            try:
                self.bytes = max(self.bytes, memory(self._process, "VmData"))
            except (OSError, StopIteration):  # it has ended
                return


def test_statements_one_after_the_other_share_a_process(store: SpanStore, own_workers: sql_process.Pool):
    assert store.sql("SELECT count(*) FROM traces").rows[0][0] > 0
    first = own_workers.processes
    with pytest.raises(BadQuery):
        store.sql("SELECT nothing FROM traces")
    store.sql("SELECT count(*) FROM logs")
    assert own_workers.processes == first
    assert len(first) == 1


def test_at_most_so_many_statements_run_at_a_time_and_the_others_wait_for_their_turn(
    store: SpanStore, own_workers: sql_process.Pool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sql_process, "MAX_WORKERS", 1)
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(store.sql("SELECT ?", [n]).rows[0][0])) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [0, 1, 2, 3]
    assert len(own_workers.processes) == 1


def test_who_waits_for_a_turn_gives_up_in_time(
    directory: Path, own_workers: sql_process.Pool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sql_process, "MAX_WORKERS", 0)
    with SpanStore.open(directory, timeout_s=0.1) as store, pytest.raises(QueryTimeout):
        store.sql("SELECT 1")


def test_a_process_that_nobody_asks_is_ended(
    store: SpanStore, own_workers: sql_process.Pool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sql_process, "IDLE_S", 0.05)
    store.sql("SELECT 1")
    wait_until(lambda: not own_workers.processes)
    assert store.sql("SELECT 1").rows == [(1,)]


def test_a_process_that_died_while_nobody_asked_is_replaced(store: SpanStore, own_workers: sql_process.Pool):
    store.sql("SELECT 1")
    (worker,) = own_workers.processes
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not own_workers._idle[0].alive)
    assert store.sql("SELECT 1").rows == [(1,)]
    assert own_workers.processes != [worker]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (signal.SIGKILL, "ended from outside (SIGKILL, which is also what a system does that runs out of memory)"),
        (signal.SIGTERM, "ended from outside (SIGTERM)"),
        (signal.SIGSEGV, "crashed (SIGSEGV)"),
        (signal.SIGABRT, "crashed (SIGABRT)"),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
def test_a_process_that_dies_over_a_statement_is_an_error_that_tells_why(
    store: SpanStore, own_workers: sql_process.Pool, caplog: pytest.LogCaptureFixture, sent: signal.Signals, told: str
):
    store.sql("SELECT 1")
    (worker,) = own_workers.processes
    asking, outcome = asked_beside(lambda: store.sql(SLOW))
    wait_until(lambda: own_workers.busy)
    os.kill(worker, sent)
    asking.join(30)
    assert told in str(outcome[0])
    assert not isinstance(outcome[0], BadQuery)  # nobody's question was wrong
    assert ("Fatal Python error" in caplog.text) == told.startswith("crashed")
    assert store.sql("SELECT 1").rows == [(1,)]


ENDS = """
import sys
from otlp_arrow.query import sql_worker
def answered(self, request):
    %s
sql_worker.Worker._answered = answered
sql_worker.main()
"""


@LINUX
@pytest.mark.parametrize(
    ("does", "kind", "told"),
    [
        ("return bytearray(2**40)", BadQuery, "more memory than it may"),
        ("sys.stderr.write('x' * 200_000); import pyarrow as pa; pa.allocate_buffer(2**33)", BadQuery, "more memory"),
        ("import os; os._exit(3)", QueryError, "ended with exit code 3"),
        ("return 1 / 0", QueryError, "ended with exit code 1"),
        ("import os; os.close(1); os._exit(0)", QueryError, "ended with exit code 0"),
    ],
    ids=["memory", "memory of a library", "an exit code", "an exception", "no answer"],
)
def test_what_a_process_says_when_it_ends_tells_why(
    store: SpanStore, monkeypatch: pytest.MonkeyPatch, does: str, kind: type[QueryError], told: str
):
    monkeypatch.setattr(sql_process, "_START", f"import json,sys; sys.path[:]=json.loads(sys.argv[1]); {ENDS % does}")
    with pytest.raises(QueryError, match=told) as raised:
        store.sql("SELECT 1")
    assert type(raised.value) is kind


def asked_beside(ask: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(ask())
        except QueryError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_a_statement_whose_time_is_up_is_stopped_and_its_process_goes_on(
    directory: Path, own_workers: sql_process.Pool
):
    with SpanStore.open(directory) as store:
        store.sql("SELECT 1")
    before = own_workers.processes
    with (
        SpanStore.open(directory, timeout_s=0.3) as store,
        pytest.raises(QueryTimeout, match=r"not answered in 0\.3 s"),
    ):
        store.sql(SLOW)
    assert own_workers.processes == before


def test_a_process_that_does_not_stop_in_time_is_ended(
    directory: Path, own_workers: sql_process.Pool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sql_process, "GRACE_S", 0.1)
    with SpanStore.open(directory, timeout_s=5) as store:
        store.sql("SELECT 1")
        (worker,) = own_workers.processes
        os.kill(worker, signal.SIGSTOP)
    with SpanStore.open(directory, timeout_s=0.1) as store, pytest.raises(QueryTimeout):
        store.sql(SLOW)
    assert own_workers.processes == []


async def test_a_cancelled_question_ends_its_process(store: SpanStore, own_workers: sql_process.Pool):
    asking = asyncio.create_task(store.run(store.sql, SLOW))
    async with asyncio.timeout(30):
        while not own_workers._busy:  # noqa: ASYNC110 (threads tell no loop)
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        while own_workers.processes:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_a_question_that_was_cancelled_before_starts_nothing(directory: Path, own_workers: sql_process.Pool):
    budget = Budget(10)
    budget.cancelled.set()
    with SpanStore.open(directory) as store, pytest.raises(QueryCancelled):
        store.target.sql("SELECT 1", [], 10, budget)
    assert own_workers.processes == []


def test_parameters_arrive_as_they_are(store: SpanStore):
    given = ["text \u2028", 2**62, -0.5, True, None, b"\0\xff", datetime(2026, 7, 1, 12), Decimal("1.50"), [1, 2]]
    (found,) = store.sql("SELECT " + ", ".join("?" * len(given)), given).rows
    assert list(found) == given


def test_parameters_that_cannot_be_sent_are_the_questions_fault(store: SpanStore, own_workers: sql_process.Pool):
    with pytest.raises(BadQuery, match="parameters"):
        store.sql("SELECT ?", [lambda: 1])
    with pytest.raises(BadQuery):
        store.sql("SELECT ?", [object()])
    with pytest.raises(BadQuery, match="Unicode"):
        store.sql("SELECT ?", [["\ud800"]])
    with pytest.raises(BadQuery, match="Unicode"):
        store.sql("SELECT '\ud800'")
    assert store.sql("SELECT 1").rows == [(1,)]


@pytest.mark.parametrize("ack", ["fsync", "write", "memory"])
async def test_rows_are_seen_at_once_after_their_acknowledgement(tmp_path: Path, ack: str):
    quiet = {"protocols.protobuf_enabled": False, "protocols.http_enabled": False}
    flags = {"output_dir": tmp_path, "admin_port": 0, "protocols.arrow_flight_enabled": False, "ack": ack, **quiet}
    async with open_collector(Settings.load(flags=flags, environ={}).settings) as collector:
        with SpanStore.open(collector) as store:
            for number in range(3):
                await collector.pipeline.intake.accept(Batch(Signal.LOGS, asked.log_request(5, number * 5)))
                if number == 1:
                    await collector.pipeline.flush()
                found = await store.run(store.sql, "SELECT count(*) FROM logs")
                assert found.rows == [(5 * number + 5,)]


async def test_on_the_collectors_own_loop_a_statement_over_its_memory_is_an_error(tmp_path: Path):
    quiet = {"protocols.protobuf_enabled": False, "protocols.http_enabled": False}
    flags = {"output_dir": tmp_path, "admin_port": 0, "protocols.arrow_flight_enabled": False, "ack": "memory", **quiet}
    async with open_collector(Settings.load(flags=flags, environ={}).settings) as collector:
        with SpanStore.open(collector) as store, pytest.raises(QueryError, match=r"store\.run"):
            store.sql("SELECT count(*) FROM logs")


def test_secrets_in_the_environment_stay_here(store: SpanStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("OTLP_AUTH_BEARER_TOKENS", "hunter2")
    store.sql("SELECT 1")
    (worker,) = sql_process.workers.processes
    environment = Path(f"/proc/{worker}/environ")
    if not environment.exists():
        pytest.skip("nowhere to look")
    assert b"hunter2" not in environment.read_bytes()


@pytest.mark.parametrize("why", ["no interpreter", "it does not start", "it ends at once"])
def test_where_no_process_can_be_started_sql_is_answered_in_this_one(
    store: SpanStore, own_workers: sql_process.Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, why: str
):
    if why == "no interpreter":
        monkeypatch.setattr(sys, "executable", "/opt/program")
    elif why == "it does not start":
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    else:
        monkeypatch.setattr(sql_process, "_START", "raise SystemExit(1)")
    assert store.sql("SELECT count(*) FROM traces").rows[0][0] > 0
    with pytest.raises(BadQuery):
        store.sql("SELECT nothing")
    assert own_workers.processes == []


# -- the end of whoever asks ---------------------------------------------------------------------------
PROGRAM = """
import sys, threading
from otlp_arrow.query import SpanStore, sql_process
here = sys.argv[2] == "here"
if here:
    sql_process._can_start = lambda: False
store = SpanStore.open(sys.argv[1], timeout_s=60)
store.sql("SELECT 1")
print(*sql_process.workers.processes, flush=True)
try:
    store.sql(sys.argv[3])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


class Program:
    """A program that asks ``SLOW`` on its main thread."""

    def __init__(self, directory: Path, where: str, statement: str = SLOW) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(directory), where, statement], stdout=subprocess.PIPE, text=True
        )
        self.workers = [int(each) for each in self.process.stdout.readline().split()]

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(30)
        self.process.stdout.close()


def is_busy(process: int) -> bool:
    """Whether it computes: its clock ticks on."""
    stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(stat[11]) + int(stat[12]) > 150  # more than its imports take


@LINUX
@pytest.mark.parametrize("where", ["in a worker", "here"])
def test_ctrl_c_on_the_main_thread_is_a_keyboard_interrupt(directory: Path, where: str):
    with Program(directory, where) as program:
        computing = program.workers[0] if program.workers else program.process.pid
        wait_until(lambda: is_busy(computing))
        program.process.send_signal(signal.SIGINT)
        assert program.process.communicate(timeout=30)[0] == "interrupted\n"
        assert program.process.returncode == 0
        for worker in program.workers:
            wait_until(lambda worker=worker: not Path(f"/proc/{worker}").exists())


@LINUX
def test_a_killed_program_takes_its_statement_with_it(directory: Path):
    with Program(directory, "in a worker") as program:
        (worker,) = program.workers
        wait_until(lambda: is_busy(worker))
        program.process.kill()
        wait_until(lambda: not is_running(worker))


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@LINUX
def test_a_program_that_ends_leaves_no_process_behind(directory: Path):
    with Program(directory, "in a worker", "SELECT 2") as program:
        assert program.process.wait(30) == 0
        wait_until(lambda: not is_running(program.workers[0]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_after_a_fork_the_child_has_workers_of_its_own(directory: Path):
    program = (
        "import os, sys\n"
        "from otlp_arrow.query import SpanStore, sql_process\n"
        "store = SpanStore.open(sys.argv[1])\n"
        "store.sql('SELECT 1')\n"
        "mine = sql_process.workers.processes\n"
        "child = os.fork()\n"
        "with SpanStore.open(sys.argv[1]) as own:\n"
        "    assert own.sql('SELECT 2').rows == [(2,)]\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    assert store.sql('SELECT 3').rows == [(3,)]\n"
        "    assert sql_process.workers.processes == mine\n"
        "else:\n"
        "    assert sql_process.workers.processes != mine\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, str(directory)], check=True, timeout=60)
