"""The same questions to a collector's admin port, the answers as Arrow, so that nothing is lost on the way."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Signal
from otlp_arrow.query.ask import MetricQuery, Query, SpanQuery, to_parameters
from otlp_arrow.query.attributes import value_to_json
from otlp_arrow.query.budget import Budget
from otlp_arrow.query.errors import BadQuery, QueryError, QueryTimeout
from otlp_arrow.query.results import TraceSummary
from otlp_arrow.query.select import Page

ARROW = "application/vnd.apache.arrow.stream"
NEXT_CURSOR = "X-Next-Cursor"
TRUNCATED = "X-Truncated"

FOLLOW_SILENCE_S = 60
"""A live stream says something at least every few seconds; one that is silent this long is broken."""

_PATHS = {Signal.TRACES: "spans", Signal.LOGS: "logs", Signal.METRICS: "metrics"}


class RemoteTarget:
    """A ``Target`` behind a URL. Each question is a connection of its own."""

    def __init__(self, url: str, headers: Mapping[str, str], cafile: str | Path | None = None) -> None:
        self.url = url.rstrip("/")
        self._headers = dict(headers)
        context = (
            ssl.create_default_context(cafile=str(cafile) if cafile else None) if url.startswith("https") else None
        )
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler()]
        if context is not None:
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)

    def rows(self, query: Query, budget: Budget) -> Page:
        with self._get(_PATHS[query.signal], to_parameters(query), budget) as reply:
            table = _table(reply.read())
            cursor = reply.headers.get(NEXT_CURSOR)
        batches = table.cast(SCHEMAS[query.signal]).to_batches()
        empty = pa.RecordBatch.from_pylist([], schema=SCHEMAS[query.signal])
        return Page(pa.concat_batches(batches) if batches else empty, cursor or None)

    def traces(self, query: SpanQuery, budget: Budget) -> tuple[list[TraceSummary], str | None]:
        with self._get("traces", to_parameters(query), budget, accept="application/json") as reply:
            found = json.loads(reply.read())
        return [TraceSummary(**each) for each in found["traces"]], found.get("next_cursor")

    def services(self, start: int | None, end: int | None, service_name: str | None, budget: Budget) -> pa.Table:
        return self._read("services", _given(start=start, end=end, service=service_name), budget)

    def attributes(self, signal: Signal, prefix: str, start: int | None, end: int | None, budget: Budget) -> pa.Table:
        return self._read("attributes", _given(signal=signal.value, prefix=prefix, start=start, end=end), budget)

    def metric_names(self, start: int | None, end: int | None, budget: Budget) -> pa.Table:
        return self._read("metrics/names", _given(start=start, end=end), budget)

    def metric_series(self, query: MetricQuery, bucket_ns: int, group_by: Sequence[str], budget: Budget) -> pa.Table:
        asked = [*to_parameters(query), ("bucket", f"{bucket_ns}ns"), *(("group_by", key) for key in group_by)]
        return self._read("metrics/series", asked, budget)

    def sql(self, statement: str, parameters: Sequence[object], max_rows: int, budget: Budget) -> tuple[pa.Table, bool]:
        try:
            asked = {"statement": statement, "parameters": value_to_json(list(parameters)), "max_rows": max_rows}
            body = json.dumps(asked).encode()
        except (TypeError, ValueError) as error:
            raise BadQuery(f"these parameters cannot be sent: {error}") from error
        with self._get("sql", [], budget, body) as reply:
            return _table(reply.read()), reply.headers.get(TRUNCATED) == "true"

    def follow(self, query: Query, poll_s: float, stop: Callable[[], bool]) -> Iterator[pa.RecordBatch]:
        asked = [*to_parameters(query), ("follow", "true")]
        with (
            self._get(_PATHS[query.signal], asked, Budget(FOLLOW_SILENCE_S)) as reply,
            _translated(self.url),
            pa.ipc.open_stream(pa.PythonFile(_Unread(reply), "r")) as reader,
        ):
            for batch in reader:
                if stop():
                    return
                yield batch

    def batches(self, signal: Signal, start: int | None, end: int | None, budget: Budget) -> Iterator[pa.RecordBatch]:
        from otlp_arrow.query.ask import MAX_PAGE, QUERIES

        kind = QUERIES[signal]
        arguments: dict[str, Any] = {kind.limit_field: MAX_PAGE // 10}
        cursor: str | None = None
        while True:
            asked = kind(start_time_min=start, start_time_max=end, order_direction="ASC", cursor=cursor, **arguments)
            page = self.rows(asked.checked(), Budget(FOLLOW_SILENCE_S, budget.cancelled))
            if page.batch.num_rows:
                yield page.batch
            if (cursor := page.next_cursor) is None:
                return

    def close(self) -> None:
        """Nothing is held."""

    # -- the connection --------------------------------------------------------------------------

    def _read(self, path: str, parameters: Sequence[tuple[str, str]], budget: Budget) -> pa.Table:
        with self._get(path, parameters, budget) as reply:
            return _table(reply.read())

    @contextlib.contextmanager
    def _get(
        self,
        path: str,
        parameters: Sequence[tuple[str, str]],
        budget: Budget,
        body: bytes | None = None,
        accept: str = ARROW,
    ) -> Iterator[http.client.HTTPResponse]:
        budget.check()
        url = f"{self.url}/api/v1/{path}"
        if parameters:
            url += "?" + urllib.parse.urlencode(parameters)
        headers = {**self._headers, "Accept": accept}
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, body, headers)
        with _translated(self.url), self._opener.open(request, timeout=max(0.1, budget.left_s)) as reply:
            yield reply


class _Unread:
    """A reply as the file that Arrow wants: reads give what has come, and never wait for more than one chunk."""

    def __init__(self, reply: http.client.HTTPResponse) -> None:
        self._reply = reply
        self.closed = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = b""
        while len(data) < size and (more := self._reply.read(size - len(data))):
            data += more
        return data

    def close(self) -> None:
        self.closed = True


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            raise _explained(error) from None
    except TimeoutError as error:
        raise QueryTimeout(f"no answer in time: {error}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise QueryTimeout(f"no answer in time: {error.reason}") from error
        why = getattr(error.reason, "strerror", None) or error.reason
        raise QueryError(f"{url} was not reached: {why}") from error
    except (OSError, http.client.HTTPException, pa.ArrowException, ValueError) as error:
        if isinstance(error, QueryError):
            raise
        raise QueryError(f"the connection broke: {error!r}") from error


def _explained(error: urllib.error.HTTPError) -> QueryError:
    if error.code in (504, 408):
        return QueryTimeout(_detail(error) or error.reason)
    if (detail := _detail(error)) is None:  # all that the API refuses it refuses with a problem document
        base = error.url.partition("/api/v1/")[0]
        return QueryError(
            f"{base} answers {error.code} ({error.reason}) and is no collector's query API; that is at its admin port"
        )
    if error.code in (400, 404, 413, 422):
        return BadQuery(detail)
    return QueryError(f"{error.code}: {detail}")


def _detail(error: urllib.error.HTTPError) -> str | None:
    """What a problem document says (RFC 9457); None if it is none."""
    try:
        if error.headers.get_content_type() != "application/problem+json":
            return None
        problem = json.loads(error.read(64 * 1024))
        return str(problem.get("detail") or problem["title"])
    except (ValueError, AttributeError, KeyError, TypeError, OSError):
        return None


def _table(data: bytes) -> pa.Table:
    try:
        return pa.ipc.open_stream(data).read_all()
    except pa.ArrowException as error:
        raise QueryError(f"the answer is no Arrow stream: {error}") from error


def _given(**parameters: object) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in parameters.items() if value not in (None, "")]
