"""Beginning and ending: what is open when, and how a process stops that does not want to."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
import structlog

from otlp_arrow.app import run as run_module
from otlp_arrow.app.run import run
from otlp_arrow.app.settings import Settings
from otlp_arrow.app.wiring import Collector, open_collector, pipeline_settings
from otlp_arrow.model import Batch, OtlpConfigError, OtlpError, OtlpServerError, Signal, meter
from otlp_arrow.storage.disk import SystemDisk
from samples import samples
from served import clean_environment

TRACES = next(sample.payload for sample in samples() if sample.signal is Signal.TRACES)
posix = pytest.mark.skipif(os.name != "posix", reason="signals")


def settings_for(directory: Path, **flags: object) -> Settings:
    ports = {f"protocols.{name}_port": 0 for name in ("protobuf", "http", "arrow_flight")}
    ports |= {"admin_port": 0, "host": "127.0.0.1"}
    return Settings.load(flags={"output_dir": directory, **ports, **flags}, environ={}).settings


async def health(collector: Collector, path: str = "/readyz") -> tuple[int, dict]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{collector.admin.bound_port}{path}") as response,
    ):
        return response.status, await response.json()


# -- in a program --------------------------------------------------------------------------------------
async def test_a_program_may_hold_a_collector_without_any_listener(tmp_path: Path):
    flags = {f"protocols.{name}_enabled": False for name in ("protobuf", "http", "arrow_flight")}
    async with open_collector(settings_for(tmp_path, **flags), admin=False) as collector:
        assert collector.ports() == {}
        receipt = await collector.pipeline.intake.accept(Batch(Signal.TRACES, TRACES))
        assert receipt.rows > 0
        assert collector.health.report().ready
    assert list((tmp_path / "otlp" / "traces").glob("*.arrows"))


async def test_every_series_of_an_open_door_begins_at_zero(tmp_path: Path):
    async with open_collector(settings_for(tmp_path)) as collector:
        text = collector.meter.scrape()[0].decode()
        for transport in ("grpc", "http"):
            assert f'otelcol_receiver_accepted_spans_total{{receiver="otlp",transport="{transport}"}} 0.0' in text
        assert 'outcome="busy",receiver="otlp",transport="http"} 0.0' in text
        assert "otlp_arrow_ready 1.0" in text
        assert collector.meter.value(meter.BUFFER_LIMIT_BYTES) == 256 * 2**20


async def test_it_is_not_ready_once_a_part_has_failed(tmp_path: Path):
    class FullDisk(SystemDisk):
        full = False

        def create(self, path: Path, *, direct: bool = False):
            if self.full:
                raise OSError(28, "No space left on device")
            return super().create(path)

    disk = FullDisk()
    async with open_collector(settings_for(tmp_path), disk=disk) as collector:
        assert (await health(collector))[0] == 200
        disk.full = True
        with pytest.raises(OtlpError, match="full"):
            await collector.pipeline.intake.accept(Batch(Signal.TRACES, TRACES))
        status, report = await health(collector, "/health")
        assert (status, report["ready"]) == (503, False)
        assert "intake" in report["reasons"][0]
        disk.full = False


async def test_it_answers_while_it_recovers_and_says_so(tmp_path: Path):
    answered: list[tuple[int, str]] = []
    port = _free_port()
    loop = asyncio.get_running_loop()

    class CuriousDisk(SystemDisk):
        """Asks for health, from another thread, while the directory is being opened."""

        def list(self, directory: Path) -> list[Path]:
            if not answered:
                answered.append(asyncio.run_coroutine_threadsafe(ask(), loop).result(10))
            return super().list(directory)

    async def ask() -> tuple[int, str]:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/livez") as live:
                assert live.status == 200
            async with session.get("/readyz") as ready:
                return ready.status, (await ready.json())["status"]

    async with open_collector(settings_for(tmp_path, admin_port=port), disk=CuriousDisk()):
        pass
    assert answered == [(503, "recovering")]


async def test_what_cannot_open_closes_what_was_open(tmp_path: Path):
    port = _free_port()
    async with open_collector(settings_for(tmp_path / "a", **{"protocols.http_port": port})):
        with pytest.raises(OtlpServerError, match="http_port"):
            async with open_collector(settings_for(tmp_path / "b", **{"protocols.http_port": port})):
                pass
    async with open_collector(settings_for(tmp_path / "b")):  # its lock was let go
        pass


def test_bounds_that_mean_none_are_passed_on_as_none(tmp_path: Path):
    way_in = pipeline_settings(settings_for(tmp_path, max_disk_bytes=0, trace_cleanup_interval_secs=0))
    assert way_in.storage.max_disk_bytes == sys.maxsize
    assert way_in.storage.cleanup_interval_secs[Signal.TRACES] == 0


# -- as a process --------------------------------------------------------------------------------------
async def test_serving_needs_a_door(tmp_path: Path):
    flags = {f"protocols.{name}_enabled": False for name in ("protobuf", "http", "arrow_flight")}
    with pytest.raises(OtlpConfigError, match="protocols"):
        await run(settings_for(tmp_path, **flags))


@posix
async def test_a_signal_stops_it_after_what_was_accepted_is_written(tmp_path: Path):
    accepted = []

    def ready(collector: Collector) -> None:
        async def send() -> None:
            accepted.append(await collector.pipeline.intake.accept(Batch(Signal.TRACES, TRACES)))
            os.kill(os.getpid(), signal.SIGTERM)

        sender.append(asyncio.ensure_future(send()))
        collectors.append(collector)

    sender: list[asyncio.Future] = []
    collectors: list[Collector] = []
    await run(settings_for(tmp_path, write_interval_secs=3600), ready=ready)
    await sender[0]
    assert collectors[0].meter.value(meter.STORED, "traces") == accepted[0].rows


async def test_whoever_runs_it_may_cancel_it(tmp_path: Path):
    opened = asyncio.Event()
    running = asyncio.create_task(run(settings_for(tmp_path), ready=lambda _: opened.set()))
    await asyncio.wait_for(opened.wait(), 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with open_collector(settings_for(tmp_path)):  # everything was let go
        pass


async def test_slower_code_in_the_place_of_compiled_code_is_said_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run_module, "COMPILED_GRPC", False)
    monkeypatch.setattr(run_module, "kernel_available", lambda: False)
    with structlog.testing.capture_logs() as said:
        running = asyncio.create_task(run(settings_for(tmp_path, **{"protocols.protobuf_enabled": True})))
        async with asyncio.timeout(20):
            while len(said) < 2 and not running.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    warnings = [entry["event"] for entry in said if entry["log_level"] == "warning"]
    assert warnings == [
        "running on the reference decoder",
        "OTLP/gRPC is served by gRPC's own library: the compiled door was not built",
    ]


def test_outside_the_main_thread_no_signal_is_listened_to(tmp_path: Path):
    async def for_a_moment() -> None:
        opened = asyncio.Event()
        running = asyncio.create_task(run(settings_for(tmp_path), ready=lambda _: opened.set()))
        await asyncio.wait_for(opened.wait(), 20)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, for_a_moment()).result(30)
    assert signal.getsignal(signal.SIGTERM) is before


async def test_a_part_that_dies_ends_it_with_the_cause(tmp_path: Path):
    def ready(collector: Collector) -> None:
        collector.failure.set_exception(RuntimeError("a mistake of ours"))

    with pytest.raises(OtlpError, match="a mistake of ours"):
        await run(settings_for(tmp_path), ready=ready)
    async with open_collector(settings_for(tmp_path)):
        pass


@pytest.fixture
def start(tmp_path: Path):
    """Starts a process that serves on a disk of the class that ``disk`` defines; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(disk: str, **flags: object) -> subprocess.Popen[str]:
        code = SERVE_ON_A_HANGING_DISK.replace("DISK", disk).replace("FLAGS", repr(flags))
        payload = tmp_path / "payload"
        payload.write_bytes(TRACES)
        command = [sys.executable, "-c", code, str(tmp_path / "out"), str(payload)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment()))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(30)
        process.stdout.close()


SERVE_ON_A_HANGING_DISK = """
import asyncio, sys, time
from otlp_arrow.app.run import run_until_stopped
from otlp_arrow.app.settings import Settings
from otlp_arrow.model import Batch, Signal
from otlp_arrow.storage.disk import SystemDisk, SystemFile
DISK
ports = {"protocols.protobuf_port": 0, "protocols.http_port": 0, "protocols.arrow_flight_port": 0, "admin_port": 0}
flags = {**FLAGS, **ports, "output_dir": sys.argv[1]}
def ready(collector):
    payload = open(sys.argv[2], "rb").read()
    asyncio.ensure_future(collector.pipeline.intake.accept(Batch(Signal.TRACES, payload)))
run_until_stopped(Settings.load(flags=flags, environ={}).settings, ready, HangingDisk())
"""

HANGS_WHEN_SERVING = """
class HangingFile(SystemFile):
    def sync(self):
        print("hanging", flush=True)
        time.sleep(600)
class HangingDisk(SystemDisk):
    def create(self, path, *, direct=False):
        file = super().create(path)
        return HangingFile(file.path, file._descriptor, file.size) if path.suffix == ".wal" else file
"""

HANGS_WHEN_OPENING = """
class HangingDisk(SystemDisk):
    def list(self, directory):
        print("hanging", flush=True)
        time.sleep(600)
"""


HANGS_IN_THE_EVENT_LOOP_AT_THE_END = """
from otlp_arrow.receivers import OtlpHttpServer
async def never(self, *exc):
    time.sleep(600)
OtlpHttpServer.__aexit__ = never
class HangingDisk(SystemDisk):
    def create(self, path, *, direct=False):
        print("hanging", flush=True)
        return super().create(path)
"""


def await_hanging(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "hanging\n"


@posix
def test_a_second_signal_ends_it_at_once_though_the_disk_hangs(start):
    process = start(HANGS_WHEN_SERVING, shutdown_timeout_secs=600)
    await_hanging(process)
    process.send_signal(signal.SIGTERM)
    _until(lambda: _handles_signals_again(process))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM


@posix
@pytest.mark.parametrize(
    "disk",
    [HANGS_WHEN_SERVING, HANGS_WHEN_OPENING, HANGS_IN_THE_EVENT_LOOP_AT_THE_END],
    ids=["serving", "recovering", "closing"],
)
def test_a_stop_ends_after_its_timeout_whatever_hangs(start, disk: str):
    little_grace = "import otlp_arrow.app.run\notlp_arrow.app.run.EXIT_GRACE_S = 0.5\n"
    process = start(little_grace + disk, shutdown_timeout_secs=0.5)
    await_hanging(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 1


def _handles_signals_again(process: subprocess.Popen[str]) -> bool:
    """The first signal is no longer pending: two that wait at once count as one."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        time.sleep(0.5)
        return True
    pending = [line.split()[1] for line in status.read_text().splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return all(int(mask, 16) == 0 for mask in pending)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
