"""``/api/v1``: every question of docs/query.md over HTTP; docs/api.md.

Questions run on threads, a few at a time, and stop when their client leaves. The event loop only passes bytes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import ipaddress
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import pyarrow as pa
from aiohttp import web

from otlp_arrow.model import Signal, Unauthenticated
from otlp_arrow.query.ask import LogQuery, MetricQuery, Query, SpanQuery, from_parameters, hex_id
from otlp_arrow.query.attributes import value_from_json
from otlp_arrow.query.budget import Budget
from otlp_arrow.query.engine import Engine
from otlp_arrow.query.errors import BadQuery, QueryError
from otlp_arrow.query.remote import NEXT_CURSOR, TRUNCATED
from otlp_arrow.query.results import Logs, Points, Rows, Spans
from otlp_arrow.query.store import DEFAULT_TIMEOUT_S, signal_of
from otlp_arrow.query.times import duration_to_nanoseconds, time_or_none, time_to_nanoseconds
from otlp_arrow.web import openapi, problems, render
from otlp_arrow.web.problems import Problem

log = logging.getLogger(__name__)

MAX_RUNNING = 4
"""Questions that run at a time: two cores' worth, each waiting half of its time for the disk."""

MAX_WAITING = 32
"""Questions that wait for their turn; further ones are told to come back."""

MAX_FOLLOWERS = 16
"""Live streams at a time; each has a thread."""

MAX_SQL_BODY_BYTES = 256 * 1024
HEARTBEAT_S = 5.0
"""A live stream that has nothing to say sends an empty line this often: both sides see whether the other lives."""

FOLLOW_POLL_S = 0.25

_TRACE_ROWS = 100_000
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,3})?")  # as JSON writes it; float() takes more
_TABLES = ("json", "jsonl", "csv", "arrow")
_ROWS = ("json", "jsonl", "csv", "arrow", "otlp")
_KINDS: dict[Signal, type[Rows[Any]]] = {Signal.TRACES: Spans, Signal.LOGS: Logs, Signal.METRICS: Points}

Answer = TypeVar("Answer")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Parameters = list[tuple[str, str]]


class Guard(Protocol):
    """Who may ask: the doors' own guard, which this floor does not know by name."""

    challenge: str

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises ``Unauthenticated``."""


class QueryApi:
    """The routes, to be mounted at ``/api/v1``. ``open_engine`` is called with the first question."""

    def __init__(
        self,
        open_engine: Callable[[], Engine],
        *,
        auth: Guard | None,
        local_only: bool,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._open_engine = open_engine
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self._auth = auth
        self._local_only = local_only
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(MAX_RUNNING, thread_name_prefix="otlp-query")
        self._follower_threads = ThreadPoolExecutor(MAX_FOLLOWERS, thread_name_prefix="otlp-follow")
        self._running = 0
        self._followers = 0
        self._stopping = threading.Event()
        self.application = web.Application(middlewares=[self._guard])
        self.application.add_routes(
            [
                web.get("/openapi.json", self._show_openapi),
                web.get("/traces", self._traces),
                web.get("/traces/{trace_id}", self._trace),
                web.get("/spans", functools.partial(self._rows, SpanQuery, _ROWS)),
                web.get("/failures", self._failures),
                web.get("/logs", functools.partial(self._rows, LogQuery, ("otlp", *_TABLES))),
                web.get("/metrics", functools.partial(self._rows, MetricQuery, _ROWS)),
                web.get("/metrics/names", self._metric_names),
                web.get("/metrics/series", self._metric_series),
                web.get("/services", self._services),
                web.get("/attributes", self._attributes),
                web.post("/sql", self._sql),
            ]
        )
        self.application.on_shutdown.append(self._stop)

    @property
    def sql_allowed(self) -> bool:
        """Whether SQL is answered: to those on this machine, or who have credentials."""
        return self._local_only or self._auth is not None

    async def _stop(self, _: web.Application) -> None:
        self._stopping.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._follower_threads.shutdown(wait=False, cancel_futures=True)
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)

    # -- at the door -----------------------------------------------------------------------------

    @property
    def _guard(self) -> Any:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            challenge: dict[str, str] = {}
            try:
                if self._auth is not None:
                    challenge = {"WWW-Authenticate": self._auth.challenge}
                    self._auth.check(request.headers)
                elif self._local_only:
                    _require_local_name(request)
                return await handler(request)
            except Unauthenticated as error:
                return problems.response(error, challenge)
            except (QueryError, Problem, web.HTTPException) as error:
                return problems.response(error)
            except (asyncio.CancelledError, ConnectionError):
                raise
            except Exception as error:
                log.exception("a question failed: %s", request.path)
                return problems.response(error)

        return guard

    async def _run(self, answer: Callable[[Engine, Budget], Answer]) -> Answer:
        """On a thread, in turn; stopped when the client leaves."""
        if self._running >= MAX_RUNNING + MAX_WAITING:
            raise Problem(503, "Too many questions", "too many questions at once; come back", {"Retry-After": "1"})
        budget = Budget(self._timeout_s)

        def ask() -> Answer:
            budget.check()
            return answer(self._opened(), budget)

        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        finally:
            budget.cancelled.set()
            self._running -= 1

    def _opened(self) -> Engine:
        with self._engine_lock:
            if self._engine is None:
                self._engine = self._open_engine()
            return self._engine

    # -- rows ------------------------------------------------------------------------------------

    async def _rows(self, kind: type[Query], offered: Sequence[str], request: web.Request) -> web.StreamResponse:
        parameters, named, follow = _common(request)
        query = from_parameters(kind, parameters)
        if follow:
            form = render.choose(named, request.headers.get("Accept", ""), ("jsonl", "arrow"))
            return await self._follow(query, form, request)
        form = render.choose(named, request.headers.get("Accept", ""), offered)
        return await self._page(query, form)

    async def _page(self, query: Query, form: str) -> web.Response:
        def ask(engine: Engine, budget: Budget) -> tuple[bytes, str | None]:
            page = engine.rows(query, budget)
            return render.rows(query.signal, page.batch, page.next_cursor, form), page.next_cursor

        body, cursor = await self._run(ask)
        return _reply(body, form, {NEXT_CURSOR: cursor} if cursor else {})

    async def _failures(self, request: web.Request) -> web.StreamResponse:
        parameters, named, _ = _common(request)
        given = _only(parameters, "hours", "limit")
        text = given.get("hours", "1")
        if not _NUMBER.fullmatch(text) or not 0 < (hours := float(text)) <= 10**6:
            raise BadQuery(f"hours is a number above 0, not {text!r:.40}")
        start = max(0, time_to_nanoseconds("now") - round(hours * 3600 * 10**9))
        asked = [("status", "ERROR"), ("order_by", "end_time"), ("start", str(start))]
        asked += [("limit", given["limit"])] if "limit" in given else []
        form = render.choose(named, request.headers.get("Accept", ""), _ROWS)
        return await self._page(from_parameters(SpanQuery, asked), form)

    async def _trace(self, request: web.Request) -> web.StreamResponse:
        parameters, named, _ = _common(request)
        _only(parameters)
        trace_id = hex_id("trace_id", request.match_info["trace_id"], 32)
        form = render.choose(named, request.headers.get("Accept", ""), ("otlp", *_TABLES))
        query = SpanQuery(trace_id=trace_id, max_spans=_TRACE_ROWS, order_direction="ASC").checked()

        def ask(engine: Engine, budget: Budget) -> bytes:
            page = engine.rows(query, budget)
            if not page.batch.num_rows:
                raise Problem(404, "No such trace", f"no span of the trace {trace_id} is stored")
            return render.rows(Signal.TRACES, page.batch, page.next_cursor, form)

        return _reply(await self._run(ask), form)

    async def _traces(self, request: web.Request) -> web.StreamResponse:
        parameters, named, _ = _common(request)
        if not any(name == "limit" for name, _ in parameters):
            parameters.append(("limit", "20"))
        query: SpanQuery = from_parameters(SpanQuery, parameters)
        form = render.choose(named, request.headers.get("Accept", ""), ("json", "jsonl"))

        def ask(engine: Engine, budget: Budget) -> tuple[bytes, str | None]:
            found, cursor = engine.traces(query, budget)
            dicts = [each.to_dict() for each in found]
            if form == "jsonl":
                return render.lines(dicts), cursor
            return render.dump({"traces": dicts, "next_cursor": cursor}), cursor

        body, cursor = await self._run(ask)
        return _reply(body, form, {NEXT_CURSOR: cursor} if cursor else {})

    # -- tables ----------------------------------------------------------------------------------

    async def _table(self, request: web.Request, named: str | None, answer: Callable[..., pa.Table]) -> web.Response:
        form = render.choose(named, request.headers.get("Accept", ""), _TABLES)
        return _reply(await self._run(lambda engine, budget: render.table(answer(engine, budget), False, form)), form)

    async def _services(self, request: web.Request) -> web.StreamResponse:
        parameters, named, _ = _common(request)
        given = _only(parameters, "start", "end", "service")
        start, end = _times(given)
        return await self._table(
            request, named, lambda engine, budget: engine.services(start, end, given.get("service"), budget)
        )

    async def _attributes(self, request: web.Request) -> web.StreamResponse:
        parameters, named, _ = _common(request)
        given = _only(parameters, "signal", "prefix", "start", "end")
        start, end = _times(given)
        signal = signal_of(given.get("signal", "traces"))
        prefix = given.get("prefix", "")
        return await self._table(
            request, named, lambda engine, budget: engine.attributes(signal, prefix, start, end, budget)
        )

    async def _metric_names(self, request: web.Request) -> web.StreamResponse:
        parameters, named, _ = _common(request)
        start, end = _times(_only(parameters, "start", "end"))
        return await self._table(request, named, lambda engine, budget: engine.metric_names(start, end, budget))

    async def _metric_series(self, request: web.Request) -> web.StreamResponse:
        parameters, named, _ = _common(request)
        buckets = [text for name, text in parameters if name == "bucket"]
        if len(buckets) > 1:
            raise BadQuery("parameter 'bucket' is given twice")
        bucket = duration_to_nanoseconds(buckets[0] if buckets else "1m")
        group_by = [text for name, text in parameters if name == "group_by"]
        if len(group_by) > openapi.MAX_GROUPS:
            raise BadQuery(f"at most {openapi.MAX_GROUPS} group_by")
        rest = [(name, text) for name, text in parameters if name not in ("bucket", "group_by")]
        query: MetricQuery = from_parameters(MetricQuery, rest)
        return await self._table(
            request, named, lambda engine, budget: engine.metric_series(query, bucket, group_by, budget)
        )

    async def _sql(self, request: web.Request) -> web.StreamResponse:
        if not self.sql_allowed:
            raise Problem(403, "SQL is off", "SQL is answered on localhost, or where credentials are asked for")
        # A type that pages of other sites cannot send without asking.
        if request.content_type != "application/json":
            raise Problem(415, "Not JSON", 'send {"statement": "SELECT …", "parameters": []} as application/json')
        parameters, named, _ = _common(request)
        _only(parameters)
        statement, arguments, max_rows = _sql_body(await _body(request))
        form = render.choose(named, request.headers.get("Accept", ""), _TABLES)

        def ask(engine: Engine, budget: Budget) -> tuple[bytes, bool]:
            found, truncated = engine.sql(statement, arguments, max_rows, budget)
            return render.table(found, truncated, form), truncated

        body, truncated = await self._run(ask)
        return _reply(body, form, {TRUNCATED: "true"} if truncated else {})

    # -- live ------------------------------------------------------------------------------------

    async def _follow(self, query: Query, form: str, request: web.Request) -> web.StreamResponse:
        if self._followers >= MAX_FOLLOWERS:
            raise Problem(503, "Too many live streams", "too many live streams; come back", {"Retry-After": "10"})
        self._followers += 1
        try:
            async with self._followed(query) as batches:
                first = await batches()  # from here on nothing is missed; errors still have a status
                response = web.StreamResponse(
                    headers={
                        "Content-Type": render.FORMATS[form],
                        "Cache-Control": "no-store",
                        "X-Accel-Buffering": "no",
                    }
                )
                response.enable_chunked_encoding()
                await response.prepare(request)
                stream = _Stream(form, first.schema)
                batch: pa.RecordBatch | None = first
                while batch is not None:
                    data = await asyncio.to_thread(stream.encode, query.signal, batch)
                    await response.write(data)
                    batch = await batches()
                with contextlib.suppress(ConnectionError):
                    await response.write_eof(stream.end())
                return response
        finally:
            self._followers -= 1

    @contextlib.asynccontextmanager
    async def _followed(self, query: Query) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
        stop = threading.Event()
        loop = asyncio.get_running_loop()

        def stopped() -> bool:
            return stop.is_set() or self._stopping.is_set()

        def open_stream() -> Any:
            return self._opened().follow(query, FOLLOW_POLL_S, stopped, heartbeat_s=HEARTBEAT_S)

        stream = await loop.run_in_executor(self._follower_threads, open_stream)

        async def next_batch() -> Any:
            return await loop.run_in_executor(self._follower_threads, next, stream, None)

        try:
            yield next_batch
        finally:
            stop.set()

    async def _show_openapi(self, request: web.Request) -> web.StreamResponse:
        return _reply(openapi.document_bytes(self._auth is not None), "json")


class _Stream:
    """A live stream's encoder."""

    def __init__(self, form: str, schema: pa.Schema) -> None:
        self._bytes = io.BytesIO()
        self._writer = pa.ipc.new_stream(self._bytes, schema) if form == "arrow" else None

    def encode(self, signal: Signal, batch: pa.RecordBatch) -> bytes:
        """A batch; an empty one is a sign of life."""
        if self._writer is None:
            return render.lines(_KINDS[signal](batch).to_dicts()) if batch.num_rows else b"\n"
        self._writer.write_batch(batch)
        return self._taken()

    def end(self) -> bytes:
        """What closes the stream."""
        if self._writer is None:
            return b""
        self._writer.close()
        return self._taken()

    def _taken(self) -> bytes:
        data = self._bytes.getvalue()
        self._bytes.seek(0)
        self._bytes.truncate()
        return data


# -- requests and replies ------------------------------------------------------------------------------
def _common(request: web.Request) -> tuple[Parameters, str | None, bool]:
    """The parameters but ``format`` and ``follow``, and these two."""
    parameters: Parameters = list(request.query.items())
    if any("\0" in name + text for name, text in parameters):
        raise BadQuery("a parameter holds a zero byte")
    formats = [text for name, text in parameters if name == "format"]
    follows = [text for name, text in parameters if name == "follow"]
    if len(formats) > 1 or len(follows) > 1:
        raise BadQuery("format and follow are given once")
    if follows and follows[0] not in ("true", "false"):
        raise BadQuery("follow is true or false")
    rest = [(name, text) for name, text in parameters if name not in ("format", "follow")]
    return rest, (formats[0] if formats else None), follows == ["true"]


def _only(parameters: Parameters, *allowed: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, text in parameters:
        if name not in allowed:
            known = ", ".join(allowed) or "none"
            raise BadQuery(f"no parameter {name!r:.40}; there are {known}")
        if name in given:
            raise BadQuery(f"parameter {name!r} is given twice")
        given[name] = text
    return given


def _times(given: Mapping[str, str]) -> tuple[int | None, int | None]:
    return time_or_none(given.get("start")), time_or_none(given.get("end"))


async def _body(request: web.Request) -> bytes:
    data = b""
    async for chunk in request.content.iter_chunked(64 * 1024):
        data += chunk
        if len(data) > MAX_SQL_BODY_BYTES:
            raise Problem(413, "Too large", f"a statement with its parameters has at most {MAX_SQL_BODY_BYTES} bytes")
    return data


def _sql_body(body: bytes) -> tuple[str, list[Any], int]:
    try:
        asked = json.loads(body)
        if not isinstance(asked, dict) or not set(asked) <= {"statement", "parameters", "max_rows"}:
            raise ValueError("it is an object with statement, parameters and max_rows")
        arguments = value_from_json(asked.get("parameters", []))
        if not isinstance(arguments, list):
            raise ValueError("parameters is a list")
        statement, max_rows = asked.get("statement"), asked.get("max_rows", 10_000)
        if not isinstance(statement, str):
            raise ValueError("statement is text")
    except (ValueError, TypeError, RecursionError) as error:
        raise BadQuery(f"the body is not as it should be: {error}") from error
    return statement, arguments, max_rows


def _reply(body: bytes, form: str, headers: Mapping[str, str] | None = None) -> web.Response:
    kind = render.FORMATS[form]
    if kind == "text/csv":
        kind = "text/csv; charset=utf-8"
    common = {"Content-Type": kind, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    response = web.Response(body=body, headers={**(headers or {}), **common})
    if len(body) > 1024:
        response.enable_compression()
    return response


def is_loopback(host: str) -> bool:
    """Whether a listener on this address is reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _require_local_name(request: web.Request) -> None:
    """A page of another site whose name was made to point here must not read telemetry."""
    host = request.headers.get("Host", "localhost")
    name = host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.partition(":")[0]
    if name and not is_loopback(name):
        raise Problem(403, "Not this name", "without credentials the API answers to localhost only")
