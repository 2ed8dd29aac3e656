"""The commands that ask in processes of their own: pipes, terminals, signals, completion."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import shop
from otlp_arrow import OtlpLibrary
from otlp_arrow.app.library import in_process_settings
from served import clean_environment, command
from waiting import wait_until

posix = pytest.mark.skipif(os.name != "posix", reason="terminals and signals of POSIX")
PROGRAM = [sys.executable, "-m", "otlp_arrow"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.fill(tmp_path_factory.mktemp("shop"))


def in_terminal(*arguments: str, typed: str = "", until: str = "", **environment: str) -> tuple[int, str]:
    """Exit code and what a terminal of 100 columns was sent. ``typed`` when ``until`` was seen."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environ = clean_environment(TERM="xterm-256color", **environment)
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        if name not in environment:
            environ.pop(name, None)
    process = subprocess.Popen([*PROGRAM, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                data = os.read(ours, 65_536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            shown += data
            if typed and until.encode() in shown:
                os.write(ours, typed.encode())
                typed = ""
        return process.wait(30), shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_exit_codes_tell_found_nothing_and_unreadable_apart(directory: Path, tmp_path: Path):
    found = command("trace", shop.FAILED, "--dir", str(directory))
    assert (found.returncode, found.stderr) == (0, "")
    assert "\x1b" not in found.stdout  # no colours in a pipe
    nothing = command("trace", "f" * 32, "--dir", str(directory))
    assert (nothing.returncode, nothing.stdout) == (1, "")
    unreadable = command("spans", "--dir", str(tmp_path / "missing"))
    assert (unreadable.returncode, len(unreadable.stderr.splitlines())) == (3, 1)


@posix
@pytest.mark.parametrize("form", ["table", "jsonl"])
def test_a_reader_that_leaves_is_no_error(directory: Path, form: str):
    statement = "SELECT a.name, b.* FROM traces a, traces b"
    process = subprocess.Popen(
        [*PROGRAM, "sql", statement, "--format", form, "--dir", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    if form == "jsonl":
        assert process.stdout.readline().startswith(b'{"name":')
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(30) == 0


@posix
def test_ctrl_c_ends_a_tail_quietly(tmp_path: Path):
    with OtlpLibrary(in_process_settings(tmp_path)) as library:
        process = subprocess.Popen(
            [*PROGRAM, "tail", "--dir", str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(),
        )
        assert process.stdout is not None
        while not select.select([process.stdout], [], [], 0.1)[0]:
            library.export_traces(shop.traces())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, b"")


def cpu_seconds(process: int) -> float:
    """What a process and its children have computed."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    children = [each for task in Path(f"/proc/{process}/task").glob("*/children") for each in task.read_text().split()]
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, map(int, children)))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux tells what a process does")
def test_ctrl_c_stops_a_statement_that_would_run_for_long(directory: Path):
    statement = "SELECT count(*) FROM traces a, traces b, range(100000000) r WHERE a.name || r.range::TEXT < b.name"
    process = subprocess.Popen(
        [*PROGRAM, "sql", statement, "--timeout-secs", "600", "--dir", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )
    wait_until(lambda: cpu_seconds(process.pid) > 4)  # starting takes two, the worker's start included
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, b"")


@posix
def test_colours_are_for_terminals_that_want_them_and_arrow_for_none(directory: Path):
    code, shown = in_terminal("trace", shop.EVIL, "--attributes", "--dir", str(directory))
    assert code == 0
    assert "\x1b[1;31m" in shown  # bold red
    assert "\x1b]0;" not in shown
    assert "\x07" not in shown
    code, shown = in_terminal("trace", shop.FAILED, "--dir", str(directory), NO_COLOR="1")
    assert code == 0
    assert "31m" not in shown
    assert "✗ payment charge card" in shown.replace("\x1b[0m", "").replace("\x1b[1m", "").replace("\x1b[2m", "")
    code, shown = in_terminal("spans", "--format", "arrow", "--dir", str(directory))
    assert code == 2
    assert "a file or a pipe" in shown


@posix
def test_the_prompt_of_sql_answers_in_a_terminal(directory: Path, tmp_path: Path):
    code, shown = in_terminal(
        *("sql", "--dir", str(directory)),
        typed="SELECT count(*) AS n\n FROM traces;\n\\q\n",
        until="otlp> ",
        XDG_STATE_HOME=str(tmp_path),
        PYTHONUNBUFFERED="1",
    )
    assert code == 0
    assert "34" in shown
    assert "1 row" in shown
    assert "FROM traces;" in (tmp_path / "otlp-arrow" / "sql_history").read_text()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("otlp-arrow spans --status ", ["unset", "ok", "error"]),
        ("otlp-arrow fa", ["failures"]),
        ("otlp-arrow logs --format j", ["json", "jsonl"]),
    ],
)
def test_a_shell_completes_commands_options_and_their_words(words: str, offered: list[str]):
    run = "import sys; sys.argv[0] = 'otlp-arrow'; from otlp_arrow.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", run],
        env=clean_environment(
            _OTLP_ARROW_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1)
        ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.split() == offered
