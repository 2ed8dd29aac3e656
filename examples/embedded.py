"""A store for telemetry inside a program, without any port: export requests and rows, read them back as Arrow.

    pip install otlp-arrow
    python embedded.py telemetry

``OtlpLibrary`` is for synchronous code and any number of threads; ``Collector`` is the same
for asyncio (standalone.py).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pyarrow as pa
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from otlp_arrow import OtlpLibrary, Rejected, Settings


def request_of(*names: str) -> ExportTraceServiceRequest:
    """A request as any OTLP sender makes it."""
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.append(KeyValue(key="service.name", value=AnyValue(string_value="embedded")))
    scope_spans = resource_spans.scope_spans.add()
    now = time.time_ns()
    for number, name in enumerate(names, 1):
        scope_spans.spans.add(
            trace_id=now.to_bytes(16),
            span_id=number.to_bytes(8),
            name=name,
            start_time_unix_nano=now - 1000,
            end_time_unix_nano=now,
        )
    return request


def main(output_dir: Path) -> None:
    no_doors = {"protobuf_enabled": False, "http_enabled": False, "arrow_flight_enabled": False}
    with OtlpLibrary(Settings(output_dir=output_dir, protocols=no_doors)) as library:
        receipt = library.export_traces(request_of("parse", "plan", "run"))
        print(f"{receipt.rows} spans are on disk, frame {receipt.sequence} of the log")

        try:
            library.export_traces(b"not a request")
        except Rejected as error:
            print(f"refused: {error}")

        library.flush()  # what is on disk is in the log; now it is in a file that others can open
        (file,) = (output_dir / "otlp" / "traces").glob("*.arrows")
        table = pa.ipc.open_stream(file).read_all()
        print(table.select(["service_name", "name"]).to_pydict())

        # Rows in the storage schema go in as they are, from Arrow, Polars, pandas or DuckDB.
        print(f"{library.export_traces(table).rows} rows more")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "telemetry"))
