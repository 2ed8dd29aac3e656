"""The OpenAPI document is true: what it allows is asked of a real server, and each answer is one that it describes.

``schemathesis_hooks.py`` says how to search further.
"""

from __future__ import annotations

import csv
import io
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shop
from otlp_arrow.web.openapi import document
from served import Served

DOCUMENT = document(False)
OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["web", "cart", "POST /orders", shop.EVIL_TEXT, "a\r\nb", "'; DROP TABLE traces", "%", "\u2028", "\x1c"]
)
DRAWN = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
)
STATEMENTS = st.sampled_from(
    [
        "SELECT * FROM traces",
        "SELECT 1 AS a, 2 AS a",
        "SELECT DATE '290000-01-01', TIMESTAMP '290000-01-01', '-infinity'::TIMESTAMP, DATE '4000-01-01 (BC)'",
        "SELECT MAP {{'a': 1}: 2}, MAP {[1, 2]: 3}, {'a': DATE '290000-01-01'}, [DATE '290000-01-01']",
        "SELECT INTERVAL 1000000000 MONTH, uuid(), 1::HUGEINT, 1e400, 'NaN'::DOUBLE, '\\xAA'::BLOB, TIME '23:59:59'",
        "SELECT union_value(num := 1), '101'::BIT, 'a'::ENUM('a', 'b'), 3.25::DECIMAL(38, 9), NULL",
        "SELECT nothing",
        "SELECT ?",
        "INSERT INTO traces VALUES (1)",
        "SELECT 'half: \ud800'",
        "",
    ]
)


class Reply(NamedTuple):
    status: int
    kind: str
    headers: Any
    body: bytes


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(shop.fill(tmp_path_factory.mktemp("shop"))) as running:
        yield running


def ask(served: Served, method: str, path: str, query: list[tuple[str, str]], body: Any = None) -> Reply:
    url = f"http://localhost:{served.admin_port}/api/v1{path}"
    if query:
        url += "?" + urllib.parse.urlencode(query)
    data = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers, method=method.upper())
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return Reply(reply.status, reply.headers.get_content_type(), reply.headers, reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers.get_content_type(), error.headers, error.read())


def check(method: str, path: str, reply: Reply) -> None:
    """The answer is one of those in the document."""
    responses = DOCUMENT["paths"][path][method]["responses"]
    assert str(reply.status) in responses, reply
    assert reply.status < 500, reply
    content = responses[str(reply.status)]["content"]
    assert reply.kind in content, reply
    schema = content[reply.kind]["schema"]
    match reply.kind:
        case "application/json" | "application/problem+json":
            assert_fits(json.loads(reply.body), schema)
        case "application/x-ndjson":
            assert all(isinstance(json.loads(line), dict) for line in reply.body.decode().split("\n") if line)
        case "text/csv":
            rows = list(csv.reader(io.StringIO(reply.body.decode(), newline="")))
            assert len({len(row) for row in rows}) == 1
        case _:
            pa.ipc.open_stream(reply.body).read_all().validate(full=True)


def assert_fits(value: Any, schema: dict[str, Any]) -> None:
    """As far as our document uses JSON Schema."""
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    known = {"type", "required", "properties", "items", "additionalProperties"}
    assert set(schema) <= known, "a word that this test does not check"
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if "type" in schema:
        assert type(value) is types[schema["type"]], (value, schema)
    for name in schema.get("required", ()):
        assert name in value, (name, value)
    for name, member in schema.get("properties", {}).items():
        if name in value:
            assert_fits(value[name], member)
    if "items" in schema:
        for each in value:
            assert_fits(each, schema["items"])


# -- what is allowed -----------------------------------------------------------------------------------
def values(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    """Texts of a parameter that its schema allows."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"]).map(str)
        case "number":
            return st.floats(0, schema["maximum"], exclude_min=True).map(lambda n: json.dumps(n))
    pattern = schema.get("pattern", "")
    drawn = st.from_regex(pattern.replace("$", r"\Z"), fullmatch=True) if pattern else TEXTS
    return (drawn if pattern != ANY_TEXT else TEXTS).filter(is_text)


ANY_TEXT = DOCUMENT["paths"]["/services"]["get"]["parameters"][2]["schema"]["pattern"]


def is_text(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def queries(parameters: list[dict[str, Any]]) -> st.SearchStrategy[list[tuple[str, str]]]:
    """Parameters of a URL; a live stream has no end, and a cursor only the server can make."""
    pairs: list[st.SearchStrategy[list[tuple[str, str]]]] = []
    for each in parameters:
        name, schema = each["name"], each["schema"]
        if each["in"] != "query" or name == "cursor":
            continue
        one = st.just("false") if name == "follow" else values(schema.get("items", schema))
        several = st.lists(one, max_size=min(3, schema.get("maxItems", 3)) if schema["type"] == "array" else 1)
        pairs.append(several.map(lambda found, name=name: [(name, value) for value in found]))
    return st.tuples(*pairs).map(lambda found: [pair for several in found for pair in several])


def operation_id(operation: tuple[str, str]) -> str:
    return DOCUMENT["paths"][operation[1]][operation[0]]["operationId"]


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each[0] == "get"], ids=operation_id)
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_what_the_document_allows_is_answered_as_it_says(
    served: Served, operation: tuple[str, str], data: st.DataObject
):
    method, path = operation
    parameters = DOCUMENT["paths"][path][method].get("parameters", [])
    trace_id = data.draw(st.sampled_from([shop.FAILED, shop.EVIL.upper()]) | values({"type": "string", "pattern": HEX}))
    query = data.draw(queries(parameters))
    reply = ask(served, method, path.replace("{trace_id}", trace_id), query)
    check(method, path, reply)
    assert reply.status in (200, 404), reply


HEX = DOCUMENT["paths"]["/traces/{trace_id}"]["get"]["parameters"][-1]["schema"]["pattern"]


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    statement=STATEMENTS | TEXTS,
    parameters=st.lists(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS, max_size=2),
    form=st.sampled_from(["json", "jsonl", "csv", "arrow"]),
)
def test_statements_are_answered_or_refused_as_the_document_says(
    served: Served, statement: str, parameters: list[Any], form: str
):
    parameters = [None if each in (float("inf"), float("-inf")) else each for each in parameters]
    reply = ask(served, "post", "/sql", [("format", form)], {"statement": statement, "parameters": parameters})
    check("post", "/sql", reply)
    assert reply.status in (200, 400), reply


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    operation=st.sampled_from(OPERATIONS),
    names=st.lists(st.sampled_from(["limit", "start", "attribute", "span_id", "hours", "format", "bucket", "cursor"])),
    text=st.sampled_from(
        ["", "0", "-1", "1_0", " 1", "٣", "1e9", "nan", "inf", "\0", "{", '{"key": "\ud800"}', "=", "é" * 9, "9" * 99]
    )
    | TEXTS,
)
def test_what_it_does_not_allow_is_refused_as_it_says(
    served: Served, operation: tuple[str, str], names: list[str], text: str
):
    method, path = operation
    query = [(name, text.encode(errors="surrogatepass")) for name in names]
    body = {"statement": text, "max_rows": text} if method == "post" else None
    trace_id = urllib.parse.quote(text.encode(errors="replace"), "")
    reply = ask(served, method, path.replace("{trace_id}", trace_id or "-"), query, body)
    check(method, path, reply)


@pytest.mark.parametrize("name", ["limit", "severity_min"])
@pytest.mark.parametrize("text", ["1_0", " 1", "1 ", "+1", "٣", "1.0", ""])
def test_a_number_is_digits_and_nothing_else(served: Served, name: str, text: str):
    reply = ask(served, "get", "/logs", [(name, text)])
    check("get", "/logs", reply)
    assert (reply.status, name in json.loads(reply.body)["detail"]) == (400, True)


@pytest.mark.parametrize("text", ["nan", "inf", "1_0", " 1", "-1", "0", "1e9999", "٣"])
def test_hours_are_a_number_above_nothing(served: Served, text: str):
    reply = ask(served, "get", "/failures", [("hours", text)])
    check("get", "/failures", reply)
    assert (reply.status, "hours" in json.loads(reply.body)["detail"]) == (400, True)


def test_columns_of_one_name_keep_their_own_values(served: Served):
    body = {"statement": 'SELECT 1 AS a, 2 AS a, 3 AS "a_1"'}
    assert ask(served, "post", "/sql", [("format", "csv")], body).body == b"a,a,a_1\r\n1,2,3\r\n"
    assert json.loads(ask(served, "post", "/sql", [], body).body)["rows"] == [[1, 2, 3]]
    assert json.loads(ask(served, "post", "/sql", [("format", "jsonl")], body).body) == {"a": 1, "a_2": 2, "a_1": 3}


def test_values_that_python_has_no_word_for_are_text(served: Served):
    statement = (
        "SELECT DATE '290000-01-02', TIMESTAMP '290000-01-02 03:04:05', 'infinity'::DATE, '-infinity'::TIMESTAMP, "
        "DATE '0044-03-15 (BC)', MAP {{'a': 1}: 2}, [DATE '290000-01-02', DATE '2026-01-02', NULL], "
        "TIMESTAMPTZ '100000-01-01 00:00:00+00'"
    )
    reply = ask(served, "post", "/sql", [], {"statement": statement})
    assert json.loads(reply.body)["rows"] == [
        [
            *("+290000-01-02", "+290000-01-02T03:04:05", "infinity", "-infinity", "-0043-03-15", {'{"a": 1}': 2}),
            ["+290000-01-02", "2026-01-02", None],
            "+100000-01-01T00:00:00Z",
        ]
    ]


@pytest.mark.parametrize("path", ["/traces/%0A", "/traces/a%0d%0ab", "/%0a", "/traces/" + "a" * 32 + "%0A"])
def test_a_line_end_in_a_path_is_an_answer_and_no_error(served: Served, path: str):
    reply = ask(served, "get", path, [])
    assert (reply.status, reply.kind) in {(400, "application/problem+json"), (404, "application/problem+json")}


def test_the_links_lead_to_the_next_page_and_to_the_trace(served: Served):
    first = ask(served, "get", "/spans", [("limit", "2")])
    following = ask(served, "get", "/spans", [("limit", "2"), ("cursor", first.headers["X-Next-Cursor"])])
    check("get", "/spans", following)
    assert json.loads(first.body)["spans"] != json.loads(following.body)["spans"]
    traces = json.loads(ask(served, "get", "/traces", []).body)["traces"]
    assert ask(served, "get", "/traces/" + traces[0]["trace_id"], []).status == 200
