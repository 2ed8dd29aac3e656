"""A collector with a forwarder, and remotes that behave as remotes do: whatever is acknowledged arrives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from otlp_arrow import codec
from otlp_arrow.app.settings import Settings
from otlp_arrow.app.wiring import Collector, open_collector
from otlp_arrow.model import Batch, Encoding, Receipt, Signal
from otlp_arrow.model import meter as m
from otlp_arrow.testing.faulty_disk import FaultyDisk
from remotes import SERVERS, Drop, GrpcServer, HttpServer, Partial, Refuse, Remote, Server, all_ids, spans, until
from samples import samples

Code = grpc.StatusCode

FAST = {
    "retry": {"initial_interval_secs": 0.02, "max_interval_secs": 0.2},
    "breaker": {"failures": 5, "open_secs": 0.2},
    "timeout_secs": 2,
}


@pytest.fixture(params=SERVERS, ids=lambda kind: kind.transport)
def kind(request: pytest.FixtureRequest) -> type[Server]:
    found: type[Server] = request.param
    return found


def to(server: Server, **more: Any) -> dict[str, Any]:
    return {"enabled": True, "endpoint_url": server.url, "protocol": server.transport, **FAST, **more}


@asynccontextmanager
async def collector(
    directory: Path, forwarding: dict[str, Any], *, disk: FaultyDisk | None = None, **more: Any
) -> AsyncIterator[Collector]:
    doors = {"protobuf_port": 0, "http_port": 0, "arrow_flight_enabled": False}
    settings = Settings(output_dir=directory, forwarding=forwarding, protocols=doors, write_interval_secs=1, **more)
    async with open_collector(settings, admin=False, disk=disk) as running:
        yield running


async def accept(running: Collector, payload: bytes, signal: Signal = Signal.TRACES) -> Receipt:
    return await running.pipeline.intake.accept(Batch(signal, payload))


async def settled(running: Collector, timeout_s: float = 20.0) -> None:
    """Until the destination has nothing left in the log."""
    await until(lambda: not health(running)["lag_records"], timeout_s)


def health(running: Collector, name: str = "default") -> dict[str, Any]:
    return part(running, name)["details"]


def part(running: Collector, name: str = "default") -> dict[str, Any]:
    parts = running.health.report().as_json()["parts"]
    return next(p for p in parts if p["name"] == f"forwarding:{name}")


def counted(running: Collector, metric: m.Metric, *labels: str) -> float:
    return running.meter.value(metric, *labels)


# -- it arrives ----------------------------------------------------------------------------------------
async def test_what_is_accepted_arrives_and_the_books_balance(kind: type[Server], tmp_path: Path):
    async with kind() as server:
        async with collector(tmp_path, to(server)) as running:
            payloads = [spans(7) for _ in range(30)]
            await asyncio.gather(*(accept(running, p) for p in payloads))
            await settled(running)
            assert counted(running, m.EXPORTER_SENT[Signal.TRACES], "default") == 210
            assert counted(running, m.EXPORTER_FAILED[Signal.TRACES], "default") == 0
        assert set(server.remote.ids) == all_ids(payloads)
        assert max(server.remote.ids.values()) == 1
        assert server.remote.requests < 30, "stored requests are merged"


async def test_every_sample_of_every_signal_arrives_as_it_was(kind: type[Server], tmp_path: Path):
    async with kind() as server:
        async with collector(tmp_path, to(server, max_batch_bytes=1024)) as running:
            for sample in samples():
                await accept(running, sample.payload, sample.signal)
            await settled(running)
        for signal in Signal:
            sent = [codec.decode(signal, s.payload) for s in samples() if s.signal is signal]
            arrived = [codec.decode(signal, p) for s, p in server.remote.payloads if s is signal]
            assert sorted_rows(arrived) == sorted_rows(sent)


def sorted_rows(batches: list[Any]) -> list[str]:
    return sorted(str(row) for batch in batches for row in batch.to_pylist())


async def test_otlp_goes_out_as_the_bytes_that_came_in(tmp_path: Path):
    async with GrpcServer() as server:
        async with collector(tmp_path, to(server)) as running:
            sent = [spans(3), spans(2)]
            for payload in sent:
                await accept(running, payload)
            await settled(running)
        arrived = b"".join(payload for _signal, payload in server.remote.payloads)
        assert arrived == b"".join(sent)


async def test_batches_that_came_as_arrow_arrive(kind: type[Server], tmp_path: Path):
    payload = spans(20)
    columns = codec.decode(Signal.TRACES, payload)
    async with kind() as server:
        async with collector(tmp_path, to(server)) as running:
            stream = ipc_stream(columns)
            batch = Batch(Signal.TRACES, stream, Encoding.ARROW, "flight", "grpc", columns)
            await running.pipeline.intake.accept(batch)
            await accept(running, more := spans(5))
            await settled(running)
        assert set(server.remote.ids) == all_ids([payload, more])


def ipc_stream(columns: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns.schema) as writer:
        writer.write_batch(columns)
    return sink.getvalue().to_pybytes()


# -- through any trouble -------------------------------------------------------------------------------
def every_fifth_fails(remote: Remote) -> None:
    remote.decide = lambda n, signal, payload: Refuse(Code.UNAVAILABLE) if n % 5 == 0 else None


def asks_to_wait(remote: Remote) -> None:
    remote.answers += [Refuse(Code.RESOURCE_EXHAUSTED, after_s=0.2)] * 3


def asks_to_wait_until_a_date(remote: Remote) -> None:
    remote.answers += [Refuse(Code.UNAVAILABLE, after_s=1, date=True)] * 2


def drops_connections(remote: Remote) -> None:
    remote.decide = lambda n, signal, payload: Drop() if n % 3 == 0 else None


def is_slow(remote: Remote) -> None:
    remote.delay_s = 0.15


@pytest.mark.parametrize(
    "misbehave", [every_fifth_fails, asks_to_wait, asks_to_wait_until_a_date, drops_connections, is_slow]
)
async def test_every_record_arrives_at_a_remote_that(misbehave: Any, kind: type[Server], tmp_path: Path):
    async with kind() as server:
        misbehave(server.remote)
        async with collector(tmp_path, to(server, max_batch_bytes=2048)) as running:
            payloads = [spans(5) for _ in range(60)]
            for payload in payloads:
                await accept(running, payload)
            await settled(running)
        assert set(server.remote.ids) == all_ids(payloads)


async def test_every_record_arrives_at_a_remote_that_is_down_at_first(kind: type[Server], tmp_path: Path):
    server = kind()
    await server.up()
    await server.down()
    try:
        async with collector(tmp_path, to(server)) as running:
            payloads = [spans(5) for _ in range(40)]
            for payload in payloads:
                await accept(running, payload)
            await until(lambda: not (part(running)["state"] != "degraded" or health(running)["breaker"] == "closed"))
            assert "cannot be reached" in part(running)["reason"]
            assert running.health.report().ready, "local storage has nothing to do with it"
            await server.up()
            await settled(running)
            assert part(running)["state"] == "ok"
        assert set(server.remote.ids) == all_ids(payloads)
    finally:
        with contextlib.suppress(Exception):
            await server.down()


async def test_what_was_not_sent_before_the_stop_is_sent_after_the_start(kind: type[Server], tmp_path: Path):
    server = kind()
    await server.up()
    await server.down()
    first, second = [spans(4) for _ in range(20)], [spans(4) for _ in range(20)]
    async with collector(tmp_path, to(server)) as running:
        for payload in first:
            await accept(running, payload)
    async with server:
        async with collector(tmp_path, to(server)) as running:
            for payload in second:
                await accept(running, payload)
            await settled(running)
            assert counted(running, m.EXPORTER_SENT[Signal.TRACES], "default") == 160
        assert set(server.remote.ids) == all_ids([*first, *second])
        assert max(server.remote.ids.values()) == 1


async def test_a_graceful_stop_drains(kind: type[Server], tmp_path: Path):
    async with kind() as server:
        server.remote.delay_s = 0.05
        payloads = [spans(4) for _ in range(30)]
        async with collector(tmp_path, to(server, max_batch_bytes=1024)) as running:
            for payload in payloads:
                await accept(running, payload)
        assert set(server.remote.ids) == all_ids(payloads)
        server.remote.ids.clear()
        async with collector(tmp_path, to(server)) as running:
            await settled(running)
        assert not server.remote.ids, "the cursor was stored"


async def test_a_remote_that_hangs_does_not_hold_up_the_stop(tmp_path: Path):
    async with GrpcServer() as server:
        server.remote.delay_s = 60
        loop = asyncio.get_running_loop()
        async with collector(tmp_path, to(server, timeout_secs=30), shutdown_timeout_secs=1.5) as running:
            await accept(running, spans(1))
            await server.remote.wait_for(lambda remote: remote.requests == 1)
            began = loop.time()
        assert loop.time() - began < 10


# -- what is refused -----------------------------------------------------------------------------------
async def test_what_the_remote_refuses_is_written_aside_with_its_reason_and_the_rest_arrives(
    kind: type[Server], tmp_path: Path
):
    poison = spans(1)
    (poison_id,) = all_ids([poison])
    async with kind() as server:
        no = Refuse(Code.INVALID_ARGUMENT, "no 13s")
        server.remote.decide = lambda n, signal, payload: no if poison_id in all_ids([payload]) else None
        payloads = [spans(2) for _ in range(20)]
        async with collector(tmp_path, to(server)) as running:
            await asyncio.gather(*(accept(running, p) for p in [*payloads[:10], poison, *payloads[10:]]))
            await settled(running)
            assert counted(running, m.EXPORTER_SENT[Signal.TRACES], "default") == 40
            assert counted(running, m.EXPORTER_FAILED[Signal.TRACES], "default") == 1
        assert set(server.remote.ids) == all_ids(payloads)
        (kept,) = (tmp_path / "quarantine").glob("refused_default_traces_*.pb")
        assert all_ids([kept.read_bytes()]) == {poison_id}
        assert "no 13s" in kept.with_name(kept.name + ".reason").read_text()


async def test_a_remote_that_refuses_everything_is_not_asked_for_each_request(tmp_path: Path):
    async with GrpcServer() as server:
        server.remote.decide = lambda n, signal, payload: Refuse(Code.INTERNAL, "broken")
        async with collector(tmp_path, to(server, max_in_flight=1)) as running:
            await asyncio.gather(*(accept(running, spans(1)) for _ in range(500)))
            await settled(running)
            assert counted(running, m.EXPORTER_FAILED[Signal.TRACES], "default") == 500
        assert server.remote.requests < 150
        kept = [p for p in (tmp_path / "quarantine").iterdir() if p.suffix == ".pb"]
        assert len(all_ids(p.read_bytes() for p in kept)) == 500
        assert len(kept) < 10, "what is refused together is kept together"


async def test_what_is_too_large_for_the_remote_arrives_in_parts(kind: type[Server], tmp_path: Path):
    async with kind() as server:
        too_large = Refuse(Code.RESOURCE_EXHAUSTED, "too large")
        server.remote.decide = lambda n, signal, payload: too_large if len(payload) > 700 else None
        payloads = [spans(3) for _ in range(10)] + [spans(40)]
        async with collector(tmp_path, to(server)) as running:
            await asyncio.gather(*(accept(running, p) for p in payloads))
            await settled(running)
            assert counted(running, m.EXPORTER_SENT[Signal.TRACES], "default") == 70
        assert set(server.remote.ids) == all_ids(payloads)
        assert max(server.remote.ids.values()) == 1


async def test_a_partial_success_is_counted_and_logged_with_the_remotes_words(
    kind: type[Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with kind() as server:
        server.remote.answers.append(Partial(2, "two are too old"))
        async with collector(tmp_path, to(server)) as running:
            await accept(running, spans(5))
            await settled(running)
            assert counted(running, m.EXPORTER_SENT[Signal.TRACES], "default") == 3
            assert counted(running, m.EXPORTER_FAILED[Signal.TRACES], "default") == 2
        assert "rejected 2 spans: two are too old" in caplog.text


async def test_records_that_were_refused_at_the_door_are_not_blamed_on_the_remote(tmp_path: Path):
    """The frame holds the request as it came, bad records too; the remote refuses those again."""
    async with GrpcServer() as server:
        server.remote.answers.append(Partial(3, "bad ids"))
        async with collector(tmp_path, to(server)) as running:
            receipt = await accept(running, spans(4, bad=3))
            assert (receipt.rows, receipt.rejected) == (4, 3)
            await settled(running)
            assert counted(running, m.EXPORTER_SENT[Signal.TRACES], "default") == 4
            assert counted(running, m.EXPORTER_FAILED[Signal.TRACES], "default") == 0


async def test_a_strict_remote_gets_the_good_records_of_a_request_with_bad_ones(tmp_path: Path):
    async with GrpcServer() as server:
        strict = Refuse(Code.INVALID_ARGUMENT, "a span has no trace id")
        server.remote.decide = lambda n, signal, payload: strict if b"12345678" in payload else None
        async with collector(tmp_path, to(server)) as running:
            await accept(running, payload := spans(4, bad=1))
            await settled(running)
            assert counted(running, m.EXPORTER_SENT[Signal.TRACES], "default") == 4
        assert set(server.remote.ids) == all_ids([payload])


# -- mistakes of a person ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Refuse(Code.UNAUTHENTICATED, "wrong token"), "does not accept the credentials"),
        (Refuse(Code.UNIMPLEMENTED, "unknown service"), "has no such service there"),
    ],
    ids=["wrong credentials", "wrong path"],
)
async def test_a_mistake_is_one_line_in_log_and_health_and_nothing_is_thrown_away(
    answer: Refuse, words: str, kind: type[Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with kind() as server:
        server.remote.decide = lambda n, signal, payload: answer
        payloads = [spans(2) for _ in range(10)]
        async with collector(tmp_path, to(server)) as running:
            with caplog.at_level(logging.WARNING):
                for payload in payloads:
                    await accept(running, payload)
                await until(lambda: server.remote.requests >= 8)
            reason = part(running)["reason"]
            assert words in reason
            assert answer.message in reason
            lines = [r.getMessage() for r in caplog.records if r.name.startswith("otlp_arrow.sinks")]
            assert len(lines) == 1, lines
            assert "default" in lines[0]
            assert server.url in lines[0]
            assert words in lines[0]
            assert "\n" not in lines[0]
            await running.pipeline.flush()
            assert running.health.report().ready
            server.remote.decide = lambda n, signal, payload: None
            await settled(running)
        assert set(server.remote.ids) == all_ids(payloads)


async def test_a_signal_that_the_remote_does_not_know_does_not_hold_up_the_others(
    kind: type[Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with kind() as server:
        unknown = Refuse(Code.UNIMPLEMENTED, "traces only")
        server.remote.decide = lambda n, signal, payload: None if signal is Signal.TRACES else unknown
        metrics = next(s.payload for s in samples() if s.signal is Signal.METRICS)
        rows = codec.decode(Signal.METRICS, metrics).num_rows
        async with collector(tmp_path, to(server)) as running:
            for _ in range(3):
                await accept(running, metrics, Signal.METRICS)
                await accept(running, spans(2))
            await settled(running)
            assert counted(running, m.EXPORTER_SENT[Signal.TRACES], "default") == 6
            assert counted(running, m.EXPORTER_FAILED[Signal.METRICS], "default") == 3 * rows
            assert "does not take metrics" in part(running)["reason"]
        assert "it takes no metrics" in caplog.text


# -- several, and bounds -------------------------------------------------------------------------------
async def test_each_destination_has_its_own_cursor_signals_and_trouble(tmp_path: Path):
    async with GrpcServer() as first, HttpServer() as second:
        logs = next(s.payload for s in samples() if s.signal is Signal.LOGS)
        forwarding = {
            "enabled": True,
            **FAST,
            "destinations": [
                {"name": "first", "endpoint_url": first.url, "signals": ["traces"]},
                {"name": "second", "endpoint_url": second.url, "protocol": "http"},
            ],
        }
        await second.down()
        async with collector(tmp_path, forwarding) as running:
            for _ in range(3):
                await accept(running, spans(2))
                await accept(running, logs, Signal.LOGS)
            await until(lambda: not (health(running, "first")["lag_records"]))
            assert {signal for signal, _payload in first.remote.payloads} == {Signal.TRACES}
            assert health(running, "second")["lag_records"] > 0
            await second.up()
            await until(lambda: not (health(running, "second")["lag_records"]))
        assert set(first.remote.ids) == set(second.remote.ids)
        assert Signal.LOGS in {signal for signal, _payload in second.remote.payloads}
        assert sorted(p.name for p in (tmp_path / "state").glob("forward_*")) == [
            "forward_first.json",
            "forward_second.json",
        ]


async def test_a_new_destination_gets_what_is_accepted_from_now_on(tmp_path: Path):
    async with GrpcServer() as server:
        async with collector(tmp_path, {}) as running:
            await accept(running, spans(3))
        async with collector(tmp_path, to(server)) as running:
            await accept(running, payload := spans(3))
            await settled(running)
        assert set(server.remote.ids) == all_ids([payload])


async def test_a_removed_destination_does_not_keep_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async with collector(tmp_path, {"enabled": True, "endpoint_url": "http://localhost:1", **FAST}) as running:
        for _ in range(3):
            await accept(running, spans(2))
    assert list((tmp_path / "wal").iterdir())
    async with collector(tmp_path, {}):
        assert "default is no destination any more" in caplog.text
        assert not list((tmp_path / "state").glob("forward_*"))
    assert not list((tmp_path / "wal").iterdir())


def size_on_disk(directory: Path) -> int:
    """Of the files that are there; one may go while it is looked at."""
    size = 0
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


async def test_a_backlog_past_its_bound_loses_its_oldest_and_the_books_say_so(tmp_path: Path):
    bound = 1 << 20
    server = GrpcServer()
    await server.up()
    await server.down()
    # One request in memory must not hold what the bound lets go: it would be sent all the same.
    remote = to(server, max_backlog_bytes=bound, max_batch_bytes=bound // 16)
    async with collector(tmp_path, remote, max_batch_rows=50) as running:
        payloads = [spans(50, pad=500) for _ in range(100)]
        worst = 0
        for payload in payloads:
            await accept(running, payload)
            await running.pipeline.flush()
            worst = max(worst, size_on_disk(tmp_path / "wal"))
        assert worst <= bound
        # All of it is let go before the remote is there: a request under way may be both received and given up. One
        # that began below what is let go and ends above it is kept.
        await running.pipeline.keep_house()
        let_go = 50 * (health(running)["cursor"] - 2)
        assert let_go > 0
        await until(lambda: counted(running, m.EXPORTER_GIVEN_UP, "default", "traces", "backlog") >= let_go)
        await server.up()
        await settled(running)
        given_up = counted(running, m.EXPORTER_GIVEN_UP, "default", "traces", "backlog")
        sent = counted(running, m.EXPORTER_SENT[Signal.TRACES], "default")
        assert given_up + sent == 5000
        assert all_ids(payloads[-5:]) <= set(server.remote.ids), "the newest is what is kept"
        assert len(server.remote.ids) == sent
    await server.down()


async def test_who_falls_out_of_memory_reads_the_log_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from otlp_arrow.storage import readers
    from otlp_arrow.storage.tail import FreshTail

    monkeypatch.setattr(readers, "FreshTail", lambda newest, total: FreshTail(newest, total, max_bytes=3_000))
    async with GrpcServer() as server:
        server.remote.delay_s = 0.02
        payloads = [spans(5) for _ in range(200)]
        async with collector(tmp_path, to(server, max_batch_bytes=2_000, max_backlog_bytes=1 << 20)) as running:
            await asyncio.gather(*(accept(running, p) for p in payloads))
            await settled(running)
        assert set(server.remote.ids) == all_ids(payloads)
        assert max(server.remote.ids.values()) == 1


async def test_what_the_state_says_is_json_and_small(tmp_path: Path):
    async with GrpcServer() as server:
        async with collector(tmp_path, to(server)) as running:
            await accept(running, spans(1))
            await settled(running)
        found = json.loads((tmp_path / "state" / "forward_default.json").read_text())
        assert found["sequences"] == {"traces": 1, "metrics": 1, "logs": 1}
        assert set(found) == {"version", "sequences", "crc32"}


async def test_on_a_full_disk_the_backlog_gives_way_before_senders_are_refused(tmp_path: Path):
    disk = FaultyDisk(tmp_path)
    disk.capacity = 8 << 20
    nowhere = {"enabled": True, "endpoint_url": "http://localhost:1", "max_backlog_bytes": 16 << 20, **FAST}
    async with collector(tmp_path, nowhere, disk=disk) as running:
        for _ in range(60):
            await accept(running, spans(10, pad=30_000))  # raises Busy if the disk is full
            await running.pipeline.flush()
        await until(lambda: counted(running, m.EXPORTER_GIVEN_UP, "default", "traces", "backlog"))
        given_up = counted(running, m.EXPORTER_GIVEN_UP, "default", "traces", "backlog")
        assert given_up + health(running)["lag_records"] == 600
        assert running.health.report().ready
    disk.capacity = None
