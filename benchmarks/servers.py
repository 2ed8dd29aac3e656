"""The processes under measurement: how each is started, and what the operating system says it used."""

from __future__ import annotations

import contextlib
import importlib.util
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 60.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and memory of a process with its threads and children, from /proc."""

    user_s: float
    system_s: float
    rss_bytes: int
    peak_rss_bytes: int

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


@dataclass(frozen=True, slots=True)
class Stored:
    """What lies in the segments after the end."""

    records: int
    bytes: int


class Server:
    """One process in a directory of its own, from entering to leaving the ``with`` block."""

    name = ""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bench-", dir=directory))
        self.grpc_port, self.http_port, self.flight_port, self.admin_port = _free_ports(4)

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def stored(self, signal: str) -> Stored | None:
        """What was kept of a signal; None for a server that keeps nothing."""
        return None

    @property
    def urls(self) -> dict[str, str]:
        """Where to send, by scheme."""
        return {"grpc": f"grpc://localhost:{self.grpc_port}", "http": f"http://localhost:{self.http_port}"}

    @property
    def last_port(self) -> int:
        """The port that is open once all are."""
        return self.grpc_port

    def __enter__(self) -> Server:
        self._log = (self.directory / "log").open("wb")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OTLP_")}
        self._process = subprocess.Popen(
            self.command(),
            env=environment | self.environment(),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_until_open()
        except BaseException:
            self._end(kill=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(kill=error is not None)
        shutil.rmtree(self.directory, ignore_errors=True)

    def stop(self) -> None:
        """SIGTERM, and wait. Raises ``RuntimeError`` if it does not end well."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        if (code := self._process.wait(STOP_TIMEOUT_S)) not in (0, -signal.SIGTERM):
            raise RuntimeError(f"{self.name} ended with {code}:\n{self.log()}")

    def log(self) -> str:
        """The end of what the process printed."""
        return (self.directory / "log").read_text(errors="replace")[-4000:]

    def usage(self) -> Usage:
        """So far. Raises ``RuntimeError`` if the process has ended."""
        try:
            return _usage(self._process.pid)
        except (FileNotFoundError, ProcessLookupError):
            raise RuntimeError(f"{self.name} ended early:\n{self.log()}") from None

    def thread_cpu_s(self, name: str | None = None) -> float:
        """CPU seconds so far of the process's threads that the system knows as ``name``, or of all that there are now,
        to the nanosecond."""
        total_ns = 0
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                if name is None or (task / "comm").read_text().strip() == name:
                    total_ns += int((task / "schedstat").read_text().split()[0])
        return total_ns / 1e9

    def _wait_until_open(self) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} did not start:\n{self.log()}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.last_port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} opened no port in {START_TIMEOUT_S} s:\n{self.log()}")

    def _end(self, kill: bool) -> None:
        try:
            if kill:
                self._process.kill()
                self._process.wait(STOP_TIMEOUT_S)
            else:
                self.stop()
        finally:
            self._log.close()


class Collector(Server):
    """otlp-arrow as shipped: default settings but for its ports and its directory."""

    name = "otlp-arrow"

    def __init__(self, directory: Path, settings: dict[str, str] | None = None) -> None:
        super().__init__(directory)
        self._settings = settings or {}
        ack = self._settings.get("OTLP_ACK")
        self.name = f"otlp-arrow ({ack})" if ack else "otlp-arrow"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "otlp_arrow", "serve"]

    def environment(self) -> dict[str, str]:
        return {
            "OTLP_OUTPUT_DIR": str(self.directory / "data"),
            "OTLP_PROTOBUF_PORT": str(self.grpc_port),
            "OTLP_HTTP_PORT": str(self.http_port),
            "OTLP_ADMIN_PORT": str(self.admin_port),
            "OTLP_ARROW_FLIGHT_PORT": str(self.flight_port),
            **self._settings,
        }

    def stored(self, signal: str) -> Stored:
        """Counted in the files themselves; call it when the process has ended."""
        paths = sorted((self.directory / "data/otlp" / signal).glob("*.arrows"))
        return Stored(sum(map(_rows, paths)), sum(path.stat().st_size for path in paths))


class Rotel(Server):
    """The peer: a collector in Rust that receives, decodes, batches and throws away."""

    name = "rotel"

    def __init__(self, directory: Path, binary: Path) -> None:
        super().__init__(directory)
        self._binary = binary

    def command(self) -> Sequence[str]:
        return [
            *(str(self._binary), "start", "--exporter", "blackhole"),
            *("--otlp-grpc-endpoint", f"localhost:{self.grpc_port}"),
            *("--otlp-http-endpoint", f"localhost:{self.http_port}"),
            *("--otlp-grpc-max-recv-msg-size-mib", "64"),
            *("--pid-file", str(self.directory / "pid"), "--log-file", str(self.directory / "agent.log")),
        ]

    @staticmethod
    def find() -> Path:
        """The binary in the installed wheel. Raises ``FileNotFoundError`` where it is not installed."""
        spec = importlib.util.find_spec("rotel")
        if spec is None or spec.origin is None:
            raise FileNotFoundError("the peer is not installed: pip install 'otlp-arrow[bench]', or --rotel PATH")
        return Path(spec.origin).with_name("rotel-agent")


class Bare(Server):
    """The floor: grpc.aio and nothing behind it (``bare.py``)."""

    name = "bare grpc.aio"

    def command(self) -> Sequence[str]:
        return [sys.executable, str(Path(__file__).with_name("bare.py")), "--port", str(self.grpc_port)]


# -- /proc -----------------------------------------------------------------------------------------


def _usage(pid: int) -> Usage:
    user = system = rss = peak = 0.0
    for process in _family(pid):
        # Fields 14 to 17 after the command, which may hold spaces: own and waited-for children's ticks.
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]
        user += int(ticks[0]) + int(ticks[2])
        system += int(ticks[1]) + int(ticks[3])
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":" in line
        )
        rss += int(status["VmRSS"].split()[0]) * 1024
        peak += int(status["VmHWM"].split()[0]) * 1024
    return Usage(user * _TICK_S, system * _TICK_S, int(rss), int(peak))


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))


# -- small things ----------------------------------------------------------------------------------


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _rows(path: Path) -> int:
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_stream(source, options=pa.ipc.IpcReadOptions(included_fields=[0]))
        return sum(batch.num_rows for batch in reader)


WARMED_BYTES = 2 << 30


def warm_memory() -> None:
    """Have the machine's free memory in hand: a fresh virtual machine gets its pages from the host when they are first
    touched, at some 10 µs each, and would count that as the server's (3.4 ns a byte of a file instead of 0.4)."""
    nbytes = min(WARMED_BYTES, os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE // 2)
    with mmap.mmap(-1, nbytes) as memory:
        for at in range(0, nbytes, mmap.PAGESIZE):
            memory[at] = 1


@contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    """A directory for one run, gone afterwards."""
    warm_memory()
    with tempfile.TemporaryDirectory(prefix="otlp-arrow-bench-", dir=parent) as path:
        yield Path(path)
