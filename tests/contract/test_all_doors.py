"""One promise for every way in: the same telemetry makes the same rows, and what is invalid is refused and said so."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.trace.export import SpanExportResult

from doors import REJECTED_FIELD, REQUEST, GrpcSender, HttpSender, span_request
from otlp_arrow import OtlpLibrary, Settings
from otlp_arrow.codec import columns, reference
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Signal
from otlp_arrow.receivers import sdk_objects
from otlp_arrow.sdk import ArrowLogExporter, ArrowMetricExporter, ArrowSpanExporter
from samples import samples
from sdk_telemetry import Telemetry, telemetry
from strategies import rows

PORTS = {f"{name}_port": 0 for name in ("protobuf", "http", "arrow_flight")}
TELEMETRY = telemetry()


def sdk_payloads(made: Telemetry) -> dict[Signal, bytes]:
    return {
        Signal.TRACES: sdk_objects.trace_request(made.spans).SerializeToString(),
        Signal.METRICS: sdk_objects.metrics_request(made.metrics).SerializeToString(),
        Signal.LOGS: sdk_objects.logs_request(made.logs).SerializeToString(),
    }


class Door(ABC):
    """One way into a collector. ``send`` gives the number of records that were refused."""

    protocols: ClassVar[dict[str, str]] = {}

    def __init__(self, library: OtlpLibrary) -> None:
        self.library = library

    @abstractmethod
    def send(self, signal: Signal, payload: bytes) -> int: ...

    def send_sdk(self, made: Telemetry) -> None:
        """What the SDK's exporters of this protocol would send."""
        for signal, payload in sdk_payloads(made).items():
            assert self.send(signal, payload) == 0


class OtlpDoor(Door):
    """A socket that speaks OTLP."""

    def sender(self) -> GrpcSender | HttpSender:
        raise NotImplementedError

    def send(self, signal: Signal, payload: bytes) -> int:
        async def talk() -> int:
            sender = self.sender()
            try:
                answer = await sender.send(signal, payload)
            finally:
                await sender.close()
            assert answer.ok, answer.message
            return int(getattr(answer.response.partial_success, REJECTED_FIELD[signal]))  # type: ignore[union-attr]

        return asyncio.run(talk())


class Grpc(OtlpDoor):
    def sender(self) -> GrpcSender:
        return GrpcSender(self.library.ports()["otlp_grpc"])


class HttpProtobuf(OtlpDoor):
    def sender(self) -> HttpSender:
        return HttpSender(self.library.ports()["otlp_http"], "protobuf")


class HttpJson(OtlpDoor):
    def sender(self) -> HttpSender:
        return HttpSender(self.library.ports()["otlp_http"], "json")


class Flight(Door):
    """Rows as a stock client puts them."""

    def send(self, signal: Signal, payload: bytes) -> int:
        batch = reference.decode(signal, payload)
        with flight.connect(("127.0.0.1", self.library.ports()["flight"])) as client:
            writer, reader = client.do_put(flight.FlightDescriptor.for_path(signal.value), batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            while reader.read() is not None:
                pass
            writer.close()
        return 0


class FlightByGrpcio(Flight):
    protocols: ClassVar[dict[str, str]] = {"arrow_flight_engine": "grpcio"}


class LibraryMessage(Door):
    def send(self, signal: Signal, payload: bytes) -> int:
        return self.export(signal)(REQUEST[signal].FromString(payload)).rejected

    def export(self, signal: Signal) -> Callable[[Any], Any]:
        return {
            Signal.TRACES: self.library.export_traces,
            Signal.METRICS: self.library.export_metrics,
            Signal.LOGS: self.library.export_logs,
        }[signal]

    def send_sdk(self, made: Telemetry) -> None:
        self.library.export_traces(made.spans)
        self.library.export_metrics(made.metrics)
        self.library.export_logs(made.logs)


class LibraryBytes(LibraryMessage):
    def send(self, signal: Signal, payload: bytes) -> int:
        return int(self.export(signal)(payload).rejected)

    def send_sdk(self, made: Telemetry) -> None:
        for span in made.spans:
            self.library.export_trace(span)
        self.library.export_metric(made.metrics)
        for record in made.logs:
            self.library.export_log(record)


class LibraryAsync(LibraryMessage):
    def send(self, signal: Signal, payload: bytes) -> int:
        export = {
            Signal.TRACES: self.library.export_traces_async,
            Signal.METRICS: self.library.export_metrics_async,
            Signal.LOGS: self.library.export_logs_async,
        }[signal]
        return asyncio.run(export(payload)).rejected

    def send_sdk(self, made: Telemetry) -> None:
        async def export() -> None:
            for span in made.spans:
                await self.library.export_trace_async(span)
            await self.library.export_metric_async(made.metrics)
            for record in made.logs:
                await self.library.export_log_async(record)

        asyncio.run(export())


class LibraryArrow(LibraryMessage):
    def send(self, signal: Signal, payload: bytes) -> int:
        return int(self.export(signal)(reference.decode(signal, payload)).rejected)


class SdkExporters(LibraryBytes):
    def send_sdk(self, made: Telemetry) -> None:
        assert ArrowSpanExporter(self.library).export(made.spans) is SpanExportResult.SUCCESS
        assert ArrowMetricExporter(self.library).export(made.metrics) is MetricExportResult.SUCCESS
        assert ArrowLogExporter(self.library).export(made.logs) is LogRecordExportResult.SUCCESS


DOORS: list[type[Door]] = [
    *(Grpc, HttpProtobuf, HttpJson, Flight, FlightByGrpcio),
    *(LibraryMessage, LibraryBytes, LibraryAsync, LibraryArrow, SdkExporters),
]


@pytest.fixture(params=DOORS, ids=lambda door: door.__name__)
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Door]:
    with opened(tmp_path, **request.param.protocols) as library:
        yield request.param(library)


@contextmanager
def opened(directory: Path, **protocols: str) -> Iterator[OtlpLibrary]:
    settings = Settings(output_dir=directory, host="127.0.0.1", protocols=PORTS | protocols, write_interval_secs=3600)
    with OtlpLibrary(settings) as library:
        yield library


def stored(library: OtlpLibrary, signal: Signal) -> list[dict[str, Any]]:
    """The rows in the files, in the order of the log."""
    library.flush()
    found = []
    for path in sorted((library.settings.output_dir / "otlp" / signal.value).glob("*.arrows")):
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            assert reader.schema.equals(SCHEMAS[signal], check_metadata=True)
            found += [row for batch in reader for row in rows(batch)]
    return found


def in_any_order(found: list[dict[str, Any]]) -> list[str]:
    return sorted(map(repr, found))


def test_the_same_requests_make_the_same_rows(door: Door):
    for sample in samples():
        assert door.send(sample.signal, sample.payload) == 0
    for signal in Signal:
        expected = [row for s in samples() if s.signal is signal for row in rows(reference.decode(signal, s.payload))]
        # A segment has the rows that came as OTLP before those that came as Arrow.
        assert in_any_order(stored(door.library, signal)) == in_any_order(expected)


def test_what_the_sdk_made_makes_the_same_rows_and_nothing_of_it_is_lost(door: Door):
    door.send_sdk(TELEMETRY)
    for signal, payload in sdk_payloads(TELEMETRY).items():
        expected = rows(reference.decode(signal, payload))
        assert in_any_order(stored(door.library, signal)) == in_any_order(expected)


def test_an_invalid_record_is_not_kept_and_its_sender_is_told(door: Door):
    if isinstance(door, Flight | LibraryArrow):
        valid = reference.decode(Signal.TRACES, span_request("good"))
        index = valid.schema.get_field_index("trace_id")
        zero = valid.set_column(
            index, valid.schema.field(index), columns.build(valid.schema.field(index).type, [bytes(16)])
        )
        with pytest.raises(Exception, match=r"trace_id.*all zero"):
            _send_rows(door, zero)
        _send_rows(door, valid)
    else:
        payload = span_request("bad", "good", trace_ids=[bytes(16), bytes([1] * 16)])
        assert door.send(Signal.TRACES, payload) == 1
    assert [row["name"] for row in stored(door.library, Signal.TRACES)] == ["good"]


def _send_rows(door: Door, batch: pa.RecordBatch) -> None:
    if isinstance(door, LibraryArrow):
        door.library.export_traces(pa.Table.from_batches([batch]))
        return
    with flight.connect(("127.0.0.1", door.library.ports()["flight"])) as client:
        writer, reader = client.do_put(flight.FlightDescriptor.for_path("traces"), batch.schema)
        writer.write_batch(batch)
        writer.done_writing()
        reader.read()
        writer.close()


def test_every_door_is_counted_under_its_own_name(tmp_path: Path):
    from otlp_arrow.model import meter

    with opened(tmp_path) as library:
        for kind in (Grpc, HttpJson, Flight, LibraryBytes):
            kind(library).send(Signal.TRACES, span_request("x"))
        counter = library._collector._opened.meter
        for labels in (("otlp", "grpc"), ("otlp", "http"), ("flight", "grpc"), ("inprocess", "python")):
            assert counter.value(meter.ACCEPTED[Signal.TRACES], *labels) == 1
            assert counter.value(meter.REQUESTS, *labels, "ok") == 1
        assert library.stats()["traces"]["accepted"] == 4
