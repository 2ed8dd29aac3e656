"""What forwarding costs: CPU per span and acknowledgement latency beside the same collector without it.

The standard load at a fixed rate (an open loop: latency counts from the moment a request is due) goes to a
collector of its own for each case, in turns, so that a noisy minute hits them all alike. CPU is that of the
whole collector process from ready to rest; the remote is a process of its own and not counted.

======================  ==================================================================================
case                    the collector
======================  ==================================================================================
off                     stores
grpc, http, http-zstd   stores, and sends the stored bytes on
flight                  stores, decodes again and puts the columns
gone                    stores; nobody listens where it should send to
flight-in               takes the load from a sidecar by Flight, and stores
flight-in-otlp          the same, and sends it on as OTLP: encoded from columns
======================  ==================================================================================

    python benchmarks/forwarding.py --seconds 8 --rate 150 --repeat 3
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop
from loadgen import Result, drive
from payloads import Workload, traces
from servers import Collector, Server, scratch

CASES = ("off", "grpc", "http", "http-zstd", "flight", "gone", "flight-in", "flight-in-otlp")
BASE = {"flight-in-otlp": "flight-in"}
DRAIN_TIMEOUT_S = 60.0
REST_S = 7.0


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


class FlightDoor(Forwarding):
    """The same with an open Flight door, on the port that would be OTLP/HTTP's."""

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "OTLP_HTTP_ENABLED": "false",
            "OTLP_ARROW_FLIGHT_ENABLED": "true",
            "OTLP_ARROW_FLIGHT_PORT": str(self.http_port),
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """One case once."""

    cpu_us_per_span: float
    p50_ms: float
    p95_ms: float
    wal_mib: float
    rss_mib: float
    problem: str


def measure(case: str, directory: Path, workload: Workload, seconds: float, rate: float) -> Measured:
    """Start everything, load, rest, stop."""
    with ExitStack() as stack:
        remote = stack.enter_context(Swallow(directory))
        out = {
            "grpc": {"endpoint_url": f"http://localhost:{remote.grpc_port}", "protocol": "grpc"},
            "http": {"endpoint_url": f"http://localhost:{remote.http_port}", "protocol": "http"},
            "flight": {"endpoint_url": f"http://localhost:{remote.grpc_port}", "protocol": "arrow_flight"},
            "gone": {"endpoint_url": "http://localhost:1", "protocol": "grpc"},
        }
        out["http-zstd"] = {**out["http"], "compression": "zstd"}
        if case.startswith("flight-in"):
            measured = FlightDoor(directory, **(out["grpc"] if case == "flight-in-otlp" else {}))
            stack.enter_context(measured)
            door = {"endpoint_url": f"http://localhost:{measured.http_port}", "protocol": "arrow_flight"}
            entry: Forwarding = Forwarding(directory, **door)
            stack.enter_context(entry)
        else:
            measured = entry = Forwarding(directory, **out.get(case, {}))
            stack.enter_context(measured)
        time.sleep(1)
        before = measured.usage()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result: Result = runner.run(drive(entry.urls["grpc"], workload, seconds=seconds, rate=rate))
        give_up_at = time.monotonic() + DRAIN_TIMEOUT_S
        for server in {entry, measured}:
            while case != "gone" and server.lag_bytes() and time.monotonic() < give_up_at:
                time.sleep(0.2)
        time.sleep(REST_S)
        after = measured.usage()
        wal = sum(path.stat().st_size for path in (measured.directory / "data/wal").iterdir())
    return Measured(
        (after.cpu_s - before.cpu_s) * 1e6 / result.records,
        result.latency_ms["p50"],
        result.latency_ms["p95"],
        wal / 2**20,
        after.peak_rss_bytes / 2**20,
        f"failed: {result.failures}" if result.failures else "",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rate", type=float, default=150, help="requests of 512 spans a second")
    parser.add_argument("--spans", type=int, default=512, help="spans a request")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=CASES, default=CASES)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    workload = traces(arguments.spans)
    found: dict[str, list[Measured]] = defaultdict(list)
    with scratch(arguments.dir) as directory:
        for turn in range(arguments.repeat):
            for case in arguments.only if turn % 2 == 0 else reversed(arguments.only):
                found[case].append(measure(case, directory, workload, arguments.seconds, arguments.rate))
                print(f"turn {turn + 1}: {case}: {found[case][-1]}", file=sys.stderr)
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps({c: [vars_of(m) for m in ms] for c, ms in found.items()}, indent=1))
    return 1 if any(m.problem for ms in found.values() for m in ms) else 0


def table(found: dict[str, list[Measured]]) -> str:
    """Medians; differences and ratios to the case without forwarding, turn by turn, then their median."""
    lines = [
        "| case | CPU µs/span | added | ratio | ack p50 ms | p95 ms | p95 ratio | WAL MiB | peak MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case, measured in found.items():
        base = found.get(BASE.get(case, "off"), measured)
        pairs = list(zip(measured, base, strict=False))
        lines.append(
            f"| {case} "
            f"| {_median(m.cpu_us_per_span for m in measured):.2f} "
            f"| {_median(m.cpu_us_per_span - b.cpu_us_per_span for m, b in pairs):+.2f} "
            f"| {_median(m.cpu_us_per_span / b.cpu_us_per_span for m, b in pairs):.2f} "
            f"| {_median(m.p50_ms for m in measured):.1f} | {_median(m.p95_ms for m in measured):.1f} "
            f"| {_median(m.p95_ms / b.p95_ms for m, b in pairs):.2f} "
            f"| {_median(m.wal_mib for m in measured):.0f} | {_median(m.rss_mib for m in measured):.0f} |"
        )
    return "\n".join(lines)


def _median(values: object) -> float:
    return statistics.median(values)  # type: ignore[call-overload,no-any-return]


def vars_of(measured: Measured) -> dict[str, object]:
    return {name: getattr(measured, name) for name in Measured.__slots__}


if __name__ == "__main__":
    sys.exit(main())
