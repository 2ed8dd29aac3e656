"""SQL of users in processes of their own, which the system stops from growing: DuckDB bounds its buffers and not its
values, and a statement of one line can make one of gigabytes (docs/decisions/0012).

A worker is started with the first statement, answers one at a time and is ended when nobody has asked it for a while,
with its statement when whoever asked leaves, and by the end of its input when this process dies. It reads the directory
itself; rows that only this process has are sent to it when it asks for them.

::

    to the worker     length uint64, pickle (ours)
    from the worker   lengths uint32 and uint64, JSON, bytes (Arrow IPC); never unpickled
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import pyarrow as pa

from otlp_arrow.model import Signal
from otlp_arrow.query.budget import Budget
from otlp_arrow.query.errors import BadQuery, QueryError, QueryTimeout
from otlp_arrow.query.source import DirectorySource, PipelineSource, SegmentGone
from otlp_arrow.query.sql_bounds import (
    GRACE_S,
    IDLE_END_S,
    IDLE_S,
    MAX_RESULT_BYTES,
    MAX_WORKERS,
    START_TIMEOUT_S,
    TOO_MUCH_MEMORY,
    check,
)

log = logging.getLogger(__name__)

REQUEST = struct.Struct("<Q")
REPLY = struct.Struct("<IQ")
_MAX_HEAD_BYTES = 1024 * 1024
_MAX_BODY_BYTES = 4 * MAX_RESULT_BYTES  # padding and offsets of Arrow
_POLL_S = 0.05
_DEATH_S = 5.0
"""A process whose pipe has closed is waited for so long: it may be writing why."""

_SAID_BYTES = 16 * 1024

_NO_MEMORY = ("bad_alloc", "MemoryError", "out of memory", "Out of memory", "Cannot allocate memory")
"""What libraries write that cannot go on without the memory which the bound denies them."""

_FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGALRM")
"""Signals that no process of ours sends to itself."""

_START = "import json,sys; sys.path[:]=json.loads(sys.argv[1]); from otlp_arrow.query.sql_worker import main; main()"
_ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others reserve more than they use
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


def run(
    source: DirectorySource, statement: str, parameters: Sequence[object], max_rows: int, budget: Budget
) -> tuple[pa.Table, bool]:
    """As ``sql.run``, in a worker; here where none can be started (then DuckDB's own limits are all there are)."""
    check(statement, parameters, max_rows)
    budget.check()
    worker = workers.take(budget)
    if worker is None:
        return _run_here(source, statement, parameters, max_rows, budget)
    again = False
    try:
        table, truncated, again = worker.ask(source, statement, parameters, max_rows, budget)
        return table, truncated
    except _Answered as error:
        again = error.again
        raise error.cause from None
    finally:
        workers.give_back(worker, again=again)


def _run_here(
    source: DirectorySource, statement: str, parameters: Sequence[object], max_rows: int, budget: Budget
) -> tuple[pa.Table, bool]:
    """On a thread: in DuckDB's hands the main one would not hear of Ctrl-C."""
    from otlp_arrow.query.sql import run  # DuckDB takes 50 ms and 30 MB to import

    if threading.current_thread() is not threading.main_thread():
        return run(source, statement, parameters, max_rows, budget)
    with ThreadPoolExecutor(1, thread_name_prefix="otlp-sql") as thread:
        answer = thread.submit(run, source, statement, parameters, max_rows, budget)
        try:
            return answer.result()
        except KeyboardInterrupt:
            budget.cancelled.set()
            raise


class _Answered(Exception):
    """The worker's answer is an error; whether it can be asked again."""

    def __init__(self, cause: Exception, again: bool) -> None:
        super().__init__(str(cause))
        self.cause, self.again = cause, again


_ERRORS: dict[str, type[QueryError]] = {each.__name__: each for each in (BadQuery, QueryTimeout, QueryError)}


class Worker:
    """A process that answers one statement at a time."""

    def __init__(self) -> None:
        own_group: dict[str, Any] = (
            {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
            if sys.platform == "win32"
            else {"start_new_session": True}  # Ctrl-C is for whoever asked
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OTLP_")}  # no secrets there
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # buffers have locks, which a fork would copy in whatever state they are
            env={**kept, **_ENVIRONMENT},
            **own_group,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._to: IO[bytes] = self.process.stdin
        self._from: IO[bytes] = self.process.stdout
        self._errors: IO[bytes] = self.process.stderr
        self._said = b""
        self._replies: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None] = queue.SimpleQueue()
        # Threads, because a pipe cannot be waited for with a timeout everywhere.
        self._reader = threading.Thread(target=self._read, name="otlp-sql-reader", daemon=True)
        self._listener = threading.Thread(target=self._listen, name="otlp-sql-errors", daemon=True)
        self._reader.start()
        self._listener.start()
        self._timer: threading.Timer | None = None

    def await_start(self, budget: Budget) -> bool:
        """Whether it came up. Raises ``QueryTimeout`` if that takes too long, which another time it may not."""
        reply = self._next(budget, time.monotonic() + START_TIMEOUT_S)
        if reply is None:
            try:
                self.process.wait(1)  # its end of the pipe closes before it can be waited for
            except subprocess.TimeoutExpired:
                raise QueryTimeout(f"no process for SQL came up in {START_TIMEOUT_S:g} s") from None
        return reply is not None

    def ask(
        self, source: DirectorySource, statement: str, parameters: Sequence[object], max_rows: int, budget: Budget
    ) -> tuple[pa.Table, bool, bool]:
        """The answer, whether there was more, and whether it can be asked again.

        Raises ``_Answered``, and other errors after which it is to be ended.
        """
        try:
            request = pickle.dumps(
                {
                    "root": str(source.layout.root.absolute()),
                    "in_memory": isinstance(source, PipelineSource),
                    "statement": statement,
                    "parameters": list(parameters),
                    "max_rows": max_rows,
                    "timeout_s": budget.timeout_s,
                    "left_s": budget.left_s,
                }
            )
        except Exception as error:  # whatever a class of theirs raises
            raise _Answered(BadQuery(f"these parameters cannot be sent: {error}"), True) from None
        self._send(request)
        while True:
            reply = self._next(budget, budget.deadline + GRACE_S)
            if reply is None:
                budget.check()
                raise self._cause_of_death()
            head, body = reply
            match head["kind"]:
                case "snapshot":
                    self._send(pickle.dumps(_snapshot_of(source, Signal(head["signal"]))))
                case "answer":
                    table = pa.ipc.open_stream(body).read_all()
                    return table, head["truncated"], head["again"]
                case "gone":
                    raise _Answered(SegmentGone(head["detail"]), head["again"])
                case _:
                    raise _Answered(_ERRORS.get(head["error"], QueryError)(head["detail"]), head["again"])

    def end(self, grace_s: float = 0.0) -> None:
        """Now, whatever it is doing; one that does nothing may have a moment to end by itself."""
        self.keep()
        if grace_s:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._to.close()
                self.process.wait(grace_s)
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self._listener.join()
        for pipe in self.pipes:
            with contextlib.suppress(OSError):  # what was not sent
                pipe.close()

    @property
    def pipes(self) -> tuple[IO[bytes], ...]:
        """This process's ends."""
        return self._to, self._from, self._errors

    def _cause_of_death(self) -> QueryError:
        """Why there is no answer, as far as can be told from outside."""
        try:
            code = self.process.wait(_DEATH_S)
        except subprocess.TimeoutExpired:
            return QueryError("the process of the statement closed its pipe and did not end; it was killed")
        self._listener.join(_DEATH_S)
        said = self._said.decode("utf-8", "replace").strip()
        if any(sign in said for sign in _NO_MEMORY):
            return BadQuery(TOO_MUCH_MEMORY)
        name = _signal_name(code)
        if name in _FROM_OUTSIDE:
            if name == "SIGKILL":
                name += ", which is also what a system does that runs out of memory"
            return QueryError(f"the process of the statement was ended from outside ({name}); ask again")
        how = f"crashed ({name})" if name else f"ended with exit code {code}"
        log.error("the process of a statement %s; the last it said: %s", how, said or "nothing")
        return QueryError(f"the process of the statement {how}, which is no fault of yours; the log has more")

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def end_after(self, seconds: float, end: Any) -> None:
        """Call ``end`` unless ``keep`` is called before."""
        self._timer = threading.Timer(seconds, end, (self,))
        self._timer.name = "otlp-sql-idle"
        self._timer.daemon = True
        self._timer.start()

    def keep(self) -> None:
        """See ``end_after``."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self, request: bytes) -> None:
        left = memoryview(REQUEST.pack(len(request)) + request)
        try:
            while left:
                left = left[self._to.write(left) :]
        except OSError:
            pass  # it is gone: the reader says so

    def _next(self, budget: Budget, deadline: float) -> tuple[dict[str, Any], bytes] | None:
        """The next reply; None if there is none to come. Raises ``QueryCancelled`` or ``QueryTimeout``."""
        while True:
            if budget.cancelled.is_set() or time.monotonic() > deadline:
                budget.check()
                return None
            try:
                return self._replies.get(timeout=_POLL_S)
            except queue.Empty:
                continue

    def _listen(self) -> None:
        try:
            while piece := self._errors.read(_SAID_BYTES):
                self._said = (self._said + piece)[-_SAID_BYTES:]
        except (OSError, ValueError):  # closed
            pass

    def _read(self) -> None:
        try:
            while True:
                head_length, length = REPLY.unpack(self._exactly(REPLY.size))
                if head_length > _MAX_HEAD_BYTES or length > _MAX_BODY_BYTES:
                    break
                self._replies.put((json.loads(self._exactly(head_length)), self._exactly(length)))
        except (OSError, ValueError, EOFError):
            pass
        self._replies.put(None)

    def _exactly(self, size: int) -> bytes:
        data = bytearray(size)
        left = memoryview(data)
        while left:
            count = self._from.readinto(left)  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            left = left[count:]
        return bytes(data)


def _signal_name(code: int) -> str | None:
    """The name of the signal that a process died of, None if of none."""
    if code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _snapshot_of(source: DirectorySource, kind: Signal) -> dict[str, Any]:
    assert isinstance(source, PipelineSource)
    try:
        taken = source.snapshot(kind)
    except QueryError as error:
        return {"error": str(error)}
    batches = []
    for batch in taken.batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        batches.append(sink.getvalue().to_pybytes())
    return {"before": taken.before, "batches": batches}


class Pool:
    """The workers of this process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._starting = 0
        self._impossible = False

    def take(self, budget: Budget) -> Worker | None:
        """A worker that is nobody else's until it is given back; None if there can be none. Waits for its turn."""
        with self._changed:
            while True:
                budget.check()
                if self._impossible or not _can_start():
                    return None
                while self._idle:
                    worker = self._idle.pop()
                    worker.keep()
                    if worker.alive:
                        self._busy.add(worker)
                        return worker
                    worker.end()
                if len(self._busy) + self._starting < MAX_WORKERS:
                    self._starting += 1
                    break
                self._changed.wait(_POLL_S)
        started: Worker | None = None
        try:
            started = self._started(budget)
        finally:
            with self._changed:
                self._starting -= 1
                if started is not None:
                    self._busy.add(started)
                self._changed.notify()
        return started

    def _started(self, budget: Budget) -> Worker | None:
        try:
            worker = Worker()
        except OSError as error:
            self._give_up(repr(error))
            return None
        started = False
        try:
            started = worker.await_start(budget)
        finally:
            if not started:
                worker.end()
        if not started:
            self._give_up("it ended before it was ready")
            return None
        return worker

    def _give_up(self, why: str) -> None:
        self._impossible = True
        log.warning("SQL runs in this process, bounded less: no process of its own can be started: %s", why)

    def give_back(self, worker: Worker, *, again: bool) -> None:
        """Keep it for a while, or end it."""
        if not again:
            worker.end()
        with self._changed:
            self._busy.discard(worker)
            if again:
                self._idle.append(worker)
                worker.end_after(IDLE_S, self._end_idle)
            self._changed.notify()

    def _end_idle(self, worker: Worker) -> None:
        with self._changed:
            if worker not in self._idle:
                return
            self._idle.remove(worker)
        worker.end(IDLE_END_S)

    def close(self) -> None:
        """End those that nobody is asking."""
        with self._changed:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end(IDLE_END_S)

    @property
    def busy(self) -> int:
        """How many are being asked, or started."""
        with self._changed:
            return len(self._busy) + self._starting

    @property
    def processes(self) -> list[int]:
        """Ids of the workers' processes."""
        with self._changed:
            return [worker.process.pid for worker in (*self._idle, *self._busy)]


def _can_start() -> bool:
    """Whether this is a Python interpreter, not a program that has one in it."""
    name = os.path.basename(sys.executable or "").lower()
    return name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)


workers = Pool()


def _forget_after_fork() -> None:
    """The workers are the parent's; its ends of their pipes must not stay open here."""
    global workers
    for worker in (*workers._idle, *workers._busy):
        for pipe in worker.pipes:
            with contextlib.suppress(OSError):
                pipe.close()
        worker.process.returncode = 0  # not ours to wait for
    workers = Pool()


atexit.register(lambda: workers.close())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
