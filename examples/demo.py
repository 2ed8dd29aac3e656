"""Three services that never rest: realistic traces, metrics and logs, for trying queries and dashboards.

    pip install 'otlp-arrow[sdk]'
    python demo.py --output-dir telemetry

A web shop takes requests; some are slow, a few fail. Each request is a trace through ``frontend``, ``checkout`` and
``payments``, counted, measured and logged in its context. Runs until it is told to stop, or for ``--requests``; with
``--endpoint http://localhost:4318`` it sends to a collector over OTLP/HTTP instead of keeping everything itself.
"""

from __future__ import annotations

import argparse
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

ROUTES = {"/": 0.004, "/products/{id}": 0.012, "/cart": 0.008, "/checkout": 0.045}
REGIONS = ("eu-central-1", "us-east-1")
METRICS_EVERY_S = 2.0


class Service:
    """One service with providers of its own, as if it were a process of its own."""

    def __init__(self, name: str, exporters: Callable[[], tuple[Any, Any, Any]]) -> None:
        resource = Resource({"service.name": name, "service.version": "1.4.2", "cloud.region": random.choice(REGIONS)})
        spans, metrics, logs = exporters()
        self._traces = TracerProvider(resource=resource)
        self._traces.add_span_processor(BatchSpanProcessor(spans, schedule_delay_millis=500))
        reader = PeriodicExportingMetricReader(metrics, export_interval_millis=METRICS_EVERY_S * 1000)
        self._metrics = MeterProvider([reader], resource)
        self._logs = LoggerProvider(resource)
        self._logs.add_log_record_processor(BatchLogRecordProcessor(logs, schedule_delay_millis=500))
        self.tracer = self._traces.get_tracer(name)
        self.log = self._logs.get_logger(name)
        meter = self._metrics.get_meter(name)
        self.requests = meter.create_counter("http_requests_total", "{request}", "Requests served")
        self.duration = meter.create_histogram("http_request_duration_seconds", "s", "Time to serve a request")
        self.active = meter.create_up_down_counter("active_connections", "{connection}", "Requests being served")
        meter.create_observable_gauge("cpu_usage_percent", [self._cpu], "%", "Pretended load")

    def _cpu(self, _options: CallbackOptions) -> list[Observation]:
        return [Observation(random.gauss(40, 10), {"cpu": str(cpu)}) for cpu in range(2)]

    def call(self, name: str, kind: SpanKind, seconds: float, attributes: dict[str, Any]) -> bool:
        """A span that takes about ``seconds`` and fails now and then; whether it went well."""
        with self.tracer.start_as_current_span(name, kind=kind, attributes=attributes) as span:
            time.sleep(random.lognormvariate(0, 0.5) * seconds)
            if random.random() > 0.03:
                return True
            span.record_exception(ConnectionError("upstream closed the connection"))
            span.set_status(Status(StatusCode.ERROR, "upstream closed the connection"))
            self.log.emit(severity_number=SeverityNumber.ERROR, severity_text="ERROR", body=f"{name} failed")
            return False

    def close(self) -> None:
        """Send what is left."""
        for provider in (self._traces, self._metrics, self._logs):
            provider.shutdown()


class Shop:
    """Serves one request after the other."""

    def __init__(self, frontend: Service, checkout: Service, payments: Service) -> None:
        self.frontend, self.checkout, self.payments = frontend, checkout, payments

    def serve(self) -> None:
        route, seconds = random.choice(list(ROUTES.items()))
        labels = {"http.request.method": "GET", "http.route": route}
        began = time.perf_counter()
        self.frontend.active.add(1)
        with self.frontend.tracer.start_as_current_span(
            f"GET {route}", kind=SpanKind.SERVER, attributes=labels
        ) as span:
            fine = self.frontend.call("render", SpanKind.INTERNAL, seconds, {"template": route.strip("/") or "home"})
            if route == "/checkout":
                fine &= self._check_out()
            status = 200 if fine else 502
            span.set_attribute("http.response.status_code", status)
            self.frontend.log.emit(
                severity_number=SeverityNumber.INFO,
                severity_text="INFO",
                body=f"GET {route} {status}",
                attributes={**labels, "client.address": f"10.0.0.{random.randint(1, 254)}"},
            )
        self.frontend.active.add(-1)
        self.frontend.requests.add(1, {**labels, "http.response.status_code": status})
        self.frontend.duration.record(time.perf_counter() - began, labels)

    def _check_out(self) -> bool:
        amount = round(random.uniform(5, 200), 2)
        with self.checkout.tracer.start_as_current_span("place order", kind=SpanKind.SERVER) as span:
            span.add_event("order received", {"order.total": amount})
            stored = self.checkout.call("INSERT orders", SpanKind.CLIENT, 0.006, {"db.system.name": "postgresql"})
            with trace.use_span(span, end_on_exit=False):
                paid = self.payments.call("charge card", SpanKind.SERVER, 0.03, {"payment.amount": amount})
            return stored and paid


def arrow_exporters(output_dir: str) -> tuple[Any, Any, Any]:
    from otlp_arrow.sdk import ArrowLogExporter, ArrowMetricExporter, ArrowSpanExporter

    return (
        ArrowSpanExporter(output_dir=output_dir),
        ArrowMetricExporter(output_dir=output_dir),
        ArrowLogExporter(output_dir=output_dir),
    )


def otlp_exporters(endpoint: str) -> tuple[Any, Any, Any]:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    base = endpoint.rstrip("/")
    return (
        OTLPSpanExporter(f"{base}/v1/traces"),
        OTLPMetricExporter(f"{base}/v1/metrics"),
        OTLPLogExporter(f"{base}/v1/logs"),
    )


def main(arguments: argparse.Namespace) -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def exporters() -> tuple[Any, Any, Any]:
        return otlp_exporters(arguments.endpoint) if arguments.endpoint else arrow_exporters(arguments.output_dir)

    with ExitStack() as parts:
        services = [Service(name, exporters) for name in ("frontend", "checkout", "payments")]
        for service in services:
            parts.callback(service.close)
        shop = Shop(*services)
        served = 0
        while not stop.is_set() and served != arguments.requests:
            shop.serve()
            served += 1
            stop.wait(random.expovariate(1 / arguments.interval))
    print(f"{served} requests served; telemetry is in {arguments.endpoint or arguments.output_dir}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output-dir", default="telemetry")
    parser.add_argument("--endpoint", default="", help="base URL of an OTLP/HTTP collector; without it, files")
    parser.add_argument("--requests", type=int, default=-1, help="end after so many; -1: never")
    parser.add_argument("--interval", type=float, default=0.3, help="mean seconds between two requests")
    main(parser.parse_args())
