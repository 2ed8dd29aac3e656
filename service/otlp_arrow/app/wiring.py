"""Builds the parts from the settings and opens them: storage before doors, and the other way round at the end.

``open_collector`` knows nothing of signals, logging or command lines, so that a program may hold a
collector inside itself.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from aiohttp import web
from pydantic import SecretStr

from otlp_arrow.app import health as health_module
from otlp_arrow.app import logging
from otlp_arrow.app.admin import AdminServer
from otlp_arrow.app.forwarding import destinations_of
from otlp_arrow.app.health import Health, Phase
from otlp_arrow.app.lazy_application import LazyApplication
from otlp_arrow.app.settings import ProtocolSettings, Settings
from otlp_arrow.app.telemetry import PrometheusMeter
from otlp_arrow.codec import kernel_available
from otlp_arrow.model import OtlpConfigError, OtlpError, OtlpIOError, Signal, meter
from otlp_arrow.model.limits import WAL_FILE_BYTES
from otlp_arrow.pipeline import Ack, Pipeline, PipelineSettings
from otlp_arrow.receivers import OtlpGrpcServer
from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.otlp_http import OtlpHttpServer
from otlp_arrow.receivers.tls import ServerTls
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.forwarding import Forwarding
from otlp_arrow.storage.disk import Disk
from otlp_arrow.storage.store import StorageSettings

if TYPE_CHECKING:
    from otlp_arrow.receivers import AioFlightServer, AioOtlpGrpcServer, FlightServer

log = structlog.get_logger(__name__)

_DRAIN_SHARE = 2 / 3
"""Of the shutdown timeout, for forwarding what is left; closing the files needs the rest."""

OUTCOMES = ("ok", "partial", "busy", "rejected", "unauthenticated", "cancelled", "failed")


@dataclass(slots=True)
class Collector:
    """An open collector, as whoever opened it sees it."""

    settings: Settings
    health: Health
    meter: PrometheusMeter
    pipeline: Pipeline
    grpc: OtlpGrpcServer | AioOtlpGrpcServer | None = None
    http: OtlpHttpServer | None = None
    flight: FlightServer | AioFlightServer | None = None
    admin: AdminServer | None = None

    def ports(self) -> dict[str, int]:
        """The port of each listener that is open, by name."""
        listeners = {"otlp_grpc": self.grpc, "otlp_http": self.http, "flight": self.flight, "admin": self.admin}
        return {name: listener.bound_port for name, listener in listeners.items() if listener is not None}

    async def tell_readiness(self, ready: bool) -> None:
        """Pass readiness on to the gRPC health service."""
        if self.grpc is not None:
            await self.grpc.set_serving(ready)

    @property
    def failure(self) -> asyncio.Future[None]:
        """Done, with the error, if a task of the collector dies, which should never be."""
        assert self.pipeline.failure is not None
        return self.pipeline.failure


@asynccontextmanager
async def open_collector(
    settings: Settings, *, admin: bool = True, disk: Disk | None = None
) -> AsyncIterator[Collector]:
    """A collector that takes data until the block is left; then it refuses, drains and closes its files.

    The admin listener answers from before recovery until after the last file is closed. Raises
    ``OtlpConfigError`` (certificates, credentials), ``OtlpServerError`` (a port) or ``OtlpIOError`` (the
    output directory), having closed again what was open.
    """
    logging.leave_to_host()
    authenticator = build_authenticator(settings)
    tls = build_tls(settings)
    counter = PrometheusMeter()
    health = Health(compiled_kernel=kernel_available())
    destinations = destinations_of(settings)
    pipeline = Pipeline(pipeline_settings(settings, destinations), meter=counter, disk=disk, on_stir=health.stirred.set)
    forwarding = Forwarding(
        destinations, pipeline.store, counter, drain_timeout_s=settings.shutdown_timeout_secs * _DRAIN_SHARE
    )
    collector = Collector(settings, health, counter, pipeline)
    health.include(pipeline.status)
    health.at_rest = lambda: pipeline.intake.held_bytes == 0
    health.include(forwarding.status)
    counter.on_scrape(pipeline.report)
    counter.on_scrape(forwarding.report)
    counter.on_scrape(lambda: health.measure(counter))

    async with AsyncExitStack() as parts:
        if admin:
            api = LazyApplication("/api/v1", lambda: _query_api(collector, authenticator))
            collector.admin = await parts.enter_async_context(
                AdminServer(
                    health,
                    counter,
                    host=settings.host,
                    port=settings.admin_port,
                    tls=admin_tls(settings),
                    api=api.application,
                )
            )
        health.phase = Phase.RECOVERING
        try:
            await parts.enter_async_context(pipeline)
        except OtlpError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise OtlpIOError(f"cannot use the output directory {settings.output_dir}: {reason}") from error
        await parts.enter_async_context(forwarding)
        doors = settings.protocols
        if doors.protobuf_enabled:
            grpc_door: type[OtlpGrpcServer] | type[AioOtlpGrpcServer] = OtlpGrpcServer
            if doors.protobuf_engine != "compiled":
                from otlp_arrow.receivers import AioOtlpGrpcServer

                grpc_door = AioOtlpGrpcServer
            collector.grpc = grpc_door(
                pipeline.intake,
                host=settings.host,
                port=doors.protobuf_port,
                max_request_bytes=settings.max_request_bytes,
                auth=authenticator,
                tls=tls,
                meter=counter,
            )
            _begin_at_zero(counter, "otlp", "grpc")
            await parts.enter_async_context(collector.grpc)
        if doors.http_enabled:
            collector.http = OtlpHttpServer(
                pipeline.intake,
                host=settings.host,
                port=doors.http_port,
                max_request_bytes=settings.max_request_bytes,
                auth=authenticator,
                tls=tls,
                cors_origins=doors.http_cors_origins,
                meter=counter,
            )
            _begin_at_zero(counter, "otlp", "http")
            await parts.enter_async_context(collector.http)
        if doors.arrow_flight_enabled:
            collector.flight = flight_door(doors)(
                pipeline.intake,
                pipeline,
                host=settings.host,
                port=doors.arrow_flight_port,
                max_request_bytes=settings.max_request_bytes,
                auth=authenticator,
                tls=tls,
                meter=counter,
                health=lambda: health.report().as_json(),
            )
            _begin_at_zero(counter, "flight", "grpc")
            await parts.enter_async_context(collector.flight)
        health.phase = Phase.SERVING
        await parts.enter_async_context(_watched(collector))
        try:
            yield collector
        finally:
            health.phase = Phase.STOPPING
            await collector.tell_readiness(False)


def flight_door(doors: ProtocolSettings) -> type[FlightServer] | type[AioFlightServer]:
    """Who serves Arrow Flight; imported when it is opened."""
    if doors.arrow_flight_engine == "compiled":
        from otlp_arrow.receivers import FlightServer

        return FlightServer
    from otlp_arrow.receivers import AioFlightServer

    return AioFlightServer


@asynccontextmanager
async def _watched(collector: Collector) -> AsyncIterator[None]:
    watcher = asyncio.create_task(health_module.watch(collector.health, collector.tell_readiness), name="otlp-health")
    try:
        yield
    finally:
        watcher.cancel()
        (ended,) = await asyncio.gather(watcher, return_exceptions=True)
        if isinstance(ended, Exception):
            log.error("health was not watched any more", exc_info=ended)


def _query_api(collector: Collector, authenticator: Authenticator | None) -> web.Application:
    from otlp_arrow.query.engine import Engine
    from otlp_arrow.query.store import source_of
    from otlp_arrow.web.api import QueryApi, is_loopback

    api = QueryApi(
        lambda: Engine(source_of(collector)), auth=authenticator, local_only=is_loopback(collector.settings.host)
    )
    return api.application


# -- each part's settings ------------------------------------------------------------------------------
def pipeline_settings(settings: Settings, destinations: Sequence[Destination] = ()) -> PipelineSettings:
    """What the way in needs of the tree."""
    # A backlog is given up file by file: eight files within the smallest bound.
    wal_file_bytes = min([WAL_FILE_BYTES, *(d.max_backlog_bytes // 8 for d in destinations)])
    return PipelineSettings(
        storage=StorageSettings(
            output_dir=settings.output_dir,
            max_file_size=settings.max_file_size,
            max_file_age_secs=settings.max_file_age_secs,
            max_disk_bytes=settings.max_disk_bytes or sys.maxsize,
            cleanup_interval_secs={
                Signal.TRACES: settings.trace_cleanup_interval_secs,
                Signal.METRICS: settings.metric_cleanup_interval_secs,
                Signal.LOGS: settings.log_cleanup_interval_secs,
            },
            wal_file_bytes=wal_file_bytes,
        ),
        ack=Ack(settings.ack),
        write_interval_secs=settings.write_interval_secs,
        max_batch_rows=settings.max_batch_rows,
        max_buffer_bytes=settings.max_buffer_bytes,
        shutdown_timeout_secs=settings.shutdown_timeout_secs,
    )


def build_authenticator(settings: Settings) -> Authenticator | None:
    """Who may send; None if everybody may. Raises ``OtlpConfigError``."""
    auth = settings.auth
    if not auth.required:
        return None
    return Authenticator(
        bearer_tokens=[_plain(token) for token in auth.bearer_tokens],
        basic={user: _plain(password) for user, password in auth.basic.items()},
        api_keys=[_plain(key) for key in auth.api_keys],
    )


def build_tls(settings: Settings) -> ServerTls | None:
    """The doors' certificates; None for plain text. Raises ``OtlpConfigError``."""
    tls = settings.tls
    if tls.cert_file is None or tls.key_file is None:
        return None
    return ServerTls(cert_file=tls.cert_file, key_file=tls.key_file, client_ca_file=tls.client_ca_file)


def admin_tls(settings: Settings) -> ssl.SSLContext | None:
    """The same certificate, and none asked of clients: the probes of orchestrators have none."""
    tls = settings.tls
    if tls.cert_file is None or tls.key_file is None:
        return None
    return ServerTls(cert_file=tls.cert_file, key_file=tls.key_file).ssl_context()


def require_a_door(settings: Settings) -> None:
    """Raises ``OtlpConfigError`` if nobody could send: of use inside a program only."""
    doors = settings.protocols
    if not (doors.protobuf_enabled or doors.http_enabled or doors.arrow_flight_enabled):
        raise OtlpConfigError(
            "protocols", "no door", "protobuf_enabled, http_enabled or arrow_flight_enabled to be true in protocols"
        )


def _plain(secret: SecretStr) -> str:
    return secret.get_secret_value()


def _begin_at_zero(counter: PrometheusMeter, receiver: str, transport: str) -> None:
    """The first request of a kind should show as a step from 0, not as a series that was never there."""
    for signal in Signal:
        counter.add(meter.ACCEPTED[signal], 0, receiver, transport)
        counter.add(meter.REFUSED[signal], 0, receiver, transport)
    for outcome in OUTCOMES:
        counter.add(meter.REQUESTS, 0, receiver, transport, outcome)
