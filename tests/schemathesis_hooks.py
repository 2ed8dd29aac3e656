"""What schemathesis must know to search the HTTP API for answers that its document does not describe.

It brings more than the rest of the development tools together, so it is run on demand:

    pip install schemathesis
    otlp-arrow serve --output-dir /tmp/otlp-arrow-searched &
    PYTHONPATH=tests st --config-file tests/schemathesis.toml run http://localhost:13133/api/v1/openapi.json \
        --phases examples,coverage,fuzzing,stateful --max-examples 200 --continue-on-failure

``tests/acceptance/test_api_document.py`` asks the same of fewer requests, in every run.
"""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import schemathesis

STATEMENTS = (
    "SELECT * FROM traces LIMIT 3",
    "SELECT * FROM logs",
    "SELECT * FROM otel_traces LIMIT 2",
    "SELECT * FROM otel_metrics_gauge LIMIT 2",
    "SELECT 1 AS a, 2 AS a",
    "SELECT DATE '290000-01-01' AS d, TIMESTAMP '290000-01-01' AS t, 'infinity'::DATE AS i",
    "SELECT TIMESTAMP_NS '1680-01-01', TIMESTAMPTZ '100000-01-01 00:00:00+00', TIME '23:59:59.999999'",
    "SELECT MAP {{'a': 1}: 2, {'a': 3}: 4} AS m, MAP {[1, 2]: 3} AS l",
    "SELECT union_value(num := 1), ROW(1, 2), {'a': NULL}, []",
    "SELECT INTERVAL 1000000000 MONTH, INTERVAL 3 DAY, uuid(), 1::HUGEINT, 1e400, 'NaN'::DOUBLE",
    "SELECT '\\xAA\\x00'::BLOB, '101'::BIT, 'a'::ENUM('a', 'b'), 3.25::DECIMAL(38, 9)",
    "SELECT '\ud800' AS half",
    "SELECT ?",
    "SELECT ?, ? + 1",
    "SELECT error('no')",
    'SELECT 1 AS "a\nb", 2 AS ""',
    "DESCRIBE traces",
    "SELECT * FROM read_csv('/etc/passwd')",
    "INSERT INTO traces VALUES (1)",
    "SELECT 1; SELECT 2",
)
"""Drawn text is hardly ever SQL."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A live stream has no end to wait for; every other statement is one that DuckDB understands."""
    if isinstance(case.query, dict) and "follow" in case.query:
        case.query = {**case.query, "follow": "false"}
    if isinstance(case.query, dict) and "cursor" in case.query and case.meta.generation.mode.is_positive:
        case.query = _fitting(case.query)
    statement = case.body.get("statement") if isinstance(case.body, dict) else None
    if isinstance(statement, str) and statement and random.random() < 0.5:
        case.body = {**case.body, "statement": random.choice(STATEMENTS)}


def _fitting(query: dict[str, Any]) -> dict[str, Any]:
    """Without a cursor that was drawn, as only the server can make one; in the order of one that a link brought."""
    cursor = str(query["cursor"])
    rest = {name: value for name, value in query.items() if name not in ("cursor", "order_by", "direction")}
    try:
        purpose = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))[0]
        signal, order, direction = purpose.split(":")
    except (ValueError, TypeError, LookupError, AttributeError):
        return rest
    return {**rest, "cursor": cursor, "direction": direction, **({"order_by": order} if signal == "traces" else {})}
