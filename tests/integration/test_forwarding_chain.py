"""sidecar → Flight → gateway → OTLP → a server that keeps what it gets: nothing is lost in translation."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from doors import REQUEST
from otlp_arrow import codec
from otlp_arrow.app.settings import Settings
from otlp_arrow.app.wiring import Collector, open_collector
from otlp_arrow.model import Batch, Signal
from otlp_arrow.model import meter as m
from remotes import GrpcServer, HttpServer, Refuse, Server, spans, until
from samples import samples
from strategies import normal

FAST = {"retry": {"initial_interval_secs": 0.02, "max_interval_secs": 0.2}, "breaker": {"open_secs": 0.2}}


def settings(directory: Path, forwarding: dict[str, Any], **more: Any) -> Settings:
    doors = {"protobuf_port": 0, "http_port": 0, "arrow_flight_port": 0}
    return Settings(output_dir=directory, protocols=doors, forwarding={"enabled": True, **FAST, **forwarding}, **more)


def lag(running: Collector) -> int:
    parts = running.health.report().as_json()["parts"]
    records: int = next(p for p in parts if p["name"] == "forwarding:default")["details"]["lag_records"]
    return records


def records_of(requests: list[tuple[Signal, bytes]], signal: Signal) -> Counter[tuple[str, str]]:
    """Each record with where it comes from; how requests group them has no meaning."""
    found: Counter[tuple[str, str]] = Counter()
    for of, payload in requests:
        if of is signal:
            for origin, records in normal(REQUEST[signal].FromString(payload)).items():
                found.update((origin, repr(record)) for record in records)
    return found


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("kind", [GrpcServer, HttpServer], ids=lambda kind: kind.transport)
async def test_the_messages_that_arrive_equal_what_was_sent(kind: type[Server], compression: str, tmp_path: Path):
    sent = [(sample.signal, sample.payload) for sample in samples()]
    async with kind() as server, AsyncExitStack() as stack:
        out = {"endpoint_url": server.url, "protocol": server.transport}
        gateway = await stack.enter_async_context(open_collector(settings(tmp_path / "gateway", out), admin=False))
        there = {
            "endpoint_url": f"http://localhost:{gateway.ports()['flight']}",
            "protocol": "arrow_flight",
            "compression": compression,
        }
        sidecar = await stack.enter_async_context(open_collector(settings(tmp_path / "sidecar", there), admin=False))
        for signal, payload in sent:
            await sidecar.pipeline.intake.accept(Batch(signal, payload))
        await until(lambda: lag(sidecar) == 0)
        await until(lambda: lag(gateway) == 0)
        for signal in Signal:
            rows = sum(codec.decode(s, p).num_rows for s, p in sent if s is signal)
            assert sidecar.meter.value(m.EXPORTER_SENT[signal], "default") == rows
            assert gateway.meter.value(m.EXPORTER_SENT[signal], "default") == rows
            assert records_of(server.remote.payloads, signal) == records_of(sent, signal)


async def test_a_gateway_that_is_full_is_waited_for(tmp_path: Path):
    """Its Flight door refuses; what the sidecar keeps arrives once the gateway's own remote takes it."""
    async with GrpcServer() as server, AsyncExitStack() as stack:
        server.remote.decide = lambda n, signal, payload: Refuse(grpc.StatusCode.UNAVAILABLE) if n < 5 else None
        out = {"endpoint_url": server.url}
        small = {"max_buffer_bytes": 600_000, "max_request_bytes": 600_000, "write_interval_secs": 1}
        gateway = await stack.enter_async_context(
            open_collector(settings(tmp_path / "gateway", out, **small), admin=False)
        )
        there = {
            "endpoint_url": f"http://localhost:{gateway.ports()['flight']}",
            "protocol": "arrow_flight",
            "max_batch_bytes": 65_536,
            "max_in_flight": 8,
        }
        sidecar = await stack.enter_async_context(open_collector(settings(tmp_path / "sidecar", there), admin=False))
        payloads = [spans(40, pad=2000) for _ in range(6)]
        for payload in payloads:
            await sidecar.pipeline.intake.accept(Batch(Signal.TRACES, payload))
        await until(lambda: len(server.remote.ids) == 240, 30)
        assert sidecar.meter.value(m.EXPORTER_FAILED[Signal.TRACES], "default") == 0
        assert sidecar.meter.value(m.EXPORTER_REQUESTS, "default", "busy") > 0
