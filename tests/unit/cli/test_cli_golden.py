"""What the commands that ask print, to the letter: fixed telemetry, fixed times, 80 and 200 columns.

After a change that is meant: UPDATE_GOLDEN=1 pytest tests/unit/cli/test_cli_golden.py, and read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import shop
from otlp_arrow.cli.commands import app

GOLDEN = Path(__file__).parent / "golden"
DAY = ["--start", "2026-07-01T12:00", "--end", "2026-07-01T12:30"]

COMMANDS = {
    "trace": ["trace", shop.FAILED],
    "trace_attributes": ["trace", shop.FAILED, "--attributes"],
    "trace_brief": ["trace", shop.FAILED, "--brief", "--limit", "5"],
    "trace_evil": ["trace", shop.EVIL, "--attributes"],
    "trace_json": ["trace", shop.EVIL, "--format", "json"],
    "failures": ["failures", *DAY],
    "failures_type": ["failures", *DAY, "--error-type", "TimeoutError", "--service", "payment", "--limit", "2"],
    "slow": ["slow", *DAY, "--limit", "4", "--kind", "server"],
    "spans": ["spans", "--service", "cart", "--min-duration", "90ms", "--order", "duration"],
    "spans_jsonl": ["spans", "--attr", "attempts", "--format", "jsonl"],
    "spans_csv": ["spans", "--attr", "card.brand=visa", "--format", "csv"],
    "logs": ["logs", "--ascending"],
    "logs_severe": ["logs", "--severity", "error"],
    "logs_json": ["logs", "--trace", shop.WELL, "--format", "json"],
    "metrics": ["metrics"],
    "metrics_sum": ["metrics", "orders", *DAY],
    "metrics_groups": ["metrics", "queue.length", "--group-by", "queue", *DAY],
    "metrics_gaps": ["metrics", "http.server.request.duration", *DAY],
    "metrics_csv": ["metrics", "orders", *DAY, "--bucket", "10m", "--format", "csv"],
    "services": ["services", *DAY],
    "services_alone": ["services", *DAY, "--no-operations"],
    "attributes": ["attributes"],
    "attributes_json": ["attributes", "http.", "--format", "json"],
    "sql": ["sql", "SELECT service_name, count(*) n, max(duration_nano) m FROM traces GROUP BY ALL ORDER BY n, m"],
    "sql_wide": ["sql", "SELECT * FROM traces ORDER BY start_time, span_id LIMIT 1"],
    "sql_twice": ["sql", "SELECT 1 AS a, 'x' AS a, NULL AS b, ? AS c;", "--parameter", "[red]", "--format", "json"],
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.fill(tmp_path_factory.mktemp("shop"))


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_prints_what_it_should(name: str, columns: int, directory: Path):
    result = CliRunner().invoke(app, [*COMMANDS[name], "--dir", str(directory)], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    if not any(each in COMMANDS[name] for each in ("json", "jsonl", "csv")):
        assert max(map(len, text.splitlines())) <= columns
    golden = GOLDEN / f"{name}_{columns}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/cli.md"])
def test_the_documents_show_what_is_printed(page: str):
    root = Path(__file__).resolve().parents[3]
    assert (GOLDEN / "trace_80.txt").read_text(encoding="utf-8") in (root / page).read_text(encoding="utf-8")
