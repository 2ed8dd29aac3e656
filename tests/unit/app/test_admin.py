"""The admin listener over real sockets."""

from __future__ import annotations

import json

import aiohttp
import pytest

from otlp_arrow.app.admin import AdminServer
from otlp_arrow.app.health import Health, Phase
from otlp_arrow.app.telemetry import PrometheusMeter
from otlp_arrow.model import OtlpServerError
from otlp_arrow.model.status import PartStatus


@pytest.fixture
async def health() -> Health:
    health = Health(compiled_kernel=True)
    health.phase = Phase.SERVING
    return health


@pytest.fixture
async def get(health: Health):
    async with (
        AdminServer(health, PrometheusMeter(), host="127.0.0.1", port=0) as server,
        aiohttp.ClientSession(f"http://127.0.0.1:{server.bound_port}") as session,
    ):

        async def get(path: str, **headers: str) -> tuple[int, str, aiohttp.ClientResponse]:
            async with session.get(path, headers=headers) as response:
                return response.status, await response.text(), response

        yield get


@pytest.mark.parametrize("path", ["/", "/health", "/readyz"])
async def test_health_answers_200_while_ready_and_503_with_reasons_otherwise(get, health: Health, path: str):
    status, body, response = await get(path)
    assert (status, json.loads(body)["ready"]) == (200, True)
    assert response.content_type == "application/json"

    health.include(lambda: [PartStatus("wal", "failed", "no space left on device")])
    status, body, _ = await get(path)
    assert (status, json.loads(body)["reasons"]) == (503, ["wal: no space left on device"])


async def test_it_is_live_whatever_its_readiness(get, health: Health):
    health.phase = Phase.RECOVERING
    assert (await get("/livez"))[0] == 200
    status, body, _ = await get("/readyz")
    assert (status, json.loads(body)["status"]) == (503, "recovering")


async def test_metrics_come_in_the_format_that_the_scraper_asks_for(get):
    status, body, response = await get("/metrics")
    assert (status, response.content_type) == (200, "text/plain")
    assert "otelcol_receiver_requests_total" in body
    _, body, response = await get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert response.content_type == "application/openmetrics-text"
    assert body.endswith("# EOF\n")


async def test_metrics_are_compressed_only_for_those_who_take_it(get):
    assert (await get("/metrics", **{"Accept-Encoding": "gzip"}))[2].headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in (await get("/metrics", **{"Accept-Encoding": "identity"}))[2].headers


async def test_other_paths_are_not_found(get):
    assert (await get("/v1/traces"))[0] == 404


async def test_a_port_that_is_taken_is_an_error_that_names_it(health: Health):
    async with AdminServer(health, PrometheusMeter(), host="127.0.0.1", port=0) as first:
        with pytest.raises(OtlpServerError, match=f"{first.bound_port}.*admin_port"):
            async with AdminServer(health, PrometheusMeter(), host="127.0.0.1", port=first.bound_port):
                pass
