"""``/api/v1`` as clients meet it: shapes, errors, credentials, limits, live streams, clients that leave."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pyarrow as pa
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import asked
from otlp_arrow.app.settings import Settings
from otlp_arrow.app.wiring import Collector, open_collector
from otlp_arrow.codec import json_to_protobuf
from otlp_arrow.model import Batch, Signal
from otlp_arrow.query import QueryError, QueryTimeout, SpanQuery, SpanStore
from otlp_arrow.query.sql_process import workers as sql_workers
from otlp_arrow.web import api as api_module
from otlp_arrow.web.openapi import document

QUIET = {"protocols.protobuf_enabled": False, "protocols.http_enabled": False, "protocols.arrow_flight_enabled": False}


def settings_for(directory: Path, **flags: object) -> Settings:
    given = {"output_dir": directory, "admin_port": 0, "host": "127.0.0.1", **QUIET, **flags}
    return Settings.load(flags=given, environ={}).settings


class Site:
    """A collector with some spans, and a client of its API."""

    def __init__(self, collector: Collector, session: aiohttp.ClientSession, spans: asked.Spans) -> None:
        self.collector = collector
        self.session = session
        self.spans = spans
        self.url = f"http://127.0.0.1:{collector.admin.bound_port}"

    async def get(self, path: str, **options: object) -> tuple[int, dict | str, aiohttp.ClientResponse]:
        async with self.session.get(f"{self.url}/api/v1/{path}", **options) as response:
            text = await response.text()
            return (
                response.status,
                json.loads(text)
                if response.content_type.endswith("json") and "nd" not in response.content_type
                else text,
                response,
            )

    async def sql(self, statement: str, **options: object) -> tuple[int, dict]:
        body = options.pop("json", {"statement": statement})
        async with self.session.post(f"{self.url}/api/v1/sql", json=body, **options) as response:
            return response.status, await response.json(content_type=None)

    async def send(self, spans: int) -> None:
        await self.collector.pipeline.intake.accept(Batch(Signal.TRACES, self.spans.request(spans)))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_collector(settings_for(tmp_path)) as collector, aiohttp.ClientSession() as session:
        found = Site(collector, session, asked.Spans(seed=3))
        await found.send(60)
        await collector.pipeline.flush()
        await found.send(40)
        yield found


# -- shapes ------------------------------------------------------------------------------------------
async def test_a_trace_is_otlp_json_that_reads_back(site: Site):
    wanted = site.spans.known[0]
    status, body, response = await site.get(f"traces/{wanted.trace_id.upper()}")
    assert (status, response.content_type) == (200, "application/json")
    request = ExportTraceServiceRequest.FromString(json_to_protobuf(Signal.TRACES, json.dumps(body)))
    ids = sorted(s.span_id.hex() for r in request.resource_spans for g in r.scope_spans for s in g.spans)
    assert ids == sorted(span.span_id for span in site.spans.known if span.trace_id == wanted.trace_id)


async def test_rows_come_as_json_lines_csv_and_arrow(site: Site):
    expected = [span.number for span in asked.select(site.spans.known, SpanQuery())][:7]
    _, body, response = await site.get("spans?limit=7")
    assert [span["attributes"]["n"] for span in body["spans"]] == expected
    assert body["next_cursor"] == response.headers["X-Next-Cursor"]
    _, text, response = await site.get("spans?limit=7&format=jsonl")
    assert response.content_type == "application/x-ndjson"
    assert [json.loads(line)["attributes"]["n"] for line in text.splitlines()] == expected
    _, text, response = await site.get("spans?limit=7", headers={"Accept": "text/csv"})
    assert (response.content_type, text.split(",", 1)[0]) == ("text/csv", "service_name")
    accept = {"Accept": "application/vnd.apache.arrow.stream;q=1, */*"}
    async with site.session.get(f"{site.url}/api/v1/spans?limit=7", headers=accept) as answer:
        table = pa.ipc.open_stream(await answer.read()).read_all()
    assert table.num_rows == 7
    _, body, _ = await site.get(f"spans?limit=7&cursor={response.headers['X-Next-Cursor']}&format=otlp")
    assert "resourceSpans" in body


async def test_every_overview_answers(site: Site):
    for path, rows in (("services", 5), ("attributes", 5), ("attributes?signal=logs", 0), ("metrics/names", 0)):
        status, body, _ = await site.get(path)
        assert (status, len(body["rows"]) >= rows) == (200, True), path
    assert (await site.get("metrics/series?bucket=5m&group_by=room"))[1]["rows"] == []
    assert (await site.get("failures?hours=1&limit=5"))[1]["spans"] == []
    assert len((await site.get("traces?limit=3"))[1]["traces"]) == 3
    assert (await site.get("logs"))[1] == {}
    assert (await site.get("metrics"))[1] == {"points": [], "next_cursor": None}
    status, body = await site.sql("SELECT count(*) AS spans FROM traces")
    assert (status, body) == (200, {"columns": ["spans"], "rows": [[100]], "truncated": False})


async def test_text_that_a_spreadsheet_would_run_is_made_harmless(site: Site):
    status, body = (
        await site.sql("SELECT '=1+1' AS a, {'b': 2} AS c", params={"format": "csv"}) if False else (200, None)
    )
    async with site.session.post(
        f"{site.url}/api/v1/sql?format=csv", json={"statement": "SELECT '=1+1' AS a, {'b': 2} AS c"}
    ) as response:
        assert await response.text() == 'a,c\r\n\'=1+1,"{""b"": 2}"\r\n'
    assert (status, body) == (200, None)


# -- errors ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("traces/xyz", 400),
        ("traces/" + "0" * 31 + "1", 404),
        ("traces/" + "%27%20OR%201=1", 400),
        ("spans?nope=1", 400),
        ("spans?limit=0", 400),
        ("spans?limit=999999999999999999999", 400),
        ("spans?start=yesterday-ish", 400),
        ("spans?status=BROKEN", 400),
        ("spans?attribute=", 400),
        ("spans?attribute=%7B", 400),
        ("spans?cursor=abc", 400),
        ("spans?cursor=%00", 400),
        ("spans?format=xml", 400),
        ("spans?follow=perhaps", 400),
        ("spans?format=json&format=csv", 400),
        ("failures?hours=0", 400),
        ("failures?hours=nan", 400),
        ("attributes?signal=profiles", 400),
        ("metrics/series?bucket=0s", 400),
        ("metrics/series?bucket=1m&bucket=2m", 400),
        ("services?start=1h&start=2h", 400),
        ("nothing/here", 404),
        ("sql", 405),
    ],
)
async def test_a_wrong_question_is_a_problem_that_says_what_is_wrong(site: Site, path: str, status: int):
    found, body, response = await site.get(path)
    assert (found, response.content_type) == (status, "application/problem+json")
    assert body["status"] == status
    assert body["detail"]
    assert body["title"]


@pytest.mark.parametrize(
    "body",
    [[], {}, {"statement": 1}, {"statement": "SELECT 1", "more": 1}, {"statement": "SELECT 1", "parameters": 1}]
    + [{"statement": "SELECT 1", "max_rows": 0}, {"statement": "DROP VIEW traces"}, {"statement": "SELECT ?"}],
)
async def test_a_wrong_sql_request_is_a_problem(site: Site, body: object):
    status, answer = await site.sql("", json=body)
    assert (status, answer["status"]) == (400, 400)


async def test_sql_takes_json_only_and_not_too_much_of_it(site: Site):
    async with site.session.post(f"{site.url}/api/v1/sql", data="SELECT 1") as response:
        assert response.status == 415  # pages of other sites can send text, and not JSON
    status, _ = await site.sql("SELECT 1 -- " + "x" * 300_000)
    assert status == 413


async def test_a_statement_that_runs_for_ever_is_stopped(site: Site, monkeypatch: pytest.MonkeyPatch):
    with SpanStore.open(site.collector.settings.output_dir, timeout_s=0.3) as store, pytest.raises(QueryTimeout):
        await store.run(store.sql, "SELECT count(*) FROM range(100000000000) a")
    memory = "SELECT list(a.range || b.range) FROM range(10000) a, range(10000) b"
    with SpanStore.open(site.collector.settings.output_dir, timeout_s=30) as store, pytest.raises(QueryError):
        await store.run(store.sql, memory)


# -- credentials -------------------------------------------------------------------------------------
async def test_credentials_are_asked_for_where_they_are_set_and_never_for_health(tmp_path: Path):
    flags = {"auth.bearer_tokens": ["secret"], "auth.basic": {"ann": "pw"}, "auth.api_keys": ["key"]}
    async with open_collector(settings_for(tmp_path, **flags)) as collector, aiohttp.ClientSession() as session:
        site = Site(collector, session, asked.Spans(seed=3))
        status, body, response = await site.get("spans")
        assert (status, body["status"]) == (401, 401)
        assert "Bearer" in response.headers["WWW-Authenticate"]
        for headers in (
            {"Authorization": "Bearer secret"},
            {"Authorization": "Basic " + base64.b64encode(b"ann:pw").decode()},
            {"X-Api-Key": "key"},
        ):
            assert (await site.get("spans", headers=headers))[0] == 200
        assert (await site.sql("SELECT 1", headers={"X-Api-Key": "key"}))[0] == 200
        assert (await site.sql("SELECT 1"))[0] == 401
        async with session.get(f"{site.url}/health") as health:
            assert health.status == 200
        with SpanStore.open(site.url, headers={"authorization": "Bearer secret"}) as store:
            assert list(await store.run(store.query_spans, SpanQuery())) == []
        with SpanStore.open(site.url) as store, pytest.raises(QueryError, match="401"):
            await store.run(store.query_spans, SpanQuery())


async def test_sql_is_off_for_everybody_who_can_reach_the_port(tmp_path: Path):
    async with open_collector(settings_for(tmp_path, host="0.0.0.0")) as collector, aiohttp.ClientSession() as session:
        site = Site(collector, session, asked.Spans(seed=3))
        status, body = await site.sql("SELECT 1")
        assert (status, "localhost" in body["detail"]) == (403, True)
        assert (await site.get("spans"))[0] == 200


async def test_without_credentials_only_names_of_this_machine_are_answered(site: Site):
    """Else a page whose name is made to point here could read telemetry."""
    for host, expected in (("localhost", 200), ("127.0.0.1:1", 200), ("[::1]:80", 200), ("evil.example", 403)):
        assert (await site.get("spans", headers={"Host": host}))[0] == expected, host


# -- live --------------------------------------------------------------------------------------------
async def test_a_live_stream_says_what_comes_and_nothing_else(site: Site):
    url = f"{site.url}/api/v1/spans?follow=true&service=cart"
    async with site.session.get(url) as response:
        assert (response.status, response.content_type) == (200, "application/x-ndjson")
        before = len(site.spans.known)
        for _ in range(3):
            await site.send(20)
        await site.collector.pipeline.flush()
        await site.send(20)
        expected = [span.number for span in site.spans.known[before:] if span.service == "cart"]
        found: list[int] = []
        async with asyncio.timeout(20):
            while len(found) < len(expected):
                line = await response.content.readline()
                if line.strip():
                    found.append(json.loads(line)["attributes"]["n"])
        assert sorted(found) == expected


@pytest.mark.parametrize("kind", ["directory", "process", "url"])
async def test_a_tail_misses_and_repeats_nothing_while_segments_rotate(site: Site, kind: str):
    targets = {"directory": site.collector.settings.output_dir, "process": site.collector, "url": site.url}
    stop = threading.Event()
    found: list[int] = []
    with SpanStore.open(targets[kind]) as store:
        spans = await asyncio.to_thread(store.tail, SpanQuery(), 0.02, stop)
        before = len(site.spans.known)

        def read() -> None:
            for span in spans:
                found.append(span.attributes["n"])
                if len(found) >= 300:
                    return

        reading = asyncio.create_task(asyncio.to_thread(read))
        for step in range(30):
            await site.send(10)
            if step % 4 == 3:
                await site.collector.pipeline.flush()
            if step % 8 == 7:
                site.collector.pipeline.store.close_segment(Signal.TRACES)
        async with asyncio.timeout(30):
            await reading
        stop.set()
    assert found == [span.number for span in site.spans.known[before:]]


async def test_a_client_that_leaves_ends_its_stream(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(api_module, "HEARTBEAT_S", 0.05)
    for _ in range(3):
        async with site.session.get(f"{site.url}/api/v1/spans?follow=true") as response:
            await response.content.readline()
    assert (await site.get("spans?limit=1"))[0] == 200


async def test_too_many_live_streams_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(api_module, "MAX_FOLLOWERS", 1)
    async with site.session.get(f"{site.url}/api/v1/spans?follow=true"):
        status, body, response = await site.get("spans?follow=true")
        assert (status, body["status"]) == (503, 503)
        assert response.headers["Retry-After"]


# -- the loop, and clients that leave ------------------------------------------------------------------
async def test_a_question_that_nobody_waits_for_is_stopped(site: Site):
    endless = {"statement": "SELECT count(*) FROM range(100000000000) a"}
    with pytest.raises(asyncio.TimeoutError):
        async with site.session.post(
            f"{site.url}/api/v1/sql", json=endless, timeout=aiohttp.ClientTimeout(total=0.5)
        ) as response:
            await response.read()
    async with asyncio.timeout(10):
        while sql_workers.busy:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_questions_do_not_hold_up_the_event_loop(site: Site):
    slow = asyncio.create_task(site.sql("SELECT count(*) FROM range(300000000) a"))
    longest = 0.0
    while not slow.done():
        began = time.monotonic()
        await asyncio.sleep(0.001)
        longest = max(longest, time.monotonic() - began)
    assert (await slow)[0] == 200
    assert longest < 2  # a blocked loop would have stood still for all of it


async def test_questions_beyond_the_bound_are_told_to_come_back(site: Site, monkeypatch: pytest.MonkeyPatch):
    assert (await site.get("spans"))[0] == 200
    monkeypatch.setattr(api_module, "MAX_RUNNING", 0)
    monkeypatch.setattr(api_module, "MAX_WAITING", 0)
    status, body, response = await site.get("spans")
    assert (status, body["status"], response.headers["Retry-After"]) == (503, 503, "1")


async def test_a_target_that_is_not_there_is_an_error_and_not_a_hang(tmp_path: Path):
    with SpanStore.open("http://127.0.0.1:9") as store, pytest.raises(QueryError, match="was not reached"):
        await store.run(store.query_spans, SpanQuery())


async def test_asking_on_the_collectors_own_loop_is_an_error_where_it_would_wait_for_itself(tmp_path: Path):
    async with open_collector(settings_for(tmp_path, ack="memory")) as collector:
        with SpanStore.open(collector) as store:
            with pytest.raises(QueryError, match=r"store\.run"):
                store.query_spans(SpanQuery())
            assert list(await store.run(store.query_spans, SpanQuery())) == []


# -- the document ------------------------------------------------------------------------------------
async def test_the_document_names_the_types_that_are_answered_and_no_other(site: Site):
    trace_id = site.spans.known[0].trace_id
    for path, methods in document(False)["paths"].items():
        if "get" not in methods:
            continue
        formats = next((p["schema"]["enum"] for p in methods["get"]["parameters"] if p["name"] == "format"), ["json"])
        answered = set()
        for each in formats:
            url = f"{site.url}/api/v1{path.format(trace_id=trace_id)}"
            asked = {"format": each} if len(formats) > 1 else {}
            async with site.session.get(url, params=asked | ({"name": "m"} if "series" in path else {})) as response:
                assert response.status == 200, (path, each, await response.text())
                answered.add(response.content_type)
        assert answered == set(methods["get"]["responses"]["200"]["content"]), path


async def test_the_document_names_every_route_and_every_parameter(site: Site):
    _, body, _ = await site.get("openapi.json")
    assert body == json.loads(json.dumps(document(False)))
    routes = {
        (route.method.lower(), route.resource.canonical.removeprefix("/api/v1"))
        for route in api_module.QueryApi(lambda: None, auth=None, local_only=True).application.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    documented = {(method, path) for path, methods in body["paths"].items() for method in methods}
    assert documented == routes
    for path, methods in body["paths"].items():
        for parameter in methods.get("get", {}).get("parameters", []):
            if parameter["in"] != "query" or parameter["name"] in ("follow",):
                continue
            example = {"trace_id": "a" * 32, "span_id": "b" * 16, "limit": "1", "hours": "1", "format": "json"}
            example |= {"order_by": "start_time", "severity_min": "1", "metric_type": "sum", "signal": "logs"}
            example |= {"start": "1h", "end": "now", "duration_min": "1s", "duration_max": "1h", "bucket": "1m"}
            example |= {"direction": "ASC", "status": "OK", "kind": "SERVER", "cursor": ""}
            name = parameter["name"]
            if name == "cursor" or "{" in path:
                continue
            status, answer, _ = await site.get(path[1:], params={name: example.get(name, "text")})
            assert status == 200, (path, name, answer)


async def test_a_statement_of_several_kilobytes_is_taken(site: Site):
    status, body = await site.sql("SELECT 1 AS one -- " + "x" * 5000)
    assert status == 200, body
