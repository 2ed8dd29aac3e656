"""An idle ``serve`` holds no module that nobody has needed yet: each of these is megabytes for as long as it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from served import clean_environment

NOT_AT_IDLE = {
    "grpc",  # served by our own HTTP/2
    "grpc_health",
    "google.protobuf",  # refusals, JSON and the reference decoder
    "google.rpc",
    "opentelemetry",
    "duckdb",  # queries
    "otlp_arrow.query",
    "otlp_arrow.web",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.flight",
    "pyarrow.parquet",
    "pandas",
    "polars",
    "rich",  # tables and colours for a person
    "yaml",  # a file of settings
    "otlp_arrow.codec.reference",  # where no kernel was built
    "otlp_arrow.codec.otlp_json",
    "otlp_arrow.receivers.otlp_grpc_aio",
    "otlp_arrow.sinks.otlp_grpc",  # forwarding
    "otlp_arrow.sinks.otlp_http",
    "otlp_arrow.sinks.flight",
    "otlp_arrow.testing",
}

SERVE = """
import json, os, signal, sys
from otlp_arrow.cli import main, serve

def tell(collector):
    print(json.dumps([sorted(collector.ports()), sorted(sys.modules)]), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

serve._greet = tell
main.main()
"""


def modules_of_serve(output_dir: Path, **environment: str) -> tuple[set[str], set[str]]:
    """The doors that are open, and what is imported then."""
    ports = ["--protobuf-port=0", "--http-port=0", "--arrow-flight-port=0", "--admin-port=0"]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, "serve", "--output-dir", str(output_dir), *ports],
        capture_output=True,
        text=True,
        env=clean_environment(**environment),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    doors, modules = json.loads(done.stdout)
    return set(doors), set(modules)


@pytest.mark.parametrize("flight", [True, False], ids=["all doors", "without Flight"])
def test_an_idle_collector_imports_only_what_it_uses(tmp_path: Path, flight: bool):
    doors, modules = modules_of_serve(tmp_path, OTLP_ARROW_FLIGHT_ENABLED=str(flight).lower())
    assert doors == {"otlp_grpc", "otlp_http", "admin"} | ({"flight"} if flight else set())
    assert {name for name in modules for module in NOT_AT_IDLE if f"{name}.".startswith(f"{module}.")} == set()


def test_the_grpc_library_is_there_when_it_is_asked_for(tmp_path: Path):
    doors, modules = modules_of_serve(tmp_path, OTLP_ARROW_FLIGHT_ENABLED="false", OTLP_PROTOBUF_ENGINE="grpcio")
    assert doors == {"otlp_grpc", "otlp_http", "admin"}
    assert "grpc" in modules
