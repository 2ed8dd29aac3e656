"""What a statement may be and take, known without DuckDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from otlp_arrow.query.errors import BadQuery, require_text

MEMORY_LIMIT = "128MB"
"""Of DuckDB's buffers; a statement that needs more is refused. One unit being decoded comes on top."""

GROWTH_BYTES = 512 * 1024 * 1024
"""What the process of a statement may allocate beyond what it starts with: DuckDB's limit, the columns of a unit, an
answer, and values, which DuckDB does not count (``repeat``, ``replace``, lists)."""

THREADS = 2
MAX_STATEMENT_CHARS = 100_000
MAX_RESULT_BYTES = 64 * 1024 * 1024
MAX_RESULT_ROWS = 1_000_000

MAX_WORKERS = 2
"""Statements that run at a time in all of this process, each with ``THREADS`` threads; others wait for their turn."""

IDLE_S = 60.0
"""A worker that nobody asks anything is ended: it takes some 150 MB, and half a second to start."""

IDLE_END_S = 1.0
"""An idle worker that is told to end gets so long; then it is killed."""

START_TIMEOUT_S = 30.0
GRACE_S = 2.0
"""A worker stops its statement itself when the time is up; one that does not is ended so much later."""

TOO_MUCH_MEMORY = (
    f"the statement took more memory than it may ({MEMORY_LIMIT} for sorting, grouping and joining, "
    f"{GROWTH_BYTES // 2**20} MiB in all); select or make less"
)


def check(statement: object, parameters: Sequence[object], max_rows: object) -> None:
    """Raises ``BadQuery``."""
    if not isinstance(statement, str) or len(statement) > MAX_STATEMENT_CHARS or "\0" in statement:
        raise BadQuery(f"a statement is text of at most {MAX_STATEMENT_CHARS} characters")
    require_text("statement", statement)
    if type(max_rows) is not int or not 1 <= max_rows <= MAX_RESULT_ROWS:
        raise BadQuery(f"max_rows is 1 to {MAX_RESULT_ROWS}, not {max_rows!r:.40}")
    _require_texts(parameters)


def _require_texts(value: object) -> None:
    if isinstance(value, str):
        require_text("parameters", value)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            _require_texts(key)
            _require_texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _require_texts(each)
