"""Measures the collector, and beside it a peer and the floor, under the same load.

    python benchmarks/run.py                        the collector, all scenarios
    python benchmarks/run.py --peer --bare          with the peer and the floor, in turns
    python benchmarks/run.py --quick --only traces-512
    python benchmarks/run.py --only traces-512 --seconds 300 --rss-every 30     does memory stay flat?

``benchmarks/README.md`` says what is measured and how. Exit code 1 if a figure cannot be trusted:
requests failed, or the files do not hold what was acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path

import uvloop
from loadgen import Result, drive
from payloads import SAMPLES, WORKLOADS, Workload
from servers import Bare, Collector, Rotel, Server, Usage, scratch

HALF_LOAD = "half-load"
IDLE = "idle"
SCENARIOS = (*WORKLOADS, HALF_LOAD, IDLE)
STANDARD = "traces-512"
_MIB = 1024 * 1024

_BUSY = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "429", "503")
"""A server that is loaded beyond its bounds may say so; how often is a figure, not a failure."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each part of a measurement."""

    load: float
    rest: float = 7  # longer than the default write interval: at its end every record lies in a segment
    idle: float = 20
    rss_every: float | None = None  # seconds between two looks at the memory while the load lasts


@dataclass(frozen=True, slots=True)
class Measurement:
    """One scenario on one server: everything from its first request to rest."""

    scenario: str
    server: str
    rss_idle_mib: float
    rss_peak_mib: float
    rss_after_mib: float
    idle_cpu_percent: float | None = None
    cpu_us_per_record: float | None = None
    cpu_us_per_request: float | None = None
    system_share: float | None = None
    bytes_per_record: float | None = None
    stored_records: int | None = None
    load: Result | None = None
    rss_course_mib: list[float] = field(default_factory=list)

    @property
    def problem(self) -> str | None:
        """Why the figures cannot be trusted."""
        if self.load is None:
            return None
        if failures := {why: count for why, count in self.load.failures.items() if why not in _BUSY}:
            return f"failed requests: {failures}"
        if self.load.partial:
            return f"{self.load.partial} requests were taken in part"
        if self.stored_records not in (None, self.load.records):
            return f"acknowledged {self.load.records} records, stored {self.stored_records}"
        return None


def measure(server: Server, scenario: str, times: Times, scheme: str, rate: float | None) -> Measurement:
    """Start, load, rest, stop. All CPU from ready to rest counts, so that no write is left out."""
    workload = _workload(STANDARD if scenario == HALF_LOAD else scenario)
    with server:
        time.sleep(1)
        before = server.usage()
        with (
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            _memory_course(server, times.rss_every) as course,
        ):
            result = runner.run(drive(server.urls[scheme], workload, seconds=times.load, rate=rate))
        time.sleep(times.rest)
        after = server.usage()
        server.stop()
        stored = server.stored(workload.signal)
    cpu_s = after.cpu_s - before.cpu_s
    return Measurement(
        scenario,
        server.name,
        *_memory_mib(before, after),
        cpu_us_per_record=cpu_s * 1e6 / max(1, result.records),
        cpu_us_per_request=cpu_s * 1e6 / max(1, result.requests),
        system_share=(after.system_s - before.system_s) / max(1e-9, cpu_s),
        bytes_per_record=stored.bytes / max(1, stored.records) if stored else None,
        stored_records=stored.records if stored else None,
        load=result,
        rss_course_mib=course,
    )


def measure_idle(server: Server, times: Times) -> Measurement:
    """What a server costs while nobody talks to it."""
    with server:
        time.sleep(3)
        before = server.usage()
        time.sleep(times.idle)
        after = server.usage()
    percent = (after.cpu_s - before.cpu_s) / times.idle * 100
    return Measurement(IDLE, server.name, *_memory_mib(before, after), idle_cpu_percent=percent)


def _memory_mib(before: Usage, after: Usage) -> tuple[float, float, float]:
    return before.rss_bytes / _MIB, after.peak_rss_bytes / _MIB, after.rss_bytes / _MIB


@contextmanager
def _memory_course(server: Server, every_s: float | None) -> Iterator[list[float]]:
    """The server's memory at the end of each interval of the load; nothing without an interval."""
    course: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(every_s):
            course.append(round(server.usage().rss_bytes / _MIB, 1))

    watcher = threading.Thread(target=look, name="memory", daemon=True)
    if every_s is not None:
        watcher.start()
    try:
        yield course
    finally:
        over.set()
        if every_s is not None:
            watcher.join()


@cache
def _workload(name: str) -> Workload:
    return WORKLOADS[name]()


def run_all(
    servers: Iterable[Callable[[], Server]], scenarios: Iterable[str], times: Times, scheme: str, repeat: int
) -> Iterable[Measurement]:
    """Every scenario on every server, in turns: a noisy minute hits them all alike."""
    saturation: dict[str, float] = {}
    for _ in range(repeat):
        for scenario in scenarios:
            for make in servers:
                server = make()
                if scenario == IDLE:
                    yield measure_idle(server, times)
                    continue
                rate = saturation[server.name] / 2 if scenario == HALF_LOAD else None
                measurement = measure(server, scenario, times, scheme, rate)
                if scenario == STANDARD and measurement.load:
                    saturation[server.name] = measurement.load.requests_per_s
                yield measurement


# -- showing ---------------------------------------------------------------------------------------


def _latency(measurement: Measurement, name: str) -> float | None:
    return measurement.load.latency_ms.get(name) if measurement.load else None


_COLUMNS: list[tuple[str, Callable[[Measurement], float | None], str]] = [
    ("CPU µs/record", lambda m: m.cpu_us_per_record, ".2f"),
    ("CPU µs/request", lambda m: m.cpu_us_per_request, ".0f"),
    ("system", lambda m: m.system_share, ".0%"),
    ("records/s", lambda m: m.load.records_per_s if m.load else None, ",.0f"),
    ("ack p50 ms", lambda m: _latency(m, "p50"), ".1f"),
    ("p95", lambda m: _latency(m, "p95"), ".1f"),
    ("p99", lambda m: _latency(m, "p99"), ".1f"),
    ("max", lambda m: _latency(m, "max"), ".1f"),
    ("bytes/record", lambda m: m.bytes_per_record, ".0f"),
    ("RSS idle MiB", lambda m: m.rss_idle_mib, ".0f"),
    ("peak", lambda m: m.rss_peak_mib, ".0f"),
    ("after", lambda m: m.rss_after_mib, ".0f"),
    ("idle CPU %", lambda m: m.idle_cpu_percent, ".2f"),
    ("refused", lambda m: sum(m.load.failures.values()) if m.load else None, ",.0f"),
    ("client µs/request", lambda m: m.load.client_cpu_us_per_request if m.load else None, ".0f"),
]


def table(measurements: list[Measurement]) -> str:
    """Markdown; the median of each figure where a scenario was repeated."""
    lines = [
        "| scenario | server | " + " | ".join(name for name, _, _ in _COLUMNS) + " |",
        "|---|---|" + "---:|" * len(_COLUMNS),
    ]
    for (scenario, server), group in _grouped(measurements).items():
        cells = [_cell([value(m) for m in group], shape) for _, value, shape in _COLUMNS]
        lines.append(f"| {scenario} | {server} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios(measurements: list[Measurement]) -> str:
    """CPU per record of the collector over the others', the median of the ratios turn by turn."""
    groups = _grouped(measurements)
    lines = ["| scenario | | CPU ratio |", "|---|---|---:|"]
    for scenario, ours in groups:
        for other, theirs in groups:
            if other == scenario and ours.startswith(Collector.name) and not theirs.startswith(Collector.name):
                pairs = zip(groups[scenario, ours], groups[scenario, theirs], strict=True)
                found = [
                    a.cpu_us_per_record / b.cpu_us_per_record
                    for a, b in pairs
                    if a.cpu_us_per_record and b.cpu_us_per_record
                ]
                if found:
                    lines.append(f"| {scenario} | {ours} / {theirs} | {statistics.median(found):.2f} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _grouped(measurements: list[Measurement]) -> dict[tuple[str, str], list[Measurement]]:
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault((measurement.scenario, measurement.server), []).append(measurement)
    return groups


def _cell(values: list[float | None], shape: str) -> str:
    known = [value for value in values if value is not None]
    return format(statistics.median(known), shape) if known else ""


def machine(directory: Path) -> dict[str, object]:
    """What the figures were taken on; a sync's time explains most of an acknowledgement's."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "python_loop_ns": round(_python_loop_ns(), 1),
        "fdatasync_ms": round(_fdatasync_ms(directory), 2),
        "load_average": os.getloadavg()[0],  # above 0.3 before the start: somebody else is at work
    }


def _python_loop_ns() -> float:
    """CPU time of one turn of an empty counting loop: a yardstick of how fast this machine is today."""
    turns = 2_000_000
    started = time.process_time_ns()
    for _ in range(turns):
        pass
    return (time.process_time_ns() - started) / turns


def _fdatasync_ms(directory: Path) -> float:
    """Median time to append 256 KiB and sync, as one group of standard requests does."""
    taken = []
    with (directory / "sync").open("wb", buffering=0) as file:
        for _ in range(20):
            file.write(bytes(256 * 1024))
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, help="scenarios; all of them otherwise")
    parser.add_argument("--peer", action="store_true", help="also rotel, in turns with the collector")
    parser.add_argument("--rotel", type=Path, help="its binary, if it is not installed beside this Python")
    parser.add_argument("--bare", action="store_true", help="also grpc.aio with nothing behind it")
    parser.add_argument("--no-collector", action="store_true", help="only the peer or the floor")
    parser.add_argument("--ack", nargs="+", choices=("fsync", "write", "memory"), help="the collector once for each")
    parser.add_argument("--set", nargs="+", default=[], metavar="OTLP_X=Y", help="other settings of the collector")
    parser.add_argument("--http", action="store_true", help="send over OTLP/HTTP instead of gRPC")
    parser.add_argument("--seconds", type=float, default=8, help="of load")
    parser.add_argument("--rss-every", type=float, metavar="SECONDS", help="show the memory so often during the load")
    parser.add_argument("--repeat", type=int, default=1, help="turns; the table shows medians")
    parser.add_argument("--quick", action="store_true", help="two seconds of load: do the tools work?")
    parser.add_argument("--dir", type=Path, help="on the disk to measure; otherwise where temporary files go")
    parser.add_argument("--json", type=Path, help="write everything here too")
    arguments = parser.parse_args()

    scenarios = [name for name in SCENARIOS if name in (arguments.only or SCENARIOS)]
    if HALF_LOAD in scenarios and STANDARD not in scenarios:
        scenarios.insert(0, STANDARD)  # half of what?
    if not SAMPLES.is_dir():
        print(f"without metrics and logs: no recorded telemetry in {SAMPLES}")
        scenarios = [name for name in scenarios if name not in ("metrics", "logs")]
    times = Times(load=2, idle=5) if arguments.quick else Times(load=arguments.seconds, rss_every=arguments.rss_every)
    settings = dict(pair.split("=", 1) for pair in arguments.set)

    with scratch(arguments.dir) as directory:
        servers: list[Callable[[], Server]] = []
        if not arguments.no_collector:
            for ack in arguments.ack or [None]:
                chosen = settings | ({"OTLP_ACK": ack} if ack else {})
                servers.append(partial(Collector, directory, chosen))
        if arguments.peer:
            binary = arguments.rotel or Rotel.find()
            servers.append(partial(Rotel, directory, binary))
        if arguments.bare:
            servers.append(partial(Bare, directory))

        facts = machine(directory)
        print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
        measurements: list[Measurement] = []
        scheme = "http" if arguments.http else "grpc"
        for measurement in run_all(servers, scenarios, times, scheme, arguments.repeat):
            measurements.append(measurement)
            print(f"  {measurement.scenario}, {measurement.server}: {measurement.problem or 'done'}", flush=True)
            if measurement.rss_course_mib:
                print("  RSS MiB:", *measurement.rss_course_mib, flush=True)

    print("\n" + table(measurements) + "\n\n" + ratios(measurements))
    if arguments.json:
        content = {"machine": facts, "settings": settings, "measurements": [asdict(m) for m in measurements]}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    return 1 if any(measurement.problem for measurement in measurements) else 0


if __name__ == "__main__":
    sys.exit(main())
