"""Prepared OTLP requests: what the benchmarks send.

``traces`` makes the standard load, ``metrics`` and ``logs`` regroup recorded telemetry. A request is
the protobuf bytes of one Export…ServiceRequest. Everything comes from a fixed seed, so that two runs
send the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

POOL_RECORDS = 65_536
"""Records in a pool before it repeats: the default ``max_batch_rows``, so that no record batch holds a
span twice and compresses better than life."""

SAMPLES = Path(__file__).resolve().parents[1] / "../shared/samples"
_START_NS = 1_760_000_000_000_000_000


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests of one signal and size, to be sent round and round."""

    name: str
    signal: str  # traces, metrics or logs
    records_per_request: int
    requests: list[bytes]

    @property
    def bytes_per_record(self) -> float:
        """Mean size on the wire, resource and scope included."""
        return sum(map(len, self.requests)) / (len(self.requests) * self.records_per_request)


def traces(spans_per_request: int, pool_records: int = POOL_RECORDS) -> Workload:
    """The standard load: a web shop's HTTP server spans and the database spans under them.

    About 450 bytes and 10 attributes a span at 512 spans a request. Ids are random, names and routes
    come from small sets, paths and queries vary. One service a request, eight of them in the pool.
    """
    rng = random.Random(450)
    spans = _shop_spans(rng)
    origins = cycle([_shop_resource(rng, name) for name in _SERVICES])
    scope = InstrumentationScope(name="opentelemetry.instrumentation.asgi", version="0.58b0").SerializeToString()
    requests = [
        _request(next(origins), scope, islice(spans, spans_per_request))
        for _ in range(max(1, pool_records // spans_per_request))
    ]
    return Workload(f"traces, {spans_per_request} a request", "traces", spans_per_request, requests)


def metrics(points_per_request: int = 500, requests: int = 64, samples: Path = SAMPLES) -> Workload:
    """Data points of the recorded metrics (sums, gauges, histograms), repeated; times differ per request."""
    pool = []
    for number in range(requests):
        request = ExportMetricsServiceRequest()
        left = points_per_request
        for path in _samples(samples, "metrics", start=number):
            recorded = ExportMetricsServiceRequest.FromString(path.read_bytes())
            left = _keep_points(recorded, left)
            request.MergeFrom(recorded)
            if left == 0:
                break
        _shift_times(request, number * 10_000_000_000)
        pool.append(request.SerializeToString())
    return Workload(f"metrics, {points_per_request} a request", "metrics", points_per_request, pool)


def logs(records_per_request: int = 500, requests: int = 64, samples: Path = SAMPLES) -> Workload:
    """The recorded log records (bodies of text and of nested maps, exceptions), repeated; times differ per request."""
    pool = []
    for number in range(requests):
        request = ExportLogsServiceRequest()
        left = records_per_request
        for path in _samples(samples, "logs", start=number):
            recorded = ExportLogsServiceRequest.FromString(path.read_bytes())
            for resource in recorded.resource_logs:
                for scope in resource.scope_logs:
                    del scope.log_records[left:]
                    left -= len(scope.log_records)
            request.MergeFrom(recorded)
            if left == 0:
                break
        _shift_times(request, number * 1_000_000_000)
        pool.append(request.SerializeToString())
    return Workload(f"logs, {records_per_request} a request", "logs", records_per_request, pool)


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "traces-512": lambda: traces(512),
    "traces-50": lambda: traces(50),
    "traces-1": lambda: traces(1),
    "metrics": metrics,
    "logs": logs,
}

# -- the web shop --------------------------------------------------------------------------------

_SERVICES = ("frontend", "cart", "checkout", "catalogue", "payment", "shipping", "recommendation", "accounts")
_ROUTES = (
    ("GET", "/api/v1/products/{product_id}", "/api/v1/products/{}"),
    ("GET", "/api/v1/products", "/api/v1/products?page={}&sort=price"),
    ("POST", "/api/v1/carts/{cart_id}/items", "/api/v1/carts/{}/items"),
    ("GET", "/api/v1/carts/{cart_id}", "/api/v1/carts/{}"),
    ("POST", "/api/v1/orders", "/api/v1/orders"),
    ("GET", "/api/v1/orders/{order_id}/status", "/api/v1/orders/{}/status"),
    ("PUT", "/api/v1/users/{user_id}/address", "/api/v1/users/{}/address"),
    ("GET", "/healthz", "/healthz"),
)
_TABLES = ("products", "carts", "cart_items", "orders", "order_lines", "users", "addresses", "stock")
_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15",
    "okhttp/5.1.0",
    "python-requests/2.32.4",
)
_STATUS_CODES = (200, 200, 200, 200, 200, 200, 201, 204, 304, 404, 500)


def _shop_spans(rng: random.Random) -> Iterator[bytes]:
    """Serialised spans, trace after trace: one server span with one to three database spans under it."""
    now = _START_NS
    while True:
        now += rng.randrange(50_000, 2_000_000)
        trace_id, server_id = rng.randbytes(16), rng.randbytes(8)
        children = rng.randint(1, 3)
        yield _server_span(rng, trace_id, server_id, now, children).SerializeToString()
        for child in range(children):
            yield _database_span(rng, trace_id, server_id, now + 400_000 * (child + 1)).SerializeToString()


def _server_span(rng: random.Random, trace_id: bytes, span_id: bytes, start_ns: int, children: int) -> Span:
    method, route, path = rng.choice(_ROUTES)
    code = rng.choice(_STATUS_CODES)
    span = Span(
        trace_id=trace_id,
        span_id=span_id,
        name=f"{method} {route}",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=start_ns,
        end_time_unix_nano=start_ns + 400_000 * (children + 1) + rng.randrange(1_000_000),
        attributes=_attributes(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": code,
                "url.scheme": "https",
                "url.path": path.format(rng.randrange(1_000_000)),
                "server.address": "shop.example.com",
                "server.port": 443,
                "client.address": f"203.0.113.{rng.randrange(256)}",
                "user_agent.original": rng.choice(_AGENTS),
                "network.protocol.version": "1.1",
            }
        ),
        flags=0x101,
    )
    if code >= 500:
        span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message="upstream timed out"))
        span.events.add(
            name="exception",
            time_unix_nano=start_ns + 300_000,
            attributes=_attributes(
                {"exception.type": "TimeoutError", "exception.message": f"no answer within {rng.randrange(1, 30)} s"}
            ),
        )
    return span


def _database_span(rng: random.Random, trace_id: bytes, parent_id: bytes, start_ns: int) -> Span:
    table = rng.choice(_TABLES)
    return Span(
        trace_id=trace_id,
        span_id=rng.randbytes(8),
        parent_span_id=parent_id,
        name=f"SELECT {table}",
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=start_ns,
        end_time_unix_nano=start_ns + rng.randrange(100_000, 380_000),
        attributes=_attributes(
            {
                "db.system.name": "postgresql",
                "db.namespace": "shop",
                "db.operation.name": "SELECT",
                "db.collection.name": table,
                "db.query.text": f"SELECT * FROM {table} WHERE id = $1 AND deleted_at IS NULL",
                "db.response.returned_rows": rng.randrange(100),
                "server.address": f"db-{rng.randrange(4)}.internal",
                "server.port": 5432,
                "network.peer.address": f"10.0.{rng.randrange(4)}.{rng.randrange(256)}",
                "thread.name": f"AnyIO worker thread-{rng.randrange(40)}",
            }
        ),
        flags=0x101,
    )


def _shop_resource(rng: random.Random, service: str) -> bytes:
    return Resource(
        attributes=_attributes(
            {
                "service.name": service,
                "service.namespace": "shop",
                "service.version": "2026.10.1",
                "service.instance.id": f"{service}-{rng.randbytes(5).hex()}",
                "deployment.environment.name": "production",
                "k8s.cluster.name": "eu-1",
                "k8s.pod.name": f"{service}-{rng.randbytes(5).hex()}",
                "host.name": f"node-{rng.randrange(20)}.internal",
                "process.pid": rng.randrange(1, 40_000),
                "telemetry.sdk.name": "opentelemetry",
                "telemetry.sdk.language": "python",
                "telemetry.sdk.version": "1.37.0",
            }
        )
    ).SerializeToString()


def _attributes(values: dict[str, str | int]) -> list[KeyValue]:
    return [
        KeyValue(key=key, value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value))
        for key, value in values.items()
    ]


# -- framing -------------------------------------------------------------------------------------


def _request(resource: bytes, scope: bytes, spans: Iterator[bytes]) -> bytes:
    """ExportTraceServiceRequest around spans that are serialised already, so that each is made once."""
    scope_spans = _field(1, scope) + b"".join(_field(2, span) for span in spans)
    return _field(1, _field(1, resource) + _field(2, scope_spans))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    head = bytearray([number << 3 | 2])
    length = len(content)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + content


# -- recorded telemetry --------------------------------------------------------------------------


def _samples(folder: Path, signal: str, start: int) -> Iterator[Path]:
    """The recorded requests of a signal, round and round, beginning with another one each time."""
    found = sorted(folder.glob(f"*/{signal}_*.pb"))
    if not found:
        raise FileNotFoundError(f"no recorded {signal} in {folder}")
    return islice(cycle(found), start % len(found), None)


def _keep_points(request: ExportMetricsServiceRequest, limit: int) -> int:
    """Cut the request down to ``limit`` data points; returns how many are still wanted."""
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for position, metric in enumerate(scope.metrics):
                if limit == 0:
                    del scope.metrics[position:]
                    break
                kind = metric.WhichOneof("data")
                points = getattr(metric, kind).data_points if kind else []
                del points[limit:]
                limit -= len(points)
    return limit


def _shift_times(message: Any, by_ns: int) -> None:
    """Add to every set time of a request, so that no two requests of a pool are equal."""
    for field, value in message.ListFields():
        if field.name.endswith("time_unix_nano"):
            setattr(message, field.name, value + by_ns)
        elif field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                _shift_times(inner, by_ns)
