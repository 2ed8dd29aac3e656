"""How fast the stored answers: a million spans, ingest going on, one process.

Method. The generator decodes a pool of 65,536 spans of a web shop (``payloads``, 10 attributes each, and
``tenant.id``, each of whose 1,000 values one span in a thousand has), gives each round new ids and times, and writes
it, as requests, with the collector's own builder and store: sixty units in closed segments, spread over the last two
hours. Then a collector opens the directory; a thread sends it spans at a steady rate; another asks, each question as
often as ``--repeat`` says with other ids, words or ranges each time, and looks at every object of the answer. The first
question of a kind is not counted. Memory is what the process grew by while it asked, with the ingest at work before and
during; DuckDB's figures are plain SQL over the same files, each question reading what it needs of them.

    python benchmarks/query.py [--spans 1000000] [--rate 5000] [--repeat 100] [--directory DIR] [--without-duckdb]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import payloads
import pyarrow as pa

from otlp_arrow.app.settings import Settings
from otlp_arrow.app.wiring import open_collector
from otlp_arrow.codec import encode, new_builder
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Batch, Busy, Signal
from otlp_arrow.query import AttributeFilter, SpanQuery, SpanStore
from otlp_arrow.storage.store import StorageSettings, Store

UNIT_ROWS = 20_480
"""Spans in a record batch, as the collector writes them under this load: 16 MiB of columns."""

SPANS_PER_REQUEST = 512
TENANTS = 1000
HISTORY_NS = 2 * 3600 * 10**9
REUSED_NS = HISTORY_NS // 8
"""The questions ask for the last hour: older data would answer them with less."""

SETTLING_S = 12
"""Two write intervals: what the collector itself takes at this rate is no memory of the asking side."""

TARGETS_MS = {
    "get_trace": 20,
    "recent_failures": 50,
    "status": 50,
    "service+name+time": 50,
    "attribute 1 in 1,000": 100,
}
TARGET_MIB = 256


# -- the data ----------------------------------------------------------------------------------------
def requests(count: int) -> list[bytes]:
    """Requests of 512 spans, from a fixed seed."""
    rng = random.Random(450)
    origins = cycle([payloads._shop_resource(rng, name) for name in payloads._SERVICES])
    scope = payloads.InstrumentationScope(
        name="opentelemetry.instrumentation.asgi", version="0.58b0"
    ).SerializeToString()
    spans = (span + _tenant(rng) for span in payloads._shop_spans(rng))
    return [payloads._request(next(origins), scope, islice(spans, SPANS_PER_REQUEST)) for _ in range(count)]


def _tenant(rng: random.Random) -> bytes:
    """The attribute that is looked for, as a further field of a serialised span."""
    (attribute,) = payloads._attributes({"tenant.id": f"tenant-{rng.randrange(TENANTS):04}"})
    return payloads._field(9, attribute.SerializeToString())


def fill(directory: Path, spans: int, pool: list[bytes], end_ns: int) -> list[bytes]:
    """Write about ``spans`` spans that end at ``end_ns``; some of their trace ids."""
    builder = new_builder(Signal.TRACES)
    builder.append(pool)
    batch = builder.snapshot()
    builder.clear()
    rounds = max(1, round(spans / batch.num_rows))
    store = Store(StorageSettings(directory))
    store.open()
    rng = np.random.default_rng(450)
    trace_ids: list[bytes] = []
    for number in range(rounds):
        fresh = _round(batch, rng, end_ns - HISTORY_NS + HISTORY_NS * number // rounds, HISTORY_NS // rounds)
        for at in range(0, fresh.num_rows, UNIT_ROWS):
            first = 1 + (number * fresh.num_rows + at) // SPANS_PER_REQUEST
            unit = fresh.slice(at, UNIT_ROWS)
            starts = range(0, unit.num_rows, SPANS_PER_REQUEST)
            builder.append([encode(Signal.TRACES, unit.slice(start, SPANS_PER_REQUEST)) for start in starts])
            rows = builder.memory() or builder.finish()
            store.write(Signal.TRACES, rows, first, first + len(starts) - 1)
            builder.clear()
        column = fresh.column("trace_id")
        trace_ids += [column[int(row)].as_py() for row in rng.integers(0, len(column), 60)]
    store.close(rounds * len(pool))
    return trace_ids


def filled(directory: Path, spans: int, pool: list[bytes]) -> tuple[list[bytes], int]:
    """What ``fill`` wrote there of late, or writes now: trace ids, and the end of the last span."""
    note = directory / "benchmark.json"
    if note.exists():
        written = json.loads(note.read_text())
        if written["spans"] == spans and time.time_ns() - written["end_ns"] < REUSED_NS:
            return [bytes.fromhex(each) for each in written["trace_ids"]], written["end_ns"]
        for folder in ("otlp", "wal", "state"):
            shutil.rmtree(directory / folder, ignore_errors=True)
    end_ns = time.time_ns()
    trace_ids = fill(directory, spans, pool, end_ns)
    note.write_text(json.dumps({"spans": spans, "end_ns": end_ns, "trace_ids": [each.hex() for each in trace_ids]}))
    return trace_ids, end_ns


def _round(batch: pa.RecordBatch, rng: np.random.Generator, start_ns: int, length_ns: int) -> pa.RecordBatch:
    """The same spans with other ids, their times stretched over a part of the history."""
    columns = {name: batch.column(name) for name in batch.schema.names}
    for name in ("trace_id", "span_id", "parent_span_id"):
        column = columns[name]
        width = column.type.byte_width
        ids = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width).reshape(-1, width)
        if name != "parent_span_id":  # which are span ids
            key = rng.integers(0, 256, width, np.uint8)
        columns[name] = pa.Array.from_buffers(
            column.type, len(column), [column.buffers()[0], pa.py_buffer((ids ^ key).tobytes())], column.null_count
        )
    starts = columns["start_time_unix_nano"].view(pa.int64()).to_numpy()
    durations = columns["end_time_unix_nano"].view(pa.int64()).to_numpy() - starts
    moved = start_ns + (starts - starts.min()) * (length_ns / (starts.max() - starts.min() + 1))
    moved = moved.astype(np.int64)
    columns["start_time_unix_nano"] = pa.array(moved).cast(columns["start_time_unix_nano"].type)
    columns["end_time_unix_nano"] = pa.array(moved + durations).cast(columns["end_time_unix_nano"].type)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=SCHEMAS[Signal.TRACES])


# -- the collector, and its ingest -------------------------------------------------------------------
@contextmanager
def collecting(directory: Path, pool: list[bytes], rate: int) -> Iterator[Callable[[], int]]:
    """A collector over the directory, sent ``rate`` spans a second; says how many it has taken."""
    taken = itertools.count()
    rows = [0]
    stop = threading.Event()
    ready = threading.Event()

    async def run() -> None:
        ports = {"protocols.protobuf_enabled": False, "protocols.http_enabled": False, "host": "127.0.0.1"}
        flags = {"output_dir": directory, "protocols.arrow_flight_enabled": False, "admin_port": 0, **ports}
        settings = Settings.load(flags=flags, environ={}).settings
        async with open_collector(settings) as collector:
            ready.set()
            loop = asyncio.get_running_loop()
            due = loop.time()
            while not stop.is_set():
                if rate:
                    try:
                        payload = pool[next(taken) % len(pool)]
                        rows[0] += (await collector.pipeline.intake.accept(Batch(Signal.TRACES, payload))).rows
                    except Busy:
                        pass
                due += SPANS_PER_REQUEST / rate if rate else 0.1
                await asyncio.sleep(max(0.0, due - loop.time()))

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="collector")
    thread.start()
    try:
        ready.wait(60)
        yield lambda: rows[0]
    finally:
        stop.set()
        thread.join()


# -- the questions -----------------------------------------------------------------------------------
class Question(NamedTuple):
    """``ask(store, n)`` asks for the n-th time; ``sql`` is the same for DuckDB."""

    name: str
    ask: Callable[[SpanStore, int], Any]
    sql: str


def questions(trace_ids: list[bytes], end_ns: int) -> list[Question]:
    """What is measured."""
    names = ["SELECT carts", "GET /healthz", "POST /api/v1/orders", "SELECT users"]
    error = "status_code = 2"
    minute = 60 * 10**9

    def range_query(n: int) -> SpanQuery:
        start = end_ns - HISTORY_NS + (n * 7919 % 115) * minute
        return SpanQuery(
            service_name=payloads._SERVICES[n % 8],
            operation_name=names[n % 4],
            start_time_min=start,
            start_time_max=start + 5 * minute,
        )

    return [
        Question(
            "get_trace",
            lambda store, n: store.get_trace(trace_ids[n % len(trace_ids)].hex()),
            f"SELECT * FROM spans WHERE trace_id = from_hex('{trace_ids[0].hex()}') ORDER BY start_time_unix_nano",
        ),
        Question(
            "recent_failures",
            lambda store, n: store.recent_failures(hours=1 + n % 2 / 2),
            f"SELECT * FROM spans WHERE {error} ORDER BY end_time_unix_nano DESC LIMIT 100",
        ),
        Question(
            "status",
            lambda store, n: store.filter_by_status(["ERROR", "OK", "UNSET"][n % 3]),
            f"SELECT * FROM spans WHERE {error} ORDER BY start_time_unix_nano DESC LIMIT 100",
        ),
        Question(
            "service+name+time",
            lambda store, n: store.query_spans(range_query(n)),
            "SELECT * FROM spans WHERE service_name = 'cart' AND name = 'SELECT carts' "
            "ORDER BY start_time_unix_nano DESC LIMIT 100",
        ),
        Question(
            "attribute 1 in 1,000",
            lambda store, n: store.filter_by_attribute("tenant.id", f"tenant-{n * 37 % TENANTS:04}"),
            "SELECT * FROM spans WHERE attributes['tenant.id'].str = 'tenant-0037' "
            "ORDER BY start_time_unix_nano DESC LIMIT 100",
        ),
        Question(
            "attribute, number > ",
            lambda store, n: store.query_spans(
                SpanQuery(attribute_filters=[AttributeFilter("http.response.status_code", 499, "GREATER_THAN")])
            ),
            "SELECT * FROM spans WHERE attributes['http.response.status_code'].int > 499 "
            "ORDER BY start_time_unix_nano DESC LIMIT 100",
        ),
    ]


def measure(store: SpanStore, question: Question, repeat: int) -> list[float]:
    """Milliseconds of each time, the first left out."""
    taken = []
    for n in range(repeat + 1):
        began = time.perf_counter()
        list(question.ask(store, n))
        taken.append(1000 * (time.perf_counter() - began))
    return sorted(taken[1:])


def duckdb_ms(directory: Path, question: Question) -> float:
    """Milliseconds of the question as plain SQL over the files, the better of two."""
    import duckdb

    best = float("inf")
    for _ in range(2):
        began = time.perf_counter()
        connection = duckdb.connect(config={"threads": 2})
        connection.register("spans", _Files(sorted((directory / "otlp" / "traces").glob("*.arrows"))))
        connection.sql(question.sql).to_arrow_table()
        connection.close()
        best = min(best, 1000 * (time.perf_counter() - began))
    return best


class _Files:
    """Segments as one Arrow stream, read anew for each scan."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        reader = pa.RecordBatchReader.from_batches(SCHEMAS[Signal.TRACES], self._batches())
        return reader.__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for path in self._paths:
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
                yield from reader


def resident_mib() -> float:
    """Memory of the process now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Peak:
    """The most memory seen while it is entered."""

    def __init__(self) -> None:
        self.mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.mib = max(self.mib, resident_mib())


def percentile(ordered: list[float], share: float) -> float:
    """Of sorted values."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--spans", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=5_000, help="spans a second that are sent meanwhile")
    parser.add_argument("--repeat", type=int, default=100)
    parser.add_argument("--directory", type=Path, help="kept afterwards, and used again within a quarter of an hour")
    parser.add_argument("--without-duckdb", action="store_true")
    parser.add_argument("--check", action="store_true", help="fail if a figure misses its target")
    options = parser.parse_args()
    directory = options.directory or Path(tempfile.mkdtemp(prefix="otlp-arrow-query-"))
    try:
        return run(options, directory)
    finally:
        if options.directory is None:
            shutil.rmtree(directory, ignore_errors=True)


def run(options: argparse.Namespace, directory: Path) -> int:
    """The benchmark; the exit code."""
    missed = False
    pool = requests(max(1, min(128, options.spans // SPANS_PER_REQUEST)))
    trace_ids, end_ns = filled(directory, options.spans, pool)
    gc.collect()
    gc.freeze()  # as the collector does when it starts: the pool of requests is no garbage of the questions
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{options.spans:,} spans, {options.rate:,} more a second meanwhile; load of the machine {load}")
    with collecting(directory, pool, options.rate) as taken:
        time.sleep(SETTLING_S if options.rate else 0)
        before = resident_mib()
        with Peak() as peak, SpanStore.open(directory) as store:
            store.build_indexes()
            random.Random(1).shuffle(trace_ids)
            print(f"{'question':24}{'p50 ms':>9}{'p95 ms':>9}{'target':>8}{'plain DuckDB ms':>17}")
            for question in questions(trace_ids, end_ns):
                times = measure(store, question, options.repeat)
                target = TARGETS_MS.get(question.name)
                p95 = percentile(times, 0.95)
                missed |= target is not None and p95 > target
                print(f"{question.name:24}{percentile(times, 0.5):9.1f}{p95:9.1f}{target or '':>8}", end="", flush=True)
                print("" if options.without_duckdb else f"{duckdb_ms(directory, question):17.0f}")
                if options.without_duckdb is False:
                    gc.collect()
            grown = peak.mib - before
        print(f"taken meanwhile: {taken():,} spans")
    print(
        f"memory: {before:.0f} MiB before, {peak.mib:.0f} at most: "
        f"the asking side took {grown:.0f} (target {TARGET_MIB})"
    )
    if options.without_duckdb:
        missed |= grown > TARGET_MIB
    return int(missed and options.check)


if __name__ == "__main__":
    sys.exit(main())
