"""A collector as a user runs it: ``otlp-arrow serve`` in a process of its own, on free ports."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without settings of ours and without endpoints of an SDK."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTLP_", "OTEL_"))}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs ``otlp-arrow`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "otlp_arrow", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=clean_environment(**environment),
        timeout=60,
        check=False,
    )


class Served:
    """A running ``otlp-arrow serve``; a context manager that ends it. ``output`` and ``log`` are its lines so far."""

    def __init__(self, output_dir: Path, *arguments: str, **environment: str) -> None:
        self.output_dir = output_dir
        self.output: list[str] = []
        self.log: list[str] = []
        self.grpc_port = self.http_port = self.flight_port = self.admin_port = 0
        self._arrived: queue.Queue[str | None] = queue.Queue()
        ports = ["--protobuf-port", "0", "--http-port", "0", "--arrow-flight-port", "0", "--admin-port", "0"]
        ports = [] if "--config" in arguments else ports
        self.process = subprocess.Popen(
            [sys.executable, "-m", "otlp_arrow", "serve", "--output-dir", str(output_dir), *ports, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=clean_environment(**environment),
        )
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.output), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.log), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
            self._arrived.put(line)
        self._arrived.put(None)

    def __enter__(self) -> Served:
        try:
            self.await_line(r"PROTOCOL=|stopped")
            for line in self.output:
                if found := re.search(r"OTLP/gRPC +\S+:(\d+)$", line):
                    self.grpc_port = int(found[1])
                if found := re.search(r"OTLP/HTTP +\S+:(\d+)$", line):
                    self.http_port = int(found[1])
                if found := re.search(r"Flight +\S+:(\d+)$", line):
                    self.flight_port = int(found[1])
                if found := re.search(r"health +https?://\S+:(\d+)/health", line):
                    self.admin_port = int(found[1])
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)
        for reader in self._readers:
            reader.join(STOP_TIMEOUT_S)
        self.process.stdout.close()
        self.process.stderr.close()

    def await_line(self, pattern: str) -> str:
        """The first line of stdout or stderr that matches, from the start on."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            for line in (*self.output, *self.log):
                if re.search(pattern, line):
                    return line
            try:
                line = self._arrived.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line matches {pattern!r} in\n{self.text}") from None
            if line is None and self.process.poll() is not None and self._arrived.empty():
                raise AssertionError(f"ended with {self.process.returncode} before {pattern!r}:\n{self.text}")

    @property
    def text(self) -> str:
        return "\n".join((*self.output, *self.log))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body from the admin listener."""
        try:
            with urllib.request.urlopen(f"http://localhost:{self.admin_port}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total
