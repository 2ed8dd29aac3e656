"""OK means kept: a collector is killed with SIGKILL under load, again and again, and its files are counted."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp
import grpc.aio
import pyarrow as pa
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from http2_frames import END_STREAM, GREETING, HEADERS, call
from otlp_arrow.model import Signal
from served import Served

EXPORT = {
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    Signal.METRICS: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
CALL_TIMEOUT_S = 10
# Small batches and files, so that flushes, rotations and WAL releases happen all the time.
SETTINGS = ["--set=write_interval_secs=1", "--set=max_batch_rows=300", "--set=max_file_size=65536"]


def request_of(signal: Signal, ids: list[int]) -> bytes:
    """One request whose records carry these ids."""
    if signal is Signal.TRACES:
        traces = ExportTraceServiceRequest()
        spans = traces.resource_spans.add().scope_spans.add().spans
        for id_ in ids:
            spans.add(
                trace_id=id_.to_bytes(16, "big"), span_id=id_.to_bytes(8, "big"), name="kill", start_time_unix_nano=1
            )
        return traces.SerializeToString()
    if signal is Signal.METRICS:
        metrics = ExportMetricsServiceRequest()
        points = metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="kill").gauge.data_points
        for id_ in ids:
            points.add(as_int=id_, time_unix_nano=1)
        return metrics.SerializeToString()
    logs = ExportLogsServiceRequest()
    records = logs.resource_logs.add().scope_logs.add().log_records
    for id_ in ids:
        records.add(time_unix_nano=1).body.int_value = id_
    return logs.SerializeToString()


def stored_ids(directory: Path, signal: Signal) -> Counter[int]:
    """How often each id stands in the segments."""
    found: Counter[int] = Counter()
    for path in (directory / "otlp" / signal.value).glob("*.arrows"):
        table = pa.ipc.open_stream(path.read_bytes()).read_all()
        if signal is Signal.TRACES:
            found.update(int.from_bytes(v, "big") for v in table.column("span_id").to_pylist())
        elif signal is Signal.METRICS:
            found.update(table.column("int_value").to_pylist())
        else:
            found.update(v["int"] for v in table.column("body").to_pylist())
    return found


class Senders:
    """Concurrent senders over gRPC and HTTP. They never repeat a request, so nothing may be doubled."""

    def __init__(self) -> None:
        self._next = itertools.count(1)
        self.sent: dict[Signal, set[int]] = {signal: set() for signal in Signal}
        self.acknowledged: dict[Signal, set[int]] = {signal: set() for signal in Signal}

    async def run(self, served: Served, rng: random.Random) -> None:
        """Send until the collector is gone."""
        grpc_senders = [self._over_grpc(served.grpc_port, signal, rng) for signal in Signal for _ in range(2)]
        await asyncio.gather(*grpc_senders, self._over_http(served.http_port, rng))

    def _request(self, signal: Signal, rng: random.Random) -> tuple[list[int], bytes]:
        ids = list(itertools.islice(self._next, rng.choice([1, 3, 50])))
        self.sent[signal].update(ids)
        return ids, request_of(signal, ids)

    async def _over_grpc(self, port: int, signal: Signal, rng: random.Random) -> None:
        async with grpc.aio.insecure_channel(f"localhost:{port}") as channel:
            export = channel.unary_unary(EXPORT[signal])
            while True:
                ids, payload = self._request(signal, rng)
                try:
                    await export(payload, timeout=CALL_TIMEOUT_S)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE or "retry" in str(error.trailing_metadata()):
                        raise
                    return
                self.acknowledged[signal].update(ids)

    async def _over_http(self, port: int, rng: random.Random) -> None:
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                signal = rng.choice(list(Signal))
                ids, payload = self._request(signal, rng)
                url = f"http://localhost:{port}/v1/{signal.value}"
                try:
                    async with session.post(
                        url, data=payload, headers={"Content-Type": "application/x-protobuf"}
                    ) as answer:
                        await answer.read()
                        assert answer.status == 200, await answer.text()
                except (aiohttp.ClientConnectionError, ConnectionError):
                    return
                self.acknowledged[signal].update(ids)


async def kill_and_count(directory: Path, *, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    senders = Senders()
    for _ in range(rounds):
        with await asyncio.to_thread(Served(directory, *SETTINGS).__enter__) as served:
            sending = asyncio.create_task(senders.run(served, rng))
            # A moment that no flush, sync or rotation can be in step with.
            done, _ = await asyncio.wait([sending], timeout=rng.uniform(0.2, 1.8))
            assert not done, sending.exception()
            served.process.kill()
            await asyncio.wait_for(sending, CALL_TIMEOUT_S)
    with await asyncio.to_thread(Served(directory, *SETTINGS).__enter__) as served:
        assert await asyncio.to_thread(served.stop) == 0, served.text
    for signal in Signal:
        stored = stored_ids(directory, signal)
        acknowledged = senders.acknowledged[signal]
        assert len(acknowledged) > 10 * rounds
        assert not acknowledged - stored.keys(), "acknowledged and missing"
        assert not [id_ for id_, times in stored.items() if times > 1], "doubled"
        assert not stored.keys() - senders.sent[signal], "spurious"


async def test_a_collector_killed_under_load_keeps_every_acknowledged_record_once(tmp_path: Path) -> None:
    await kill_and_count(tmp_path, rounds=3, seed=1)


@pytest.mark.soak
async def test_a_collector_killed_twenty_five_times_in_a_row_keeps_every_acknowledged_record_once(
    tmp_path: Path,
) -> None:
    await kill_and_count(tmp_path, rounds=25, seed=2)


# -- at saturation -------------------------------------------------------------------------------------
SPANS_A_REQUEST = 512
IN_FLIGHT = 16


async def saturate(port: int, first: int, requests: int, kill: Callable[[], None], kill_after: int) -> set[int]:
    """Prepared requests as fast as the collector takes them, by hand-written HTTP/2, until it is killed.

    ``kill`` is called when ``kill_after`` were acknowledged; the numbers of those that were.
    """
    prepared = [call(2 * n + 1, request_of(Signal.TRACES, list(ids_of(first + n)))) for n in range(requests)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GREETING + b"".join(prepared[:IN_FLIGHT]))
    acknowledged: set[int] = set()
    sent = IN_FLIGHT
    async with asyncio.timeout(30):
        try:
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == HEADERS and head[4] & END_STREAM:
                    assert b"grpc-status\x010" in payload, payload
                    acknowledged.add(first + int.from_bytes(head[5:], "big") // 2)
                    if len(acknowledged) == kill_after:
                        kill()
                    writer.write(b"".join(prepared[sent : sent + 1]))
                    sent += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return acknowledged


def ids_of(request: int) -> range:
    return range(request * SPANS_A_REQUEST + 1, (request + 1) * SPANS_A_REQUEST + 1)


async def kill_at_saturation(directory: Path, *, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    acknowledged: set[int] = set()
    requests = 300
    for number in range(rounds):
        with await asyncio.to_thread(Served(directory).__enter__) as served:
            kill = served.process.kill
            port = served.grpc_port
            acknowledged |= await saturate(port, number * requests, requests, kill, rng.randint(1, requests - 50))
    with await asyncio.to_thread(Served(directory).__enter__) as served:
        assert await asyncio.to_thread(served.stop) == 0, served.text
    stored = stored_ids(directory, Signal.TRACES)
    assert len(acknowledged) >= rounds
    missing = [number for number in acknowledged if not all(stored[id_] == 1 for id_ in ids_of(number))]
    assert not missing, "acknowledged, and missing or doubled"
    assert max(stored.values()) == 1, "doubled"
    assert max(stored) <= rounds * requests * SPANS_A_REQUEST, "spurious"


async def test_a_collector_killed_at_saturation_keeps_every_acknowledged_span_once(tmp_path: Path) -> None:
    await kill_at_saturation(tmp_path, rounds=3, seed=11)


@pytest.mark.soak
async def test_twenty_five_kills_at_saturation_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    await kill_at_saturation(tmp_path, rounds=25, seed=12)
