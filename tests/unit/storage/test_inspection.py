"""Looking at an output directory from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from otlp_arrow.model import OtlpIOError
from otlp_arrow.storage.inspection import inspect_directory
from otlp_arrow.storage.layout import Layout


def test_a_directory_without_our_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OtlpIOError, match="no output directory"):
        inspect_directory(tmp_path)


def test_damaged_cursors_are_problems_and_quarantine_says_why(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for directory in layout.directories():
        directory.mkdir(parents=True)
    layout.writer_cursor.write_text("{}")
    (layout.state / "forward_gateway.json").write_text("{}")
    (layout.quarantine / "x.pb").write_bytes(b"123")
    (layout.quarantine / "x.pb.reason").write_text("because\n")
    (layout.quarantine / "y.pb").write_bytes(b"")
    view = inspect_directory(tmp_path, verify=True)
    assert len(view.problems) == 2
    assert [(item.path.name, item.size_bytes, item.reason) for item in view.quarantine] == [
        ("x.pb", 3, "because"),
        ("y.pb", 0, ""),
    ]
