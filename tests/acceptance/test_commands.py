"""The command line as a user meets it: real processes, real clients, real files."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import trustme
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from served import Served, clean_environment, command

posix = pytest.mark.skipif(os.name != "posix", reason="signals")


def send_everything(protocol: str, port: int) -> None:
    """Two spans, two log records and one data point with the SDK's own exporters."""
    if protocol == "grpc":
        options = {"endpoint": f"http://localhost:{port}", "insecure": True}
        spans, metrics, logs = GrpcSpans(**options), GrpcMetrics(**options), GrpcLogs(**options)
    else:
        base = f"http://localhost:{port}/v1"
        spans, metrics, logs = HttpSpans(f"{base}/traces"), HttpMetrics(f"{base}/metrics"), HttpLogs(f"{base}/logs")
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    with tracers.get_tracer("t").start_as_current_span("outer"), tracers.get_tracer("t").start_as_current_span("in"):
        pass
    tracers.shutdown()
    meters = MeterProvider([PeriodicExportingMetricReader(metrics)])
    meters.get_meter("m").create_counter("c").add(1)
    meters.shutdown()
    loggers = LoggerProvider()
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    for text in ("one", "two"):
        loggers.get_logger("l").emit(severity_number=SeverityNumber.INFO, body=text)
    loggers.shutdown()


def rows(output_dir: Path, signal_name: str) -> int:
    files = (output_dir / "otlp" / signal_name).glob("*.arrows")
    return sum(pa.ipc.open_stream(file).read_all().num_rows for file in files)


@posix
def test_what_an_sdk_sends_is_acknowledged_counted_inspected_and_in_the_files(tmp_path: Path):
    with Served(tmp_path / "out") as served:
        send_everything("grpc", served.grpc_port)
        send_everything("http", served.http_port)

        assert served.metric("otelcol_receiver_accepted_spans_total", transport="grpc") == 2
        assert served.metric("otelcol_receiver_accepted_spans", transport="http") == 2
        assert served.metric("otelcol_receiver_accepted_log_records_total") == 4
        assert served.metric("otelcol_receiver_accepted_metric_points_total") == 2
        for name, records in (("traces", "spans"), ("metrics", "metric_points"), ("logs", "log_records")):
            accepted = served.metric(f"otelcol_receiver_accepted_{records}_total")
            stored = served.metric("otlp_arrow_stored_records_total", signal=name)
            assert accepted == stored + served.metric("otlp_arrow_buffered_records", signal=name)
        assert served.metric("otlp_arrow_ready") == 1
        beside = json.loads(command("inspect", str(served.output_dir), "--format", "json").stdout)
        held = {name: t["rows"] + t["rows_only_in_wal"] for name, t in beside["signals"].items()}
        assert held == {"traces": 4, "metrics": 2, "logs": 4}
        assert served.stop() == 0

    assert {name: rows(tmp_path / "out", name) for name in ("traces", "metrics", "logs")} == held
    after = command("inspect", str(tmp_path / "out"), "--verify")
    assert after.returncode == 0
    assert "every checksum is right" in after.stdout
    assert "closed" in after.stdout


@posix
def test_serve_says_where_it_listens_where_it_writes_and_what_to_paste(tmp_path: Path):
    with Served(tmp_path / "out", OTLP_AUTH_BEARER_TOKENS="hunter2") as served:
        text = "\n".join(served.output)
        assert f"OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:{served.grpc_port}\n" in text
        assert f"OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:{served.http_port}\n" in text
        assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in text
        assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in text
        assert str(tmp_path / "out") in text
        assert "authorization=Bearer%20<token>" in text
        served.stop()
    assert "hunter2" not in served.text


@posix
def test_a_running_collector_is_healthy_and_a_stopped_one_is_not(tmp_path: Path):
    with Served(tmp_path / "out") as served:
        url = f"http://localhost:{served.admin_port}/health"
        healthy = command("healthcheck", "--url", url)
        assert (healthy.returncode, healthy.stdout) == (0, "ready: ok\n")
        assert command("healthcheck", OTLP_ADMIN_PORT=str(served.admin_port)).returncode == 0
        health = json.loads(served.get("/")[1])
        assert health["ready"]
        assert {part["name"] for part in health["parts"]} >= {"intake", "writer", "storage"}
        served.stop()
    gone = command("healthcheck", "--url", url)
    assert gone.returncode == 1
    assert gone.stdout.startswith("no answer from http://localhost:")


@posix
def test_everything_listens_encrypted_once_there_is_a_certificate(tmp_path: Path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    names = {"CERT": "cert", "KEY": "key", "CLIENT_CA": "ca"}
    variables = {f"OTLP_TLS_{name}_FILE": str(tmp_path / f"{file}.pem") for name, file in names.items()}
    with Served(tmp_path / "out", **variables) as served:
        assert "https://localhost" in "\n".join(served.output)
        # mTLS at the doors; the probe has no certificate to show
        assert command("healthcheck", "--url", f"https://localhost:{served.admin_port}/health").returncode == 0
        assert command("healthcheck", OTLP_ADMIN_PORT=str(served.admin_port), **variables).returncode == 0
        served.stop()


@posix
def test_the_first_signal_stops_gracefully_with_exit_code_0(tmp_path: Path):
    for number in (signal.SIGTERM, signal.SIGINT):
        with Served(tmp_path / number.name) as served:
            assert served.stop(number) == 0
            assert any("stopped" in line for line in served.log)


@posix
def test_it_stops_though_nobody_reads_its_output_any_more(tmp_path: Path):
    arguments = [
        "serve",
        "--output-dir",
        str(tmp_path),
        "--protobuf-port=0",
        "--http-port=0",
        "--arrow-flight-port=0",
        "--admin-port=0",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "otlp_arrow", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )
    try:
        while b"PROTOCOL" not in process.stdout.readline():
            assert process.poll() is None
        process.stdout.close()
        process.stderr.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(30)


@posix
def test_a_second_collector_on_the_same_directory_is_refused_in_one_line(tmp_path: Path):
    with Served(tmp_path / "out") as served:
        free = "--protobuf-port=0", "--http-port=0", "--arrow-flight-port=0", "--admin-port=0"
        second = command("serve", "--output-dir", str(tmp_path / "out"), *free)
        assert second.returncode == 1
        assert "in use" in error_line(second.stderr)
        assert served.get("/readyz")[0] == 200
        served.stop()


@posix
@pytest.mark.parametrize(
    "key", ["protocols.protobuf_port", "protocols.http_port", "protocols.arrow_flight_port", "admin_port"]
)
def test_a_port_that_is_taken_is_named_in_one_line(tmp_path: Path, key: str):
    ports = {"protocols.protobuf_port": 0, "protocols.http_port": 0, "protocols.arrow_flight_port": 0, "admin_port": 0}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports[key] = taken.getsockname()[1]
        sets = [f"--set={name}={port}" for name, port in ports.items()]
        done = command("serve", "--output-dir", str(tmp_path), "--host", "127.0.0.1", *sets)
    assert done.returncode == 1
    assert str(ports[key]) in error_line(done.stderr)
    assert key in error_line(done.stderr)
    assert not done.stdout


def test_an_output_directory_that_cannot_be_is_named_in_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    free = "--protobuf-port=0", "--http-port=0", "--arrow-flight-port=0", "--admin-port=0"
    done = command("serve", "--output-dir", str(tmp_path / "file"), *free)
    assert done.returncode == 1
    assert str(tmp_path / "file") in error_line(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--ack", "perhaps"], {}, "ack"),
        (["--set", "no_such_key=1"], {}, "no_such_key"),
        ([], {"OTLP_WRITE_INTERVAL_SECS": "0"}, "OTLP_WRITE_INTERVAL_SECS"),
        ([], {"OTLP_NO_SUCH_KEY": "0"}, "OTLP_NO_SUCH_KEY"),
        (["--config", "/no/such/file.yaml"], {}, "/no/such/file.yaml"),
        ([f"--set=protocols.{name}_enabled=no" for name in ("protobuf", "http", "arrow_flight")], {}, "protocols"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], named: str
):
    done = command("serve", "--output-dir", str(tmp_path / "out"), *arguments, **environment)
    assert done.returncode == 2
    assert named in error_line(done.stderr)
    assert not (tmp_path / "out").exists()


def test_a_wrong_flag_is_a_usage_error():
    done = command("serve", "--no-such-flag")
    assert done.returncode == 2
    assert "--no-such-flag" in done.stderr


def test_a_directory_that_is_none_of_ours_is_one_line(tmp_path: Path):
    done = command("inspect", str(tmp_path))
    assert done.returncode == 1
    assert "no output directory" in error_line(done.stderr)


def test_the_settings_are_shown_with_their_source():
    done = command("config", "--set", "host=::1", OTLP_ACK="write", OTLP_AUTH_API_KEYS="hunter2")
    assert done.returncode == 0
    assert re.search(r"^host +::1 +flag *$", done.stdout, re.MULTILINE)
    assert re.search(r"^ack +write +OTLP_ACK *$", done.stdout, re.MULTILINE)
    assert "hunter2" not in done.stdout


def test_the_command_tells_its_version_and_its_commands():
    assert re.fullmatch(r"otlp-arrow \d+\.\d+\.\S+\n", command("--version").stdout)
    text = command("--help").stdout
    for name in ("serve", "healthcheck", "config", "inspect"):
        assert name in text


def error_line(stderr: str) -> str:
    """The line with which a command says why; there is one, and no traceback."""
    assert "Traceback" not in stderr
    found = [line for line in stderr.splitlines() if line.startswith("otlp-arrow: ")]
    assert len(found) == 1, stderr
    return found[0]
