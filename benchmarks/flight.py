"""What a ``DoPut`` costs: batches of spans from a stock pyarrow.flight client into a collector of its own process.

    python benchmarks/flight.py                              # 512 rows a batch, 6 s, 16 batches under way
    python benchmarks/flight.py --rows 4096 --streams 2 --own-dictionaries
    python benchmarks/flight.py --under-way 1                # each batch waits for its acknowledgement
    python benchmarks/flight.py --form reordered             # as other programs have the columns
    python benchmarks/flight.py --bare                       # the floor: a stock server that drops them
    python benchmarks/flight.py --against ../before          # this checkout and another one, in turns of a second

The figure is CPU of the whole server process, from the first batch until everything is in synced segments and the
process has come to rest: checks, log, sync and segments included. The second one is without the thread that writes the
segments: what a batch costs until it is acknowledged. Linux only (``/proc``).

With ``--against`` two collectors run beside each other, this code and that of another checkout, in which the kernel has
been built in place. They are loaded by turns, and each turn of one is held against the turn of the other that followed
it: what the machine does from one minute to the next it does to both.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import payloads
import pyarrow as pa
import pyarrow.flight as flight
from servers import Collector, Server, Stored, scratch

from otlp_arrow import codec
from otlp_arrow.model import Signal

UNDER_WAY = 16
"""Batches of a stream that are not acknowledged yet; the server takes as many before it holds a client back."""

WRITER = "otlp-write"
"""The thread that writes segments."""

LEFT_OUT = ("trace_state", "status_message", "sum", "bucket_counts")

FORMS: dict[str, Callable[[pa.RecordBatch], pa.RecordBatch]] = {
    "stored": lambda batch: batch,
    "reordered": lambda batch: _named(batch, batch.schema.names[::-1]),
    "missing": lambda batch: _named(batch, [n for n in batch.schema.names if n not in LEFT_OUT]),
    "strings": lambda batch: pa.RecordBatch.from_arrays([_plain(c) for c in batch.columns], names=batch.schema.names),
}
"""The storage schema; all columns in the opposite order and nullable; some left out; strings without dictionaries."""

_WAIT_S = 30.0
_TURN_S = 1.0


def _named(batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([batch.column(name) for name in names], names=names)


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


class FlightCollector(Collector):
    """otlp-arrow as shipped, with its Flight door on the port that would be OTLP/HTTP's."""

    def __init__(self, directory: Path, source: Path | None = None) -> None:
        super().__init__(directory)
        self._source = source

    @property
    def last_port(self) -> int:
        return self.http_port

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            **({"PYTHONPATH": str(self._source.resolve())} if self._source else {}),
            "OTLP_HTTP_ENABLED": "false",
            "OTLP_ARROW_FLIGHT_ENABLED": "true",
            "OTLP_ARROW_FLIGHT_PORT": str(self.http_port),
        }


class BareFlight(Server):
    """The floor: a stock pyarrow.flight server and nothing behind it (``bare_flight.py``)."""

    name = "bare pyarrow.flight"

    @property
    def last_port(self) -> int:
        return self.http_port

    def command(self) -> Sequence[str]:
        return [sys.executable, str(Path(__file__).with_name("bare_flight.py")), "--port", str(self.http_port)]


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. ``stored`` is counted in the files after the end; None for who keeps nothing."""

    cpu_us_per_row: float
    acknowledged_us_per_row: float
    system_share: float
    rows: int
    rows_per_s: float
    p50_ms: float
    p95_ms: float
    peak_rss_mib: float
    stored: Stored | None


def batches(rows: int, signal: Signal = Signal.TRACES, own_dictionaries: bool = False) -> list[pa.RecordBatch]:
    """The standard load of a signal, cut into batches; they share their dictionaries unless each is to have its own."""
    requests = getattr(payloads, signal.value)(rows).requests
    if own_dictionaries:
        return [codec.decode(signal, request) for request in requests]
    builder = codec.new_builder(signal)
    builder.append(requests)
    whole = builder.snapshot()
    return [whole.slice(at, rows) for at in range(0, whole.num_rows, rows)]


def measure(
    directory: Path,
    signal: Signal,
    sent: list[pa.RecordBatch],
    *,
    seconds: float,
    streams: int,
    rest: float,
    under_way: int = UNDER_WAY,
    kind: type[Server] = FlightCollector,
) -> Measured:
    """Start a server, put for ``seconds``, flush, rest, stop, count."""
    with kind(directory) as server:
        location = f"grpc://localhost:{server.http_port}"
        _put(location, signal, sent, 0.3)  # connections, first segment, code that is loaded on first use
        with flight.connect(location) as client:
            list(client.do_action("flush"))
        time.sleep(rest)
        before, writing, began = server.usage(), server.thread_cpu_s(WRITER), time.monotonic()
        with ThreadPoolExecutor(streams) as pool:
            done = list(pool.map(lambda _: _put(location, signal, sent, seconds, under_way), range(streams)))
        elapsed = time.monotonic() - began
        with flight.connect(location) as client:
            list(client.do_action("flush"))
        time.sleep(rest)
        after = server.usage()
        writing = server.thread_cpu_s(WRITER) - writing
        server.stop()
        stored = server.stored(signal.value)
    rows = sum(rows for rows, _ in done)
    waited = sorted(wait for _, waits in done for wait in waits)
    cpu = after.cpu_s - before.cpu_s
    return Measured(
        cpu * 1e6 / rows,
        (cpu - writing) * 1e6 / rows,
        (after.system_s - before.system_s) / cpu,
        rows,
        rows / elapsed,
        waited[len(waited) // 2] * 1e3,
        waited[len(waited) * 95 // 100] * 1e3,
        after.peak_rss_bytes / 2**20,
        stored,
    )


def compare(
    directory: Path, source: Path, signal: Signal, sent: list[pa.RecordBatch], *, turns: int, **how: int
) -> None:
    """This code and that below ``source``, ``turns`` of a second each; prints medians, and quartiles of the ratio."""
    with FlightCollector(directory) as ours, FlightCollector(directory, source) as theirs:
        both = (ours, theirs)
        for server in both:
            _turn(server, signal, sent, 0.3, **how)
        pairs = []
        for turn in range(turns):  # who comes first finds the caches of who was last
            first = turn % 2
            one, other = (_turn(both[which], signal, sent, _TURN_S, **how) for which in (first, 1 - first))
            pairs.append((other, one) if first else (one, other))
    print("| | CPU µs/row here | there | ratio: median | quartiles |")
    print("|---|---:|---:|---:|---:|")
    for index, name in enumerate(("all", "until acknowledged")):
        ratios = sorted(a[index] / b[index] for a, b in pairs)
        here, there = (sorted(pair[which][index] for pair in pairs)[turns // 2] for which in range(2))
        low, middle, high = (ratios[turns * quarter // 4] for quarter in (1, 2, 3))
        print(f"| {name} | {here:.2f} | {there:.2f} | {middle:.2f} | {low:.2f} to {high:.2f} |")


def _turn(
    server: FlightCollector, signal: Signal, sent: list[pa.RecordBatch], seconds: float, *, streams: int, under_way: int
) -> tuple[float, float]:
    """CPU µs a row: of everything, and without the thread that writes segments."""
    location = f"grpc://localhost:{server.http_port}"
    before, writing = server.thread_cpu_s(), server.thread_cpu_s(WRITER)
    with ThreadPoolExecutor(streams) as pool:
        done = list(pool.map(lambda _: _put(location, signal, sent, seconds, under_way), range(streams)))
    with flight.connect(location) as client:
        list(client.do_action("flush"))
    cpu, writing = server.thread_cpu_s() - before, server.thread_cpu_s(WRITER) - writing
    rows = sum(rows for rows, _ in done)
    return cpu * 1e6 / rows, (cpu - writing) * 1e6 / rows


def _put(
    location: str, signal: Signal, sent: list[pa.RecordBatch], seconds: float, at_once: int = UNDER_WAY
) -> tuple[int, list[float]]:
    """Rows acknowledged, and how long each batch waited for its acknowledgement."""
    under_way: list[float] = []
    waits: list[float] = []
    room = threading.Semaphore(at_once)
    rows = 0

    with flight.connect(location) as client:
        writer, acknowledgements = client.do_put(flight.FlightDescriptor.for_path(signal.value), sent[0].schema)

        def listen() -> None:
            nonlocal rows
            while (answer := acknowledgements.read()) is not None:
                rows += json.loads(answer.to_pybytes())["rows"]
                waits.append(time.monotonic() - under_way[len(waits)])
                room.release()

        listening = threading.Thread(target=listen)
        listening.start()
        try:
            end = time.monotonic() + seconds
            for batch in cycle(sent):
                if time.monotonic() > end:
                    break
                if not room.acquire(timeout=_WAIT_S):
                    raise TimeoutError(f"no acknowledgement in {_WAIT_S} s")
                under_way.append(time.monotonic())
                writer.write_batch(batch)
            writer.done_writing()
        finally:
            listening.join(_WAIT_S)
            writer.close()
    return rows, waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signal", type=Signal, choices=list(Signal), default=Signal.TRACES, help="(traces)")
    parser.add_argument("--rows", type=int, default=512, help="rows a batch")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rest", type=float, default=2, help="seconds to come to rest, counted in")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--under-way", type=int, default=UNDER_WAY, help="batches of a stream not acknowledged yet")
    parser.add_argument("--form", choices=FORMS, default="stored", help="how the columns come (stored)")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--own-dictionaries", action="store_true", help="dictionaries change with every batch")
    parser.add_argument("--bare", action="store_true", help="a stock server that keeps nothing")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="hold another checkout against this one")
    parser.add_argument("--turns", type=int, default=14, help="turns of a second with --against (14)")
    parser.add_argument("--directory", type=Path, help="where to write")
    options = parser.parse_args()
    sent = [FORMS[options.form](batch) for batch in batches(options.rows, options.signal, options.own_dictionaries)]
    if options.against is not None:
        with scratch(options.directory) as directory:
            how = {"streams": options.streams, "under_way": options.under_way}
            compare(directory, options.against / "service", options.signal, sent, turns=options.turns, **how)
        return
    print("| CPU µs/row | until acknowledged | system | rows/s | ack p50 / p95 ms | bytes/row | RSS peak MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for _ in range(options.repeat):
        with scratch(options.directory) as directory:
            got = measure(
                directory,
                options.signal,
                sent,
                seconds=options.seconds,
                streams=options.streams,
                rest=options.rest,
                under_way=options.under_way,
                kind=BareFlight if options.bare else FlightCollector,
            )
        print(
            f"| {got.cpu_us_per_row:.2f} | {got.acknowledged_us_per_row:.2f} | {got.system_share:.0%} "
            f"| {got.rows_per_s:,.0f} | {got.p50_ms:.1f} / {got.p95_ms:.1f} "
            f"| {got.stored.bytes / got.stored.records if got.stored else 0:.0f} | {got.peak_rss_mib:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
