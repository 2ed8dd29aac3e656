"""The admin listener: health for orchestrators and people, metrics for Prometheus.

It opens first and closes last, so that ``/livez`` answers while recovery replays and while the doors
drain. It asks for no credentials: probes have none, and it shows no telemetry.
"""

from __future__ import annotations

import json
import ssl
from types import TracebackType

from aiohttp import web

from otlp_arrow.app.health import Health
from otlp_arrow.app.telemetry import PrometheusMeter
from otlp_arrow.receivers.listen import Place, bind

_CLOSE_TIMEOUT_S = 1.0
"""A scrape under way may finish; nobody else is worth waiting for."""

_MAX_BODY_BYTES = 1024
"""Nothing here takes a body."""


class AdminServer:
    """``/``, ``/health``, ``/livez``, ``/readyz`` and ``/metrics``; an async context manager.

    Entering raises ``OtlpServerError`` if the port cannot be had.
    """

    def __init__(
        self,
        health: Health,
        meter: PrometheusMeter,
        *,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        api: web.Application | None = None,
    ) -> None:
        self._health = health
        self._meter = meter
        self._host = host
        self._port = port
        self._tls = tls
        self.bound_port = 0
        application = web.Application(client_max_size=_MAX_BODY_BYTES)
        application.add_routes(
            [
                web.get("/", self._show_health),
                web.get("/health", self._show_health),
                web.get("/livez", self._show_live),
                web.get("/readyz", self._show_ready),
                web.get("/metrics", self._show_metrics),
            ]
        )
        if api is not None:
            application.add_subapp("/api/v1", api)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            shutdown_timeout=_CLOSE_TIMEOUT_S,
            handler_cancellation=True,  # a query ends when nobody waits for it any more
        )

    async def __aenter__(self) -> AdminServer:
        sockets = bind(Place("the admin listener", self._host, self._port, "admin_port"))
        self.bound_port = sockets[0].getsockname()[1]
        await self._runner.setup()
        try:
            for listening in sockets:
                await web.SockSite(self._runner, listening, ssl_context=self._tls).start()
        except BaseException:
            await self._runner.cleanup()
            for listening in sockets:
                listening.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _show_health(self, request: web.Request) -> web.Response:
        report = self._health.report()
        return _json(report.as_json(), ready=report.ready)

    async def _show_live(self, request: web.Request) -> web.Response:
        return web.Response(text="live\n")  # the event loop turns, or nobody would answer

    async def _show_ready(self, request: web.Request) -> web.Response:
        report = self._health.report()
        return _json({"ready": report.ready, "status": report.status, "reasons": report.reasons}, ready=report.ready)

    async def _show_metrics(self, request: web.Request) -> web.Response:
        text, content_type = self._meter.scrape(request.headers.get("Accept", ""))
        response = web.Response(body=text, headers={"Content-Type": content_type})
        response.enable_compression()  # only if the scraper takes it
        return response


def _json(value: object, *, ready: bool) -> web.Response:
    return web.Response(
        text=json.dumps(value, default=str) + "\n",
        status=200 if ready else 503,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
