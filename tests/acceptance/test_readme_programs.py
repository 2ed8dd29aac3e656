"""What the README shows of the library, the SDK exporters, the fixture and Flight runs as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otlp_arrow.testing import MockCollector
from samples import samples
from served import clean_environment

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
TRACES = next(sample.payload for sample in samples() if sample.signal.value == "traces")
SPANS = sum(
    len(scope.spans)
    for resource in ExportTraceServiceRequest.FromString(TRACES).resource_spans
    for scope in resource.scope_spans
)


def sample_with(words: str) -> str:
    """The one block of Python that has these words."""
    (found,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if words in block)
    return str(found)


def run(directory: Path, program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=directory,
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def stored_rows(directory: Path) -> int:
    files = (directory / "telemetry/otlp/traces").glob("*.arrows")
    return sum(pa.ipc.open_stream(file).read_all().num_rows for file in files)


def test_the_library_in_five_lines(tmp_path: Path):
    (tmp_path / "request").write_bytes(TRACES)
    given = "import pathlib; request = pathlib.Path('request').read_bytes()\n"
    assert f"{SPANS} spans are on disk" in run(tmp_path, given + sample_with("OtlpLibrary"))
    assert stored_rows(tmp_path) == SPANS


def test_the_sdk_exporter_in_five_lines(tmp_path: Path):
    use = "with provider.get_tracer('shop').start_as_current_span('checkout'): pass\n"
    run(tmp_path, sample_with("ArrowSpanExporter") + use)
    assert stored_rows(tmp_path) == 1


def test_the_fixture_in_a_project_that_imports_nothing_of_it(tmp_path: Path):
    program = """
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

def checkout(endpoint):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint + "/v1/traces")))
    provider.get_tracer("shop").start_span("checkout").end()
    provider.shutdown()

"""
    (tmp_path / "test_shop.py").write_text(program + sample_with("def test_checkout"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_rows_out_and_in_over_flight(capsys: pytest.CaptureFixture[str]):
    with MockCollector() as collector:
        collector.receive_trace(TRACES)
        program = sample_with("do_put").replace("grpc://localhost:4319", collector.flight_endpoint)
        exec(program + "client.close()", {})
        assert capsys.readouterr().out == f"{SPANS} rows are durable\n"
        collector.assert_traces_received(2 * SPANS)
