"""``otlp-arrow send``: stored files to a remote."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from otlp_arrow import codec
from otlp_arrow.app.settings import Settings
from otlp_arrow.app.wiring import open_collector
from otlp_arrow.cli.commands import app
from otlp_arrow.cli.send import parse_time
from otlp_arrow.model import Batch, OtlpConfigError, Signal
from remotes import SERVERS, GrpcServer, Partial, Refuse, Server, all_ids, spans
from samples import samples

Code = grpc.StatusCode


class Running:
    """A remote on a loop of its own: the command has one too."""

    def __init__(self, kind: type[Server]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.server = self._call(self._make(kind))

    async def _make(self, kind: type[Server]) -> Server:
        server = kind()
        await server.up()
        return server

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def close(self) -> None:
        self._call(self.server.down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(params=SERVERS, ids=lambda kind: kind.transport)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    running = Running(request.param)
    yield running.server
    running.close()


@pytest.fixture
def grpc_server() -> Iterator[Server]:
    running = Running(GrpcServer)
    yield running.server
    running.close()


def send(server: Server, *arguments: str | Path, **environ: str) -> Result:
    flags = ["--to", server.url, "--protocol", server.transport]
    return CliRunner().invoke(app, ["send", *map(str, arguments), *flags], env=environ)


def segments(directory: Path, requests: list[tuple[Signal, bytes]]) -> list[Path]:
    """Files as the collector writes them."""

    async def fill() -> None:
        doors = {"protobuf_enabled": False, "http_enabled": False, "arrow_flight_enabled": False}
        async with open_collector(Settings(output_dir=directory, protocols=doors), admin=False) as collector:
            for signal, payload in requests:
                await collector.pipeline.intake.accept(Batch(signal, payload))

    asyncio.run(fill())
    return sorted(directory.glob("otlp/*/*.arrows"))


def test_segments_of_every_signal_are_sent_whole(server: Server, tmp_path: Path):
    requests = [(sample.signal, sample.payload) for sample in samples()]
    result = send(server, *segments(tmp_path, requests))
    assert result.exit_code == 0, result.output
    for signal in Signal:
        stored = [codec.decode(signal, p) for s, p in requests if s is signal]
        arrived = [codec.decode(signal, p) for s, p in server.remote.payloads if s is signal]
        assert rows(arrived) == rows(stored)
    total = sum(codec.decode(s, p).num_rows for s, p in requests)
    assert f"{total:,} records sent to {server.url}" in result.output


def rows(batches: list[Any]) -> list[str]:
    return sorted(str(row) for batch in batches for row in batch.to_pylist())


def test_requests_and_json_lines_are_sent(server: Server, tmp_path: Path):
    first, second, third = spans(2), spans(3), spans(4)
    (tmp_path / "traces_1.pb").write_bytes(first)
    lines = [codec.encode_json(Signal.TRACES, codec.decode(Signal.TRACES, p)) for p in (second, third)]
    (tmp_path / "lines.jsonl").write_text("\n".join([lines[0], "", lines[1]]) + "\n")
    result = send(server, tmp_path / "traces_1.pb", tmp_path / "lines.jsonl")
    assert result.exit_code == 0, result.output
    assert set(server.remote.ids) == all_ids([first, second, third])
    assert "9 records sent" in result.output


def test_json_over_several_lines_is_one_request(grpc_server: Server, tmp_path: Path):
    sample = next(s for s in samples() if s.json is not None and s.signal is Signal.LOGS)
    assert sample.json is not None
    assert sample.json.count(b"\n") > 3
    (tmp_path / "logs.json").write_bytes(sample.json)
    assert send(grpc_server, tmp_path / "logs.json").exit_code == 0
    ((signal, payload),) = grpc_server.remote.payloads
    assert codec.decode(signal, payload).equals(codec.decode(Signal.LOGS, sample.payload))


def test_a_time_range_leaves_the_others_out(server: Server, tmp_path: Path):
    payload = spans(10)  # the number of a span is its time
    numbers = sorted(all_ids([payload]))
    (tmp_path / "traces.pb").write_bytes(payload)
    (file,) = segments(tmp_path / "out", [(Signal.TRACES, payload)])
    for path in (file, tmp_path / "traces.pb"):
        server.remote.ids.clear()
        result = send(server, path, "--start", str(numbers[3]), "--end", str(numbers[7]))
        assert result.exit_code == 0, result.output
        assert sorted(server.remote.ids) == numbers[3:7]


def test_trouble_that_passes_is_waited_out(server: Server, tmp_path: Path):
    server.remote.answers += [Refuse(Code.UNAVAILABLE), Refuse(Code.RESOURCE_EXHAUSTED, after_s=0.2)]
    (tmp_path / "traces.pb").write_bytes(payload := spans(3))
    assert send(server, tmp_path / "traces.pb").exit_code == 0
    assert set(server.remote.ids) == all_ids([payload])


def test_what_is_too_large_goes_in_parts(server: Server, tmp_path: Path):
    large = Refuse(Code.RESOURCE_EXHAUSTED, "too large")
    server.remote.decide = lambda n, signal, payload: large if len(payload) > 600 else None
    (tmp_path / "traces.pb").write_bytes(payload := spans(30))
    assert send(server, tmp_path / "traces.pb").exit_code == 0
    assert set(server.remote.ids) == all_ids([payload])


def test_the_rate_is_kept(grpc_server: Server, tmp_path: Path):
    import time

    for number in range(5):
        (tmp_path / f"traces_{number}.pb").write_bytes(spans(10))
    began = time.monotonic()
    assert send(grpc_server, *sorted(tmp_path.iterdir()), "--rate", "100").exit_code == 0
    assert time.monotonic() - began >= 0.4  # 40 records before the last ten


def test_headers_come_from_flags_and_from_the_environment(grpc_server: Server, tmp_path: Path):
    (tmp_path / "traces.pb").write_bytes(spans(1))
    result = send(
        grpc_server,
        tmp_path / "traces.pb",
        "--header",
        "x-tenant=a",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20secret",
    )
    assert result.exit_code == 0, result.output
    (headers,) = grpc_server.remote.headers
    assert (headers["authorization"], headers["x-tenant"]) == ("Bearer secret", "a")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Refuse(Code.INVALID_ARGUMENT, "bad span"), "3 records refused: INVALID_ARGUMENT: bad span"),
        (Refuse(Code.UNAUTHENTICATED, "who"), "stopped: UNAUTHENTICATED: who"),
        (Partial(1, "too old"), "1 records refused: too old"),
    ],
)
def test_what_was_not_taken_is_said_and_is_exit_code_1(grpc_server: Server, tmp_path: Path, answer: Any, words: str):
    grpc_server.remote.decide = lambda n, signal, payload: answer
    (tmp_path / "traces.pb").write_bytes(spans(3))
    result = send(grpc_server, tmp_path / "traces.pb")
    assert result.exit_code == 1
    assert words in result.output


def test_a_remote_that_is_not_there_is_given_up_after_a_while(grpc_server: Server, tmp_path: Path):
    (tmp_path / "traces.pb").write_bytes(spans(3))
    result = CliRunner().invoke(
        app, ["send", str(tmp_path / "traces.pb"), "--to", "http://127.0.0.1:1", "--retry-secs", "0.3"]
    )
    assert result.exit_code == 1
    assert "stopped: cannot connect to 127.0.0.1:1: connection refused" in result.output


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.pb", b"", "whose signal"),
        ("traces.pb", b"\xff\xff", "malformed"),
        ("x.arrows", b"nothing", "cannot be read"),
        ("x.jsonl", b"{", "not JSON"),
        ("x.jsonl", b'{"a": 1}\n', "not OTLP/JSON"),
        ("x.csv", b"", "not one of"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_the_others_are_sent(
    grpc_server: Server, tmp_path: Path, name: str, content: bytes, words: str
):
    broken, good = tmp_path / name, tmp_path / "more_traces.pb"
    broken.write_bytes(content)
    good.write_bytes(payload := spans(2))
    result = send(grpc_server, broken, good)
    assert result.exit_code == 1
    assert words in result.output
    assert set(grpc_server.remote.ids) == all_ids([payload])


def test_a_segment_that_is_still_growing_is_sent_as_far_as_it_is(grpc_server: Server, tmp_path: Path):
    (file,) = segments(tmp_path, [(Signal.TRACES, payload := spans(5))])
    file.write_bytes(file.read_bytes()[:-8])  # without the end of the stream
    assert send(grpc_server, file).exit_code == 0
    assert set(grpc_server.remote.ids) == all_ids([payload])


@pytest.mark.parametrize(
    "flags",
    [
        ["--to", "nowhere"],
        ["--to", "http://x:1", "--compression", "zstd"],
        ["--to", "http://x:1", "--header", "novalue"],
        ["--to", "http://x:1", "--start", "yesterday"],
        ["--to", "http://x:1", "--end", "12:00"],
    ],
)
def test_a_flag_that_cannot_be_used_is_named(tmp_path: Path, flags: list[str]):
    (tmp_path / "traces.pb").write_bytes(spans(1))
    result = CliRunner().invoke(app, ["send", str(tmp_path / "traces.pb"), *flags])
    assert isinstance(result.exception, OtlpConfigError)
    missing = CliRunner().invoke(app, ["send", str(tmp_path / "missing.pb"), "--to", "http://x:1"])
    assert isinstance(missing.exception, OtlpConfigError)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-07-01T12:00:00", 1_782_907_200_000_000_000),
        ("2026-07-01T14:00:00+02:00", 1_782_907_200_000_000_000),
        ("2026-07-01T12:00:00.25", 1_782_907_200_250_000_000),
        ("123", 123),
        ("30m", 10**18 - 30 * 60 * 10**9),
        ("1.5h", 10**18 - 5400 * 10**9),
    ],
)
def test_times_are_iso_nanoseconds_or_ago(text: str, expected: int):
    assert parse_time("--start", text, 10**18) == expected
