"""What forwarding costs: CPU per span and acknowledgement latency beside the same collector without it.

For each case two collectors run side by side, one that forwards and one that does not, and both get the standard load
at the same fixed rate, request by request in turn (an open loop: latency counts from the moment a request is due).
Whatever the machine does meanwhile it does to both. Their CPU is that of the whole process, until all is sent on and
stored; it is looked at every few seconds too, so that the spread of the ratio is seen. Three seconds of load go before,
on memory that nobody has touched. The remote is a process of its own and not counted.

======================  ==================================================================================
case                    the collector that forwards
======================  ==================================================================================
off                     does not: how far two equal collectors lie apart
grpc, http, http-zstd   sends the stored bytes on
flight                  decodes again and puts the columns
gone                    has nobody who listens where it should send to; its backlog reaches its bound
flight-in               takes the load from a sidecar by Flight, and sends it on as OTLP: encoded from columns
======================  ==================================================================================

    python benchmarks/forwarding.py
    python benchmarks/forwarding.py --only flight-in --seconds 40 --rate 60
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop
from loadgen import Result, drive
from payloads import Workload, traces
from servers import Collector, Server, scratch

CASES = ("off", "grpc", "http", "http-zstd", "flight", "gone", "flight-in")
WARM_UP_S = 3.0
WINDOW_S = 4.0
LOOK_S = 0.1
DRAIN_TIMEOUT_S = 60.0
REST_S = 6.0
GONE_BACKLOG_BYTES = 512 * 2**20  # below this, files of the log are smaller than without forwarding


class Swallow(Server):
    """The remote."""

    name = "swallow"

    def command(self) -> Sequence[str]:
        script = str(Path(__file__).with_name("swallow.py"))
        return [sys.executable, script, "--grpc-port", str(self.grpc_port), "--http-port", str(self.http_port)]


class Forwarding(Collector):
    """A collector with settings of forwarding, by their variables."""

    def __init__(self, directory: Path, **forwarding: str) -> None:
        settings = {f"OTLP_FORWARDING_{name.upper()}": value for name, value in forwarding.items()}
        super().__init__(directory, {**settings, "OTLP_FORWARDING_ENABLED": "true"} if forwarding else {})

    def lag_bytes(self) -> float:
        """What its destination has not confirmed."""
        with urllib.request.urlopen(f"http://localhost:{self.admin_port}/metrics", timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("otelcol_exporter_queue_size{"))

    def trouble(self) -> str:
        """What health says of its destination."""
        with urllib.request.urlopen(f"http://localhost:{self.admin_port}/health", timeout=10) as reply:
            parts = json.load(reply)["parts"]
        return "; ".join(part["reason"] for part in parts if part["name"].startswith("forwarding") and part["reason"])

    def wal_bytes(self) -> int:
        """What its log takes on disk now."""
        total = 0
        with os.scandir(self.directory / "data/wal") as entries:
            for entry in entries:
                try:
                    total += entry.stat().st_size
                except FileNotFoundError:  # released meanwhile
                    pass
        return total


@dataclass
class Side:
    """One of the two collectors. ``entry`` is where the load goes in."""

    entry: Forwarding
    measured: Forwarding
    cpu_s: list[float] = field(default_factory=list)
    """Since it was started, at each look."""
    wal_peak: int = 0
    result: Result | None = None

    @property
    def load(self) -> Result:
        assert self.result is not None
        return self.result


@dataclass(frozen=True, slots=True)
class Measured:
    """One case. Each pair: the collector without forwarding, the one with it."""

    cpu_us_per_span: tuple[float, float]
    window_ratios: list[float]
    p50_ms: tuple[float, float]
    p95_ms: tuple[float, float]
    wal_peak_mib: tuple[float, float]
    rss_peak_mib: tuple[float, float]
    problems: list[str]

    @property
    def added_us(self) -> float:
        return self.cpu_us_per_span[1] - self.cpu_us_per_span[0]

    @property
    def ratio(self) -> float:
        return self.cpu_us_per_span[1] / self.cpu_us_per_span[0]


def measure(case: str, directory: Path, workload: Workload, seconds: float, rate: float) -> Measured:
    """Start everything, load, rest, stop."""
    with ExitStack() as stack:
        remote = stack.enter_context(Swallow(directory))
        sides = [
            _start(directory, case == "flight-in", {}, stack),
            _start(directory, case == "flight-in", _settings(case, remote), stack),
        ]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_drive(sides, workload, WARM_UP_S, rate))
        problems = _wait_until_sent(case, sides)
        for side in sides:
            side.cpu_s = [side.measured.usage().cpu_s]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_drive(sides, workload, seconds, rate))
        problems += _wait_until_sent(case, sides)
        time.sleep(REST_S)
        usages = [side.measured.usage() for side in sides]
        problems += [trouble for side in sides if case != "gone" and (trouble := side.measured.trouble())]
    off, on = sides
    for side in sides:
        if side.load.failures or side.load.partial:
            problems.append(f"failed: {side.load.failures}, in part: {side.load.partial}")
    windows = [b - a for a, b in zip(off.cpu_s, off.cpu_s[1:], strict=False)]
    windows_on = [b - a for a, b in zip(on.cpu_s, on.cpu_s[1:], strict=False)]
    return Measured(
        _pair((u.cpu_s - s.cpu_s[0]) * 1e6 / s.load.records for s, u in zip(sides, usages, strict=True)),
        [b / a for a, b in zip(windows, windows_on, strict=True)],
        _pair(side.load.latency_ms["p50"] for side in sides),
        _pair(side.load.latency_ms["p95"] for side in sides),
        _pair(side.wal_peak / 2**20 for side in sides),
        _pair(usage.peak_rss_bytes / 2**20 for usage in usages),
        problems,
    )


def _settings(case: str, remote: Swallow) -> dict[str, str]:
    grpc = {"endpoint_url": f"http://localhost:{remote.grpc_port}", "protocol": "grpc"}
    http = {"endpoint_url": f"http://localhost:{remote.http_port}", "protocol": "http"}
    gone = {"endpoint_url": "http://localhost:1", "protocol": "grpc", "max_backlog_bytes": str(GONE_BACKLOG_BYTES)}
    return {
        "off": {},
        "grpc": grpc,
        "http": http,
        "http-zstd": {**http, "compression": "zstd"},
        "flight": {**grpc, "protocol": "arrow_flight"},
        "gone": gone,
        "flight-in": grpc,
    }[case]


def _start(directory: Path, by_flight: bool, forwarding: dict[str, str], stack: ExitStack) -> Side:
    measured = entry = Forwarding(directory, **forwarding)
    stack.enter_context(measured)
    if by_flight:
        door = {"endpoint_url": f"http://localhost:{measured.flight_port}", "protocol": "arrow_flight"}
        entry = Forwarding(directory, **door)
        stack.enter_context(entry)
    return Side(entry, measured)


async def _drive(sides: Sequence[Side], workload: Workload, seconds: float, rate: float) -> None:
    async def load(number: int, side: Side) -> None:
        await asyncio.sleep(number / len(sides) / rate)
        side.result = await drive(side.entry.urls["grpc"], workload, seconds=seconds, rate=rate)

    async def look() -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            for side in sides:
                side.wal_peak = max(side.wal_peak, side.measured.wal_bytes())
            if time.monotonic() - began >= WINDOW_S:
                began += WINDOW_S
                for side in sides:
                    side.cpu_s.append(side.measured.usage().cpu_s)

    looking = asyncio.create_task(look())
    await asyncio.gather(*(load(number, side) for number, side in enumerate(sides)))
    looking.cancel()


def _wait_until_sent(case: str, sides: Sequence[Side]) -> list[str]:
    give_up_at = time.monotonic() + DRAIN_TIMEOUT_S
    for server in [server for side in sides for server in (side.entry, side.measured)]:
        while case != "gone" and server.lag_bytes():
            if time.monotonic() > give_up_at:
                return ["not everything was sent on"]
            time.sleep(0.1)
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=24, help="of load for each case")
    parser.add_argument("--rate", type=float, default=75, help="requests of 512 spans a second, for each collector")
    parser.add_argument("--spans", type=int, default=512, help="spans a request")
    parser.add_argument("--only", nargs="*", choices=CASES, default=CASES)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    workload = traces(arguments.spans)
    found: dict[str, Measured] = {}
    print(HEAD)
    with scratch(arguments.dir) as directory:
        for case in arguments.only:
            found[case] = measured = measure(case, directory, workload, arguments.seconds, arguments.rate)
            print(row(case, measured), flush=True)
            for problem in measured.problems:
                print(f"{case}: {problem}", file=sys.stderr)
    if arguments.json:
        arguments.json.write_text(json.dumps({case: asdict(m) for case, m in found.items()}, indent=1))
    return 1 if any(m.problems for m in found.values()) else 0


HEAD = (
    "| case | CPU µs/span without | with | added | ratio (lowest to highest window) "
    "| ack p50 ms | p95 ms | p95 ratio | WAL peak MiB | RSS peak MiB |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def row(case: str, m: Measured) -> str:
    """A line of the table."""
    return (
        f"| {case} | {m.cpu_us_per_span[0]:.2f} | {m.cpu_us_per_span[1]:.2f} | {m.added_us:+.2f} "
        f"| {m.ratio:.2f} ({min(m.window_ratios):.2f} to {max(m.window_ratios):.2f}) "
        f"| {m.p50_ms[0]:.1f}, {m.p50_ms[1]:.1f} | {m.p95_ms[0]:.1f}, {m.p95_ms[1]:.1f} "
        f"| {m.p95_ms[1] / m.p95_ms[0]:.2f} "
        f"| {m.wal_peak_mib[0]:.0f}, {m.wal_peak_mib[1]:.0f} | {m.rss_peak_mib[0]:.0f}, {m.rss_peak_mib[1]:.0f} |"
    )


def _pair(values: Iterable[float]) -> tuple[float, float]:
    first, second = values
    return first, second


if __name__ == "__main__":
    sys.exit(main())
