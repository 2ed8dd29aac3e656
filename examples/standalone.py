"""A collector as a program of your own: what ``otlp-arrow serve`` does, to be extended.

    pip install otlp-arrow
    python standalone.py --output-dir telemetry

Listens on OTLP/gRPC, OTLP/HTTP and Arrow Flight until it is told to stop (Ctrl-C), and says now and then what it kept.
``--free-ports`` takes whatever ports are free instead of 4317, 4318 and 4319.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal

from otlp_arrow import Collector, Settings


async def main(output_dir: str, interval_s: float, free_ports: bool) -> None:
    protocols = {"protobuf_port": 0, "http_port": 0, "arrow_flight_port": 0} if free_ports else {}
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends asyncio.run instead
            asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async with Collector(Settings(output_dir=output_dir, protocols=protocols)) as collector:
        for door, port in collector.ports().items():
            print(f"{door}: localhost:{port}", flush=True)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), interval_s)
            stats = collector.stats()
            print(", ".join(f"{stats[name]['accepted']} {name}" for name in ("traces", "metrics", "logs")), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output-dir", default="telemetry")
    parser.add_argument("--interval", type=float, default=5.0)
    parser.add_argument("--free-ports", action="store_true")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(arguments.output_dir, arguments.interval, arguments.free_ports))
