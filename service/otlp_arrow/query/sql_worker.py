"""The process that answers SQL for ``sql_process``: bounded by the system, gone with whoever started it."""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import queue
import signal as signals
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

import otlp_arrow.query.sql  # noqa: F401 (DuckDB: before the memory is measured)
from otlp_arrow.model import Signal
from otlp_arrow.query.budget import Budget
from otlp_arrow.query.engine import Engine
from otlp_arrow.query.errors import QueryError
from otlp_arrow.query.source import DirectorySource, PipelineSource
from otlp_arrow.query.sql_bounds import GROWTH_BYTES, TOO_MUCH_MEMORY
from otlp_arrow.query.sql_process import REPLY, REQUEST
from otlp_arrow.storage.snapshot import Snapshot

CACHE_BYTES = 16 * 1024 * 1024
"""Decoded columns between statements: dictionaries and the rows of small directories."""

MAX_DIRECTORIES = 4
_NICENESS = 5  # ingest comes first


class Worker:
    """Answers requests from one stream on another."""

    def __init__(self, requests: IO[bytes], replies: IO[bytes]) -> None:
        self._from, self._to = requests, replies
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._engines: OrderedDict[tuple[str, bool], Engine] = OrderedDict()

    def run(self) -> None:
        """For ever; the end of the requests ends the process, in the middle of a statement too."""
        threading.Thread(target=self._read, name="otlp-sql-requests", daemon=True).start()
        most = limit_memory(GROWTH_BYTES)
        self._reply({"kind": "ready"})
        while True:
            request = self._requests.get()
            head, body = self._answered(request)
            again = head.pop("again", True) and (most is None or allocated() < most - GROWTH_BYTES // 2)
            self._reply({**head, "again": again}, body)
            if not again:
                return

    def _read(self) -> None:
        while len(length := self._from.read(REQUEST.size)) == REQUEST.size:
            self._requests.put(pickle.loads(self._from.read(*REQUEST.unpack(length))))
        os._exit(0)

    def _reply(self, head: dict[str, Any], body: bytes | pa.Buffer = b"") -> None:
        text = json.dumps(head).encode()
        self._to.write(REPLY.pack(len(text), len(body)) + text)
        self._to.write(body)
        self._to.flush()

    def _answered(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes | pa.Buffer]:
        budget = Budget(request["timeout_s"])
        budget.deadline = time.monotonic() + request["left_s"]
        try:
            engine = self._engine(request["root"], request["in_memory"])
            table, truncated = engine.sql_here(request["statement"], request["parameters"], request["max_rows"], budget)
            return {"kind": "answer", "truncated": truncated}, _written(table)
        except QueryError as error:
            return {"kind": "error", "error": type(error).__name__, "detail": str(error)}, b""
        except MemoryError:
            return {"kind": "error", "error": "BadQuery", "detail": TOO_MUCH_MEMORY, "again": False}, b""

    def _engine(self, root: str, in_memory: bool) -> Engine:
        engine = self._engines.get((root, in_memory))
        if engine is None:
            if in_memory:
                source: DirectorySource = PipelineSource(Path(root), self._snapshot, cache_bytes=CACHE_BYTES)
            else:
                source = DirectorySource(Path(root), cache_bytes=CACHE_BYTES)
            engine = self._engines[root, in_memory] = Engine(source)
            while len(self._engines) > MAX_DIRECTORIES:
                self._engines.popitem(last=False)
        self._engines.move_to_end((root, in_memory))
        return engine

    def _snapshot(self, signal: Signal) -> Snapshot:
        """The rows that only the process that asks has."""
        self._reply({"kind": "snapshot", "signal": signal.value})
        taken = self._requests.get()
        if "error" in taken:
            raise QueryError(taken["error"])
        batches = [pa.ipc.open_stream(each).read_next_batch() for each in taken["batches"]]
        return Snapshot(signal, (), tuple(batches), taken["before"])


def _written(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def limit_memory(growth_bytes: int) -> int | None:
    """Let the process allocate so much more than it has now; the bound, None where the system has no such limit.

    Linux counts private writable memory in RLIMIT_DATA, used or not; RLIMIT_AS would count what is only reserved too.
    """
    if not sys.platform.startswith("linux"):
        return None
    import resource

    most = allocated() + growth_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # nobody wants half a gigabyte of telemetry in a file
    return most


def allocated() -> int:
    """What RLIMIT_DATA counts, in bytes; 0 where it is not told."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmData:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def main() -> None:
    """Serve the process at the other end of stdin and stdout."""
    signals.signal(signals.SIGINT, signals.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    faulthandler.enable()  # where it was when it crashed: whoever started it puts that into its log
    try:
        Worker(requests, replies).run()
    except BrokenPipeError:
        pass
    os._exit(0)  # the reading thread holds on to stdin
