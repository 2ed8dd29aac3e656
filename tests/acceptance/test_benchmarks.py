"""The benchmark tools work, and what they report of a collector adds up."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytest.importorskip("uvloop")
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the tools read /proc")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``benchmarks/run.py``, as ``python benchmarks/run.py`` finds it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import run

    module: ModuleType = run
    return module


def test_the_standard_load_is_what_the_method_says(tools: ModuleType) -> None:
    workload = tools._workload("traces-512")
    request = ExportTraceServiceRequest.FromString(workload.requests[0])
    spans = [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]

    assert len(spans) == 512
    assert {len(span.attributes) for span in spans} == {10}
    assert 430 <= workload.bytes_per_record <= 470
    assert len({span.span_id for span in spans}) == 512
    assert len(request.resource_spans[0].resource.attributes) == 12


@pytest.mark.parametrize(("scenario", "scheme"), [("traces-512", "grpc"), ("metrics", "grpc"), ("logs", "http")])
def test_a_measured_collector_holds_what_it_acknowledged(
    tools: ModuleType, scenario: str, scheme: str, tmp_path: Path
) -> None:
    measured = tools.measure(tools.Collector(tmp_path), scenario, tools.Times(load=0.5, rest=0), scheme, None)

    assert measured.problem is None
    assert measured.load.records == measured.stored_records > 500
    assert measured.cpu_us_per_record > 0
    assert measured.load.latency_ms["p50"] <= measured.load.latency_ms["max"]
    assert f"| {scenario} | otlp-arrow |" in tools.table([measured])


def test_the_memory_of_a_long_load_is_looked_at_so_often(tools: ModuleType, tmp_path: Path) -> None:
    measured = tools.measure(tools.Bare(tmp_path), "traces-1", tools.Times(load=0.7, rest=0, rss_every=0.2), "grpc", 50)

    assert measured.rss_course_mib
    assert 0 < max(measured.rss_course_mib) <= measured.rss_peak_mib + 0.1  # rounded


def test_a_load_at_a_rate_sends_at_that_rate(tools: ModuleType, tmp_path: Path) -> None:
    measured = tools.measure(tools.Bare(tmp_path), "metrics", tools.Times(load=0.5, rest=0), "grpc", 100)

    assert measured.load.requests == 50
    assert measured.load.failures == {}
