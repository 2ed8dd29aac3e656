"""Floor 5: exporters and a span processor for OpenTelemetry's SDK that write into this process's own store (extra
``sdk``).

::

    from otlp_arrow.sdk import ArrowSpanExporter

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(ArrowSpanExporter(output_dir="telemetry")))
"""

from otlp_arrow.sdk.exporters import ArrowLogExporter, ArrowMetricExporter, ArrowSpanExporter
from otlp_arrow.sdk.span_processor import FileBasedSpanProcessor

__all__ = ["ArrowLogExporter", "ArrowMetricExporter", "ArrowSpanExporter", "FileBasedSpanProcessor"]
