"""A small shop that sends traces, metrics and logs: something to point at a collector.

    pip install opentelemetry-sdk opentelemetry-exporter-otlp
    OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 OTEL_EXPORTER_OTLP_PROTOCOL=grpc python instrumented_app.py

It reads the standard ``OTEL_…`` variables and nothing else: ``OTEL_EXPORTER_OTLP_PROTOCOL`` may be ``grpc``
or ``http/protobuf`` (with port 4318). It serves a pretended order every ``--interval`` seconds, until
``--orders`` are done or it is told to stop; what is still in its buffers is sent before it ends.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import threading

from opentelemetry import metrics, trace
from opentelemetry._logs import SeverityNumber, get_logger, set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

if os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf") == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
else:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

PRODUCTS = {"tea": 4.5, "coffee": 7.9, "mug": 12.0, "kettle": 39.0}


class Shop:
    """Takes orders, and tells of each in all three signals."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("shop")
        self._log = get_logger("shop")
        meter = metrics.get_meter("shop")
        self._orders = meter.create_counter("shop.orders", "{order}", "Orders taken")
        self._revenue = meter.create_counter("shop.revenue", "EUR", "Value of the orders taken")
        self._size = meter.create_histogram("shop.order.size", "{item}", "Items of an order")

    def order(self) -> None:
        """One order: a span for the request, one for the payment, metrics, a log record or two."""
        product, items = random.choice(list(PRODUCTS)), random.randint(1, 5)
        attributes = {"http.request.method": "POST", "http.route": "/orders", "shop.product": product}
        with self._tracer.start_as_current_span("POST /orders", kind=SpanKind.SERVER, attributes=attributes) as span:
            self._log.emit(severity_number=SeverityNumber.INFO, body=f"order of {items} {product}")
            try:
                self._pay(PRODUCTS[product] * items)
            except ConnectionError as error:
                span.set_status(Status(StatusCode.ERROR, str(error)))
                self._log.emit(severity_number=SeverityNumber.ERROR, body="order failed", exception=error)
            self._orders.add(1, {"shop.product": product})
            self._size.record(items, {"shop.product": product})

    def _pay(self, amount: float) -> None:
        with self._tracer.start_as_current_span("charge card", kind=SpanKind.CLIENT, attributes={"amount": amount}):
            if random.random() < 0.05:
                raise ConnectionError("the bank did not answer")
            self._revenue.add(amount)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, help="end after so many; otherwise go on until told to stop")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between orders")
    arguments = parser.parse_args()

    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())

    tracers, loggers = TracerProvider(), LoggerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=5000)])
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    set_logger_provider(loggers)

    shop, done = Shop(), 0
    try:
        while done != arguments.orders and not stopping.wait(arguments.interval if done else 0):
            shop.order()
            done += 1
    finally:
        for provider in (tracers, meters, loggers):
            provider.shutdown()
    print(f"{done} orders sent")


if __name__ == "__main__":
    main()
