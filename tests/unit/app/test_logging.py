"""Log lines for people and for machines."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from otlp_arrow.app.logging import configure, leave_to_host


@pytest.fixture(autouse=True)
def restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(level: str, log_format: str, stream: io.StringIO) -> list[str]:
    configure(level, log_format, stream)
    structlog.get_logger("ours").info("listening", port=4317)
    logging.getLogger("theirs").warning("slow by %d ms", 5)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("ours").exception("flush failed")
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("log_format", ["json", "auto"])
def test_off_a_terminal_each_line_is_json_with_the_same_keys_for_all_libraries(log_format: str):
    first, second, third = map(json.loads, lines("info", log_format, io.StringIO()))
    assert (first["event"], first["port"], first["logger"], first["level"]) == ("listening", 4317, "ours", "info")
    assert (second["event"], second["logger"], second["level"]) == ("slow by 5 ms", "theirs", "warning")
    assert "ValueError: broken" in third["exception"]
    assert all(line["timestamp"].endswith("Z") for line in (first, second, third))


@pytest.mark.parametrize(("log_format", "stream"), [("auto", Terminal()), ("console", io.StringIO())])
def test_on_a_terminal_lines_are_for_people(log_format: str, stream: io.StringIO):
    text = "\n".join(lines("info", log_format, stream))
    assert "listening" in text
    assert "slow by 5 ms" in text
    assert "ValueError: broken" in text
    assert not text.startswith("{")


def test_less_severe_lines_than_asked_for_are_left_out():
    shown = lines("error", "json", io.StringIO())
    assert [json.loads(line)["event"] for line in shown] == ["flush failed"]


def test_inside_a_program_lines_go_where_the_program_sends_its_own(caplog: pytest.LogCaptureFixture):
    structlog.reset_defaults()
    leave_to_host()
    with caplog.at_level("INFO"):
        structlog.get_logger("ours").info("100% done", port=4317)
        structlog.get_logger("ours").debug("left out")
        try:
            raise ValueError("broken")
        except ValueError:
            structlog.get_logger("ours").exception("flush failed")
    assert [record.getMessage() for record in caplog.records] == ["100% done port=4317", "flush failed"]
    assert caplog.records[0].name == "ours"
    assert "ValueError: broken" in caplog.text


def test_a_program_that_has_configured_structlog_keeps_its_configuration():
    seen: list[str] = []

    def drop(_logger: object, _method: str, line: dict) -> dict:
        seen.append(line["event"])
        raise structlog.DropEvent

    structlog.configure(processors=[drop])
    leave_to_host()
    structlog.get_logger().info("theirs")
    assert seen == ["theirs"]
