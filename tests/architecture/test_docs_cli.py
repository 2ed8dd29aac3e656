"""docs/cli.md names every command and every option."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from otlp_arrow.cli.commands import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def options() -> dict[str, set[str]]:
    """The options of each command."""
    group = typer.main.get_command(app)
    return {
        name: {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        for name, command in group.commands.items()
    }


def test_every_command_has_its_section_with_every_option_and_none_is_left_over():
    sections = re.split(r"^## `otlp-arrow ([a-z]+)", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    described = dict(zip(sections[1::2], sections[2::2], strict=True))
    expected = options()
    assert set(described) == set(expected)
    for name, text in described.items():
        in_tables = "\n".join(line for line in text.splitlines() if line.startswith("|"))
        assert set(re.findall(r"`(--[a-z-]+)", in_tables)) == expected[name] - {"--help"}, name
