"""The catalogue of metrics: every name, what it counts, in a sentence.

Parts report through a ``Meter``; ``app.telemetry`` shows it at ``/metrics``; ``docs/metrics.md`` is
checked against this module. Names beginning with ``otelcol_`` mean what the OpenTelemetry
Collector's dashboards take them to mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from otlp_arrow.model.signal import Signal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: exported name (without ``_total``), kind, meaning, label names."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    __hash__ = object.__hash__


class Meter(Protocol):
    """Where parts report. Called on the event loop only, except where a part says otherwise."""

    def add(self, metric: Metric, amount: float = 1, *labels: str) -> None:
        """Add to a counter."""

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a gauge."""

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Record one value of a histogram."""


class NullMeter:
    """Takes everything, keeps nothing."""

    def add(self, metric: Metric, amount: float = 1, *labels: str) -> None:
        pass

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        pass

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        pass


_DOOR = ("receiver", "transport")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# -- doors -------------------------------------------------------------------------------------
ACCEPTED = {
    s: Metric(
        f"otelcol_receiver_accepted_{s.records}",
        "counter",
        f"{s.records.replace('_', ' ').capitalize()} kept: durable as the setting ack says, and acknowledged.",
        _DOOR,
    )
    for s in Signal
}
REFUSED = {
    s: Metric(
        f"otelcol_receiver_refused_{s.records}",
        "counter",
        f"{s.records.replace('_', ' ').capitalize()} not kept and reported so: invalid by the data model.",
        _DOOR,
    )
    for s in Signal
}
REQUESTS = Metric(
    "otelcol_receiver_requests",
    "counter",
    "Requests by outcome: ok, partial, busy, rejected, unauthenticated, cancelled, failed.",
    (*_DOOR, "outcome"),
)
ACK_SECONDS = Metric(
    "otlp_arrow_ack_seconds", "histogram", "Time from a whole request in memory to its acknowledgement.", (), _SECONDS
)

# -- storage -----------------------------------------------------------------------------------
STORED = Metric(
    "otlp_arrow_stored_records", "counter", "Records written to a synced segment, replayed ones included.", ("signal",)
)
REPLAYED = Metric(
    "otlp_arrow_replayed_records",
    "counter",
    "Records taken from the WAL at start because no segment held them yet.",
    ("signal",),
)
EXPIRED = Metric(
    "otlp_arrow_expired_records",
    "counter",
    "Stored records deleted by retention, by age or by total bytes.",
    ("signal", "reason"),
)
LOST = Metric(
    "otlp_arrow_lost_records",
    "counter",
    "Acknowledged records that cannot be read any more; what is left of them is in quarantine/.",
    ("signal", "reason"),
)
QUARANTINED = Metric(
    "otlp_arrow_quarantined_items", "counter", "Frames, files and requests written aside to quarantine/.", ("kind",)
)
TORN_TAILS = Metric(
    "otlp_arrow_torn_tails", "counter", "Unfinished writes cut off at start; never acknowledged.", ("kind",)
)
MISSING_FRAMES = Metric(
    "otlp_arrow_missing_frames",
    "counter",
    "WAL frames that should be there at start and are not: a file was deleted by hand.",
)
BUFFER_BYTES = Metric(
    "otlp_arrow_buffer_bytes", "gauge", "Memory held by requests and rows that are not in a segment yet."
)
BUFFER_LIMIT_BYTES = Metric(
    "otlp_arrow_buffer_limit_bytes", "gauge", "The setting max_buffer_bytes; past it senders are refused."
)
BUFFERED_RECORDS = Metric(
    "otlp_arrow_buffered_records",
    "gauge",
    "Acknowledged records that are in the WAL and not in a segment yet.",
    ("signal",),
)
WAL_BYTES = Metric("otlp_arrow_wal_bytes", "gauge", "Bytes of WAL files on disk.")
WAL_SEQUENCE = Metric("otlp_arrow_wal_sequence", "gauge", "The sequence of the newest frame.")
WAL_SYNC_SECONDS = Metric("otlp_arrow_wal_sync_seconds", "histogram", "Time of one WAL sync.", (), _SECONDS)
WAL_GROUP_REQUESTS = Metric(
    "otlp_arrow_wal_group_requests",
    "histogram",
    "Requests that shared one group commit.",
    (),
    (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
DISK_ERRORS = Metric(
    "otlp_arrow_disk_errors",
    "counter",
    "File operations that failed, by operation and errno name.",
    ("operation", "errno"),
)
SEGMENT_BYTES = Metric("otlp_arrow_segment_bytes", "gauge", "Bytes of segments on disk.", ("signal",))
SEGMENT_FILES = Metric("otlp_arrow_segment_files", "gauge", "Segments on disk, the open one included.", ("signal",))
SEGMENT_RECORDS = Metric("otlp_arrow_segment_records", "gauge", "Records in segments on disk.", ("signal",))
FLUSH_SECONDS = Metric(
    "otlp_arrow_flush_seconds", "histogram", "Time to encode, write and sync one record batch.", ("signal",), _SECONDS
)
WRITTEN_BATCHES = Metric("otlp_arrow_written_batches", "counter", "Record batches written to segments.", ("signal",))

# -- forwarding --------------------------------------------------------------------------------
_EXPORTER = ("exporter",)
EXPORTER_SENT = {
    s: Metric(
        f"otelcol_exporter_sent_{s.records}",
        "counter",
        f"{s.records.replace('_', ' ').capitalize()} that the destination has confirmed.",
        _EXPORTER,
    )
    for s in Signal
}
EXPORTER_FAILED = {
    s: Metric(
        f"otelcol_exporter_send_failed_{s.records}",
        "counter",
        f"{s.records.replace('_', ' ').capitalize()} that the destination refused for good, or that could not be "
        "converted for it; see quarantine/.",
        _EXPORTER,
    )
    for s in Signal
}
EXPORTER_GIVEN_UP = Metric(
    "otlp_arrow_exporter_given_up_records",
    "counter",
    "Records that a destination will not get: its backlog outgrew its bound or the disk (backlog), or the WAL was "
    "damaged (unreadable).",
    ("exporter", "signal", "reason"),
)
EXPORTER_GIVEN_UP_BYTES = Metric(
    "otlp_arrow_exporter_given_up_bytes", "counter", "The same in bytes of requests as received.", ("exporter",)
)
EXPORTER_QUEUE_SIZE = Metric(
    "otelcol_exporter_queue_size",
    "gauge",
    "Bytes of requests in the WAL that the destination has not confirmed yet.",
    _EXPORTER,
)
EXPORTER_QUEUE_CAPACITY = Metric(
    "otelcol_exporter_queue_capacity",
    "gauge",
    "The setting max_backlog_bytes; past it the oldest requests are given up.",
    _EXPORTER,
)
EXPORTER_LAG_RECORDS = Metric(
    "otlp_arrow_exporter_lag_records",
    "gauge",
    "Records in the WAL that the destination has not confirmed yet.",
    ("exporter", "signal"),
)
EXPORTER_LAG_SECONDS = Metric(
    "otlp_arrow_exporter_lag_seconds",
    "gauge",
    "Age of the oldest request that the destination has not confirmed; 0 if there is none.",
    _EXPORTER,
)
EXPORTER_REQUESTS = Metric(
    "otlp_arrow_exporter_requests",
    "counter",
    "Requests to a destination by outcome: ok, partial, unreachable, busy, credentials, address, refused.",
    ("exporter", "outcome"),
)
EXPORTER_IN_FLIGHT = Metric(
    "otlp_arrow_exporter_in_flight_requests", "gauge", "Requests that wait for the destination's answer.", _EXPORTER
)
EXPORTER_SECONDS = Metric(
    "otlp_arrow_exporter_request_seconds",
    "histogram",
    "Time from sending a request to the destination's answer, good or bad.",
    _EXPORTER,
    _SECONDS,
)
EXPORTER_BREAKER = Metric(
    "otlp_arrow_exporter_breaker_state",
    "gauge",
    "Circuit breaker of a destination, the worst of its signals: 0 closed, 1 half-open (one tries), 2 open (none).",
    _EXPORTER,
)

# -- the process -------------------------------------------------------------------------------
UPTIME = Metric("otelcol_process_uptime", "counter", "Seconds since the process started.")
CPU_SECONDS = Metric("otelcol_process_cpu_seconds", "counter", "CPU seconds, user and system, of the whole process.")
MEMORY_RSS = Metric("otelcol_process_memory_rss", "gauge", "Resident memory in bytes.")
READY = Metric("otlp_arrow_ready", "gauge", "1 while /readyz says yes.")
KERNEL = Metric("otlp_arrow_compiled_kernel", "gauge", "1 on the compiled kernel, 0 on the reference decoder.")


def catalogue() -> list[Metric]:
    """Every metric of this module, in the order it stands here."""
    found: list[Metric] = []
    for value in globals().values():
        if isinstance(value, Metric):
            found.append(value)
        elif isinstance(value, dict):
            found.extend(v for v in value.values() if isinstance(v, Metric))
    return found
