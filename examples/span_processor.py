"""A program that keeps its newest spans beside itself and asks about them: no collector, no network.

    pip install 'otlp-arrow[sdk]'
    python span_processor.py telemetry

Ending a span only puts it into a queue; a thread stores it. Run it twice: the spans of the first run are still there.
"""

from __future__ import annotations

import logging
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from otlp_arrow.sdk import FileBasedSpanProcessor

logging.basicConfig()  # where the processor would say that it dropped spans
processor = FileBasedSpanProcessor(sys.argv[1] if len(sys.argv) > 1 else "telemetry", max_spans=10_000)
provider = TracerProvider()
provider.add_span_processor(processor)
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("example")


def charge(order: int) -> None:
    with tracer.start_as_current_span("charge", attributes={"order": order}):
        if order == 3:
            raise TimeoutError("the bank did not answer")


for order in range(5):
    try:
        with tracer.start_as_current_span("POST /orders"):
            charge(order)
    except TimeoutError:
        failed = processor.recent_failures(hours=1)[0]
        spans = processor.get_trace(failed.trace_id)
        print(f"order {order} failed: {' < '.join(span.name for span in reversed(spans))}")
        print(f"try again? {processor.should_retry(failed.trace_id).decision}")

print(f"{len(processor.store.filter_by_attribute('order', 3))} charge of order 3 is stored")
