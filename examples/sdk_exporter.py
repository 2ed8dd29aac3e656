"""OpenTelemetry's SDK writing straight into Arrow files: no collector, no network.

    pip install 'otlp-arrow[sdk]'
    python sdk_exporter.py telemetry

Every export returns when the data is durable. What is still in the SDK's queues when the program ends is written then.
"""

from __future__ import annotations

import logging
import sys

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger, set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otlp_arrow.sdk import ArrowLogExporter, ArrowMetricExporter, ArrowSpanExporter

logging.basicConfig()  # where an exporter would say that it failed
output_dir = sys.argv[1] if len(sys.argv) > 1 else "telemetry"

# Exporters of one directory share one store; these lines are all it takes.
traces = TracerProvider()
traces.add_span_processor(BatchSpanProcessor(ArrowSpanExporter(output_dir=output_dir)))
trace.set_tracer_provider(traces)
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(ArrowMetricExporter(output_dir=output_dir))]))
logs = LoggerProvider()
logs.add_log_record_processor(BatchLogRecordProcessor(ArrowLogExporter(output_dir=output_dir)))
set_logger_provider(logs)

requests = metrics.get_meter("example").create_counter("requests", "{request}", "Requests served")
for number in range(10):
    with trace.get_tracer("example").start_as_current_span("request", attributes={"number": number}):
        requests.add(1)
        get_logger("example").emit(body=f"served request {number}")
print("10 requests served")
