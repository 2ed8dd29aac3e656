"""Each program in ``examples/`` runs as its first lines say, against a collector."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from served import Served, clean_environment

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ORDERS = 20


def table(output_dir: Path, signal_name: str) -> pa.Table:
    files = sorted((output_dir / "otlp" / signal_name).glob("*.arrows"))
    return pa.concat_tables([pa.ipc.open_stream(file).read_all() for file in files], promote_options="permissive")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_what_the_instrumented_shop_sends_lies_in_the_files(protocol: str, tmp_path: Path) -> None:
    with Served(tmp_path) as collector:
        port = collector.grpc_port if protocol == "grpc" else collector.http_port
        shop = subprocess.run(
            [sys.executable, str(EXAMPLES / "instrumented_app.py"), "--orders", str(ORDERS), "--interval", "0.01"],
            env=clean_environment(
                OTEL_SERVICE_NAME="shop",
                OTEL_EXPORTER_OTLP_ENDPOINT=f"http://localhost:{port}",
                OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert shop.returncode == 0, shop.stderr
        assert shop.stdout == f"{ORDERS} orders sent\n"
        assert collector.stop() == 0

    spans, points, records = (table(tmp_path, name) for name in ("traces", "metrics", "logs"))
    assert spans["name"].to_pylist().count("POST /orders") == ORDERS
    assert spans["name"].to_pylist().count("charge card") == ORDERS
    assert {"shop.orders", "shop.order.size"} <= set(points["metric_name"].to_pylist())
    assert records.num_rows >= ORDERS
    assert set(spans["service_name"].to_pylist()) == {"shop"}
