"""The commands that ask: exit codes, errors, formats, targets."""

from __future__ import annotations

import csv
import io
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

import shop
from otlp_arrow import OtlpConfigError, OtlpLibrary, Settings
from otlp_arrow.cli import sql_command
from otlp_arrow.cli.ask import Target
from otlp_arrow.cli.commands import app
from otlp_arrow.codec import decode, json_to_protobuf
from otlp_arrow.model import Signal
from otlp_arrow.query import SpanStore

TOKEN = "let-me-in"
DAY = ["--start", "2026-07-01T12:00", "--end", "2026-07-01T12:30"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.fill(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def library(directory: Path) -> Iterator[OtlpLibrary]:
    """A collector over the same files, with an admin port that asks for a token."""
    doors = {f"{name}_enabled": False for name in ("protobuf", "http", "arrow_flight")}
    settings = Settings(output_dir=directory, protocols=doors, admin_port=0, auth={"bearer_tokens": [TOKEN]})
    with OtlpLibrary(settings, admin=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(library: OtlpLibrary) -> str:
    return f"http://localhost:{library.ports()['admin']}"


def run(*arguments: object, stdin: str | None = None, **environment: str) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], input=stdin, env=environment)


# -- exit codes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trace", "f" * 32], "no span of the trace ffffffffffffffffffffffffffffffff is stored"),
        (["failures"], "no span failed in the last 1h; --since looks further back"),
        (["failures", "--since", "5m"], "no span failed in the last 5m"),
        (["slow", "--end", "2020-01-01"], "no span in this range of time"),
        (["spans", "--attr", "attempts=4"], "no such span"),
        (["logs", "--body", "nobody says this"], "no such log record"),
        (["metrics", "nothing"], "no data point of nothing in this range of time"),
        (["metrics", "--end", "2020-01-01"], "no metric"),
        (["services", "--since", "1m"], "no span in the last 1m"),
        (["attributes", "zzz"], "no attribute"),
        (["sql", "SELECT 1 WHERE false"], ""),
    ],
)
def test_finding_nothing_is_one_and_a_line_on_stderr(directory: Path, arguments: list[str], said: str):
    result = run(*arguments, "--dir", directory)
    assert result.exit_code == 1
    assert result.stderr.strip() == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trace", "xyz"], "'xyz' is no id of 32 hex digits"),
        (["spans", "--since", "yesterday"], "'yesterday' is no duration"),
        (["spans", "--start", "yesterday"], "'yesterday' is no time"),
        (["spans", "--since", "1h", "--start", "2h"], "give one"),
        (["spans", "--start", "1h", "--end", "2h"], "--start is not before --end"),
        (["spans", "--attr", " "], "an attribute filter is key=value"),
        (["spans", "--min-duration", "fast"], "'fast' is no duration"),
        (["spans", "--cursor", "nonsense"], "cursor"),
        (["sql", "DROP TABLE traces"], ""),
        (["sql", "SELECT * FROM read_csv('/etc/passwd')"], ""),
        (["metrics", "orders", "--bucket", "0s"], "bucket"),
        (["tail", "logs", "--kind", "server"], "--kind does not apply to logs"),
    ],
)
def test_a_wrong_question_is_two_and_one_line_that_names_it(directory: Path, arguments: list[str], said: str):
    result = run(*arguments, "--dir", directory)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.startswith("otlp-arrow: ")


@pytest.mark.parametrize("arguments", [["--kind", "zz"], ["--limit", "0"], ["--format", "xml"], ["--order", "name"]])
def test_a_wrong_option_is_two(directory: Path, arguments: list[str]):
    result = run("spans", *arguments, "--dir", directory)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--dir", "x", "--url", "http://localhost:1"],
        ["--url", "localhost:13133"],
        ["--token", "t"],
        ["--url", "http://localhost:1", "--header", "x"],
        ["--url", "http://localhost:1", "--token", "a\nb"],
        ["--url", "https://localhost:1", "--cafile", "missing.pem"],
    ],
)
def test_a_target_that_cannot_be_meant_is_a_wrong_setting(options: list[str]):
    result = run("spans", *options)
    assert isinstance(result.exception, OtlpConfigError)


def test_a_target_that_is_not_there_is_three(tmp_path: Path, url: str):
    for options in (
        ["--dir", tmp_path],
        ["--url", "http://localhost:1"],
        ["--url", url],
        ["--url", url, "--token", "x"],
    ):
        result = run("spans", *options)
        assert result.exit_code == 3, options
        assert len(result.stderr.splitlines()) == 1


def test_the_configured_directory_is_asked_if_none_is_named(directory: Path):
    assert run("logs", OTLP_OUTPUT_DIR=str(directory)).exit_code == 0


def test_an_interrupt_and_a_reader_that_leaves_end_quietly(directory: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Target, "open", interrupted)
    result = run("spans", "--dir", directory)
    assert (result.exit_code, result.output) == (130, "")


# -- the same from everywhere ----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["trace", shop.FAILED],
        ["failures", *DAY],
        ["slow", *DAY],
        ["spans", "--attr", "http.response.status_code>=500", "--attr", "http.route"],
        ["logs", "--severity", "warn"],
        ["metrics"],
        ["metrics", "queue.length", "--group-by", "queue", *DAY],
        ["services", *DAY],
        ["attributes", "--signal", "logs"],
        ["sql", "SELECT name, count(*) FROM traces GROUP BY ALL ORDER BY ALL"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_directory_and_a_url_answer_the_same(directory: Path, url: str, arguments: list[str], form: str):
    here = run(*arguments, "--format", form, "--dir", directory, COLUMNS="120")
    there = run(*arguments, "--format", form, "--url", url, "--token", TOKEN, COLUMNS="120")
    assert here.exit_code == there.exit_code == 0, there.output
    assert here.stdout == there.stdout


def test_headers_come_from_the_variable_of_the_exporters_and_from_options(url: str):
    assert run("logs", "--url", url, OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{TOKEN}").exit_code == 0
    assert run("logs", "--url", url, "--header", f"Authorization=Bearer {TOKEN}").exit_code == 0


# -- formats ---------------------------------------------------------------------------------------


def test_pages_of_json_lead_to_each_other(directory: Path):
    names, cursor = [], None
    while True:
        more = ["--cursor", cursor] if cursor else []
        page = json.loads(run("spans", "--format", "json", "--limit", "10", "--dir", directory, *more).stdout)
        names += [(span["trace_id"], span["span_id"]) for span in page["spans"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert len(names) == len(set(names)) == 34


def test_arrow_goes_to_a_pipe_in_the_storage_schema_and_never_to_a_terminal(
    directory: Path, monkeypatch: pytest.MonkeyPatch
):
    result = run("spans", "--format", "arrow", "--dir", directory)
    table = pa.ipc.open_stream(result.stdout_bytes).read_all()
    with SpanStore.open(directory) as store:
        assert table.schema == next(store.read("traces")).schema
    assert table.num_rows == 34
    result = run("services", *DAY, "--format", "arrow", "--dir", directory)
    assert "p99_ns" in pa.ipc.open_stream(result.stdout_bytes).read_all().column_names
    monkeypatch.setattr("otlp_arrow.cli.written.sys", _Terminal())
    result = run("spans", "--format", "arrow", "--dir", directory)
    assert isinstance(result.exception, OtlpConfigError)


class _Terminal:
    """A ``sys`` whose stdout is a terminal."""

    class stdout:
        @staticmethod
        def isatty() -> bool:
            return True


def test_csv_has_a_head_json_in_cells_and_no_formulas(directory: Path):
    text = run("spans", "--attr", "attempts", "--format", "csv", "--dir", directory).stdout
    (row,) = csv.DictReader(io.StringIO(text))
    assert json.loads(row["attributes"]) == {"card.brand": "visa", "attempts": 3}
    assert row["trace_id"] == shop.FAILED
    text = run("sql", "SELECT '=1+1' AS f, -5 AS n", "--format", "csv", "--dir", directory).stdout
    assert text == "f,n\n'=1+1,-5\n"


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_nothing_that_a_terminal_obeys_is_left_in_json(directory: Path, form: str):
    for command in (["trace", shop.EVIL], ["logs", "--trace", shop.EVIL], ["attributes"], ["metrics"]):
        text = run(*command, "--format", form, "--dir", directory).stdout
        if form != "csv":
            assert not any(letter in text for letter in "\x1b\x07\x9b\u202e")
            assert "owned" in text


def test_an_empty_answer_is_empty_in_every_format(directory: Path):
    for form, expected in (("json", '{"spans":[],"next_cursor":null}\n'), ("jsonl", "")):
        result = run("spans", "--name", "none", "--format", form, "--dir", directory)
        assert (result.exit_code, result.stdout, result.stderr) == (1, expected, "")
    assert run("spans", "--name", "none", "--format", "csv", "--dir", directory).stdout.startswith("service_name,")


# -- export ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["traces", "logs", "metrics"])
def test_an_export_has_every_record(directory: Path, tmp_path: Path, signal: str):
    with SpanStore.open(directory) as store:
        stored = pa.Table.from_batches(list(store.read(signal)))
    for suffix in ("parquet", "jsonl", "arrow", "csv"):
        file = tmp_path / f"out.{suffix}"
        result = run("export", file, "--signal", signal, "--dir", directory)
        assert result.exit_code == 0, result.output
        assert result.stderr == f"{stored.num_rows} records in {file}\n"
    read = pa.parquet.read_table(tmp_path / "out.parquet")
    assert read.num_rows == stored.num_rows
    assert read.column("attributes").to_pylist() == stored.column("attributes").to_pylist()
    assert pa.ipc.open_stream(tmp_path / "out.arrow").read_all().equals(stored)
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    back = [decode(Signal(signal), json_to_protobuf(Signal(signal), line)) for line in lines]
    assert sum(batch.num_rows for batch in back) == stored.num_rows
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as text:
        assert len(list(csv.DictReader(text))) == stored.num_rows
    assert not list(tmp_path.glob(".*"))


def test_an_export_of_a_range_and_of_nothing(directory: Path, tmp_path: Path):
    file = tmp_path / "some.csv"
    assert run("export", file, "--end", "2026-07-01T12:01", "--dir", directory).exit_code == 0
    assert file.read_text().count("\n") == 10
    nothing = tmp_path / "nothing.parquet"
    result = run("export", nothing, "--end", "2020-01-01", "--dir", directory)
    assert (result.exit_code, result.stderr) == (1, "no record in this range of time; no file written\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.csv"]


def test_an_export_replaces_nothing_unless_told_and_leaves_nothing_half_done(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "kept.arrow"
    file.write_text("mine")
    for target in (file, tmp_path / "x.unknown", tmp_path / "missing" / "x.csv", tmp_path):
        assert isinstance(run("export", target, "--dir", directory).exception, OtlpConfigError)
    assert file.read_text() == "mine"

    def fails(*_: Any) -> Iterator[Any]:
        raise OSError("the disk is full")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(SpanStore, "read", fails)
        result = run("export", file, "--force", "--dir", directory)
        assert (result.exit_code, "the disk is full" in result.stderr) == (3, True)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.arrow"]
    assert file.read_text() == "mine"
    assert run("export", file, "--force", "--dir", directory).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o644


# -- tail ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal", "make", "forms"),
    [
        ("traces", shop.traces, ["table", "jsonl", "csv"]),
        ("logs", shop.logs, ["table"]),
        ("metrics", shop.metrics, ["table"]),
    ],
)
def test_a_tail_shows_what_arrives_from_a_directory_and_from_a_url(
    tmp_path: Path, signal: str, make: Any, forms: list[str]
):
    doors = {f"{name}_enabled": False for name in ("protobuf", "http", "arrow_flight")}
    with OtlpLibrary(Settings(output_dir=tmp_path, protocols=doors, admin_port=0), admin=True) as library:
        url = f"http://localhost:{library.ports()['admin']}"
        for target in (["--dir", tmp_path], ["--url", url]):
            for form in forms:
                results: list[Result] = []
                arguments = ["tail", signal, "--service", "web", "--limit", "2", "--format", form, *target]

                def watch(arguments: list[Any] = arguments, results: list[Result] = results) -> None:
                    results.append(run(*arguments, COLUMNS="200"))

                thread = threading.Thread(target=watch)
                thread.start()
                while thread.is_alive():
                    getattr(library, f"export_{signal}")(make())
                    thread.join(0.05)
                (result,) = results
                assert result.exit_code == 0, result.output
                assert len(result.stdout.splitlines()) == (3 if form == "csv" else 2)
                assert "web" in result.stdout


def test_a_tail_of_silence_ends_after_its_time_with_one(directory: Path):
    assert run("tail", "--for", "10ms", "--dir", directory).exit_code == 1
    assert isinstance(run("tail", "--format", "arrow", "--dir", directory).exception, OtlpConfigError)


# -- SQL -------------------------------------------------------------------------------------------


def test_a_statement_comes_from_stdin_too(directory: Path):
    result = run("sql", "--dir", directory, stdin="SELECT count(*) AS n FROM traces;\n")
    assert (result.exit_code, result.stdout.split()) == (0, ["n", "34"])


def test_a_cut_answer_says_so(directory: Path):
    result = run("sql", "SELECT name FROM traces", "--max-rows", "3", "--format", "jsonl", "--dir", directory)
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == "the first 3 rows; --max-rows gives more\n"


@pytest.mark.parametrize(
    ("text", "statements", "rest"),
    [
        ("SELECT 1", [], "SELECT 1"),
        ("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"], ""),
        ("SELECT ';' AS a; x", ["SELECT ';' AS a"], " x"),
        ('SELECT 1 AS "a;b";', ['SELECT 1 AS "a;b"'], ""),
        ("SELECT 'it''s;' -- no; end\n;", ["SELECT 'it''s;' -- no; end"], ""),
        ("SELECT /* ; */ 1;", ["SELECT /* ; */ 1"], ""),
        ("SELECT 'open;", [], "SELECT 'open;"),
    ],
)
def test_a_semicolon_ends_a_statement_unless_it_is_quoted(text: str, statements: list[str], rest: str):
    assert sql_command.split(text) == (statements, rest)


def test_the_prompt_answers_line_by_line_and_survives_errors(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    typed: list[Any] = [
        *(
            "SELECT count(*)",
            " AS n FROM traces; SELECT 'second' AS s;",
            "SELEKT;",
            "\\?",
            "\\d",
            "\\d traces",
            "\\d nope",
        ),
        *("SELECT 1 AS forgotten", KeyboardInterrupt, "", ";", "\\q", "SELECT 'never';"),
    ]

    def reply(prompt: str) -> str:
        line = typed.pop(0)
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        return str(line)

    monkeypatch.setattr("builtins.input", reply)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with SpanStore.open(directory) as store:
        assert sql_command.prompt(Target(dir=directory), store, 100) == 0
        typed[:] = []
        monkeypatch.setattr("builtins.input", lambda prompt: (_ for _ in ()).throw(EOFError))
        assert sql_command.prompt(Target(dir=directory), store, 100) == 0
    out, err = capsys.readouterr()
    assert "34" in out
    assert "second" in out
    assert "1 row, " in out
    assert "otel_traces" in out
    assert "duration_nano" in out
    assert "Ctrl-C forgets" in out
    assert "forgotten" not in out
    assert "never" not in out
    assert err.count("otlp-arrow: ") == 1
    readline = sys.modules.get("readline")
    if readline is not None:
        sql_command._keep_history(readline, tmp_path / "history")
        assert (tmp_path / "history").stat().st_mode & 0o777 == 0o600
        readline.clear_history()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        *((line, "Ctrl-C forgets") for line in ("help", "HELP;", ".help", "\\?", "?", ".mode csv quietly", "\\x")),
        *((line, "otel_logs") for line in (".tables", "\\dt", "\\d ;")),
        *((line, "duration_nano") for line in (".schema traces", "\\d traces;")),
        *((line, "") for line in ("exit", "quit;", ".quit", ".exit", " \\q ")),
    ],
)
def test_the_prompt_knows_the_commands_of_other_prompts(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, shown: str
):
    typed = [line, *(["\\q"] if shown else [])]
    monkeypatch.setattr("builtins.input", lambda prompt: typed.pop(0))
    monkeypatch.setattr(sql_command, "_use_readline", lambda: None)
    with SpanStore.open(directory) as store:
        assert sql_command.prompt(Target(dir=directory), store, 100) == 0
    assert typed == []
    assert shown in capsys.readouterr().out


def test_words_and_views_are_completed():
    found = []
    while (word := sql_command.complete("otel_metrics_s", len(found))) is not None:
        found.append(word)
    assert found == ["otel_metrics_sum", "otel_metrics_summary"]
