"""A small shop's telemetry at fixed times: what the commands that ask are shown in tests and documents.

Three traces: one that failed across services (with an orphan, a span of a fast clock, events, links and logs), one that
went well, and one whose texts try to take the terminal over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from asked import _add as add_attributes
from otlp_arrow import OtlpLibrary
from otlp_arrow.app.library import in_process_settings

NOON_NS = 1_782_907_200_000_000_000  # 2026-07-01 12:00 UTC
MS = 1_000_000
FAILED = "4bf92f3577b34da6a3ce929d0e0e4736"
WELL = "0af7651916cd43dd8448eb211c80319c"
EVIL = "deadbeefdeadbeefdeadbeefdeadbeef"
EVIL_TEXT = "\x1b]0;owned\x07\x1b[31m[red]x[/red]\r\n\x9b2J\u202egnp.exe"

ERROR = 2
SERVER, CLIENT, INTERNAL, PRODUCER, CONSUMER = 2, 3, 1, 4, 5


def span(
    group: Any, trace: str, number: int, parent: int, name: str, kind: int, at: float, ms: float, **more: Any
) -> Any:
    """A span that begins ``at`` milliseconds after noon and takes ``ms``."""
    made = group.spans.add(
        trace_id=bytes.fromhex(trace),
        span_id=number.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        name=name,
        kind=kind,
        start_time_unix_nano=NOON_NS + round(at * MS),
        end_time_unix_nano=NOON_NS + round((at + ms) * MS),
    )
    add_attributes(made.attributes, list(more.items()))
    return made


def traces() -> bytes:
    request = ExportTraceServiceRequest()

    def service(name: str, **resource: Any) -> Any:
        group = request.resource_spans.add()
        add_attributes(group.resource.attributes, [("service.name", name), *resource.items()])
        return group.scope_spans.add()

    web, cart = service("web", **{"deployment.environment": "test"}), service("cart")
    payment, mail = service("payment"), service("mail")
    root = span(
        web,
        FAILED,
        1,
        0,
        "POST /orders",
        SERVER,
        0,
        2310,
        **{"http.route": "/orders", "http.response.status_code": 500},
    )
    root.status.code = ERROR
    span(web, FAILED, 2, 1, "GET cart", CLIENT, 20, 210, **{"server.address": "cart"})
    span(cart, FAILED, 3, 2, "GET /cart", SERVER, 14, 190, **{"http.route": "/cart"})  # its clock is ahead
    query = span(cart, FAILED, 4, 3, "SELECT items", CLIENT, 80, 95.5, **{"db.system": "postgresql", "db.rows": 3})
    query.events.add(name="cache miss", time_unix_nano=NOON_NS + 82 * MS)
    charge = span(payment, FAILED, 5, 1, "charge card", INTERNAL, 260, 2000, **{"card.brand": "visa", "attempts": 3})
    charge.status.code, charge.status.message = ERROR, "the bank did not answer"
    thrown = charge.events.add(name="exception", time_unix_nano=NOON_NS + 2255 * MS)
    add_attributes(
        thrown.attributes,
        [("exception.type", "TimeoutError"), ("exception.message", "no answer in 2 s"), ("exception.stacktrace", "…")],
    )
    for attempt in range(3):
        call = span(payment, FAILED, 6 + attempt, 5, "POST bank", CLIENT, 265 + 660 * attempt, 600 + 20 * attempt)
        call.status.code = ERROR
        add_attributes(call.attributes, [("error.type", "TimeoutError"), ("attempt", attempt + 1)])
    late = span(mail, FAILED, 9, 77, "send apology", CONSUMER, 2280, 0.045)
    late.links.add(trace_id=bytes.fromhex(WELL), span_id=(1).to_bytes(8, "big"))
    for number in range(12):
        at = 60_000 + number * 1_000
        trace = WELL if number == 0 else f"{number:032x}"
        span(
            web,
            trace,
            1,
            0,
            "POST /orders",
            SERVER,
            at,
            120 + 7 * number,
            **{"http.route": "/orders", "http.response.status_code": 200},
        )
        span(cart, trace, 2, 1, "GET /cart", SERVER, at + 10, 30 + number, **{"http.route": "/cart"})
    evil = service(EVIL_TEXT)
    bad = span(evil, EVIL, 1, 0, EVIL_TEXT, SERVER, 120_000, 5, **{EVIL_TEXT: EVIL_TEXT, "tags": [EVIL_TEXT, 1]})
    bad.status.code, bad.status.message = ERROR, EVIL_TEXT
    bad.trace_state = EVIL_TEXT
    add_attributes(bad.events.add(name=EVIL_TEXT, time_unix_nano=NOON_NS + 120_001 * MS).attributes, [("k", EVIL_TEXT)])
    return request.SerializeToString()


def logs() -> bytes:
    request = ExportLogsServiceRequest()

    def say(
        service: str, at: float, severity: int, text: str, body: str, trace: str = "", in_span: int = 0, **more: Any
    ) -> None:
        group = request.resource_logs.add()
        add_attributes(group.resource.attributes, [("service.name", service)])
        record = group.scope_logs.add().log_records.add(
            time_unix_nano=NOON_NS + round(at * MS),
            severity_number=severity,
            severity_text=text,
            trace_id=bytes.fromhex(trace),
            span_id=in_span.to_bytes(8, "big") if in_span else b"",
        )
        record.body.string_value = body
        add_attributes(record.attributes, list(more.items()))

    say("payment", 866, 13, "WARN", "bank slow, trying again", FAILED, 5, attempt=1)
    say("payment", 1546, 13, "WARN", "bank slow, trying again", FAILED, 5, attempt=2)
    say("payment", 2256, 17, "ERROR", "could not charge: TimeoutError", FAILED, 5)
    say("web", 2300, 9, "", "order refused", FAILED)
    say("cart", 60_020, 5, "DEBUG", "cart read", WELL, 2, items=3)
    say(EVIL_TEXT, 120_002, 21, EVIL_TEXT, EVIL_TEXT, EVIL, 1, **{EVIL_TEXT: EVIL_TEXT})
    return request.SerializeToString()


def metrics() -> bytes:
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    add_attributes(group.resource.attributes, [("service.name", "web")])
    scope = group.scope_metrics.add()
    load = scope.metrics.add(name="queue.length", unit="{order}", description="orders that wait")
    orders = scope.metrics.add(name="orders", unit="{order}", description="orders taken")
    orders.sum.aggregation_temporality, orders.sum.is_monotonic = 2, True
    took = scope.metrics.add(name="http.server.request.duration", unit="s", description="of requests")
    took.histogram.aggregation_temporality = 1
    evil = scope.metrics.add(name=EVIL_TEXT, unit=EVIL_TEXT, description=EVIL_TEXT)
    for minute in range(30):
        at = NOON_NS + minute * 60_000 * MS
        for queue, size in (("fast", minute % 7), ("slow", 30 - minute)):
            point = load.gauge.data_points.add(time_unix_nano=at, as_int=size)
            add_attributes(point.attributes, [("queue", queue)])
        orders.sum.data_points.add(time_unix_nano=at, as_int=minute * 3, start_time_unix_nano=NOON_NS)
        if minute % 10 != 4:
            took.histogram.data_points.add(
                time_unix_nano=at,
                start_time_unix_nano=at - 60_000 * MS,
                count=10,
                sum=1.5 + (minute - 15) ** 2 / 50,
                bucket_counts=[5, 4, 1],
                explicit_bounds=[0.1, 1.0],
            )
    add_attributes(
        evil.gauge.data_points.add(time_unix_nano=NOON_NS, as_double=0.5).attributes, [(EVIL_TEXT, EVIL_TEXT)]
    )
    return request.SerializeToString()


def fill(directory: Path) -> Path:
    """The shop's telemetry in an output directory."""
    with OtlpLibrary(in_process_settings(directory)) as library:
        library.export_traces(traces())
        library.export_logs(logs())
        library.export_metrics(metrics())
    return directory
