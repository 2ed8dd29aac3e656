"""The examples around the library and Flight run as their first lines say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from otlp_arrow.testing import MockCollector
from served import clean_environment

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def table(output_dir: Path, signal_name: str) -> pa.Table:
    files = sorted((output_dir / "otlp" / signal_name).glob("*.arrows"))
    return pa.concat_tables([pa.ipc.open_stream(file).read_all() for file in files], promote_options="permissive")


def test_a_store_inside_a_program(tmp_path: Path):
    output = run("embedded.py", tmp_path)
    assert "3 spans are on disk, frame 1 of the log" in output
    assert "refused: malformed protobuf" in output
    assert "{'service_name': ['embedded', 'embedded', 'embedded'], 'name': ['parse', 'plan', 'run']}" in output
    assert "3 rows more" in output
    assert table(tmp_path, "traces").num_rows == 6


def test_the_sdk_writes_straight_into_files(tmp_path: Path):
    assert run("sdk_exporter.py", tmp_path) == "10 requests served\n"
    spans, points, records = (table(tmp_path, name) for name in ("traces", "metrics", "logs"))
    assert spans["name"].to_pylist() == ["request"] * 10
    assert points["int_value"].to_pylist()[-1] == 10
    assert records.num_rows == 10
    assert set(records["trace_id"].to_pylist()) == set(spans["trace_id"].to_pylist())


def test_a_program_keeps_its_newest_spans_and_asks_about_them(tmp_path: Path):
    for runs in (1, 2):
        assert run("span_processor.py", tmp_path) == (
            f"order 3 failed: charge < POST /orders\ntry again? RETRY\n{runs} charge of order 3 is stored\n"
        )


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_collector_of_ones_own_and_a_stock_flight_client(tmp_path: Path):
    program = subprocess.Popen(
        [
            sys.executable,
            str(EXAMPLES / "standalone.py"),
            "--output-dir",
            str(tmp_path),
            "--free-ports",
            "--interval=0.2",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    assert program.stdout is not None
    try:
        lines = [program.stdout.readline() for _ in range(3)]
        ports = {found[1]: int(found[2]) for found in re.finditer(r"(\w+): localhost:(\d+)", "".join(lines))}
        location = f"grpc://localhost:{ports['flight']}"
        assert "no spans of the last hour" in run("flight_client.py", location)

        assert "5 requests served" in run(
            "demo.py", "--endpoint", f"http://localhost:{ports['otlp_http']}", "--requests", 5, "--interval", 0.01
        )
        output = run("flight_client.py", location)
        spans = int(re.search(r"traces: (\d+) rows", output)[1])  # type: ignore[index]
        assert f"{spans} rows are durable" in output
        assert f"{spans} copies of {2 * spans} spans" in output
    finally:
        program.send_signal(signal.SIGTERM)
        output, _ = program.communicate(timeout=30)
    assert program.returncode == 0
    assert f"{2 * spans} traces" in output
    assert Counter(table(tmp_path, "traces")["service_name"].to_pylist())["copy"] == spans


def test_the_demo_tells_of_every_request_in_all_three_signals(tmp_path: Path):
    assert "30 requests served" in run("demo.py", "--output-dir", tmp_path, "--requests", 30, "--interval", 0.001)
    spans, points, records = (table(tmp_path, name) for name in ("traces", "metrics", "logs"))
    roots = [
        name
        for name, parent in zip(spans["name"].to_pylist(), spans["parent_span_id"].to_pylist(), strict=True)
        if parent is None
    ]
    assert len(roots) == 30
    assert all(name.startswith("GET /") for name in roots)
    assert "frontend" in set(spans["service_name"].to_pylist())
    expected = {"http_requests_total", "http_request_duration_seconds", "active_connections", "cpu_usage_percent"}
    assert expected <= set(points["metric_name"].to_pylist())
    assert records.num_rows >= 30
    assert set(records["trace_id"].to_pylist()) <= set(spans["trace_id"].to_pylist())


def test_the_demo_runs_until_it_is_told_to_stop(tmp_path: Path):
    with MockCollector() as collector:
        program = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "demo.py"), "--endpoint", collector.http_endpoint, "--interval", "0.01"],
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        try:
            collector.wait_for(spans=20, data_points=5, log_records=5, timeout=30)
        finally:
            program.send_signal(signal.SIGTERM)
            output, _ = program.communicate(timeout=30)
        assert program.returncode == 0
        served = int(output.split()[0])
        assert sum(span.parent_span_id is None for span in collector.spans) == served
